"""The Response object and the events that build it up.

Both forms of the endpoint run the same events; the one that does not stream sends only what the last of them carries.
Events that show an item show it as it is then, so each is a dictionary of its own.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from holdfast.errors import InvalidInput, Overloaded
from holdfast.serving.answer import Finished, Searched
from holdfast.serving.api.answering import Answer, new_id
from holdfast.serving.api.cache_diagnostics import cache_diagnostics
from holdfast.serving.api.errors import error_body
from holdfast.serving.api.evidence import annotation_object, delta_logprob_object, logprob_object, result_object
from holdfast.serving.api.sse import log_unexpected, to_frame
from holdfast.serving.engine.protocol import Delta, TokenLogprob

Event = dict[str, Any]
Save = Callable[[dict[str, Any]], Awaitable[None]]


class ResponseAnswer:
    """One response in the making.

    Args:
        response: the object as it is before anything has happened; see `responses_object.new_response`.
        answer: what answers it, with one choice.
        save: called with the response when it has ended, before the client is told.
        has_results: the client asked to see what the search found; it is saved in any case.
        has_diagnostics, comparison: whether the client asked to compare with an earlier response, and that response.
    """

    def __init__(
        self,
        response: dict[str, Any],
        answer: Answer,
        save: Save,
        *,
        has_results: bool,
        has_diagnostics: bool = False,
        comparison: dict[str, Any] | None = None,
    ) -> None:
        self.response = response
        self.answer = answer
        self.save = save
        self.has_results = has_results
        self.has_diagnostics = has_diagnostics
        self.comparison = comparison
        self.message_id = new_id("msg_")
        self.num_events = 0
        self.output: list[dict[str, Any]] = []
        self.is_message_open = False

    async def complete(self) -> dict[str, Any]:
        """Return the finished response."""
        async with aclosing(self.events()) as events:
            async for _ in events:
                pass
        return self._visible()

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """Yield the streamed events; a failure after the first becomes the last event."""
        try:
            async with aclosing(self.events()) as events:
                async for event in events:
                    yield to_frame(event, event=event["type"])
        except Exception as error:
            if self.num_events == 0:
                raise
            log_unexpected(error)
            event = self._fail(error)
            await self.save(self.response)
            yield to_frame(event, event=event["type"])

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield the events in OpenAI's order."""
        async with aclosing(self.answer.stream()) as pieces:
            async for piece in pieces:
                for event in self._begin() if self.num_events == 0 else ():
                    yield event
                for event in self._show_search(piece) if isinstance(piece, Searched) else self._show_text(piece):
                    yield event
        evidence, usage = self.answer.evidence, self.answer.usage
        finished = self.answer.choices[0]
        for event in self._end_message(finished):
            yield event
        is_cut = finished.finish_reason == "length"
        self.response |= {
            "status": "incomplete" if is_cut else "completed",
            "completed_at": None if is_cut else int(time.time()),
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": self.output,
            "usage": usage_object(usage),
            "holdfast": evidence,
        }
        if self.has_diagnostics:
            self.response["prompt_cache_diagnostics"] = cache_diagnostics(self.response, self.comparison)
        await self.save(self.response)
        yield self._event(f"response.{self.response['status']}", response=self._visible())

    def _begin(self) -> list[Event]:
        return [
            self._event("response.created", response=dict(self.response)),
            self._event("response.in_progress", response=dict(self.response)),
        ]

    def _show_search(self, searched: Searched) -> list[Event]:
        call = {"id": new_id("fs_"), "type": "file_search_call", "queries": list(searched.queries)}
        place = {"output_index": len(self.output), "item_id": call["id"]}
        done = call | {"status": "completed", "results": [result_object(source) for source in searched.sources]}
        self.output.append(done)
        return [
            self._item_event("added", len(self.output) - 1, call | {"status": "in_progress", "results": None}),
            self._event("response.file_search_call.in_progress", **place),
            self._event("response.file_search_call.searching", **place),
            self._event("response.file_search_call.completed", **place),
            self._item_event("done", len(self.output) - 1, done if self.has_results else done | {"results": None}),
        ]

    def _show_text(self, delta: Delta) -> list[Event]:
        events = self._open_message()
        if delta.text or delta.logprobs:
            logprobs = [delta_logprob_object(token) for token in delta.logprobs]
            events.append(self._text_event("output_text.delta", delta=delta.text, logprobs=logprobs))
        return events

    def _open_message(self) -> list[Event]:
        if self.is_message_open:
            return []
        self.is_message_open = True
        return [
            self._item_event("added", len(self.output), self._message("in_progress", [])),
            self._text_event("content_part.added", part=text_part("", [], ())),
        ]

    def _end_message(self, finished: Finished) -> list[Event]:
        events = self._open_message()
        annotations = [annotation_object(citation) for citation in finished.citations]
        part = text_part(finished.text, annotations, finished.logprobs)
        status = "incomplete" if finished.finish_reason == "length" else "completed"
        message = self._message(status, [part])
        logprobs = [delta_logprob_object(token) for token in finished.logprobs]
        events += [
            self._text_event("output_text.annotation.added", annotation_index=row, annotation=annotation)
            for row, annotation in enumerate(annotations)
        ]
        events += [
            self._text_event("output_text.done", text=finished.text, logprobs=logprobs),
            self._text_event("content_part.done", part=part),
            self._item_event("done", len(self.output), message),
        ]
        self.output.append(message)
        return events

    def _fail(self, error: Exception) -> Event:
        self.response |= {"status": "failed", "error": error_object(error), "output": self.output}
        return self._event("response.failed", response=self._visible())

    def _visible(self) -> dict[str, Any]:
        return self.response if self.has_results else without_results(self.response)

    def _message(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.message_id, "type": "message", "status": status, "role": "assistant", "content": content}

    def _item_event(self, name: str, output_index: int, item: dict[str, Any]) -> Event:
        return self._event(f"response.output_item.{name}", output_index=output_index, item=item)

    def _text_event(self, name: str, **fields: Any) -> Event:
        place = {"item_id": self.message_id, "output_index": len(self.output), "content_index": 0}
        return self._event(f"response.{name}", **place, **fields)

    def _event(self, kind: str, **fields: Any) -> Event:
        event = {"type": kind, "sequence_number": self.num_events, **fields}
        self.num_events += 1
        return event


