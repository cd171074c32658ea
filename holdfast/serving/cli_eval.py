"""`holdfast eval`: how well retrieval finds what people marked as relevant, on a BEIR-style folder."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

from holdfast.retrieval.embed import make_embedder
from holdfast.retrieval.embedding_cache import EmbeddingCache
from holdfast.retrieval.evaluate import Report, evaluate
from holdfast.retrieval.evaluation_sets import load_evaluation_set
from holdfast.serving.cli_output import err, loading, make_progress, print_json, print_table
from holdfast.serving.config import Settings


def evaluate_folder(
    settings: Settings, folder: Path, *, language: str, split: str | None, cache: Path | None, as_json: bool
) -> None:
    """Embed the set, search it exactly and by codes, and print what was found."""
    with loading():
        embedder = make_embedder(settings.embedding_model, device=settings.device)
        chosen = load_evaluation_set(folder, embedder, language=language, split=split)
    encode = EmbeddingCache(cache, embedder).encode if cache else embedder.encode
    with make_progress(err) as progress:
        task = progress.add_task("Embedding", total=len(chosen.texts) + len(chosen.queries))
        report = evaluate(
            chosen, embedder, clock=time.perf_counter, encode=encode, progress=lambda n: progress.advance(task, n)
        )
    if as_json:
        print_json({**asdict(report), "ndcg_kept": report.ndcg_kept, "served_ndcg_kept": report.served_ndcg_kept})
    else:
        print_report(report)


def print_report(report: Report) -> None:
    """Print one set's results as tables."""
    rows = [
        ("exact float", report.exact, 1.0),
        ("codes alone", report.coded, report.coded_recall),
        ("4x rescored", report.rescored, report.rescored_recall),
        ("as served", report.served, report.served_recall),
    ]
    title = f"{report.name}: {report.num_texts} texts, {report.num_queries} queries"
    print_table(
        (title, "nDCG@10", "recall@10", "recall@100", "of exact top 10"),
        [(name, *(f"{value:.4f}" for value in (*asdict(quality).values(), kept))) for name, quality, kept in rows],
    )
    print_table(("chosen", "rescored of a search"), [(report.encoding, f"{report.num_rescored:.1f}")])
    print_table(
        ("milliseconds", "median", "95 %"),
        [
            ("search", f"{report.search_p50_ms:.2f}", f"{report.search_p95_ms:.2f}"),
            ("question embedded and searched", f"{report.question_p50_ms:.2f}", f"{report.question_p95_ms:.2f}"),
        ],
    )
