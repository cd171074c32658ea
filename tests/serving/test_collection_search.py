"""Results of several queries and several stores put together: best first, equal scores by passage id."""

from __future__ import annotations

import numpy as np

from holdfast.retrieval.segment_search import SearchResult
from holdfast.serving.collection_search import _merge, best_sources
from holdfast.serving.engine.protocol import Source


def source(passage_id: int, score: float, file_id: str = "file-a") -> Source:
    return Source(passage_id, file_id, "a.txt", "text", 0, 4, None, None, score, {})


def test_equal_scores_of_several_stores_go_by_id_and_at_the_cut_too() -> None:
    first = [source(9, 0.5), source(3, 0.5)]
    second = [source(1, 0.5), source(7, 0.9)]
    for found in ([first, second], [second, first]):
        assert [one.passage_id for one in best_sources(found, 3)] == [7, 1, 3]


def test_a_passage_of_two_stores_counts_once_as_the_first_cites_it() -> None:
    [one] = best_sources([[source(1, 0.5, "file-a")], [source(1, 0.5, "file-b")]], 5)
    assert one.file_id == "file-a"
    [one] = best_sources([[source(1, 0.5, "file-a")], [source(1, 0.6, "file-b")]], 5)
    assert (one.file_id, one.score) == ("file-b", 0.6)


def test_equal_scores_of_several_queries_go_by_id_and_scores_stay_in_range() -> None:
    ids = np.array([[2**63 + 1, 5], [8, 2]], dtype=np.uint64)
    scores = np.array([[0.5, 0.5], [0.5, -0.25]], dtype=np.float32)
    found = SearchResult(ids, scores, 4, np.array([2, 2]))
    assert _merge(found, 10) == [(5, 0.5), (8, 0.5), (2**63 + 1, 0.5), (2, 0.0)]
    assert _merge(found, 2) == [(5, 0.5), (8, 0.5)]
