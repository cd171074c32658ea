"""Chat completion objects: the whole answer, or its chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from holdfast.serving.api.answering import Answer, new_id
from holdfast.serving.api.evidence import logprob_object
from holdfast.serving.api.sse import DONE, to_frame
from holdfast.serving.engine.protocol import Delta, FinishReason, TokenLogprob

FIRST_DELTA = {"role": "assistant", "content": "", "refusal": None}


class ChatAnswer:
    """One answer as OpenAI's chat shows it."""

    def __init__(self, answer: Answer, model: str, *, has_logprobs: bool, has_usage: bool) -> None:
        self.answer = answer
        self.has_logprobs = has_logprobs
        self.has_usage = has_usage
        self.id = new_id("chatcmpl-")
        self.model = model

    async def complete(self) -> dict[str, Any]:
        """Return the whole answer."""
        await self.answer.wait()
        choices: list[dict[str, Any]] = [
            {
                "index": choice.choice,
                "message": {"role": "assistant", "content": choice.text, "refusal": None, "annotations": []},
                "logprobs": self._logprobs(choice.logprobs) if self.has_logprobs else None,
                "finish_reason": choice.finish_reason,
            }
            for choice in self.answer.choices
        ]
        rest = {"choices": choices, "usage": self.answer.usage, "holdfast": self.answer.evidence}
        return self._envelope("chat.completion") | rest

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """Yield the streamed answer."""
        async with aclosing(self.chunks()) as chunks:
            async for chunk in chunks:
                yield to_frame(chunk)
        yield DONE

    async def chunks(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the chunks; the last one with a choice has the evidence, after it comes the usage if wanted."""
        started: set[int] = set()
        async with aclosing(self.answer.stream()) as pieces:
            async for piece in pieces:
                if not isinstance(piece, Delta):
                    continue
                if piece.choice not in started:
                    started.add(piece.choice)
                    yield self._chunk(piece.choice, FIRST_DELTA)
                if piece.text or piece.logprobs:
                    yield self._chunk(piece.choice, {"content": piece.text}, piece.logprobs)
        usage, evidence = self.answer.usage, self.answer.evidence
        *others, last = self.answer.choices
        for choice in others:
            yield self._chunk(choice.choice, {}, finish_reason=choice.finish_reason)
        yield self._chunk(last.choice, {}, finish_reason=last.finish_reason) | {"holdfast": evidence}
        if self.has_usage:
            yield self._envelope("chat.completion.chunk") | {"choices": [], "usage": usage}

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        tokens: tuple[TokenLogprob, ...] = (),
        finish_reason: FinishReason | None = None,
    ) -> dict[str, Any]:
        logprobs = self._logprobs(tokens) if self.has_logprobs and tokens else None
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        usage = {"usage": None} if self.has_usage else {}
        return self._envelope("chat.completion.chunk") | {"choices": [choice]} | usage

    def _logprobs(self, tokens: tuple[TokenLogprob, ...]) -> dict[str, Any]:
        return {"content": [logprob_object(token) for token in tokens], "refusal": None}

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.answer.created,
            "model": self.model,
            "service_tier": "default",
        }
