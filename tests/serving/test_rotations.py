"""Rotation through a running server: searched meanwhile, told how far it is, and gone on with after a stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from holdfast.errors import StoreUnavailable
from holdfast.serving import ingestion, rotations, sealed_collections
from tests.serving import sealing
from tests.serving.sealing import sealed_server

STORES = "/v1/vector_stores"


@pytest.fixture(autouse=True)
def read_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingestion, "read_document_in_child", ingestion.read_document_in_child)
    monkeypatch.setattr(sealed_collections, "ROTATED_OBJECTS", 2)
    sealing.read_here()


def fill(client: TestClient, num_files: int) -> str:
    store: str = client.post(STORES, json={}).json()["id"]
    for number in range(num_files):
        text = f"The keeper counts ships. The secret of number{number} is told here."
        file = client.post("/v1/files", files={"file": (f"{number}.txt", text)}, data={"purpose": "assistants"}).json()
        client.post(f"{STORES}/{store}/files", json={"file_id": file["id"]})
    wait(lambda: client.get(f"{STORES}/{store}").json()["file_counts"]["completed"] == num_files)
    return store


def wait(is_done: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not is_done():
        assert time.monotonic() < until
        time.sleep(0.01)


def found(client: TestClient, store: str, number: int) -> str:
    response = client.post(f"{STORES}/{store}/search", json={"query": f"number{number}", "max_num_results": 1})
    assert response.status_code == 200, response.text
    return str(response.json()["data"][0]["filename"])


def test_no_search_fails_while_a_store_is_rotated(tmp_path: Path) -> None:
    with sealed_server(tmp_path / "data") as (client, service):
        store = fill(client, 8)
        status = f"{STORES}/{store}/rotation"
        assert client.get(status).json()["status"] == "completed"
        old = {path.name for path in (tmp_path / "data" / "sealed").rglob("objects/*")}
        assert client.post(status).json()["status"] == "in_progress"
        num_searches = 0
        while client.get(status).json()["status"] == "in_progress":
            assert found(client, store, num_searches % 8) == f"{num_searches % 8}.txt"
            num_searches += 1
        assert client.get(status).json() == {
            "object": "vector_store.rotation",
            "vector_store_id": store,
            "status": "completed",
            "num_left": None,
            "error": None,
        }
        assert num_searches
        new = {path.name for path in (tmp_path / "data" / "sealed").rglob("objects/*")}
        assert new
        assert not new & old
        sealed = service.sealed.find(1)
        assert sealed is not None
        assert sealed.epochs() == [2]
        assert service.collections.verify() == []


def test_a_stopped_rotation_goes_on_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sealed_server(tmp_path / "data") as (client, service):
        store = fill(client, 8)
        monkeypatch.setattr(service.rotations, "_note", lambda collection, num_left: _stop())
        client.post(f"{STORES}/{store}/rotation")
    with sealed_server(tmp_path / "data") as (client, service):
        sealed = service.sealed.find(1)
        assert sealed is not None
        wait(lambda: sealed.epochs() == [2])
        wait(lambda: client.get(f"{STORES}/{store}/rotation").json()["status"] == "completed")
        assert [found(client, store, number) for number in range(8)] == [f"{number}.txt" for number in range(8)]
        assert service.collections.verify() == []


def _stop() -> None:
    raise rotations._Stopped


def test_a_rotation_that_fails_says_why_and_can_be_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sealed_server(tmp_path / "data") as (client, service):
        store = fill(client, 2)

        def fail(*_: object) -> None:
            raise StoreUnavailable("the store does not answer")

        with monkeypatch.context() as patch:
            patch.setattr(service.sealed, "rotate", fail)
            client.post(f"{STORES}/{store}/rotation")
            wait(lambda: client.get(f"{STORES}/{store}/rotation").json()["status"] == "failed")
            assert client.get(f"{STORES}/{store}/rotation").json()["error"] == "the store does not answer"
        client.post(f"{STORES}/{store}/rotation")
        wait(lambda: client.get(f"{STORES}/{store}/rotation").json()["status"] == "completed")
        plain = client.post(STORES, json={"holdfast": {"encryption": {"mode": "plain"}}}).json()["id"]
        assert client.post(f"{STORES}/{plain}/rotation").status_code == 409
        assert client.get(f"{STORES}/vs_none/rotation").status_code == 404


# what else a sealed store says over HTTP


def test_a_store_that_lies_is_a_bad_gateway_and_says_what_it_did(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with sealed_server(data_dir) as (client, _):
        store = fill(client, 1)
    paths = sorted((data_dir / "sealed").rglob("objects/*"))
    bodies = [path.read_bytes() for path in paths]
    for change, code in ((lambda body: body[:-1] + b"x", "altered"), (lambda body: body[:-1], "truncated")):
        for path, body in zip(paths, bodies, strict=True):
            path.write_bytes(change(body))
        with sealed_server(data_dir) as (client, _):
            response = client.post(f"{STORES}/{store}/search", json={"query": "keeper"})
        assert (response.status_code, response.json()["error"]["code"]) == (502, code)
        assert response.json()["error"]["type"] == "server_error"


def test_the_key_that_protects_a_store_is_shown_and_can_be_asked_for(tmp_path: Path) -> None:
    with sealed_server(tmp_path / "data") as (client, service):
        key = client.post(STORES, json={}).json()["holdfast"]["encryption"]["key"]
        assert key == service.sealed.key_id("default")

        def ask(**encryption: str) -> int:
            return int(client.post(STORES, json={"holdfast": {"encryption": encryption}}).status_code)

        assert ask(mode="sealed", key=key) == 200
        assert ask(mode="sealed", key="local:0123456789abcdef") == 400
        assert ask(mode="plain", key=key) == 400
