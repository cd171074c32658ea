"""One answer on its way out: asked for, timed, counted, and taken apart for the endpoint that shows it."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from holdfast.errors import EngineError, HoldfastError
from holdfast.serving.answer import AnswerEvent, Done, FileSearch, Finished, Searched
from holdfast.serving.api.context import Context
from holdfast.serving.api.evidence import evidence_object
from holdfast.serving.api.sse import until
from holdfast.serving.engine.protocol import Delta, Message, Reading, Sampling

NO_PARAMS: Mapping[str, str] = {}


class Answer:
    """What has arrived of one answer. `stream` it once; the rest is complete when that has ended."""

    def __init__(self, events: AsyncGenerator[AnswerEvent, None]) -> None:
        self.events = events
        self.created = int(time.time())
        self.searched: Searched | None = None
        self._finished: dict[int, Finished] = {}
        self._done: Done | None = None

    async def stream(self) -> AsyncGenerator[Searched | Delta, None]:
        """Yield what can be shown at once: the search, if any, and the pieces of text. Keep everything else."""
        async with aclosing(self.events) as events:
            async for event in events:
                if isinstance(event, Finished):
                    self._finished[event.choice] = event
                elif isinstance(event, Done):
                    self._done = event
                else:
                    if isinstance(event, Searched):
                        self.searched = event
                    yield event

    async def wait(self) -> None:
        """Take in the whole answer."""
        async with aclosing(self.stream()) as pieces:
            async for _ in pieces:
                pass

    @property
    def choices(self) -> list[Finished]:
        """The finished choices, by number."""
        return [self._finished[number] for number in sorted(self._finished)]

    @property
    def done(self) -> Done:
        """The tokens used, and more.

        Raises:
            EngineError: the answer ended without saying that it was complete.
        """
        if self._done is None or not self._finished:
            raise EngineError("The answer broke off.")
        return self._done

    @property
    def evidence(self) -> dict[str, Any]:
        """The `holdfast` object."""
        return evidence_object(self.searched, self.choices, self.done)

    @property
    def usage(self) -> dict[str, Any]:
        """Tokens used, in the shape of both kinds of completions."""
        done = self.done
        return {
            "prompt_tokens": done.prompt_tokens,
            "completion_tokens": done.completion_tokens,
            "total_tokens": done.prompt_tokens + done.completion_tokens,
            "prompt_tokens_details": {
                "cached_tokens": done.report.cached_tokens if done.report else 0,
                "audio_tokens": 0,
                "cache_write_tokens": done.report.cache_write_tokens if done.report else 0,
            },
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }


def ask(
    context: Context,
    messages: Sequence[Message],
    sampling: Sampling,
    *,
    search: FileSearch | None = None,
    prompt: str | None = None,
    params: Mapping[str, str] = NO_PARAMS,
    reading: Reading | None = None,
) -> Answer:
    """Return the answer to a conversation, or the continuation of a prompt; nothing runs until it is streamed.

    `params` says how this endpoint's requests call what an error's `param` names.
    """
    events = context.service.answerer.stream(
        context.tenant, messages, search=search, sampling=sampling, prompt=prompt, reading=reading
    )
    return Answer(_renamed(params, _counted(context, until(context.deadline, events))))


async def _counted(context: Context, events: AsyncGenerator[AnswerEvent, None]) -> AsyncGenerator[AnswerEvent, None]:
    """Yield `events`, and count the tokens used."""
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Done):
                context.metrics.count_tokens(
                    context.service.engine.name, prompt=event.prompt_tokens, completion=event.completion_tokens
                )
            yield event


async def _renamed(
    params: Mapping[str, str], events: AsyncGenerator[AnswerEvent, None]
) -> AsyncGenerator[AnswerEvent, None]:
    """Yield `events`; an error names its cause as the request does."""
    try:
        async with aclosing(events):
            async for event in events:
                yield event
    except HoldfastError as error:
        name, dot, rest = (error.param or "").partition(".")
        error.param = params.get(name, name) + dot + rest or None
        raise


def new_id(prefix: str) -> str:
    """Return a fresh id, as OpenAI's look."""
    return prefix + uuid.uuid4().hex
