"""Messages to token ids, with control tokens from the chat template only.

The template is rendered around placeholders instead of the real contents. Where the template's own text names a
control token, that token's id is used; everything else, the contents included, is encoded as plain text. A document
that spells `<|im_start|>` therefore reaches the model as those characters, never as that token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from holdfast.errors import InvalidInput
from holdfast.serving.engine.protocol import Message

_PLACEHOLDER = re.compile(r"HOLDFASTCONTENT(\d+)END")


class PromptEncoder:
    """Encodes prompts for one tokenizer.

    Without a chat template the prompt is `System: ...`, `User: ...` and `Assistant: ...` paragraphs, ending in
    `Assistant:`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        added = {int(token_id): token.content for token_id, token in tokenizer.added_tokens_decoder.items()}
        self._control_ids = {text: token_id for token_id, text in added.items() if len(text.strip()) > 1}
        names = sorted(self._control_ids, key=lambda text: (-len(text), text))
        self._control = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        self._unwanted = set(self._control_ids.values()) - {tokenizer.unk_token_id}

    def encode_messages(self, messages: Sequence[Message]) -> list[int]:
        """Return the token ids of a conversation, ready for the assistant's turn."""
        return self._leading_ids() + self._encode_pieces(self._pieces(messages))

    def encode_around(self, messages: Sequence[Message], mark: str) -> tuple[list[int], list[int]]:
        """Return the token ids of a conversation before and behind the first `mark` in its contents."""
        pieces = self._pieces(messages)
        place = next(row for row, (text, is_template) in enumerate(pieces) if not is_template and mark in text)
        before, _, behind = pieces[place][0].partition(mark)
        return (
            self._leading_ids() + self._encode_pieces([*pieces[:place], (before, False)]),
            self._encode_pieces([(behind, False), *pieces[place + 1 :]]),
        )

    def _pieces(self, messages: Sequence[Message]) -> list[tuple[str, bool]]:
        """Return the prompt's text and whether each piece is the template's own."""
        turns = _merge_turns(messages)
        if not self._tokenizer.chat_template:
            return [("".join(f"{turn.role.capitalize()}: {turn.content}\n\n" for turn in turns) + "Assistant:", False)]
        refusal = "it leaves turns out"
        for attempt in (turns, _without_system(turns)):  # some templates refuse or ignore a system turn
            try:
                rendered = self._render(attempt)
            except ValueError as error:
                refusal = str(error)
                continue
            if all(_placeholder(row) in rendered for row in range(len(attempt))):
                return _split_template(rendered, [turn.content for turn in attempt])
        raise InvalidInput(f"the model's chat template cannot take these messages: {refusal}", param="messages")

    def encode_completion(self, prompt: str) -> list[int]:
        """Return the ids of a plain completion's prompt; the whole text is the caller's, control tokens included."""
        return [int(token_id) for token_id in self._tokenizer(prompt, verbose=False)["input_ids"]]

    def encode_plain(self, text: str) -> list[int]:
        """Return the ids of `text` with no control token among them: one that is spelled out is cut in two first."""
        ids: list[int] = []
        start = 0
        while start < len(text):
            found = self._control.search(text, start)
            end = found.start() + 1 if found else len(text)
            encoded = self._tokenizer(text[start:end], add_special_tokens=False, verbose=False)["input_ids"]
            ids += [int(token_id) for token_id in encoded if token_id not in self._unwanted]
            start = end
        return ids

    def _leading_ids(self) -> list[int]:
        """The beginning-of-text token, where the tokenizer puts one before a text and no template does."""
        if self._tokenizer.chat_template:
            return []
        bos = self._tokenizer.bos_token_id
        return [bos] if bos is not None and self._tokenizer("a")["input_ids"][:1] == [bos] else []

    def _render(self, turns: Sequence[Message]) -> str:
        """Return the template around placeholders. Raises ValueError with the template's own words."""
        from jinja2 import TemplateError  # what templates raise; loaded with the tokenizer, not on import

        marked = [{"role": turn.role, "content": _placeholder(row)} for row, turn in enumerate(turns)]
        try:
            return str(self._tokenizer.apply_chat_template(marked, tokenize=False, add_generation_prompt=True))
        except TemplateError as error:
            raise ValueError(error.message) from error

    def _encode_pieces(self, pieces: Sequence[tuple[str, bool]]) -> list[int]:
        ids: list[int] = []
        plain = ""
        for part, is_template in pieces:
            position = 0
            for found in self._control.finditer(part) if is_template else ():
                ids += self.encode_plain(plain + part[position : found.start()])
                ids.append(self._control_ids[found.group()])
                plain, position = "", found.end()
            plain += part[position:]
        return ids + self.encode_plain(plain)


def _placeholder(row: int) -> str:
    return f"HOLDFASTCONTENT{row}END"


def _merge_turns(messages: Sequence[Message]) -> list[Message]:
    """Return turns of the roles that templates know, with neighbours of one role made one."""
    turns: list[Message] = []
    for message in messages:
        role = {"developer": "system", "tool": "user"}.get(message.role, message.role)
        if turns and turns[-1].role == role:
            turns[-1] = Message(turns[-1].role, f"{turns[-1].content}\n\n{message.content}")
        else:
            turns.append(Message(role, message.content))  # type: ignore[arg-type]
    return turns


def _without_system(turns: Sequence[Message]) -> list[Message]:
    """Put the system turns into the user turns they precede."""
    return _merge_turns([Message("user", turn.content) if turn.role == "system" else turn for turn in turns])


def _split_template(rendered: str, contents: Sequence[str]) -> list[tuple[str, bool]]:
    """Return (text, whether it is the template's own) pieces in order, placeholders replaced by their contents."""
    pieces: list[tuple[str, bool]] = []
    position = 0
    for found in _PLACEHOLDER.finditer(rendered):
        pieces.append((rendered[position : found.start()], True))
        pieces.append((contents[int(found.group(1))], False))
        position = found.end()
    return [*pieces, (rendered[position:], True)]
