"""The measures are the textbook's, and a report compares three searches over the same vectors."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.retrieval.embed import Embedder
from holdfast.retrieval.evaluate import evaluate, ndcg, recall, recall_at_k
from holdfast.retrieval.evaluation_sets import load_evaluation_set


def test_ndcg_by_hand() -> None:
    ranked = np.array([[7, 1, 2], [5, 6, 7]])
    first = (1 / math.log2(3) + 1 / 2) / (1 + 1 / math.log2(3) + 1 / 2)
    assert ndcg(ranked, [{1: 1, 2: 1, 3: 1}, {9: 1}], 10) == pytest.approx(first / 2)
    assert ndcg(ranked[:1], [{2: 3, 1: 1}], 10) == pytest.approx((1 / math.log2(3) + 3 / 2) / (3 + 1 / math.log2(3)))


def test_only_the_first_k_count() -> None:
    ranked = np.arange(20)[None]
    assert ndcg(ranked, [{10: 1}], 10) == 0
    assert recall(ranked, [{9: 1, 10: 1}], 10) == 0.5


@given(st.permutations(range(12)), st.sets(st.integers(0, 15), min_size=1))
def test_ndcg_is_one_only_where_the_relevant_come_first(ranked: list[int], relevant: set[int]) -> None:
    value = ndcg(np.array([ranked]), [dict.fromkeys(relevant, 1)], 10)
    assert 0 <= value <= 1 + 1e-12
    assert (value > 1 - 1e-9) == (set(ranked[: min(10, len(relevant))]) <= relevant)


def test_recall_of_one_ranking_in_another() -> None:
    assert recall_at_k(np.array([[1, 2], [3, 4]]), np.array([[2, 9], [4, 3]])) == 0.75


def test_a_report_on_real_questions(eval_data: Path, embedder: Embedder) -> None:
    whole = load_evaluation_set(eval_data / "xquad_r", embedder)
    rows = [row for row, gold in enumerate(whole.relevant) if max(gold) < 40][:20]
    some = replace(
        whole,
        texts=[text[:300] for text in whole.texts[:40]],
        queries=[whole.queries[row] for row in rows],
        relevant=[whole.relevant[row] for row in rows],
    )
    num_embedded: list[int] = []
    ticks = itertools.count()
    report = evaluate(some, embedder, clock=lambda: float(next(ticks)), progress=num_embedded.append)
    assert (report.name, report.num_texts, report.num_queries) == ("xquad_r", 40, 20)
    assert sum(num_embedded) == 60
    assert 0.7 < report.exact.ndcg_at_10 <= 1
    assert report.ndcg_kept > 0.97
    assert report.coded_recall < report.rescored_recall
    assert report.rescored_recall > 0.97
    assert report.exact.recall_at_10 <= report.exact.recall_at_100
    assert report.search_p50_ms == report.question_p95_ms == 1000  # one tick of the clock
