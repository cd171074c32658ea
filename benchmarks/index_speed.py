"""How fast an index of a million vectors is built, saved, opened and searched, with this machine's processors.

The vectors are random directions of 384 dimensions: speed does not depend on what they are.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.results import Result, Target, Value
from benchmarks.retrieval_quality import check  # the scan measured here is the one it checks
from holdfast.retrieval.index import BinaryIndex

__all__ = ["check", "run"]

DIM = 384
BATCH_SIZE = 20_000
NUM_QUERIES = 50


def run(quick: bool) -> Result:
    num_vectors = 100_000 if quick else 1_000_000
    index = BinaryIndex(DIM)
    add_s = 0.0
    for first in range(0, num_vectors, BATCH_SIZE):
        ids, vectors = np.arange(first, first + BATCH_SIZE, dtype=np.uint64), _unit_vectors(BATCH_SIZE, first)
        start = time.perf_counter()
        index.add(ids, vectors)
        add_s += time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        save_ms = _elapsed_ms(lambda: index.save(path))
        bytes_per_vector = path.stat().st_size / num_vectors
        open_ms = float(np.median([_elapsed_ms(lambda: BinaryIndex.load(path)) for _ in range(5)]))
        loaded = BinaryIndex.load(path)
        queries = _unit_vectors(NUM_QUERIES, num_vectors)
        first_ms = _elapsed_ms(lambda: loaded.search(queries[:1], 10))
        verify_ms = _elapsed_ms(loaded.verify)
    allowed = np.arange(0, num_vectors, 100, dtype=np.uint64)
    measured: dict[str, float] = {
        "add, vectors a second": round(num_vectors / add_s),
        "file, bytes a vector": round(bytes_per_vector, 1),
        "save, ms": round(save_ms),
        "open, ms": round(open_ms, 2),
        "first search after opening, ms": round(first_ms, 1),
        "verify every checksum, ms": round(verify_ms),
        "search p50, ms": _median_search_ms(loaded, queries),
        "search p50 on one thread, ms": _median_search_ms(loaded, queries, num_threads=1),
        "search p50 among 1 % of the ids, ms": _median_search_ms(loaded, queries, allowed_ids=allowed),
        "32 queries in one call, ms each": round(_elapsed_ms(lambda: loaded.search(queries[:32], 10)) / 32, 2),
    }
    rows: list[dict[str, Value]] = [
        {"vectors": num_vectors, "what": what, "value": value} for what, value in measured.items()
    ]
    return Result(rows, [Target("open_ms", "opening the index, ms", open_ms, must=50, aim=10, better="lower")])


def _median_search_ms(
    index: BinaryIndex,
    queries: NDArray[np.float32],
    *,
    num_threads: int | None = None,
    allowed_ids: NDArray[np.uint64] | None = None,
) -> float:
    elapsed_ms = []
    for query in queries:
        start = time.perf_counter()
        index.search(query[None], 10, num_threads=num_threads, allowed_ids=allowed_ids)
        elapsed_ms.append(1000 * (time.perf_counter() - start))
    return round(float(np.median(elapsed_ms)), 2)


def _elapsed_ms(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return 1000 * (time.perf_counter() - start)


def _unit_vectors(num_rows: int, seed: int) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((num_rows, DIM), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors
