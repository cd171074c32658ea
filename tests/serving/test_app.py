"""What holds for every route: errors, ids, tenants, limits, cancellation and shutdown. The servers are real."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from holdfast.serving.api_keys import ApiKeys
from tests.serving.server import Server, running_server

MODEL = "all-MiniLM-L6-v2"
SLOW = {"model": MODEL, "input": ["word " * 250] * 1100}
"""Takes far longer to embed than `TIMEOUT_S`."""
TIMEOUT_S = 6
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str, str]]:
    """A server with two tenants' keys and tight limits."""
    folder = tmp_path_factory.mktemp("guarded")
    keys = ApiKeys(folder / "data")
    texts = [keys.create(tenant)[1] for tenant in ("alice", "bob")]
    keys.close()
    limits = {"max_body_bytes": 2_000_000, "max_file_bytes": 100_000, "request_timeout_s": TIMEOUT_S}
    with running_server(folder, max_concurrent_requests=1, max_queued_requests=0, **limits) as running:
        yield running, texts[0], texts[1]


@pytest.fixture
def alice(guarded: tuple[Server, str, str]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=guarded[0].base_url, api_key=guarded[1], max_retries=0) as opened:
        yield opened


@pytest.fixture
def bob(guarded: tuple[Server, str, str]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=guarded[0].base_url, api_key=guarded[2], max_retries=0) as opened:
        yield opened


@pytest.mark.parametrize(
    ("method", "path", "content", "headers", "status", "code"),
    [
        ("GET", "/v1/nothing", b"", {}, 404, None),
        ("GET", "/", b"", {}, 404, None),
        ("DELETE", "/v1/models", b"", {}, 405, None),
        ("POST", "/v1/embeddings", b"{", JSON, 400, "invalid_json"),
        ("POST", "/v1/embeddings", b"\xff\xfe", JSON, 400, None),
        ("POST", "/v1/embeddings", b"[" * 100_000, JSON, 400, None),
        ("POST", "/v1/embeddings", b"[]", JSON, 400, "invalid_type"),
        ("POST", "/v1/embeddings", b"", JSON, 400, "invalid_type"),
        ("POST", "/v1/embeddings", b"a=b", {"content-type": "application/x-www-form-urlencoded"}, 415, None),
        ("POST", "/v1/embeddings", b'{"input":"x"}', JSON, 400, "missing_required_parameter"),
        ("POST", "/v1/embeddings", b'{"input":"x","model":"m","x":1}', JSON, 400, "unknown_parameter"),
        ("POST", "/v1/embeddings", b'{"input":"x","model":5}', JSON, 400, "invalid_type"),
        ("POST", "/v1/embeddings", b'{"input":"x","model":"\\ud800"}', JSON, 400, "invalid_value"),
        ("POST", "/v1/embeddings", b'{"input":"\\uD83D\\uDE00","model":"m"}', JSON, 404, "model_not_found"),
        ("POST", "/v1/embeddings", b'{"input":"\xed\xa0\x80","model":"all-MiniLM-L6-v2"}', JSON, 400, "invalid_value"),
        ("POST", "/v1/vector_stores/vs/search", b'{"query":"x","filters":{"a":NaN}}', JSON, 400, "invalid_value"),
        ("POST", "/v1/responses", b'{"input":"x","tools":[{"type":"file_search","x":1e999}]}', JSON, 400, None),
        ("POST", "/v1/vector_stores/vs/file_batches/b/cancel", b"{", JSON, 400, "invalid_json"),
        ("POST", "/v1/chat/completions", b'{"messages":[],"n":' + b"9" * 5000 + b"}", JSON, 400, None),
        ("POST", "/v1/vector_stores", b'{"expires_after":{"anchor":"last_active_at","days":1e400}}', JSON, 400, None),
        ("GET", "/v1/vector_stores?limit=101", b"", {}, 400, "invalid_value"),
        ("GET", "/v1/vector_stores?limmit=5", b"", {}, 400, "unknown_parameter"),
    ],
)
def test_every_mistake_is_an_error_in_openais_shape(
    http: httpx.Client, method: str, path: str, content: bytes, headers: dict[str, str], status: int, code: str | None
) -> None:
    response = http.request(method, path, content=content, headers=headers)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    if code:
        assert error["code"] == code


def test_every_response_has_an_id_and_a_duration(http: httpx.Client) -> None:
    ids = set()
    for path in ("/v1/models", "/health", "/no/such/route", "/v1/files/file-x"):
        headers = http.get(path).headers
        assert int(headers["openai-processing-ms"]) >= 0
        ids.add(headers["x-request-id"])
    assert len(ids) == 4
    assert http.get("/health", headers={"x-request-id": "my-id.1"}).headers["x-request-id"] == "my-id.1"
    assert http.get("/health", headers={"x-request-id": "a b"}).headers["x-request-id"].startswith("req_")


