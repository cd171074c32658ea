"""Answers without a language model: the sentences of the passages that best answer, verbatim.

Deterministic: the same question over the same passages gives the same answer, whatever the sampling. The answer is cut
from the files, so every word of it is a citation. A span reader reads each passage first: it says which sentence holds
the answer, and whether any does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from holdfast.errors import InvalidInput
from holdfast.retrieval.embed import Embedder
from holdfast.serving.engine.protocol import Delta, EngineRequest, FinishReason, Quote, Source
from holdfast.serving.engine.sentences import Sentence, best_sentences
from holdfast.serving.engine.spans import SpanReader, is_answered
from holdfast.serving.engine.stop_text import find_stop
from holdfast.serving.limits import check_query
from holdfast.serving.prompts import NO_FILES, NOT_IN_FILES

ELSEWHERE = "\n\n"
"""stands between sentences that do not follow each other in a file"""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of the answer and what it quotes."""

    text: str
    quotes: tuple[Quote, ...] = ()
    num_tokens: int = 0


class ExtractEngine:
    """Implements `Engine` by quoting.

    `temperature`, `top_p`, `seed` and the penalties are accepted and change nothing, since nothing is drawn; `n`
    choices are `n` times the same answer. Log probabilities and a token bias do not exist here and are refused.
    """

    name = "extract"
    context_len: int | None = None
    can_follow_instructions = False

    def __init__(self, embedder: Embedder, reader: SpanReader | None = None) -> None:
        self._embedder = embedder
        self._reader = reader

    def count_tokens(self, text: str) -> int:
        return self._embedder.count_tokens(text)

    def count_prompt_tokens(self, request: EngineRequest) -> int:
        """The words read: the question and the passages."""
        check_query(request.question, "messages")
        return sum(map(self.count_tokens, [request.question, *(source.text for source in request.sources)]))

    def check(self, request: EngineRequest) -> None:
        check_query(request.question, "messages")
        if request.sampling.logprobs:
            raise InvalidInput("the extract engine quotes files and has no log probabilities", param="logprobs")
        if request.sampling.logit_bias:
            raise InvalidInput("the extract engine quotes files and has no tokens to bias", param="logit_bias")

    async def generate(self, request: EngineRequest) -> AsyncGenerator[Delta]:
        self.check(request)
        pieces, finish_reason = await asyncio.to_thread(self._answer, request)
        for choice in range(request.sampling.n):
            for piece in pieces:
                yield Delta(choice, piece.text, piece.num_tokens, quotes=piece.quotes)
            yield Delta(choice, finish_reason=finish_reason)

    async def close(self) -> None:
        return None

    def _answer(self, request: EngineRequest) -> tuple[list[_Piece], FinishReason]:
        pieces = self._pieces(request)
        text = "".join(piece.text for piece in pieces)
        end = find_stop(text, request.sampling.stop)
        finish_reason: FinishReason = "stop"
        max_tokens = request.sampling.max_tokens
        tokens = self._embedder.token_offsets(text[:end])
        if max_tokens is not None and len(tokens) > max_tokens:
            end = tokens[max_tokens - 1][1] if max_tokens else 0
            finish_reason = "length"
        return _cut(pieces, len(text) if end is None else end, [start for start, _ in tokens]), finish_reason

    def _pieces(self, request: EngineRequest) -> list[_Piece]:
        if not request.sources:
            return [_Piece(NO_FILES)]
        readings = None if self._reader is None else self._reader.read(request.question, request.sources)
        if readings is not None and not is_answered(request.question, readings):
            return [_Piece(NOT_IN_FILES)]
        pieces: list[_Piece] = []
        position = 0
        before: Sentence | None = None
        for sentence in best_sentences(request.question, request.sources, self._embedder, readings):
            quoted = request.sources[sentence.source].text[sentence.start : sentence.end]
            lead = _lead(before, sentence, request.sources) if before else ""
            start = position + len(lead)
            position = start + len(quoted)
            quote = Quote(sentence.source, sentence.start, sentence.end, start, position)
            pieces.append(_Piece(lead + quoted, (quote,)))
            before = sentence
        return pieces or [_Piece(NOT_IN_FILES)]


def _lead(before: Sentence, sentence: Sentence, sources: Sequence[Source]) -> str:
    """Return what separates a sentence of the answer from the one before."""
    between = sources[before.source].text[before.end : sentence.start] if sentence.source == before.source else ""
    return "\n" * min(2, between.count("\n")) or " " if between.isspace() else ELSEWHERE


def _cut(pieces: Sequence[_Piece], end: int, token_starts: Sequence[int]) -> list[_Piece]:
    """Return the pieces up to character `end` of the answer, quotes shortened to match and tokens counted."""
    kept: list[_Piece] = []
    position = 0
    for piece in pieces:
        text = piece.text[: end - position]
        num_tokens = sum(position <= start < position + len(text) for start in token_starts)
        position += len(piece.text)
        quotes = tuple(
            Quote(quote.source, quote.start, quote.start + cut - quote.answer_start, quote.answer_start, cut)
            for quote in piece.quotes
            if (cut := min(quote.answer_end, end)) > quote.answer_start
        )
        if text:
            kept.append(_Piece(text, quotes, num_tokens))
        if position >= end:
            break
    return kept
