"""How well retrieval by codes finds what people marked as relevant, beside exact float search over the same vectors.

Source: nDCG with linear gains, as trec_eval and BEIR compute it (Thakur et al., arXiv 2104.08663).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from holdfast.retrieval.calibrate import is_fit_due
from holdfast.retrieval.embed import Embedder
from holdfast.retrieval.evaluation_sets import EvaluationSet
from holdfast.retrieval.exact import nearest_rows
from holdfast.retrieval.index import BinaryIndex

NUM_TIMED_SEARCHES = 200
NUM_TIMED_QUESTIONS = 20


class Encode(Protocol):
    """`Embedder.encode`, or a cache in front of it."""

    def __call__(
        self, texts: Sequence[str], *, progress: Callable[[int], None] | None = None
    ) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
class Quality:
    """Means over queries, against the relevance judgements."""

    ndcg_at_10: float
    recall_at_10: float
    recall_at_100: float


@dataclass(frozen=True, slots=True)
class Report:
    """One set's results: by the codes alone, with 4 candidates a result, and as a server searches (at least 100)."""

    name: str
    num_texts: int
    num_queries: int
    exact: Quality
    coded: Quality
    rescored: Quality
    served: Quality
    coded_recall: float
    """share of the exact float top 10 in the codes' top 10"""
    rescored_recall: float
    """share of the exact float top 10 in the rescored top 10"""
    served_recall: float
    """share of the exact float top 10 in the served top 10"""
    num_rescored: float
    """candidates rescored for the served top 10, on average"""
    encoding: str
    """which codes were chosen, and what was measured when they were"""
    search_p50_ms: float
    """one query at a time, embedding excluded"""
    search_p95_ms: float
    question_p50_ms: float
    """embedding included"""
    question_p95_ms: float

    @property
    def ndcg_kept(self) -> float:
        """nDCG@10 of the codes with 4x rescoring over that of exact float search."""
        return self._kept(self.rescored)

    @property
    def served_ndcg_kept(self) -> float:
        """nDCG@10 as served over that of exact float search."""
        return self._kept(self.served)

    def _kept(self, quality: Quality) -> float:
        return quality.ndcg_at_10 / self.exact.ndcg_at_10 if self.exact.ndcg_at_10 else 1.0


def evaluate(
    evaluation_set: EvaluationSet,
    embedder: Embedder,
    *,
    clock: Callable[[], float],
    encode: Encode | None = None,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Search `evaluation_set` exactly, by codes, and by codes with rescoring.

    Args:
        evaluation_set: what to search for and in.
        embedder: makes the vectors, and is what question latency is measured with.
        clock: seconds from any moment, as `time.perf_counter`.
        encode: a cache in front of `embedder`.
        progress: called with the number of texts and queries embedded since its last call.
    """
    encode = encode or embedder.encode
    vectors = encode(evaluation_set.texts, progress=progress)
    queries = encode(evaluation_set.queries, progress=progress)
    index, row_of = make_index(vectors)
    exact, _ = nearest_rows(vectors, queries, 100)
    by_codes = row_of[index.search(queries, 100, oversampling=1, min_candidates=1, by_codes=True).ids]
    top_10 = row_of[index.search(queries, 10, oversampling=4, min_candidates=1).ids]
    top_100 = row_of[index.search(queries, 100, oversampling=4).ids]
    found = index.search(queries, 10)
    served = row_of[found.ids]
    search_ms, question_ms = _time_queries(index, embedder, queries, evaluation_set.queries, clock)
    relevant = evaluation_set.relevant
    return Report(
        name=evaluation_set.name,
        num_texts=len(vectors),
        num_queries=len(queries),
        exact=_quality(exact, exact, relevant),
        coded=_quality(by_codes, by_codes, relevant),
        rescored=_quality(top_10, top_100, relevant),
        served=_quality(served, top_100, relevant),
        coded_recall=recall_at_k(by_codes[:, :10], exact[:, :10]),
        rescored_recall=recall_at_k(top_10, exact[:, :10]),
        served_recall=recall_at_k(served, exact[:, :10]),
        num_rescored=float(found.num_rescored.mean()),
        encoding=index.describe(),
        search_p50_ms=float(np.percentile(search_ms, 50)),
        search_p95_ms=float(np.percentile(search_ms, 95)),
        question_p50_ms=float(np.percentile(question_ms, 50)),
        question_p95_ms=float(np.percentile(question_ms, 95)),
    )


def make_index(vectors: NDArray[np.float32]) -> tuple[BinaryIndex, NDArray[np.int64]]:
    """Return the index that a server would make of `vectors`, and the row that each id stands for.

    Ids are shuffled, for a server's ids do not follow the order of the texts either.
    """
    index = BinaryIndex(vectors.shape[1])
    row_of = np.random.default_rng(0).permutation(len(vectors))
    ids = np.argsort(row_of).astype(np.uint64)
    index.add(ids, vectors)
    if is_fit_due(len(index), None):
        index = index.refitted(lambda: [(ids, vectors)])
    return index, row_of


def ndcg(ranked: NDArray[np.int64], relevant: Sequence[dict[int, int]], k: int) -> float:
    """Return the mean nDCG@k of (Q, at least k where there are as many) rows, best first."""
    discounts = 1 / np.log2(np.arange(k) + 2)
    values = []
    for line, gains in zip(ranked[:, :k].tolist(), relevant, strict=True):
        ideal = sorted(gains.values(), reverse=True)[:k]
        found = [gains.get(row, 0) for row in line]
        values.append(np.dot(found, discounts[: len(found)]) / np.dot(ideal, discounts[: len(ideal)]))
    return float(np.mean(values))


def recall(ranked: NDArray[np.int64], relevant: Sequence[dict[int, int]], k: int) -> float:
    """Return the mean share of a query's relevant rows among its first `k`."""
    pairs = zip(ranked[:, :k].tolist(), relevant, strict=True)
    return float(np.mean([len(gains.keys() & set(line)) / len(gains) for line, gains in pairs]))


def recall_at_k(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Return the mean share of each line of `truth` that is in the same line of `found`."""
    pairs = zip(found.tolist(), truth.tolist(), strict=True)
    return float(np.mean([len(set(line) & set(wanted)) / len(wanted) for line, wanted in pairs]))


def _quality(top_10: NDArray[np.int64], top_100: NDArray[np.int64], relevant: Sequence[dict[int, int]]) -> Quality:
    return Quality(ndcg(top_10, relevant, 10), recall(top_10, relevant, 10), recall(top_100, relevant, 100))


def _time_queries(
    index: BinaryIndex,
    embedder: Embedder,
    queries: NDArray[np.float32],
    questions: Sequence[str],
    clock: Callable[[], float],
) -> tuple[list[float], list[float]]:
    """Return milliseconds of searches by vector and by text, one at a time, over evenly spread queries."""

    def time_each(ask: Callable[[int], object], num_timed: int) -> list[float]:
        elapsed_ms = []
        for row in np.linspace(0, len(queries) - 1, min(num_timed, len(queries))).astype(int).tolist():
            start = clock()
            ask(row)
            elapsed_ms.append(1000 * (clock() - start))
        return elapsed_ms

    def search(query: NDArray[np.float32]) -> None:
        index.search(query, 10)

    return (
        time_each(lambda row: search(queries[row : row + 1]), NUM_TIMED_SEARCHES),
        time_each(lambda row: search(embedder.encode([questions[row]])), NUM_TIMED_QUESTIONS),
    )