def test_no_key_or_a_wrong_one_is_401(guarded: tuple[Server, str, str]) -> None:
    server, key, _ = guarded
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Bearer {key}0"}):
        for path in ("/v1/models", "/v1/nothing", "/rerank"):
            response = httpx.get(server.url + path, headers=headers)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.json()["error"]["code"] == "invalid_api_key"
    with openai.OpenAI(base_url=server.base_url, api_key="wrong") as wrong, pytest.raises(openai.AuthenticationError):
        wrong.models.list()
    assert httpx.get(f"{server.url}/health").status_code == 200
    assert httpx.get(f"{server.url}/metrics").status_code == 200


def test_tenants_do_not_see_each_others_objects(alice: openai.OpenAI, bob: openai.OpenAI) -> None:
    file = alice.files.create(file=("secret.txt", b"The safe's code is 7 4 9."), purpose="assistants")
    store = alice.vector_stores.create(name="private")
    batch = alice.vector_stores.file_batches.create_and_poll(store.id, file_ids=[file.id], poll_interval_ms=100)
    assert batch.file_counts.completed == 1
    own = bob.vector_stores.create(name="own")
    question: Any = {"model": "extract", "input": "What is the code of the safe?"}
    tools: Any = [{"type": "file_search", "vector_store_ids": [store.id]}]
    response = alice.responses.create(**question, tools=tools)
    assert "7 4 9" in response.output_text
    chat: Any = {"model": "extract", "messages": [{"role": "user", "content": question["input"]}]}
    attempts = [
        lambda: bob.files.retrieve(file.id),
        lambda: bob.files.content(file.id),
        lambda: bob.files.delete(file.id),
        lambda: bob.vector_stores.retrieve(store.id),
        lambda: bob.vector_stores.update(store.id, name="mine"),
        lambda: bob.vector_stores.delete(store.id),
        lambda: bob.vector_stores.search(store.id, query="code of the safe"),
        lambda: bob.vector_stores.files.list(store.id),
        lambda: bob.vector_stores.files.create(own.id, file_id=file.id),
        lambda: bob.vector_stores.files.content(file.id, vector_store_id=store.id),
        lambda: bob.vector_stores.files.content(file.id, vector_store_id=own.id),
        lambda: bob.vector_stores.file_batches.retrieve(batch.id, vector_store_id=store.id),
        lambda: bob.vector_stores.files.retrieve(file.id, vector_store_id=store.id),
        lambda: bob.vector_stores.files.update(file.id, vector_store_id=store.id, attributes={"a": 1}),
        lambda: bob.vector_stores.files.delete(file.id, vector_store_id=store.id),
        lambda: bob.vector_stores.file_batches.create(own.id, file_ids=[file.id]),
        lambda: bob.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id),
        lambda: bob.vector_stores.file_batches.cancel(batch.id, vector_store_id=own.id),
        lambda: bob.vector_stores.create(file_ids=[file.id]),
        lambda: bob.responses.retrieve(response.id),
        lambda: bob.responses.input_items.list(response.id),
        lambda: bob.responses.delete(response.id),
        lambda: bob.responses.create(**question, tools=tools),
        lambda: bob.chat.completions.create(**chat, extra_body={"holdfast": {"vector_store_ids": [store.id]}}),
    ]
    for attempt in attempts:
        with pytest.raises(openai.NotFoundError):
            attempt()
    with pytest.raises(openai.BadRequestError, match="not found"):
        bob.responses.create(**question, previous_response_id=response.id)
    assert file.id not in [seen.id for seen in bob.files.list()]
    assert [seen.id for seen in bob.vector_stores.list()] == [own.id]
    assert alice.vector_stores.search(store.id, query="code of the safe").data[0].file_id == file.id


def test_a_key_made_or_revoked_while_the_server_runs_counts_at_once(guarded: tuple[Server, str, str]) -> None:
    server = guarded[0]
    keys = ApiKeys(server.data_dir)
    key, text = keys.create("carol")
    with openai.OpenAI(base_url=server.base_url, api_key=text, max_retries=0) as carol:
        assert carol.models.list().data
        keys.revoke(key.id)
        with pytest.raises(openai.AuthenticationError):
            carol.models.list()
    keys.close()


