"""`/v1/rerank`."""

from __future__ import annotations

import httpx
import pytest

DOCUMENTS = ["Paris is in France.", "Green tea needs eighty degrees.", "Tea is a drink."]


def test_documents_come_back_best_first_with_scores_between_0_and_1(http: httpx.Client) -> None:
    body = {"query": "how hot for green tea", "documents": DOCUMENTS, "model": "all-MiniLM-L6-v2"}
    response = http.post("/v1/rerank", json=body).json()
    assert [result["index"] for result in response["results"]] == [1, 2, 0]
    assert response["results"][0]["document"] == {"text": DOCUMENTS[1]}
    assert all(0 <= result["relevance_score"] <= 1 for result in response["results"])
    assert response["usage"]["total_tokens"] > 10
    assert response["id"].startswith("req_")


def test_top_n_and_documents_as_objects(http: httpx.Client) -> None:
    body = {"query": "tea", "documents": [{"text": text} for text in DOCUMENTS], "top_n": 1, "return_documents": False}
    response = http.post("/rerank", json=body).json()
    assert response["results"] == [{"index": 2, "relevance_score": response["results"][0]["relevance_score"]}]


def test_equal_documents_keep_their_order(http: httpx.Client) -> None:
    response = http.post("/v1/rerank", json={"query": "tea", "documents": ["same words"] * 4}).json()
    assert [result["index"] for result in response["results"]] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("body", "param", "status"),
    [
        ({"documents": ["a"]}, "query", 400),
        ({"query": " ", "documents": ["a"]}, "query", 400),
        ({"query": "a", "documents": []}, "documents", 400),
        ({"query": "a", "documents": ["a"], "top_n": 0}, "top_n", 400),
        ({"query": "a", "documents": ["a"], "model": "other"}, "model", 404),
        ({"query": "a", "documents": [{"text": "a", "txt": "a"}]}, "documents[0].txt", 400),
    ],
)
def test_faulty_requests_name_the_parameter(
    http: httpx.Client, body: dict[str, object], param: str, status: int
) -> None:
    response = http.post("/v1/rerank", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)
