"""KV retrieval over HTTP: asked for by request, refused where there is no cache, shown in answers and metrics."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import httpx
import pytest

from holdfast.serving.app import create_app
from holdfast.serving.config import Settings
from holdfast.serving.engine import hf
from holdfast.serving.service import Service
from tests.serving.conftest import HashEmbedder
from tests.serving.tiny_llama import make_tiny_llama

LONG_TEXT = "".join(f"The tower {row} was built in {1000 + row} by the river. " for row in range(60))


@pytest.mark.slow
async def test_a_request_chooses_how_the_cache_is_read(
    tmp_path: Path, hash_embedder: HashEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_tiny_llama(tmp_path / "model", context_len=4096)
    settings = Settings(data_dir=tmp_path / "data", engine="hf", model=str(folder), device="cpu")
    monkeypatch.setattr(hf, "KvDefaults", partial(hf.KvDefaults, break_even=256))
    service = await asyncio.to_thread(Service, settings, embedder=hash_embedder)  # type: ignore[arg-type]
    app = create_app(settings, service)
    transport = httpx.ASGITransport(app)
    body = {"model": service.engine.name, "input": LONG_TEXT, "max_output_tokens": 16, "temperature": 0}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as http,
    ):
        full = (await http.post("/v1/responses", json=body)).json()
        assert "kv" not in full["holdfast"]
        options = {"mode": "sequence", "kv": "retrieval", "kv_budget": 32}
        retrieved = (await http.post("/v1/responses", json=body | {"holdfast": options})).json()
        kv = retrieved["holdfast"]["kv"]
        assert kv["budget"] == 32
        assert 0 < kv["trigger_rate"] <= 1
        assert 0 < kv["index_bytes"] < kv["memory_bytes"]
        metrics = (await http.get("/metrics")).text
        assert "holdfast_kv_decisions_total 0.0" not in metrics
        assert "holdfast_kv_retrievals_total" in metrics
        assert 'holdfast_kv_bytes{kind="disk"} 0.0' in metrics
        wrong = await http.post("/v1/responses", json=body | {"holdfast": {"kv": "compressed"}})
        assert wrong.status_code == 400


async def test_an_engine_without_a_cache_refuses(tmp_path: Path, hash_embedder: HashEmbedder) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    service = await asyncio.to_thread(Service, settings, embedder=hash_embedder)  # type: ignore[arg-type]
    app = create_app(settings, service)
    transport = httpx.ASGITransport(app)
    options = {"mode": "sequence", "kv": "retrieval"}
    body = {"model": service.engine.name, "input": "Who built the bridge?", "holdfast": options}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as http,
    ):
        refused = await http.post("/v1/responses", json=body)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "kv"
