"""The remote engine against a real second process, and against servers that misbehave."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from holdfast.errors import EngineError
from holdfast.serving.engine.hf import HfEngine
from holdfast.serving.engine.remote import RemoteEngine, make_remote_engine, request_body
from tests.serving.engine.requests import collect, make_request, make_source
from tests.serving.engine.upstream import API_KEY

START_TIMEOUT_S = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def upstream(tiny_llama: Path) -> Iterator[str]:
    """The address of a running upstream, without /v1."""
    port = free_port()
    command = [sys.executable, "-m", "tests.serving.engine.upstream", str(tiny_llama), str(port)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[3])
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            assert process.poll() is None, "the upstream died"
            assert time.monotonic() < deadline, "the upstream did not start"
            try:
                httpx.get(f"{url}/running")
                break
            except httpx.ConnectError:
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
async def remote(upstream: str) -> AsyncIterator[RemoteEngine]:
    engine = await asyncio.to_thread(make_remote_engine, "tiny", f"{upstream}/v1", API_KEY)
    yield engine
    await engine.close()


@asynccontextmanager
async def raw_server(answer: bytes | None) -> AsyncIterator[str]:
    """Answer every connection with these bytes and close it; None accepts and says nothing."""
    silent = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            await silent.wait()
        else:
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        silent.set()
        server.close()


def streamed(*data: str) -> bytes:
    events = "".join(f"data: {line}\n\n" for line in data)
    return f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n{events}".encode()


async def test_text_usage_and_finish_reason_pass_through(remote: RemoteEngine, hf_engine: HfEngine) -> None:
    sources = [make_source("The bridge was built by the city.")]
    request = make_request(sources=sources, temperature=0.0, max_tokens=12)
    here, there = await collect(hf_engine, request), await collect(remote, request)
    assert there.text() == here.text()
    assert len(there.deltas) > 3
    assert there.num_tokens() == 12
    assert there.finish_reasons() == ["length"]
    assert there.deltas[-1].prompt_tokens == hf_engine.count_prompt_tokens(request)
    assert remote.context_len == hf_engine.context_len


async def test_choices_seed_stop_and_logprobs_pass_through(remote: RemoteEngine, hf_engine: HfEngine) -> None:
    request = make_request(n=2, seed=5, max_tokens=10, logprobs=True, top_logprobs=2, stop=("the",), top_p=0.9)
    here, there = await collect(hf_engine, request), await collect(remote, request)
    for choice in range(2):
        assert there.text(choice) == here.text(choice)
    assert [row for delta in there.deltas for row in delta.logprobs if delta.choice == 1] == [
        row for delta in here.deltas for row in delta.logprobs if delta.choice == 1
    ]


async def test_a_plain_prompt_goes_to_completions(remote: RemoteEngine, hf_engine: HfEngine) -> None:
    request = make_request(prompt="The tower was", temperature=0.0, max_tokens=5)
    assert (await collect(remote, request)).text() == (await collect(hf_engine, request)).text()


async def test_closing_our_stream_closes_the_upstreams(remote: RemoteEngine, upstream: str) -> None:
    stream = remote.generate(make_request(temperature=0.0, max_tokens=900))
    await anext(stream)
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"{upstream}/running")).json() == 1
        await stream.aclose()
        for _ in range(100):
            if (await client.get(f"{upstream}/running")).json() == 0:
                return
            await asyncio.sleep(0.05)
    pytest.fail("the upstream still generates")


async def test_upstream_errors_come_in_its_words(upstream: str) -> None:
    engine = RemoteEngine("no-such-model", f"{upstream}/v1", API_KEY)
    with pytest.raises(EngineError, match="answered 404: The model `no-such-model` does not exist"):
        await collect(engine, make_request(max_tokens=4))
    await engine.close()


async def test_our_key_is_never_repeated(upstream: str) -> None:
    engine = RemoteEngine("tiny", f"{upstream}/v1", "sk-secret-wrong")
    with pytest.raises(EngineError, match="answered 401") as raised:
        await collect(engine, make_request(max_tokens=4))
    assert "secret" not in str(raised.value)
    assert "secret" not in repr(vars(engine) | {"_api_key": None, "_client": None})
    await engine.close()


async def test_a_refused_connection_is_said_plainly() -> None:
    engine = await asyncio.to_thread(make_remote_engine, "tiny", f"http://127.0.0.1:{free_port()}/v1", None)
    assert engine.context_len is None
    with pytest.raises(EngineError, match=r"cannot reach the upstream at 127\.0\.0\.1:"):
        await collect(engine, make_request(max_tokens=4))
    await engine.close()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (streamed('{"choices":[{"delta":{"content":"a"}}]}'), "ended its stream"),
        (streamed("[DONE]"), "ended its stream"),
        (streamed('{"error":{"message":"CUDA is gone"}}'), "failed: CUDA is gone"),
        (streamed("<html>"), "not JSON"),
        (streamed("[1]"), "failed"),
        (streamed('{"choices":["a"]}'), "makes no sense"),
        (streamed('{"choices":[{"delta":{"content":["a"]}}]}'), "makes no sense"),
        (streamed('{"choices":[{"index":7,"delta":{"content":"a"}}]}'), "makes no sense"),
        (streamed('{"choices":[],"usage":{"prompt_tokens":"many"}}'), "makes no sense"),
        (streamed('{"choices":[{"delta":{},"logprobs":{"content":[{"token":"a"}]}}]}'), "makes no sense"),
        (b"HTTP/1.1 500 X\r\ncontent-length: 4\r\n\r\noops", "answered 500: oops"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\ndata: ", "broke"),
        (b"", "broke"),
        (None, "did not answer in time"),
    ],
)
async def test_a_misbehaving_upstream_is_an_engine_error(answer: bytes | None, message: str) -> None:
    async with raw_server(answer) as url:
        engine = RemoteEngine("tiny", url, None, read_timeout_s=0.5)
        with pytest.raises(EngineError, match=message):
            await collect(engine, make_request(max_tokens=4))
        await engine.close()


async def test_line_separators_inside_text_do_not_end_an_event() -> None:
    text = "one\u2028two\x85three"
    chunk = json.dumps({"choices": [{"delta": {"content": text}, "finish_reason": "stop"}]}, ensure_ascii=False)
    async with raw_server(streamed(chunk, "[DONE]")) as url:
        engine = RemoteEngine("tiny", url, None)
        assert (await collect(engine, make_request())).text() == text
        await engine.close()


def test_settings_at_their_defaults_are_not_sent() -> None:
    assert set(request_body("m", make_request())) == {
        "model", "stream", "stream_options", "temperature", "max_tokens", "messages",
    }  # fmt: skip
    full = request_body("m", make_request(seed=1, n=2, stop=("x",), logit_bias=((5, 1.0),), presence_penalty=0.5))
    assert (full["seed"], full["n"], full["stop"], full["logit_bias"]) == (1, 2, ["x"], {"5": 1.0})