def test_bodies_and_files_over_the_limit_are_413(guarded: tuple[Server, str, str], alice: openai.OpenAI) -> None:
    server, key, _ = guarded
    headers = {"authorization": f"Bearer {key}", **JSON}

    def chunks() -> Iterator[bytes]:
        for _ in range(30):
            yield b"x" * 100_000

    for content in (b"x" * 3_000_000, chunks()):
        response = httpx.post(f"{server.url}/v1/embeddings", content=content, headers=headers)
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "request_too_large"
    for size in (100_001, 300_000):
        with pytest.raises(openai.APIStatusError) as caught:
            alice.files.create(file=("big.bin", bytes(size)), purpose="user_data")
        assert caught.value.status_code == 413
    assert alice.files.create(file=("fits.bin", bytes(100_000)), purpose="user_data").bytes == 100_000
    assert list((server.data_dir).rglob("*upload*/*")) == []


def test_a_busy_server_says_when_to_return_and_a_slow_request_times_out(
    guarded: tuple[Server, str, str], alice: openai.OpenAI
) -> None:
    slow: list[openai.APIStatusError] = []

    def ask_much() -> None:
        try:
            alice.embeddings.create(**SLOW)  # type: ignore[arg-type]
        except openai.APIStatusError as error:
            slow.append(error)

    thread = threading.Thread(target=ask_much)
    thread.start()
    time.sleep(2)
    with pytest.raises(openai.RateLimitError) as busy:
        alice.embeddings.create(model=MODEL, input="short")
    assert int(busy.value.response.headers["retry-after"]) >= 1
    assert int(busy.value.response.headers["retry-after-ms"]) >= 1000
    assert busy.value.code == "rate_limit_exceeded"
    thread.join()
    assert [(error.status_code, error.code) for error in slow] == [(504, "timeout")]
    wait_until_idle(alice)


def test_the_work_of_a_client_that_leaves_is_cancelled(guarded: tuple[Server, str, str], alice: openai.OpenAI) -> None:
    with pytest.raises(openai.APITimeoutError):
        alice.with_options(timeout=1).embeddings.create(**SLOW)  # type: ignore[arg-type]
    wait_until_idle(alice)
    metrics = httpx.get(f"{guarded[0].url}/metrics").text
    assert "holdfast_disconnected_requests_total 1.0" in metrics
    assert 'route="/v1/embeddings",status="499"' in metrics


def wait_until_idle(client: openai.OpenAI) -> None:
    """Return once a short request gets in; fail if the slot is held for longer than one slice of work takes."""
    deadline = time.monotonic() + 5 * TIMEOUT_S
    while True:
        try:
            client.embeddings.create(model=MODEL, input="short")
        except (openai.RateLimitError, openai.InternalServerError):
            assert time.monotonic() < deadline, "the cancelled request still holds its slot"
            time.sleep(0.1)
        else:
            return


def test_an_upload_broken_off_leaves_nothing_behind(guarded: tuple[Server, str, str], alice: openai.OpenAI) -> None:
    server, key, _ = guarded
    before = [file.id for file in alice.files.list()]
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port)) as connection:
        head = (
            f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: 90000\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
            '--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
        )
        connection.sendall(head.encode() + b"x" * 50_000)
        time.sleep(0.3)
    time.sleep(0.3)
    assert [file.id for file in alice.files.list()] == before
    assert not [path for path in server.data_dir.rglob("*") if path.is_file() and b"xxxxxxxx" in path.read_bytes()]


def test_a_terminated_server_finishes_what_runs_and_keeps_what_it_has(tmp_path: Path) -> None:
    with running_server(tmp_path) as first, openai.OpenAI(base_url=first.base_url, api_key="-") as client:
        file_id = client.files.create(file=("a.txt", b"Ants live in hills."), purpose="assistants").id
        store = client.vector_stores.create(name="kept", file_ids=[file_id])
        client.vector_stores.files.poll(file_id, vector_store_id=store.id, poll_interval_ms=100)
        found = client.vector_stores.search(store.id, query="ants").data
        results: list[int] = []
        texts = ["some words " * 100] * 8
        thread = threading.Thread(
            target=lambda: results.append(len(client.embeddings.create(model=MODEL, input=texts).data))
        )
        thread.start()
        time.sleep(0.5)
        assert first.stop(signal.SIGTERM) == 0, first.log.read_text()
        thread.join()
        assert results == [8]
    with running_server(tmp_path) as second, openai.OpenAI(base_url=second.base_url, api_key="-") as client:
        assert client.vector_stores.search(store.id, query="ants").data == found
        assert client.files.content(file_id).read() == b"Ants live in hills."