def text_part(text: str, annotations: list[dict[str, Any]], tokens: tuple[TokenLogprob, ...]) -> dict[str, Any]:
    """A message's one content part."""
    logprobs = [logprob_object(token) for token in tokens]
    return {"type": "output_text", "text": text, "annotations": annotations, "logprobs": logprobs}


def without_results(response: dict[str, Any]) -> dict[str, Any]:
    """The response as one sees it who has not asked for search results."""
    output = [item | {"results": None} if item["type"] == "file_search_call" else item for item in response["output"]]
    return response | {"output": output}


def usage_object(usage: dict[str, Any]) -> dict[str, Any]:
    """Tokens used, in the shape of this API."""
    details = usage["prompt_tokens_details"]
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {key: details[key] for key in ("cached_tokens", "cache_write_tokens")},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }


def error_object(error: Exception) -> dict[str, str]:
    """Why a response failed, in one of the codes that clients know."""
    message = error_body(error)["error"]["message"]
    if isinstance(error, InvalidInput):
        return {"code": "invalid_prompt", "message": message}
    return {"code": "rate_limit_exceeded" if isinstance(error, Overloaded) else "server_error", "message": message}


def error_frame(error: Exception) -> bytes:
    """The event for a failure before there was a response to speak of."""
    details = error_body(error)["error"]
    event = {"type": "error", "sequence_number": 0} | {key: details[key] for key in ("code", "message", "param")}
    return to_frame(event, event="error")
