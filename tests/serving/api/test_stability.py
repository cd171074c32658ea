"""Set mode over HTTP, on a tiny random Llama: modes, the cache in OpenAI's words, deletion, the audit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai.types.responses import Response

from holdfast.serving.app import create_app
from holdfast.serving.config import Settings
from holdfast.serving.service import Service
from tests.serving.conftest import HashEmbedder
from tests.serving.tiny_llama import make_tiny_llama

TEXTS = {
    "tower.txt": "The tower was built in 1889 by a company of engineers, and it stands by the river.",
    "bridge.txt": "The bridge was built by the city in the year 1932.",
    "river.txt": "The river is wide by the bridge and the tower.",
}
QUESTION = "Who built the bridge and the tower by the river?"


class Api:
    """One server's routes, and a store that holds `TEXTS`."""

    def __init__(self, http: httpx.AsyncClient, service: Service) -> None:
        self.http = http
        self.service = service
        self.store = ""
        self.file_ids: dict[str, str] = {}

    async def fill(self) -> None:
        self.store = (await self.post("/v1/vector_stores", {"name": "facts"}))["id"]
        for name, text in TEXTS.items():
            sent = await self.http.post(
                "/v1/files", files={"file": (name, text.encode())}, data={"purpose": "assistants"}
            )
            self.file_ids[name] = sent.json()["id"]
            await self.post(f"/v1/vector_stores/{self.store}/files", {"file_id": self.file_ids[name]})
        while self.service.ingestion.count_queued():  # noqa: ASYNC110 - ingestion has no event
            await asyncio.sleep(0.05)

    async def post(self, path: str, body: dict[str, Any], status: int = 200) -> dict[str, Any]:
        answer = await self.http.post(path, json=body)
        assert answer.status_code == status, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def respond(self, status: int = 200, **body: Any) -> dict[str, Any]:
        tool = {
            "type": "file_search",
            "vector_store_ids": [self.store],
            "ranking_options": {"score_threshold": 0.0},
        }
        body = {"input": QUESTION, "tools": [tool], "max_output_tokens": 16, "temperature": 0, **body}
        return await self.post("/v1/responses", body, status)


@pytest.fixture
async def api(tmp_path: Path, hash_embedder: HashEmbedder) -> AsyncIterator[Api]:
    settings = Settings(
        data_dir=tmp_path / "data", engine="hf", model=str(make_tiny_llama(tmp_path / "model")), device="cpu"
    )
    service = await asyncio.to_thread(Service, settings, embedder=hash_embedder)  # type: ignore[arg-type]
    app = create_app(settings, service)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as http,
    ):
        api = Api(http, service)
        await api.fill()
        yield api


@pytest.mark.slow
async def test_set_mode_over_http(api: Api, tmp_path: Path) -> None:
    cold = await api.respond(holdfast={"mode": "set"})
    evidence = cold["holdfast"]
    assert (evidence["mode"], evidence["guarantee"]) == ("set", "bitwise")
    assert (evidence["cache_hits"], evidence["cache_misses"]) == (0, {"new": 3})
    assert len(evidence["set_digest"]) == 64
    written = sum(document["tokens"] for document in evidence["documents"])
    assert cold["usage"]["input_tokens_details"]["cache_write_tokens"] == written

    warm = await api.respond(
        holdfast={"mode": "set"}, prompt_cache_options={"mode": "implicit", "comparison_response_id": cold["id"]}
    )
    assert warm["output"][-1]["content"][0]["text"] == cold["output"][-1]["content"][0]["text"]
    assert warm["prompt_cache_diagnostics"] == {"type": "cache_hit"}
    assert warm["holdfast"]["set_digest"] == evidence["set_digest"]
    assert warm["holdfast"]["prefilled_tokens"] == evidence["prefilled_tokens"] - written
    assert warm["usage"]["input_tokens_details"]["cached_tokens"] >= written
    Response.model_validate(warm)

    sequence = await api.respond(
        holdfast={"mode": "sequence"}, prompt_cache_options={"comparison_response_id": cold["id"]}
    )
    assert (sequence["holdfast"]["mode"], sequence["holdfast"]["guarantee"]) == ("sequence", "none")
    assert sequence["prompt_cache_diagnostics"] == {"type": "unavailable"}
    lost = await api.respond(holdfast={"mode": "set"}, prompt_cache_options={"comparison_response_id": "resp_0"})
    assert lost["prompt_cache_diagnostics"] == {"type": "comparison_response_not_found"}

    folder = tmp_path / "data" / "document-cache"
    assert len(list(folder.glob("*/*"))) == 3
    assert (await api.http.delete(f"/v1/files/{api.file_ids['bridge.txt']}")).status_code == 200
    assert len(list(folder.glob("*/*"))) == 2
    fewer = await api.respond(holdfast={"mode": "set"})
    assert (fewer["holdfast"]["cache_hits"], fewer["holdfast"]["cache_misses"]) == (2, {})

    metrics = (await api.http.get("/metrics")).text
    assert 'holdfast_document_cache_reads_total{found="new"} 3.0' in metrics
    assert 'holdfast_document_cache_bytes{tier="memory"}' in metrics
    assert 'holdfast_document_cache_evictions_total{tier="disk"} 0.0' in metrics


@pytest.mark.slow
async def test_prewarming_and_auditing_over_http(api: Api) -> None:
    prewarmed = await api.respond(holdfast={"mode": "set"}, prompt_cache_options={"prewarm": True})
    assert prewarmed["usage"]["output_tokens"] == 0
    assert prewarmed["output"][-1]["content"][0]["text"] == ""
    refused = await api.respond(400, prompt_cache_options={"prewarm": True})
    assert refused["error"]["param"] == "holdfast.mode"
    chat = {
        "model": api.service.engine.name,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 4,
        "holdfast": {"vector_store_ids": [api.store], "score_threshold": 0.0, "mode": "set"},
    }
    answered = await api.post("/v1/chat/completions", chat)
    assert answered["usage"]["prompt_tokens_details"]["cache_write_tokens"] == 0
    assert answered["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    found = chat["holdfast"]
    body = {"input": QUESTION, "holdfast": found, "num_orders": 4, "max_output_tokens": 4}
    audit = await api.post("/v1/stability", body)
    assert audit["num_passages"] == 3
    assert audit["num_orders"] == 4
    assert (audit["agreement"], audit["distinct_answers"], audit["worst_case_agreement"]) == (1.0, 1, 1.0)
    assert (audit["max_logit_difference"], audit["jsd"]) == (0.0, 0.0)
    sequence = await api.post("/v1/stability", body | {"holdfast": {**found, "mode": "sequence"}})
    assert sequence["guarantee"] == "none"
    assert sequence["max_logit_difference"] > 0.01
    assert sequence["jsd"] > 0
    nothing = {**found, "score_threshold": 1.0}
    assert (await api.post("/v1/stability", body | {"holdfast": nothing}))["num_passages"] == 0
    assert (await api.post("/v1/stability", body | {"num_orders": 1}, 400))["error"]["param"] == "num_orders"
