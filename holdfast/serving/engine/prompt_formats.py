"""How a prompt is written for a model: as messages under rules, or between the marks that a reader was trained on.

Set mode needs a prompt in three parts that can be read apart: what stands before the documents, each document, and the
rest. A format says how each is written, and how they follow one another in sequence mode.
"""

from __future__ import annotations

from typing import Any, Protocol

from holdfast.errors import InvalidInput
from holdfast.serving.engine.hf_prompt import PromptEncoder
from holdfast.serving.engine.protocol import EngineRequest, Source
from holdfast.serving.prompts import DOCUMENTS, fenced, prompt_messages, set_messages

DOCUMENT, END_DOCUMENT = "<doc>", "</doc>"
QUESTION, END_QUESTION, ANSWER = "<q>", "</q>", "<ans>"


class PromptFormat(Protocol):
    """Token ids of a request's parts; a passage's do not depend on what stands beside it."""

    def encode_frame(self, request: EngineRequest) -> tuple[list[int], list[int]]:
        """Return what stands before the documents, the same for all requests, and what stands behind them."""

    def document_text(self, source: Source) -> str:
        """Return what of a passage is read."""

    def encode_document(self, text: str) -> list[int]:
        """Return one passage, of `document_text`."""

    def encode_sequence(self, request: EngineRequest) -> list[int]:
        """Return the whole prompt in one piece."""


class MessagesFormat:
    """Rules, fenced passages and conversation in the words of the model's chat template."""

    def __init__(self, prompts: PromptEncoder) -> None:
        self._prompts = prompts

    def encode_frame(self, request: EngineRequest) -> tuple[list[int], list[int]]:
        return self._prompts.encode_around(set_messages(request), DOCUMENTS)

    def document_text(self, source: Source) -> str:
        return fenced((source,)) + "\n"

    def encode_document(self, text: str) -> list[int]:
        return self._prompts.encode_plain(text)

    def encode_sequence(self, request: EngineRequest) -> list[int]:
        return self._prompts.encode_messages(prompt_messages(request))


class MarkedFormat:
    """Passages and one question between single tokens, as the bundled reader was trained; nothing comes before them.

    The reader knows no rules and no conversation: it is asked the request's question, and answers from the passages.
    """

    def __init__(self, tokenizer: Any, prompts: PromptEncoder) -> None:
        """Raises InvalidInput: the tokenizer lacks a mark."""
        vocabulary = tokenizer.get_vocab()
        marks = (DOCUMENT, END_DOCUMENT, QUESTION, END_QUESTION, ANSWER)
        missing = [mark for mark in marks if mark not in vocabulary]
        if missing:
            raise InvalidInput(f"the model's tokenizer lacks {' '.join(missing)}", param="model")
        self._marks = {mark: int(vocabulary[mark]) for mark in marks}
        self._prompts = prompts

    def encode_frame(self, request: EngineRequest) -> tuple[list[int], list[int]]:
        marks = self._marks
        asked = self._prompts.encode_plain(request.question)
        return [], [marks[QUESTION], *asked, marks[END_QUESTION], marks[ANSWER]]

    def document_text(self, source: Source) -> str:
        return source.text

    def encode_document(self, text: str) -> list[int]:
        return [self._marks[DOCUMENT], *self._prompts.encode_plain(text), self._marks[END_DOCUMENT]]

    def encode_sequence(self, request: EngineRequest) -> list[int]:
        read = [token_id for source in request.sources for token_id in self.encode_document(source.text)]
        return read + self.encode_frame(request)[1]
