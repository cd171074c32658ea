"""`/health`, `/version` and `/metrics`."""

from __future__ import annotations

from typing import Any

import httpx
import openai
from prometheus_client.parser import text_string_to_metric_families

import holdfast


def read_metrics(http: httpx.Client) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return every sample by its name and labels."""
    response = http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(response.text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def test_a_ready_server_says_so(http: httpx.Client) -> None:
    for path in ("/health", "/health/live", "/health/ready"):
        assert http.get(path).json() == {"status": "ok"}
    assert http.get("/version").json() == {"version": holdfast.__version__}


def test_requests_are_counted_by_route_and_status(http: httpx.Client) -> None:
    labels = frozenset({"method": "GET", "route": "/v1/files/{file_id}", "status": "404"}.items())
    timed = frozenset({"method": "GET", "route": "/v1/files/{file_id}"}.items())
    before = read_metrics(http)
    for name in ("one", "two"):
        http.get(f"/v1/files/file-{name}")
    http.get("/no/such/route")
    after = read_metrics(http)
    for sample in (("holdfast_requests_total", labels), ("holdfast_request_duration_seconds_count", timed)):
        assert after[sample] == before.get(sample, 0) + 2
    unmatched = frozenset({"method": "any", "route": "unmatched", "status": "404"}.items())
    assert after["holdfast_requests_total", unmatched] >= 1


def test_searches_tokens_and_passages_are_counted(http: httpx.Client, client: openai.OpenAI, facts: str) -> None:
    before = read_metrics(http)
    client.vector_stores.search(facts, query="moon")
    tool: Any = {"type": "file_search", "vector_store_ids": [facts]}
    client.responses.create(model="extract", input="How large is the moon?", tools=[tool])
    usage = client.embeddings.create(input="one two three", model="all-MiniLM-L6-v2").usage
    after = read_metrics(http)
    nothing: frozenset[tuple[str, str]] = frozenset()
    searches = "holdfast_search_duration_seconds_count", nothing
    assert after[searches] == before[searches] + 2
    rescored = "holdfast_rescored_candidates_total", nothing
    assert after[rescored] >= before.get(rescored, 0) + 2
    tokens = "holdfast_tokens_total", frozenset({"model": "all-MiniLM-L6-v2", "kind": "prompt"}.items())
    assert after[tokens] == before.get(tokens, 0) + usage.prompt_tokens
    assert after["holdfast_passages", nothing] >= 3
    assert after["holdfast_ingestion_queue_files", nothing] >= 0
