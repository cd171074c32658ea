"""`POST /v1/completions`: continue a text. No files are searched, and no chat template is applied.

An engine takes text and gives text, so prompts of token ids, log probabilities of the prompt, and choosing among more
candidates than are returned are refused.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from holdfast.errors import InvalidInput
from holdfast.serving.api.answering import Answer, ask, new_id
from holdfast.serving.api.context import Context, JsonOnly, RequestContext
from holdfast.serving.api.sampling import SamplingBody, check_model, check_stream_options, refuse_given, refused
from holdfast.serving.api.sse import DONE, JSON_OR_STREAM, error_frame, start_stream, to_frame
from holdfast.serving.engine.protocol import Delta, FinishReason, Sampling, TokenLogprob

router = APIRouter(tags=["completions"], dependencies=[JsonOnly])

DEFAULT_MAX_TOKENS = 16
"""OpenAI's"""
TOKEN_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")

TokenIds = Annotated[list[int], Field(min_length=1)]


class CompletionBody(SamplingBody):
    """The request."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=128)] | TokenIds | list[TokenIds]
    max_tokens: int | None = Field(None, ge=0)
    best_of: int | None = Field(None, ge=0, le=20)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=5)
    suffix: str | None = None

    def check(self) -> None:
        """Refuse what is known but cannot be obeyed."""
        refuse_given(self, "suffix")
        check_stream_options(self.stream_options, is_stream=bool(self.stream))
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise refused("best_of", str(self.best_of), "leave it out or set it to n")
        if self.echo and self.logprobs is not None:
            raise refused(
                "echo", "true", "leave out echo or logprobs: a prompt's own log probabilities are not computed"
            )
        if self.max_tokens == 0:
            raise refused("max_tokens", "0", "ask for at least 1 token")

    @property
    def prompts(self) -> list[str]:
        """The texts to continue."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        texts = [item for item in self.prompt if isinstance(item, str)]
        if not texts:
            raise InvalidInput(
                "prompt is given as token ids; this server needs the text itself.",
                code="unsupported_value",
                param="prompt",
            )
        return texts

    @property
    def sampling(self) -> Sampling:
        return self.to_sampling(
            max_tokens=DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens,
            logprobs=self.logprobs is not None,
            top_logprobs=self.logprobs or 0,
        )


@router.post("/v1/completions", summary="Continue a text", responses=JSON_OR_STREAM)
async def create_completion(body: CompletionBody, context: RequestContext) -> Response:
    body.check()
    check_model(body.model, context.service.engine.name)
    completion = Completion(body, context)
    await context.admit_answer()
    if body.stream:
        return await start_stream(completion.frames(), error_frame)
    return JSONResponse(await completion.complete())


class Completion:
    """The continuations of all prompts, one prompt after the other; choice `i` of prompt `p` has index `p * n + i`."""

    def __init__(self, body: CompletionBody, context: Context) -> None:
        self.body = body
        self.id = new_id("cmpl-")
        self.prompts = body.prompts
        self.answers = [ask(context, (), body.sampling, prompt=prompt) for prompt in self.prompts]

    async def complete(self) -> dict[str, Any]:
        """Return the whole response."""
        choices = []
        for row, answer in enumerate(self.answers):
            await answer.wait()
            echo = self.prompts[row] if self.body.echo else ""
            choices += [
                self._choice(row, choice.choice, echo + choice.text, choice.logprobs, choice.finish_reason, len(echo))
                for choice in answer.choices
            ]
        return self._envelope() | {"choices": choices, "usage": self._usage()}

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """Yield the streamed response."""
        for row, answer in enumerate(self.answers):
            async with aclosing(self._chunks(row, answer)) as chunks:
                async for chunk in chunks:
                    yield to_frame(chunk)
        if self.body.includes_usage:
            yield to_frame(self._envelope() | {"choices": [], "usage": self._usage()})
        yield DONE

    async def _chunks(self, row: int, answer: Answer) -> AsyncGenerator[dict[str, Any], None]:
        num_characters: dict[int, int] = {}
        for index in range(self.body.n or 1) if self.body.echo else ():
            num_characters[index] = len(self.prompts[row])
            yield self._chunk(row, index, self.prompts[row])
        async with aclosing(answer.stream()) as pieces:
            async for piece in pieces:
                if isinstance(piece, Delta) and (piece.text or piece.logprobs):
                    offset = num_characters.get(piece.choice, 0)
                    num_characters[piece.choice] = offset + len(piece.text)
                    yield self._chunk(row, piece.choice, piece.text, piece.logprobs, offset=offset)
        for choice in answer.choices:
            yield self._chunk(row, choice.choice, "", finish_reason=choice.finish_reason)

    def _chunk(
        self,
        row: int,
        index: int,
        text: str,
        tokens: tuple[TokenLogprob, ...] = (),
        *,
        finish_reason: FinishReason | None = None,
        offset: int = 0,
    ) -> dict[str, Any]:
        choice = self._choice(row, index, text, tokens, finish_reason, offset)
        usage = {"usage": None} if self.body.includes_usage else {}
        return self._envelope() | {"choices": [choice]} | usage

    def _choice(
        self,
        row: int,
        index: int,
        text: str,
        tokens: tuple[TokenLogprob, ...],
        finish_reason: FinishReason | None,
        offset: int,
    ) -> dict[str, Any]:
        has_logprobs = self.body.logprobs is not None and (tokens or finish_reason is None)
        return {
            "index": row * (self.body.n or 1) + index,
            "text": text,
            "logprobs": logprobs_object(tokens, offset) if has_logprobs else None,
            "finish_reason": finish_reason,
        }

    def _usage(self) -> dict[str, Any]:
        usages = [answer.usage for answer in self.answers]
        totals = {key: sum(usage[key] for usage in usages) for key in TOKEN_COUNTS}
        return usages[0] | totals

    def _envelope(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.answers[0].created,
            "model": self.body.model,
        }


def logprobs_object(tokens: tuple[TokenLogprob, ...], offset: int) -> dict[str, Any]:
    """Return the columns of this older shape; `offset` is where the first token begins in the choice's text."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [dict(token.top) for token in tokens],
        "text_offset": offsets,
    }
