"""Does retrieval by the codes that a server chooses find what exact float search finds?

Each set alone, and `merged`: all of them with 2Wiki, TimeQA and book paragraphs as further texts, over 100,000 in all,
since small sets are easy. Embeddings are kept in a cache; making them anew takes about an hour on two cores.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.corpora import EMBEDDING_CACHE, EVAL_DATA, book_paragraphs, read_rows
from benchmarks.results import Result, Target, Value
from holdfast.kernels.packing import pack
from holdfast.kernels.scan import scan_top_k, scan_top_k_reference
from holdfast.retrieval.embed import Embedder, make_embedder
from holdfast.retrieval.embedding_cache import EmbeddingCache
from holdfast.retrieval.evaluate import Report, evaluate, ndcg, recall
from holdfast.retrieval.evaluation_sets import EvaluationSet, document_text, load_evaluation_set, merge_sets

SETS = ("scifact", "nq_open_oracle", "squad1_dev_a", "qed_dev", "xquad_r", "legalbench_rag_contractnli")
QUICK_SETS = ("xquad_r", "qed_dev")
DISTRACTORS = ("twowiki_corpus", "timeqa_human")
NUM_BOOK_PARAGRAPHS = 70_000
SCIFACT_NDCG = 0.645


def check() -> None:
    """The compiled scan equals its definition, and the measures give what was worked out by hand."""
    rng = np.random.default_rng(0)
    blocks, ids = pack(rng.random((70_000, 384)) < 0.5), rng.permutation(70_000).astype(np.uint64)
    queries = rng.integers(-127, 128, (3, 384)).astype(np.int8)
    scores, rows = scan_top_k(blocks, ids, queries, 40)
    expected_scores, expected_rows = scan_top_k_reference(blocks, ids, queries, 40)
    assert np.array_equal(scores, expected_scores)
    assert np.array_equal(rows, expected_rows)
    ranked, relevant = np.array([[7, 1, 2]]), [{1: 1, 2: 1, 3: 1}]
    assert abs(ndcg(ranked, relevant, 10) - 0.530721) < 1e-6  # (1/log2 3 + 1/2) / (1 + 1/log2 3 + 1/2)
    assert recall(ranked, relevant, 10) == 2 / 3


def run(quick: bool) -> Result:
    embedder = make_embedder()
    cache = EmbeddingCache(EMBEDDING_CACHE, embedder)
    reports = []
    for evaluation_set in evaluation_sets(embedder, quick):
        print(f"{evaluation_set.name}: {len(evaluation_set.texts)} texts, {len(evaluation_set.queries)} queries")
        reports.append(evaluate(evaluation_set, embedder, clock=time.perf_counter, encode=cache.encode))
    rows = [_quality_row(report) for report in reports] + [_recall_row(report) for report in reports]
    rows += [_chosen_row(report) for report in reports]
    return Result(rows + [_latency_row(report) for report in reports], _targets(reports))


def evaluation_sets(embedder: Embedder, quick: bool) -> Iterator[EvaluationSet]:
    loaded = [load_evaluation_set(EVAL_DATA / name, embedder) for name in (QUICK_SETS if quick else SETS)]
    yield from loaded
    if not quick:
        yield load_merged(loaded, embedder)


def load_merged(sets: Sequence[EvaluationSet], embedder: Embedder) -> EvaluationSet:
    """Return all queries over all texts and the distractors."""
    texts = [document_text(row) for name in DISTRACTORS for row in read_rows(EVAL_DATA / name / "corpus.jsonl.gz")]
    texts += book_paragraphs(NUM_BOOK_PARAGRAPHS)
    return merge_sets("merged", sets, [embedder.truncate(text) for text in texts])


def _quality_row(report: Report) -> dict[str, Value]:
    return {
        "table": "ndcg",
        "set": report.name,
        "texts": report.num_texts,
        "queries": report.num_queries,
        "float_nDCG@10": round(report.exact.ndcg_at_10, 4),
        "codes_nDCG@10": round(report.coded.ndcg_at_10, 4),
        "4x_nDCG@10": round(report.rescored.ndcg_at_10, 4),
        "kept_%": round(100 * report.ndcg_kept, 2),
        "served_nDCG@10": round(report.served.ndcg_at_10, 4),
        "served_kept_%": round(100 * report.served_ndcg_kept, 2),
    }


def _recall_row(report: Report) -> dict[str, Value]:
    return {
        "table": "recall",
        "set": report.name,
        "float_recall@10": round(report.exact.recall_at_10, 4),
        "4x_recall@10": round(report.rescored.recall_at_10, 4),
        "float_recall@100": round(report.exact.recall_at_100, 4),
        "4x_recall@100": round(report.rescored.recall_at_100, 4),
        "float_top_10_in_codes": round(report.coded_recall, 4),
        "float_top_10_in_4x": round(report.rescored_recall, 4),
        "float_top_10_in_served": round(report.served_recall, 4),
    }


def _chosen_row(report: Report) -> dict[str, Value]:
    return {
        "table": "chosen",
        "set": report.name,
        "chosen_and_measured": report.encoding,
        "rescored_of_a_search": round(report.num_rescored, 1),
    }


def _latency_row(report: Report) -> dict[str, Value]:
    return {
        "table": "latency",
        "set": report.name,
        "texts": report.num_texts,
        "search_p50_ms": round(report.search_p50_ms, 2),
        "search_p95_ms": round(report.search_p95_ms, 2),
        "question_p50_ms": round(report.question_p50_ms, 1),
        "question_p95_ms": round(report.question_p95_ms, 1),
    }


def _targets(reports: list[Report]) -> list[Target]:
    targets = [
        Target(f"kept_{report.name}", f"{report.name}: nDCG@10 of codes + 4x over float", report.ndcg_kept, 0.99, 0.999)
        for report in reports
    ]
    targets += [
        Target(f"served_{report.name}", f"{report.name}: nDCG@10 served over float", report.served_ndcg_kept, 0.99, 1)
        for report in reports
    ]
    for report in reports:
        if report.name == "scifact":
            gap = abs(report.exact.ndcg_at_10 - SCIFACT_NDCG)
            what = f"scifact: float nDCG@10, distance from the public {SCIFACT_NDCG}"
            targets.append(Target("scifact_float", what, gap, must=0.005, aim=0.001, better="lower"))
        if report.name == "merged":
            what = "merged: share of the float top 10 in the served top 10"
            targets.append(Target("merged_served_recall", what, report.served_recall, must=0.95, aim=0.985))
            targets.append(Target("merged_texts", "merged: texts", report.num_texts, must=100_000, aim=100_000))
    return targets
