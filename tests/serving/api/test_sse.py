"""How streams start, stay alive and end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from holdfast.errors import EngineError, RequestTimeout
from holdfast.serving.api import sse


class Frames:
    """Yields `frames` after `delay_s` each; notes when it was closed."""

    def __init__(self, *frames: bytes | Exception, delay_s: float = 0.0) -> None:
        self.frames = frames
        self.delay_s = delay_s
        self.is_closed = False
        self.num_sent = 0

    async def run(self) -> AsyncGenerator[bytes, None]:
        try:
            for frame in self.frames:
                await asyncio.sleep(self.delay_s)
                if isinstance(frame, Exception):
                    raise frame
                self.num_sent += 1
                yield frame
        finally:
            self.is_closed = True


async def send_all(stream: sse.EventStream, sent: list[Message]) -> None:
    async def receive() -> Message:
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)
        await asyncio.sleep(0)

    await stream({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)


def body(sent: list[Message]) -> bytes:
    return b"".join(message.get("body", b"") for message in sent)


async def test_silence_is_filled_with_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "PING_S", 0.05)
    frames = Frames(b"data: 1\n\n", b"data: 2\n\n", delay_s=0.12)
    sent: list[Message] = []
    await send_all(await sse.start_stream(frames.run(), sse.error_frame), sent)
    text = body(sent).decode()
    assert text.count(": ping\n\n") >= 3
    assert [line for line in text.splitlines() if line.startswith("data")] == ["data: 1", "data: 2"]
    assert frames.is_closed


async def test_a_failure_before_the_first_frame_is_raised() -> None:
    frames = Frames(EngineError("no"))
    with pytest.raises(EngineError):
        await sse.start_stream(frames.run(), sse.error_frame)
    assert frames.is_closed


async def test_a_late_first_failure_is_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "PING_S", 0.02)
    sent: list[Message] = []
    await send_all(await sse.start_stream(Frames(EngineError("no"), delay_s=0.1).run(), sse.error_frame), sent)
    assert b'data: {"error":{"message":"no","type":"server_error"' in body(sent)


@pytest.mark.parametrize("num_frames", [0.5, 3, 10])
async def test_a_cancelled_stream_closes_its_frames(num_frames: float) -> None:
    frames = Frames(*[b"data\n\n"] * 100, delay_s=0.01)
    sent: list[Message] = []
    stream = await sse.start_stream(frames.run(), sse.error_frame)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(send_all(stream, sent), 0.01 * num_frames)
    assert sent
    assert frames.is_closed


async def test_a_broken_connection_closes_the_frames_though_the_next_was_not_asked_for() -> None:
    frames = Frames(*[b"data\n\n"] * 100)
    generator = frames.run()  # held here: the garbage collector is not to close it
    stream = await sse.start_stream(generator, sse.error_frame)

    async def receive() -> Message:
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            raise OSError("the connection is gone")

    with pytest.raises((OSError, ClientDisconnect)):
        await stream({"type": "http", "asgi": {"spec_version": "2.4"}}, receive, send)
    assert frames.num_sent == 1
    assert frames.is_closed
    await generator.aclose()


async def test_events_end_at_the_deadline() -> None:
    frames = Frames(*[b"data\n\n"] * 100, delay_s=0.05)
    timed: Any = sse.until(asyncio.get_running_loop().time() + 0.2, frames.run())
    with pytest.raises(RequestTimeout):
        assert [frame async for frame in timed] == []
    assert frames.is_closed
    assert 1 <= frames.num_sent <= 4


def test_a_frame_is_one_line_of_json() -> None:
    frame = sse.to_frame({"text": "a\n\ndata: [DONE]\r\n\u2028\ud800"}, event="x")
    event, data, *rest = frame.decode().split("\n")
    assert event == "event: x"
    assert rest == ["", ""]
    assert len(data.splitlines()) == 1
