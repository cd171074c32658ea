"""Drive a running server with whichever openai client this interpreter has, by the client's own methods.

Usage: python conformance.py BASE_URL. Needs the openai package and nothing else; ends with an AssertionError where
something differs from what the client expects.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import openai

EMBEDDING_MODEL = "all-MiniLM-L6-v2"
TEXTS = {
    "moon.txt": "The Moon orbits the Earth every twenty-seven days. Its mean radius is 1737 kilometres.",
    "tea.md": "# Tea\n\nGreen tea is brewed at eighty degrees. Black tea needs boiling water.",
    "whales.html": "<html><body><p>An adult blue whale weighs 150 tonnes and eats krill.</p></body></html>",
}


def check_models(client: openai.OpenAI) -> None:
    models = list(client.models.list())
    assert EMBEDDING_MODEL in [model.id for model in models], models
    assert client.models.retrieve(models[0].id) == models[0]
    assert {model.object for model in models} == {"model"}


def check_embeddings(client: openai.OpenAI) -> None:
    response = client.embeddings.create(input=["one", "two"], model=EMBEDDING_MODEL)  # base64 on the wire
    floats = client.embeddings.create(input=["one", "two"], model=EMBEDDING_MODEL, encoding_format="float")
    assert [item.embedding for item in response.data] == [item.embedding for item in floats.data]
    assert all(len(item.embedding) == 384 for item in response.data)
    assert response.usage.prompt_tokens == response.usage.total_tokens > 0
    assert len(client.embeddings.create(input="x", model=EMBEDDING_MODEL, dimensions=384).data) == 1


def check_files(client: openai.OpenAI) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "notes.txt"
        path.write_text("Notes on a page.")
        expiry = {"anchor": "created_at", "seconds": 7200}
        file = client.files.create(file=path, purpose="assistants", expires_after=expiry)  # type: ignore[arg-type]
    assert (file.filename, file.bytes, file.purpose, file.object) == ("notes.txt", 16, "assistants", "file")
    assert file.expires_at == file.created_at + 7200
    assert client.files.wait_for_processing(file.id).status == "processed"
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == b"Notes on a page."
    assert client.files.content(file.id).text == "Notes on a page."
    more = [client.files.create(file=(f"{n}.txt", b"x"), purpose="batch").id for n in range(3)]
    assert [seen.id for seen in client.files.list(purpose="batch", limit=2, order="asc")] == more
    for file_id in [file.id, *more]:
        deleted = client.files.delete(file_id)
        assert (deleted.id, deleted.deleted) == (file_id, True)


def check_vector_stores(client: openai.OpenAI) -> None:
    store = client.vector_stores.create(
        name="conformance", metadata={"a": "b"}, expires_after={"anchor": "last_active_at", "days": 1}
    )
    assert store.file_counts.total == 0
    assert store.expires_after is not None
    changed = client.vector_stores.update(store.id, name="renamed", metadata={"c": "d"})
    assert (changed.name, changed.metadata) == ("renamed", {"c": "d"})
    assert client.vector_stores.retrieve(store.id).name == "renamed"
    assert store.id in [seen.id for seen in client.vector_stores.list(limit=1)]
    check_store_files(client, store.id)
    check_batches(client, store.id)
    check_search(client, store.id)
    assert client.vector_stores.delete(store.id).deleted
    try:
        client.vector_stores.retrieve(store.id)
    except openai.NotFoundError:
        return
    raise AssertionError("a deleted vector store is still there")


def check_store_files(client: openai.OpenAI, store: str) -> None:
    files = client.vector_stores.files
    uploaded = files.upload_and_poll(vector_store_id=store, file=("moon.txt", TEXTS["moon.txt"].encode()))
    assert (uploaded.status, uploaded.last_error) == ("completed", None)
    listed = list(files.list(store, filter="completed", limit=1))
    assert [file.id for file in listed] == [uploaded.id]
    content = list(files.content(uploaded.id, vector_store_id=store))
    assert "".join(part.text or "" for part in content) == TEXTS["moon.txt"]
    updated = files.update(uploaded.id, vector_store_id=store, attributes={"topic": "sky", "year": 2024, "ok": True})
    assert updated.attributes == {"topic": "sky", "year": 2024, "ok": True}
    assert files.retrieve(uploaded.id, vector_store_id=store).attributes == updated.attributes
    other = client.files.create(file=("gone.txt", b"Gone."), purpose="assistants")
    static = {"type": "static", "static": {"max_chunk_size_tokens": 400, "chunk_overlap_tokens": 100}}
    made = files.create_and_poll(other.id, vector_store_id=store, chunking_strategy=static)  # type: ignore[arg-type]
    assert made.status == "completed"
    assert made.chunking_strategy is not None
    assert made.chunking_strategy.to_dict() == static
    deleted = files.delete(other.id, vector_store_id=store)
    assert (deleted.deleted, deleted.object) == (True, "vector_store.file.deleted")
    broken = files.upload_and_poll(vector_store_id=store, file=("empty.txt", b""))
    assert broken.status == "failed"
    assert broken.last_error is not None
    assert broken.last_error.code == "invalid_file"


def check_batches(client: openai.OpenAI, store: str) -> None:
    batches = client.vector_stores.file_batches
    ids = [
        client.files.create(file=(name, text.encode()), purpose="assistants").id
        for name, text in TEXTS.items()
        if name != "moon.txt"
    ]
    batch = batches.create_and_poll(store, file_ids=ids, attributes={"topic": "earth"})
    assert (batch.status, batch.file_counts.completed, batch.file_counts.in_progress) == ("completed", 2, 0)
    assert batch.object == "vector_store.files_batch"
    assert batches.retrieve(batch.id, vector_store_id=store).file_counts == batch.file_counts
    assert {file.id for file in batches.list_files(batch.id, vector_store_id=store, limit=1)} == set(ids)
    uploaded = batches.upload_and_poll(store, files=[("a.txt", b"Ants."), ("b.txt", b"Bees.")], max_concurrency=2)
    assert uploaded.file_counts.completed == 2
    third = client.files.create(file=("c.txt", b"Cats."), purpose="assistants").id
    each = batches.create(store, files=[{"file_id": third, "attributes": {"n": 1}}])
    assert batches.cancel(each.id, vector_store_id=store).id == each.id
    assert batches.poll(each.id, vector_store_id=store).file_counts.in_progress == 0


def check_search(client: openai.OpenAI, store: str) -> None:
    page = client.vector_stores.search(store, query="How heavy is a blue whale?", max_num_results=2)
    first = page.data[0]
    assert first.filename == "whales.html", page.data
    assert "150 tonnes" in first.content[0].text
    assert 0 <= page.data[-1].score <= first.score <= 1
    sky = client.vector_stores.search(
        store,
        query=["whale", "moon"],
        filters={"type": "and", "filters": [{"type": "eq", "key": "topic", "value": "sky"}]},
        ranking_options={"ranker": "auto", "score_threshold": 0.1},
        rewrite_query=True,
    )
    assert {result.filename for result in sky} == {"moon.txt"}
    assert sky.data[0].attributes == {"topic": "sky", "year": 2024, "ok": True}


def check_raw_responses(client: openai.OpenAI) -> None:
    raw = client.models.with_raw_response.list()
    assert raw.headers["x-request-id"] == raw.request_id
    assert int(raw.headers["openai-processing-ms"]) >= 0
    assert raw.parse().data[0].object == "model"
    given = client.models.with_raw_response.list(extra_headers={"x-request-id": "conformance-1"})
    assert given.headers["x-request-id"] == "conformance-1"
    with client.models.with_streaming_response.list() as streamed:
        assert streamed.status_code == 200


def check_errors(client: openai.OpenAI) -> None:
    bad_request = (openai.BadRequestError, 400)
    not_found = (openai.NotFoundError, 404)
    calls = {
        "unknown model": (not_found, lambda: client.embeddings.create(input="x", model="gpt-none")),
        "unknown file": (not_found, lambda: client.files.retrieve("file-none")),
        "unknown store": (not_found, lambda: client.vector_stores.search("vs_none", query="x")),
        "dimensions": (bad_request, lambda: client.embeddings.create(input="x", model=EMBEDDING_MODEL, dimensions=9)),
        "purpose": (bad_request, lambda: client.files.create(file=b"x", purpose="nonsense")),  # type: ignore[arg-type]
        "unknown field": (bad_request, lambda: client.vector_stores.create(extra_body={"colour": "red"})),
        "half an object": (bad_request, lambda: client.vector_stores.create(expires_after={"days": 1})),  # type: ignore[typeddict-item]
    }
    for name, ((kind, status), call) in calls.items():
        error = error_of(name, call)
        assert type(error) is kind, (name, error)
        assert (error.status_code, error.type) == (status, "invalid_request_error")
        assert error.request_id
        assert isinstance(error.body, dict)
        assert error.body["message"]


def error_of(name: str, call: Callable[[], object]) -> openai.APIStatusError:
    try:
        call()
    except openai.APIStatusError as error:
        return error
    raise AssertionError(f"no error for: {name}")


async def check_async_client(base_url: str) -> None:
    async with openai.AsyncOpenAI(base_url=base_url, api_key="unused") as client:
        store = await client.vector_stores.create(name="asynchronous")
        texts = [(f"{number}.txt", f"Text number {number}.".encode()) for number in range(4)]
        batch = await client.vector_stores.file_batches.upload_and_poll(store.id, files=texts)
        assert batch.file_counts.completed == 4
        pages = await asyncio.gather(*(client.vector_stores.search(store.id, query="text") for _ in range(4)))
        assert all(len(page.data) == 4 for page in pages)
        assert [file.id async for file in client.vector_stores.files.list(store.id, limit=2)]
        await client.vector_stores.delete(store.id)


def main(base_url: str) -> None:
    with openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0, timeout=120) as client:
        for check in (
            check_models,
            check_embeddings,
            check_files,
            check_vector_stores,
            check_raw_responses,
            check_errors,
        ):
            check(client)
            print(f"openai {openai.__version__}: {check.__name__} passed")
    asyncio.run(check_async_client(base_url))
    print(f"openai {openai.__version__}: check_async_client passed")


if __name__ == "__main__":
    main(sys.argv[1])
