"""A vector store that another store ranks, over HTTP: made, filled, asked, counted, refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from holdfast.privacy import distance
from holdfast.privacy.key_providers import add_key_to_file
from holdfast.retrieval.embed import Embedder
from holdfast.serving import ingestion, ranked_collection
from holdfast.serving.app import create_app
from holdfast.serving.config import Settings
from holdfast.serving.service import Service
from tests.serving import sealing
from tests.serving.conftest import HashEmbedder

NUM_FILES = 24


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(ingestion, "read_document_in_child", ingestion.read_document_in_child)
    sealing.read_here()
    monkeypatch.setattr(distance, "MIN_CENTRE_ROWS", NUM_FILES)
    monkeypatch.setattr(ranked_collection, "NUM_CANARIES", 16)
    add_key_to_file(tmp_path / "keys")
    return Settings(data_dir=tmp_path / "data", key_file=tmp_path / "keys")


@pytest.fixture
async def http(settings: Settings, embedder: Embedder) -> AsyncIterator[httpx.AsyncClient]:
    service = Service(settings, embedder=embedder)
    app = create_app(settings, service)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
            client.service = service  # type: ignore[attr-defined]
            yield client


async def make(http: httpx.AsyncClient, **encryption: object) -> httpx.Response:
    return await http.post("/v1/vector_stores", json={"holdfast": {"encryption": encryption}})


async def test_a_question_is_answered_from_rows_that_the_store_ranked(http: httpx.AsyncClient) -> None:
    made = (await make(http, mode="sap")).json()
    assert made["holdfast"]["encryption"]["mode"] == "sap"
    for number in range(NUM_FILES):
        text = f"The warden of lighthouse{number} is called Person{number}."
        files = {"file": (f"{number}.txt", text.encode())}
        uploaded = (await http.post("/v1/files", data={"purpose": "assistants"}, files=files)).json()
        body = {"file_id": uploaded["id"], "attributes": {"number": number}}
        assert (await http.post(f"/v1/vector_stores/{made['id']}/files", json=body)).status_code == 200
    collection = http.service.sealed.find(1)  # type: ignore[attr-defined]
    for _ in range(600):
        if collection._rankings:
            break
        await asyncio.sleep(0.1)  # the server ingests
    few = {"type": "lt", "key": "number", "value": 3}
    body = {"query": "warden", "filters": few, "max_num_results": 20}
    found = (await http.post(f"/v1/vector_stores/{made['id']}/search", json=body)).json()
    assert {row["filename"] for row in found["data"]} == {f"{number}.txt" for number in range(3)}
    question = {
        "model": "extract",
        "input": "Who is the warden of lighthouse7?",
        "tools": [{"type": "file_search", "vector_store_ids": [made["id"]]}],
    }
    models = (await http.get("/v1/models")).json()
    question["model"] = models["data"][0]["id"]
    answer = (await http.post("/v1/responses", json=question)).json()
    [message] = [item for item in answer["output"] if item["type"] == "message"]
    content = message["content"][0]
    assert "Person7" in content["text"]
    assert {note["filename"] for note in content["annotations"]} == {"7.txt"}
    metrics = (await http.get("/metrics")).text
    counts = dict(line.split() for line in metrics.splitlines() if line.startswith("holdfast_ranking_"))
    assert float(counts["holdfast_ranking_searches_total"]) == float(counts["holdfast_ranking_canaries_probed_total"])
    assert float(counts["holdfast_ranking_rows_fetched_total"]) > float(counts["holdfast_ranking_rows_returned_total"])
    assert float(counts["holdfast_ranking_omissions_total"]) == 0
    assert (await http.delete(f"/v1/vector_stores/{made['id']}")).status_code == 200


@pytest.mark.parametrize(
    ("encryption", "said"),
    [
        ({"mode": "caprise"}, "unsafe"),
        ({"mode": "sealed", "query_noise": 0.05}, "query_noise"),
        ({"mode": "asym", "query_budget": 3}, "query_budget"),
        ({"mode": "asym", "query_noise": 0}, "query_noise"),
    ],
)
async def test_options_that_mean_nothing_are_refused(
    http: httpx.AsyncClient, encryption: dict[str, object], said: str
) -> None:
    response = await make(http, **encryption)
    assert response.status_code == 400
    assert said in response.text


async def test_caprise_is_shown_as_what_it_is(http: httpx.AsyncClient) -> None:
    made = await make(http, mode="caprise", unsafe=True)
    assert made.json()["holdfast"]["encryption"]["mode"] == "caprise"


async def test_a_store_that_cannot_rank_is_refused(settings: Settings, tmp_path: Path) -> None:
    folder = settings.model_copy(update={"object_store": str(tmp_path / "objects")})
    service = Service(folder, embedder=HashEmbedder())  # type: ignore[arg-type]
    app = create_app(folder, service)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        refused = await make(client, mode="asym")
        assert refused.status_code == 400
        assert "does not rank; set ranking_store to one of milvus, postgresql, qdrant, sqlite" in refused.text
        assert (await make(client, mode="sealed")).status_code == 200
