"""How fast are exhaustive codes, beside what one would use instead, and at which recall?

Real MiniLM vectors of the merged evaluation sets, and copies of them moved a little for more. Each system is built and
timed in a process of its own, one after the other; recall@10 is against exact float search over the same vectors. What
an index costs over its life (adding, saving, opening) is measured on random directions: it does not depend on them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.corpora import EMBEDDING_CACHE, EVAL_DATA, book_paragraphs, read_rows
from benchmarks.results import Result, Target, Value
from benchmarks.retrieval_quality import DISTRACTORS, NUM_BOOK_PARAGRAPHS, QUICK_SETS, SETS
from benchmarks.searchers import BUILDERS, DIM, TOP_K, Vectors, batches_of
from holdfast.kernels.packing import pack
from holdfast.kernels.scan import scan_top_k, scan_top_k_reference
from holdfast.retrieval.embed import make_embedder
from holdfast.retrieval.embedding_cache import EmbeddingCache
from holdfast.retrieval.evaluation_sets import document_text, load_evaluation_set, merge_sets
from holdfast.retrieval.exact import nearest_rows
from holdfast.retrieval.index import BinaryIndex

NUM_QUERIES = 1000
BATCH = 64
SCANS = [name for name in BUILDERS if name.startswith("holdfast") and "fitted" not in name] + [
    "faiss IndexBinaryFlat",
    "faiss IndexRaBitQ",
    "faiss IndexRaBitQFastScan",
    "faiss PQ96x4fs",
    "usearch exact b1",
]
SYSTEMS = ["holdfast fitted index", "faiss HNSW32", "usearch HNSW i8", "numpy float32", "qdrant local", "pgvector bit"]
IN_CACHE, IN_MEMORY = 400_000, 4_000_000
SIZES = {100_000: [*SCANS, *SYSTEMS], IN_CACHE: SCANS, 1_000_000: SCANS, IN_MEMORY: SCANS}
QUICK_SIZES = {20_000: [*SCANS[:-1], "numpy float32"]}


def check() -> None:
    """The scan equals its definition at every number of bits and every limit of the query."""
    rng = np.random.default_rng(0)
    ids = rng.permutation(70_000).astype(np.uint64)
    for bits in (1, 2, 4):
        blocks = pack(rng.integers(0, 2**bits, (70_000, DIM)).astype(np.uint8), bits)
        for limit in (24, 127):
            queries = rng.integers(-limit, limit + 1, (3, DIM)).astype(np.int8)
            found = scan_top_k(blocks, ids, queries, 40, bits=bits)
            expected = scan_top_k_reference(blocks, ids, queries, 40, bits=bits)
            assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def run(quick: bool) -> Result:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vectors, queries = _real_vectors(quick)
        np.save(folder / "vectors.npy", vectors)
        np.save(folder / "queries.npy", queries)
        for num_vectors, systems in (QUICK_SIZES if quick else SIZES).items():
            asked = queries[: NUM_QUERIES if num_vectors <= 1_000_000 else 200]
            np.save(folder / f"truth_{num_vectors}.npy", _truth(vectors, asked, num_vectors))
            for system in systems:
                rows += _measure(system, folder, num_vectors, seconds=0.3 if quick else 2.0)
    index_rows, open_ms, add_rate = _index_life(100_000 if quick else 1_000_000)
    targets = _targets(rows)
    targets.append(Target("open_ms", "opening the index, ms", open_ms, must=50, aim=10, better="lower"))
    targets.append(Target("add", "encode and add, vectors a second a core", add_rate, must=150_000, aim=500_000))
    return Result([*map(_row, rows), *index_rows], targets)


def _real_vectors(quick: bool) -> tuple[Vectors, Vectors]:
    """Return the vectors of all texts and of some questions of the merged sets."""
    embedder = make_embedder()
    cache = EmbeddingCache(EMBEDDING_CACHE, embedder)
    loaded = [load_evaluation_set(EVAL_DATA / name, embedder) for name in (QUICK_SETS if quick else SETS)]
    texts: list[str] = []
    if not quick:
        texts = [document_text(row) for name in DISTRACTORS for row in read_rows(EVAL_DATA / name / "corpus.jsonl.gz")]
        texts += book_paragraphs(NUM_BOOK_PARAGRAPHS)
    merged = merge_sets("merged", loaded, [embedder.truncate(text) for text in texts])
    chosen = np.linspace(0, len(merged.queries) - 1, min(NUM_QUERIES, len(merged.queries))).astype(int)
    return cache.encode(merged.texts), cache.encode([merged.queries[place] for place in chosen])


def _truth(vectors: Vectors, queries: Vectors, num_vectors: int) -> NDArray[np.int64]:
    first, parts = 0, []
    for batch in batches_of(vectors, num_vectors):
        found, products = nearest_rows(batch, queries, TOP_K)
        parts.append((found + first, products))
        first += len(batch)
    rows, products = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
    return np.take_along_axis(rows, np.lexsort((rows, -products), axis=1)[:, :TOP_K], axis=1)


def _measure(system: str, folder: Path, num_vectors: int, seconds: float) -> list[dict[str, Any]]:
    """Run one system in a process of its own. A peer that is not installed, or fails, is left out and named."""
    processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    cells = [(1, 1), (1, 2), (BATCH, 1), (BATCH, 2)]
    job = {"system": system, "folder": str(folder), "num_vectors": num_vectors, "cells": cells}
    job |= {"seconds": seconds, "processors": processors[:2]}
    threads = dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"], "2")
    command = [sys.executable, "-m", "benchmarks.searchers", json.dumps(job)]
    print(f"{num_vectors:,} vectors: {system}", flush=True)
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, **threads})
    if done.returncode:
        print(f"left out: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return []
    measured: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _row(measured: dict[str, Any]) -> dict[str, Value]:
    row: dict[str, Value] = {
        "table": f"at_{measured['vectors']}",
        "system": measured["system"],
        "bytes_a_vector": round(measured["bytes"], 1),
        "recall@10": round(measured["recall"], 4),
        "built, vectors a second": round(measured["vectors"] / measured["build_s"]),
    }
    for call in measured["calls"]:
        asked = "1 query" if call["queries"] == 1 else f"{call['queries']} queries"
        cell = f"{asked}, {call['threads']} thread{'s' if call['threads'] > 1 else ''}"
        row[f"{cell}: ms each"] = round(1000 * call["median_s"] / call["queries"], 4)
        row[f"{cell}: least"] = round(1000 * call["min_s"] / call["queries"], 4)
    return row


def _seconds(measured: dict[str, Any], queries: int, threads: int) -> float:
    """Median time of one query."""
    return next(
        float(call["median_s"]) / queries
        for call in measured["calls"]
        if (call["queries"], call["threads"]) == (queries, threads)
    )


def _targets(rows: list[dict[str, Any]]) -> list[Target]:
    """How many times the speed of each peer our fastest scan of no less recall has, where both were measured."""

    def find(num_vectors: int, prefix: str, least_recall: float = 0.0) -> list[dict[str, Any]]:
        return [
            row
            for row in rows
            if row["vectors"] == num_vectors and row["system"].startswith(prefix) and row["recall"] >= least_recall
        ]

    def codes(row: dict[str, Any]) -> bool:
        return bool(row["system"].endswith(("bit", "bits")))

    targets = []
    for id_, size, peer, queries, threads, must, aim in (
        ("one_in_cache", IN_CACHE, "faiss IndexBinaryFlat", 1, 1, 2.0, 2.7),
        ("one_in_memory", IN_MEMORY, "faiss IndexBinaryFlat", 1, 2, 1.8, 2.5),
        ("batch_in_memory", IN_MEMORY, "faiss IndexBinaryFlat", BATCH, 2, 3.5, 6.0),
        ("rabitq_fast_scan", IN_MEMORY, "faiss IndexRaBitQFastScan", BATCH, 2, 5.0, 8.0),
        ("pq_fast_scan", IN_MEMORY, "faiss PQ96x4fs", BATCH, 2, 1.5, 2.0),
        ("usearch_exact", IN_MEMORY, "usearch exact b1", 1, 2, 5.0, 8.0),
    ):
        for other in find(size, peer):
            ours = [row for row in find(size, "holdfast", other["recall"]) if codes(row)]
            best = min((_seconds(row, queries, threads) for row in ours), default=float("inf"))
            what = f"{size:,} vectors, {queries} at a time, {threads} threads: times the speed of {peer}"
            targets.append(Target(id_, what, round(_seconds(other, queries, threads) / best, 2), must, aim))
    for peer in ("faiss HNSW32", "usearch HNSW i8"):
        good, ours = find(100_000, peer, 0.95), find(100_000, "holdfast index", 0.95)
        if not good or not ours:
            continue
        best_peer = min(good, key=lambda row: _seconds(row, BATCH, 2))
        best = min(ours, key=lambda row: _seconds(row, BATCH, 2))
        name = peer.split()[0]
        one = min(_seconds(row, 1, 1) for row in good) / min(_seconds(row, 1, 1) for row in ours)
        ratios = {
            "qps": ("queries a second", _seconds(best_peer, BATCH, 2) / _seconds(best, BATCH, 2), 1.0, 2.0),
            "one": ("queries a second, one at a time on one thread", one, 1.0, 2.0),
            "memory": ("times less memory", best_peer["bytes"] / best["bytes"], 10.0, 10.0),
            "build": ("times the build speed", best_peer["build_s"] / best["build_s"], 50.0, 50.0),
        }
        for id_, (what, value, must, aim) in ratios.items():
            text = f"100,000 vectors, recall 0.95, beside {peer}: {what}"
            targets.append(Target(f"{name}_hnsw_{id_}", text, round(value, 2), must, aim))
    return targets


def _index_life(num_vectors: int) -> tuple[list[dict[str, Value]], float, float]:
    """Return what an index costs over its life, the time to open it, and the vectors added in a second of one core."""
    index, add_s = BinaryIndex(DIM), 0.0
    for first in range(0, num_vectors, 20_000):
        ids, vectors = np.arange(first, first + 20_000, dtype=np.uint64), _unit_vectors(20_000, first)
        start = time.thread_time()
        index.add(ids, vectors)
        add_s += time.thread_time() - start
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        save_ms = _elapsed_ms(lambda: index.save(path))
        file_bytes = path.stat().st_size
        open_ms = float(np.median([_elapsed_ms(lambda: BinaryIndex.load(path)) for _ in range(5)]))
        loaded = BinaryIndex.load(path)
        queries = _unit_vectors(50, num_vectors)
        first_ms = _elapsed_ms(lambda: loaded.search(queries[:1], 10))
        verify_ms = _elapsed_ms(loaded.verify)
    allowed = np.arange(0, num_vectors, 100, dtype=np.uint64)
    measured: dict[str, float] = {
        "add, vectors a second a core": round(num_vectors / add_s),
        "file, bytes a vector": round(file_bytes / num_vectors, 1),
        "save, ms": round(save_ms),
        "open, ms": round(open_ms, 2),
        "first search after opening, ms": round(first_ms, 1),
        "verify every checksum, ms": round(verify_ms),
        "search p50, ms": _median_ms(lambda query: loaded.search(query, 10), queries),
        "search p50 on one thread, ms": _median_ms(lambda query: loaded.search(query, 10, num_threads=1), queries),
        "search p50 among 1 % of the ids, ms": _median_ms(
            lambda query: loaded.search(query, 10, allowed_ids=allowed), queries
        ),
        "32 queries in one call, ms each": round(_elapsed_ms(lambda: loaded.search(queries[:32], 10)) / 32, 2),
    }
    rows: list[dict[str, Value]] = [
        {"table": "index", "vectors": num_vectors, "what": what, "value": value} for what, value in measured.items()
    ]
    return rows, open_ms, num_vectors / add_s


def _median_ms(search: Callable[[Vectors], object], queries: Iterable[Vectors]) -> float:
    return round(float(np.median([_elapsed_ms(lambda query=query: search(query[None])) for query in queries])), 2)


def _elapsed_ms(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return 1000 * (time.perf_counter() - start)


def _unit_vectors(num_rows: int, seed: int) -> Vectors:
    vectors = np.random.default_rng(seed).standard_normal((num_rows, DIM), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors
