"""`/v1/vector_stores` and searching them."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from openai.types import VectorStore, VectorStoreDeleted, VectorStoreSearchResponse

from tests.serving.http_fixtures import FACTS
from tests.serving.spec import Specification, check_type


def test_store_objects_are_openais(http: httpx.Client, specification: Specification) -> None:
    expires_after = {"anchor": "last_active_at", "days": 7}
    body = {"name": "notes", "description": "mine", "metadata": {"team": "a"}, "expires_after": expires_after}
    created = http.post("/v1/vector_stores", json=body).json()
    specification.check("VectorStoreObject", created)
    check_type(VectorStore, created, extra=frozenset({"description", "holdfast"}))
    assert created["expires_at"] == created["last_active_at"] + 7 * 86_400
    assert {name: created[name] for name in body} == body
    deleted = http.delete(f"/v1/vector_stores/{created['id']}").json()
    specification.check("DeleteVectorStoreResponse", deleted)
    check_type(VectorStoreDeleted, deleted)
    assert http.get(f"/v1/vector_stores/{created['id']}").status_code == 404


def test_an_update_changes_what_it_names_only(client: openai.OpenAI) -> None:
    store = client.vector_stores.create(
        name="first", metadata={"a": "1"}, expires_after={"anchor": "last_active_at", "days": 3}
    )
    renamed = client.vector_stores.update(store.id, name="second")
    assert (renamed.name, renamed.metadata, renamed.expires_after) == ("second", {"a": "1"}, store.expires_after)
    cleared = client.vector_stores.update(store.id, metadata=None, expires_after=None)
    assert (cleared.name, cleared.metadata, cleared.expires_after) == ("second", {}, None)


def test_listing_pages_both_ways(client: openai.OpenAI, http: httpx.Client, specification: Specification) -> None:
    ids = [client.vector_stores.create(name=f"page {number}").id for number in range(4)]
    page = http.get("/v1/vector_stores", params={"limit": 3}).json()
    specification.check("ListVectorStoresResponse", page)
    assert [store["id"] for store in page["data"]] == ids[:0:-1]
    before = http.get("/v1/vector_stores", params={"limit": 100, "order": "asc", "before": ids[2]}).json()
    assert [store["id"] for store in before["data"]][-2:] == ids[:2]
    listed = [store.id for store in client.vector_stores.list(limit=2)]
    assert listed[:4] == ids[::-1]
    assert len(listed) == len(set(listed))


def test_a_store_is_made_with_its_files_or_not_at_all(client: openai.OpenAI) -> None:
    file_id = client.files.create(file=("a.txt", b"Some text."), purpose="assistants").id
    created = client.vector_stores.create(name="with files", file_ids=[file_id])
    assert created.file_counts.total == 1
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.create(name="without", file_ids=[file_id, "file-none"])
    assert "without" not in [store.name for store in client.vector_stores.list()]


def test_search_finds_the_right_file(client: openai.OpenAI, facts: str) -> None:
    for query, filename in [("How heavy is a whale?", "whales.txt"), ("temperature for green tea", "tea.md")]:
        results = client.vector_stores.search(facts, query=query).data
        assert results[0].filename == filename
        assert results[0].content[0].text in FACTS[filename]
        scores = [result.score for result in results]
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= score <= 1 for score in scores)


def test_search_results_are_openais(http: httpx.Client, facts: str, specification: Specification) -> None:
    query = {"query": ["radius of the moon", "krill"], "max_num_results": 2, "rewrite_query": True}
    page = http.post(f"/v1/vector_stores/{facts}/search", json=query).json()
    specification.check("VectorStoreSearchResultsPage", page)
    for result in page["data"]:
        check_type(VectorStoreSearchResponse, result)
    assert page["search_query"] == ["radius of the moon", "krill"]
    assert {result["filename"] for result in page["data"]} == {"moon.txt", "whales.txt"}
    assert (page["has_more"], page["next_page"]) == (False, None)


def test_search_says_where_a_passage_stands_when_asked(client: openai.OpenAI, http: httpx.Client, facts: str) -> None:
    query = {"query": "boiling water", "max_num_results": 1, "holdfast": {"evidence": True}}
    [result] = http.post(f"/v1/vector_stores/{facts}/search", json=query).json()["data"]
    text = client.vector_stores.files.content(result["file_id"], vector_store_id=facts).data[0].text
    place = result["holdfast"]
    assert text is not None
    assert text[place["start"] : place["end"]] == result["content"][0]["text"]
    assert place["heading"] == "Tea"


def test_the_threshold_and_the_number_of_results_are_obeyed(client: openai.OpenAI, facts: str) -> None:
    one = client.vector_stores.search(facts, query="whale", max_num_results=1).data
    assert len(one) == 1
    threshold = one[0].score
    options: Any = {"score_threshold": threshold, "ranker": "none"}
    above = client.vector_stores.search(facts, query="whale", ranking_options=options).data
    assert [result.file_id for result in above] == [one[0].file_id]


def test_the_weights_of_a_hybrid_search_are_obeyed(client: openai.OpenAI) -> None:
    """The words of a question lead to one passage, its meaning to another."""
    store = client.vector_stores.create(name="hybrid")
    texts = {
        "whale.txt": "The largest sea mammal sings songs in the deep ocean.",
        "code.txt": "Unit QX-771 is kept in room 12 and serviced on Fridays.",
        "shop.txt": "The shop sells bread, milk and newspapers.",
    }
    for name, text in texts.items():
        file_id = client.files.create(file=(name, text.encode()), purpose="assistants").id
        client.vector_stores.files.create_and_poll(file_id, vector_store_id=store.id, poll_interval_ms=100)

    def first(embedding_weight: float | None, text_weight: float = 0) -> str:
        weights = {"embedding_weight": embedding_weight, "text_weight": text_weight}
        options: Any = {} if embedding_weight is None else {"hybrid_search": weights}
        query = "Which whale sings in the sea beside QX-771?"
        return client.vector_stores.search(store.id, query=query, ranking_options=options).data[0].filename

    assert first(1, 0) == "whale.txt"
    assert first(0, 1) == "code.txt"
    query = "QX-771"
    found = client.vector_stores.search(store.id, query=query).data
    assert found[0].filename == "code.txt"


def test_filters_choose_among_attributes(client: openai.OpenAI) -> None:
    store = client.vector_stores.create(name="filtered")
    for year in (2023, 2024):
        file_id = client.files.create(file=(f"{year}.txt", f"Report of {year}.".encode()), purpose="assistants").id
        client.vector_stores.files.create_and_poll(
            file_id, vector_store_id=store.id, attributes={"year": year, "final": year == 2024}, poll_interval_ms=100
        )
    newer: Any = {"type": "gt", "key": "year", "value": 2023}
    draft: Any = {"type": "eq", "key": "final", "value": False}
    found = client.vector_stores.search(store.id, query="report", filters=newer).data
    assert [result.attributes for result in found] == [{"year": 2024, "final": True}]
    both = {"type": "and", "filters": [newer, draft]}
    assert client.vector_stores.search(store.id, query="report", filters=both).data == []  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "query"),
        ({"query": ""}, "query"),
        ({"query": []}, "query"),
        ({"query": "x", "max_num_results": 51}, "max_num_results"),
        ({"query": "x", "max_num_results": "5"}, "max_num_results"),
        ({"query": "x", "ranking_options": {"score_threshold": 2}}, "ranking_options.score_threshold"),
        ({"query": "x", "ranking_options": {"hybrid_search": {}}}, "ranking_options.hybrid_search.embedding_weight"),
        (
            {"query": "x", "ranking_options": {"hybrid_search": {"embedding_weight": 0, "text_weight": 0}}},
            "ranking_options.hybrid_search",
        ),
        ({"query": "x", "colour": "red"}, "colour"),
    ],
)
def test_faulty_searches_name_the_parameter(http: httpx.Client, facts: str, body: dict[str, Any], param: str) -> None:
    response = http.post(f"/v1/vector_stores/{facts}/search", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    "filters",
    [
        {"type": "like", "key": "a", "value": "b"},
        {"type": "and", "filters": []},
        {"type": "eq", "key": "a"},
        {"type": "in", "key": "a", "value": 5},
        {"type": "gt", "key": "a", "value": float("inf")},
        {},
    ],
)
def test_faulty_filters_never_search(http: httpx.Client, facts: str, filters: dict[str, Any]) -> None:
    content = json.dumps({"query": "x", "filters": filters})
    response = http.post(
        f"/v1/vector_stores/{facts}/search", content=content, headers={"content-type": "application/json"}
    )
    assert response.status_code in (200, 400), response.text
    if filters.get("type") != "and" and filters.get("value") != float("inf"):
        assert response.status_code == 400


def test_filters_nested_without_end_are_refused(http: httpx.Client, facts: str) -> None:
    nested = '{"type":"and","filters":[' * 400 + '{"type":"eq","key":"a","value":1}' + "]}" * 400
    for content in (f'{{"query":"x","filters":{nested}}}', f'{{"query":"x","filters":{"[" * 20_000}}}'):
        response = http.post(
            f"/v1/vector_stores/{facts}/search", content=content, headers={"content-type": "application/json"}
        )
        assert response.status_code == 400, response.text


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"metadata": {"k" * 65: "v"}}, None),
        ({"metadata": {str(n): "v" for n in range(17)}}, "metadata"),
        ({"expires_after": {"anchor": "last_active_at", "days": 366}}, "expires_after.days"),
        ({"expires_after": {"anchor": "created_at", "days": 3}}, "expires_after.anchor"),
        ({"file_ids": ["file-x"] * 501}, "file_ids"),
        ({"chunking_strategy": {"type": "clever"}}, "chunking_strategy"),
        (
            {"chunking_strategy": {"type": "static", "static": {"max_chunk_size_tokens": 99}}},
            "chunking_strategy.static.max_chunk_size_tokens",
        ),
    ],
)
def test_faulty_stores_are_refused(http: httpx.Client, body: dict[str, Any], param: str | None) -> None:
    response = http.post("/v1/vector_stores", json=body)
    assert response.status_code == 400, response.text
    if param:
        assert response.json()["error"]["param"] == param


def test_a_vector_store_says_how_it_is_kept(http: Any) -> None:
    made = http.post("/v1/vector_stores", json={}).json()
    assert made["holdfast"] == {"encryption": {"mode": "plain"}}
    asked = {"holdfast": {"encryption": {"mode": "sealed"}}}
    refused = http.post("/v1/vector_stores", json=asked)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "key_unavailable")
    for faulty in ({"encryption": {"mode": "rot13"}}, {"encryption": {}}, {"encrypt": True}):
        assert http.post("/v1/vector_stores", json={"holdfast": faulty}).status_code == 400
