"""The files of a vector store, one by one and in batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from openai.types.vector_stores import VectorStoreFile, VectorStoreFileBatch

from tests.serving.spec import Specification, check_type

Upload = Callable[[str, str], str]


@pytest.fixture
def store(client: openai.OpenAI) -> str:
    return client.vector_stores.create(name="files").id


def test_file_objects_are_openais(
    client: openai.OpenAI, http: httpx.Client, store: str, upload: Upload, specification: Specification
) -> None:
    file_id = upload("a.txt", "The fox lives in the wood.")
    body = {"file_id": file_id, "attributes": {"lang": "en", "page": 3, "draft": True}}
    created = http.post(f"/v1/vector_stores/{store}/files", json=body).json()
    client.vector_stores.files.poll(file_id, vector_store_id=store, poll_interval_ms=100)
    done = http.get(f"/v1/vector_stores/{store}/files/{file_id}").json()
    for shown in (created, done):
        specification.check("VectorStoreFileObject", shown)
        check_type(VectorStoreFile, shown)
        assert shown["attributes"] == body["attributes"]
    assert (done["status"], done["holdfast"]) == ("completed", {"error_code": None, "num_passages": 1})
    page = http.get(f"/v1/vector_stores/{store}/files").json()
    specification.check("ListVectorStoreFilesResponse", page)
    assert page["data"] == [done]


def test_the_content_is_the_text_that_was_read(
    client: openai.OpenAI, http: httpx.Client, store: str, specification: Specification
) -> None:
    html = b"<html><body><h1>Title</h1><p>Some <b>bold</b> words.</p></body></html>"
    file = client.vector_stores.files.upload_and_poll(
        vector_store_id=store, file=("a.html", html), poll_interval_ms=100
    )
    page = http.get(f"/v1/vector_stores/{store}/files/{file.id}/content").json()
    specification.check("VectorStoreFileContentResponse", page)
    assert "Some bold words." in page["data"][0]["text"]
    assert "<b>" not in page["data"][0]["text"]


def test_a_file_that_cannot_be_read_says_why(client: openai.OpenAI, http: httpx.Client, store: str) -> None:
    codes = {}
    for name, data in {
        "old.doc": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
        "empty.txt": b"",
        "x.pdf": b"%PDF-1.4",
    }.items():
        file = client.vector_stores.files.upload_and_poll(
            vector_store_id=store, file=(name, data), poll_interval_ms=100
        )
        assert file.status == "failed"
        assert file.last_error is not None
        shown = http.get(f"/v1/vector_stores/{store}/files/{file.id}").json()
        codes[name] = (file.last_error.code, shown["holdfast"]["error_code"])
        assert http.get(f"/v1/vector_stores/{store}/files/{file.id}/content").status_code == 409
    assert codes["empty.txt"] == ("invalid_file", "empty")
    assert codes["old.doc"] == ("unsupported_file", "legacy_format")
    assert codes["x.pdf"][0] == "invalid_file"


def test_attributes_are_replaced(client: openai.OpenAI, store: str, upload: Upload) -> None:
    file_id = upload("b.txt", "Words.")
    client.vector_stores.files.create_and_poll(
        file_id, vector_store_id=store, attributes={"a": "1"}, poll_interval_ms=100
    )
    changed = client.vector_stores.files.update(file_id, vector_store_id=store, attributes={"b": 2.5})
    assert changed.attributes == {"b": 2.5}
    assert client.vector_stores.files.update(file_id, vector_store_id=store, attributes=None).attributes == {}


def test_a_detached_file_is_not_found_by_search(client: openai.OpenAI, store: str, upload: Upload) -> None:
    file_id = upload("c.txt", "Zebras have stripes.")
    client.vector_stores.files.create_and_poll(file_id, vector_store_id=store, poll_interval_ms=100)
    assert client.vector_stores.search(store, query="zebra").data
    assert client.vector_stores.files.delete(file_id, vector_store_id=store).deleted
    assert client.vector_stores.search(store, query="zebra").data == []
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.files.retrieve(file_id, vector_store_id=store)
    assert client.files.retrieve(file_id).id == file_id


def test_deleting_an_upload_empties_the_stores(client: openai.OpenAI, store: str, upload: Upload) -> None:
    file_id = upload("d.txt", "Penguins swim.")
    client.vector_stores.files.create_and_poll(file_id, vector_store_id=store, poll_interval_ms=100)
    client.files.delete(file_id)
    assert client.vector_stores.search(store, query="penguin").data == []
    assert client.vector_stores.retrieve(store).file_counts.total == 0


def test_larger_passages_are_made_when_asked_for(client: openai.OpenAI, http: httpx.Client, store: str) -> None:
    text = " ".join(f"Sentence number {number} says little." for number in range(150)).encode()
    sizes: dict[int, int] = {}
    for size in (100, 4096):
        chunking: Any = {"type": "static", "static": {"max_chunk_size_tokens": size, "chunk_overlap_tokens": 0}}
        file = client.vector_stores.files.upload_and_poll(
            vector_store_id=store, file=(f"{size}.txt", text), chunking_strategy=chunking, poll_interval_ms=100
        )
        assert file.chunking_strategy is not None
        assert file.chunking_strategy.to_dict() == chunking
        shown = http.get(f"/v1/vector_stores/{store}/files/{file.id}").json()
        sizes[size] = shown["holdfast"]["num_passages"]
    assert sizes[4096] == 1
    assert sizes[100] >= 9


def test_batches_are_openais(
    client: openai.OpenAI, http: httpx.Client, store: str, upload: Upload, specification: Specification
) -> None:
    ids = [upload(f"{number}.txt", f"Text {number}.") for number in range(3)]
    body = {"file_ids": ids, "attributes": {"set": "x"}}
    created = http.post(f"/v1/vector_stores/{store}/file_batches", json=body).json()
    specification.check("VectorStoreFileBatchObject", created)
    check_type(VectorStoreFileBatch, created)
    batch = client.vector_stores.file_batches.poll(created["id"], vector_store_id=store, poll_interval_ms=100)
    assert (batch.status, batch.file_counts.completed) == ("completed", 3)
    files = list(client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store, limit=2))
    assert {file.id for file in files} == set(ids)
    assert all(file.attributes == {"set": "x"} for file in files)


def test_a_batch_may_say_everything_file_by_file(client: openai.OpenAI, store: str, upload: Upload) -> None:
    first, second = upload("e.txt", "One."), upload("f.txt", "Two.")
    chunking: Any = {"type": "static", "static": {"max_chunk_size_tokens": 300, "chunk_overlap_tokens": 50}}
    files: Any = [{"file_id": first, "attributes": {"n": 1}}, {"file_id": second, "chunking_strategy": chunking}]
    batch = client.vector_stores.file_batches.create_and_poll(store, files=files, poll_interval_ms=100)
    assert batch.file_counts.completed == 2
    assert client.vector_stores.files.retrieve(first, vector_store_id=store).attributes == {"n": 1}
    chunked = client.vector_stores.files.retrieve(second, vector_store_id=store)
    assert chunked.chunking_strategy is not None
    assert chunked.chunking_strategy.to_dict() == chunking


def test_a_cancelled_batch_ends_its_polling(client: openai.OpenAI, store: str, upload: Upload) -> None:
    ids = [upload(f"g{number}.txt", f"Long text {number}. " * 300) for number in range(8)]
    batch = client.vector_stores.file_batches.create(store, file_ids=ids)
    cancelled = client.vector_stores.file_batches.cancel(batch.id, vector_store_id=store)
    assert cancelled.status == "cancelled"
    ended = client.vector_stores.file_batches.poll(batch.id, vector_store_id=store, poll_interval_ms=100)
    assert ended.file_counts.cancelled > 0
    assert ended.file_counts.in_progress == 0
    assert ended.file_counts.total == 8


def test_one_unknown_file_refuses_the_whole_batch(client: openai.OpenAI, store: str, upload: Upload) -> None:
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.file_batches.create(store, file_ids=[upload("h.txt", "x"), "file-none"])
    assert client.vector_stores.retrieve(store).file_counts.total == 0


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, None),
        ({"file_ids": ["a"], "files": [{"file_id": "a"}]}, None),
        ({"file_ids": []}, "file_ids"),
        ({"files": [{"file_id": "a", "colour": 1}]}, "files[0].colour"),
        ({"files": [{"file_id": "a"}], "attributes": {}}, None),
        ({"file_ids": ["a"], "attributes": {"k": "v" * 513}}, "attributes.k"),
        ({"file_ids": ["a"], "attributes": {"k": ["v"]}}, "attributes.k"),
    ],
)
def test_faulty_batches_are_refused(http: httpx.Client, store: str, body: dict[str, Any], param: str | None) -> None:
    response = http.post(f"/v1/vector_stores/{store}/file_batches", json=body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
