"""What does sealing cost: a sealed vector store against a plain one, and the modes in which a store ranks.

The vectors are those of the merged evaluation set (with `--quick`, random directions around topics); the texts are of
the passages' usual length and say nothing: neither time nor bytes depend on what a text says. Recall is against exact
float search.

A second table is of an index whose rows stay in the store, searched without texts: once of the same vectors, and once
of twice as many, the other half random mixtures of two passages each; in the order of the corpus, and shuffled, as if
each passage were of a document of its own.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import privacy_ranking
from benchmarks.corpora import EMBEDDING_CACHE, EVAL_DATA, book_paragraphs, read_rows
from benchmarks.results import Result, Target, Value
from benchmarks.retrieval_quality import DISTRACTORS, NUM_BOOK_PARAGRAPHS, SETS
from holdfast.privacy.key_providers import LocalKeyProvider
from holdfast.privacy.keyring import Keyring
from holdfast.privacy.keys import SecretKey
from holdfast.retrieval.chunks import Passage
from holdfast.retrieval.documents import Document
from holdfast.retrieval.embed import make_embedder
from holdfast.retrieval.embedding_cache import EmbeddingCache
from holdfast.retrieval.evaluation_sets import document_text, load_evaluation_set, merge_sets
from holdfast.retrieval.exact import nearest_rows
from holdfast.retrieval.object_store import ObjectStore
from holdfast.retrieval.store_filesystem import FilesystemStore
from holdfast.retrieval.store_sqlite import SqliteFile, SqliteStore
from holdfast.serving import (
    collection,
    database,
    files,
    sealed_collections,
    sealed_tables,
    sealed_uploads,
    vector_store,
)
from holdfast.serving.ingestion_queue import IngestionQueue
from holdfast.serving.parsed_document import ParsedDocument
from holdfast.serving.sealed_index import OpenIndex
from holdfast.serving.sealed_objects import ObjectName
from holdfast.serving.sealed_parts import CellRows, Part, new_part_name
from holdfast.serving.untrusted_ranking import MakeTable, no_tables

TENANT = "default"
DIM = 384
PASSAGES_PER_FILE = 100
PASSAGE_LEN = 700
NUM_QUERIES = 200
STORES: dict[str, Callable[[Path], ObjectStore]] = {
    "folder": lambda path: FilesystemStore(path / "objects"),
    "sqlite": lambda path: SqliteStore(SqliteFile(path / "objects.sqlite3")),
}


class NoModel:
    """Stands in for the embedding model: vectors are given."""

    name = model_id = "none"
    dim = DIM
    max_tokens = 254


def check() -> None:
    """A sealed store finds what exact float search finds."""
    with tempfile.TemporaryDirectory() as name, opened(Path(name), STORES["folder"]) as collections:
        vectors, queries = draw(2_000, 20)
        for mode in ("plain", "sealed"):
            fill(collections, mode, vectors)
        for query in queries:
            found = collections.search(TENANT, "vs_sealed", query[None], 10)
            expected = collections.search(TENANT, "vs_plain", query[None], 10, exact=True)
            assert np.allclose([s.score for s in found], [s.score for s in expected], atol=1e-5)
            assert len(found) == 10
    row = measure_ranked("sqlite", "sap", vectors, queries)
    assert float(row["recall@10"] or 0) > 0.95, row


def run(quick: bool) -> Result:
    vectors, queries = draw(5_000, 50) if quick else embeddings()
    num_passages = len(vectors)
    rows: list[dict[str, Value]] = []
    for kind, make_store in STORES.items():
        with tempfile.TemporaryDirectory() as name, opened(Path(name), make_store) as collections:
            plain = measure(collections, "plain", kind, vectors, queries)
            sealed = measure(collections, "sealed", kind, vectors, queries)
            started = time.perf_counter()
            position = vector_store.find_store(collections.database.read(), TENANT, "vs_sealed")["position"]
            collections.sealed.rotate(position)
            sealed["rotated_a_second"] = round(num_passages / (time.perf_counter() - started))
            rows += [plain, sealed] if kind == "folder" else [sealed]
    with tempfile.TemporaryDirectory() as name, opened(Path(name), STORES["folder"], rows_bytes=0) as collections:
        rows.append(measure(collections, "sealed", "folder, rows stay there", vectors, queries))
    cells = [
        measure_cells(made, queries, is_shuffled=is_shuffled)
        for made in (vectors, np.concatenate([vectors, mixtures(vectors)]))
        for is_shuffled in (False, True)
    ]
    ranked = [
        measure_ranked(kind, mode, vectors[: privacy_ranking.NUM_RANKED[quick]], queries)
        for kind in privacy_ranking.KINDS[quick]
        for mode in privacy_ranking.MODES
    ]
    plain, sealed = rows[0], rows[1]
    [asym] = [row for row in ranked if (row["store"], row["mode"]) == ("sqlite", "asym")]
    ratio = float(sealed["search_p95_ms"] or 0) / float(plain["search_p95_ms"] or 1)
    rate = float(sealed["rotated_a_second"] or 0)
    recall = float(sealed["recall@10"] or 0)
    least = min(float(row["recall@10"] or 0) for row in cells[2:])
    most = max(float(row["share of rows fetched"] or 0) for row in cells[2:])
    return Result(
        [{"table": "stores", **row} for row in rows] + [{"table": "cells", **row} for row in cells] + ranked,
        [
            Target("recall", "sealed: float top 10 among what is found", recall, must=0.995, aim=1.0),
            Target("cells_recall", "rows in the store: float top 10 among what is found", least, must=0.97, aim=0.98),
            Target("cells_share", "rows in the store: share of them fetched", most, must=0.1, aim=0.03, better="lower"),
            Target("p95", "sealed: search p95 over plain's", ratio, must=1.5, aim=1.2, better="lower"),
            Target("rotation", "passages rotated a second", rate, must=2_000, aim=10_000),
            Target("ranked_recall", "asym: recall@10", float(asym["recall@10"] or 0), must=0.99, aim=0.995),
            Target("gateway", "asym: gateway p50, ms", float(asym["gateway_p50_ms"] or 0), 3.0, 1.5, better="lower"),
        ],
    )


def measure(
    collections: collection.Collections,
    mode: str,
    kind: str,
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
) -> dict[str, Value]:
    started = time.perf_counter()
    num_bytes = fill(collections, mode, vectors)
    ingest_s = time.perf_counter() - started
    truth, _ = nearest_rows(vectors, queries, 10)
    collections.search(TENANT, f"vs_{mode}", queries[:1], 10)
    first_ms, _ = search_all(collections, mode, queries, truth)  # each text is read and opened
    latencies, hits = search_all(collections, mode, queries, truth)
    return {
        "store": kind if mode != "plain" else "data directory",
        "mode": mode,
        "passages": len(vectors),
        "recall@10": round(hits / (10 * len(queries)), 4),
        "first_p95_ms": round(float(np.percentile(first_ms, 95)), 2),
        "search_p50_ms": round(float(np.percentile(latencies, 50)), 2),
        "search_p95_ms": round(float(np.percentile(latencies, 95)), 2),
        "stored_a_second": round(len(vectors) / ingest_s),
        "bytes_a_passage": round(num_bytes / len(vectors)),
        "rotated_a_second": None,
    }


def measure_cells(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], *, is_shuffled: bool
) -> dict[str, Value]:
    """Search an index whose rows are elsewhere, with nothing fetched before each search."""
    num_rows = len(vectors)
    rng = np.random.default_rng(1)
    order = rng.permutation(num_rows) if is_shuffled else np.arange(num_rows)
    ids = rng.permutation(num_rows).astype(np.uint64)
    cells: dict[ObjectName, CellRows] = {}
    fetched: list[int] = []

    def load(names: Sequence[ObjectName]) -> dict[ObjectName, CellRows]:
        fetched.extend(len(cells[name].scales) for name in names)
        return {name: cells[name] for name in names}

    index = OpenIndex(vectors.shape[1], load, 0, num_rows)
    for first in range(0, num_rows, 64 * PASSAGES_PER_FILE):
        own = order[first : first + 64 * PASSAGES_PER_FILE]
        part, part_rows = Part.of_document(first, ids[own], vectors[own], vectors.shape[1])
        name = new_part_name(1)
        cells.update(zip(part.cell_names(1), part_rows.cut(), strict=True))
        index.add(name, part)
    index.index.compact()
    index.search(queries[:1], 10)
    fetched.clear()
    truth, _ = nearest_rows(vectors, queries, 10)
    hits, started = 0, time.thread_time()
    for query, expected in zip(queries, truth, strict=True):
        hits += len(set(index.search(query[None], 10).ids[0].tolist()) & set(ids[expected].tolist()))
    return {
        "passages": num_rows,
        "order": "shuffled" if is_shuffled else "of the corpus",
        "recall@10": round(hits / (10 * len(queries)), 4),
        "share of rows fetched": round(sum(fetched) / len(queries) / num_rows, 4),
        "cells fetched": round(len(fetched) / len(queries), 1),
        "processor ms": round(1e3 * (time.thread_time() - started) / len(queries), 2),
    }


def mixtures(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return as many unit vectors again, each between two of the given ones."""
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, len(vectors), (2, len(vectors)))
    weights = rng.uniform(0.3, 0.7, (len(vectors), 1)).astype(np.float32)
    mixed = weights * vectors[first] + (1 - weights) * vectors[second]
    unit: NDArray[np.float32] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    return unit


def measure_ranked(
    kind: str, mode: str, vectors: NDArray[np.float32], queries: NDArray[np.float32]
) -> dict[str, Value]:
    """Measure a mode in which the store ranks."""
    with (
        tempfile.TemporaryDirectory() as name,
        privacy_ranking.tables(kind, Path(name)) as tables,
        opened(Path(name), STORES["folder"], lambda: tables) as collections,
    ):
        row = measure(collections, mode, kind, vectors, queries)
        truth, _ = nearest_rows(vectors, queries, 10)
        tables.forget()
        latencies, _ = search_all(collections, mode, queries, truth)
        return {"table": "ranking", **row, **privacy_ranking.costs(tables, latencies, len(vectors))}


def search_all(
    collections: collection.Collections, mode: str, queries: NDArray[np.float32], truth: NDArray[np.int64]
) -> tuple[list[float], int]:
    """Return the milliseconds of each search, and how many of the float top 10 were found in all."""
    latencies, hits = [], 0
    for query, expected in zip(queries, truth, strict=True):
        started = time.perf_counter()
        found = collections.search(TENANT, f"vs_{mode}", query[None], 10)
        latencies.append(1e3 * (time.perf_counter() - started))
        hits += len({int(source.text.split()[0]) for source in found} & set(expected.tolist()))
    return latencies, hits


def embeddings() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the embeddings of the merged evaluation set's texts and of some of its queries."""
    embedder = make_embedder()
    cache = EmbeddingCache(EMBEDDING_CACHE, embedder)
    loaded = [load_evaluation_set(EVAL_DATA / name, embedder) for name in SETS]
    texts = [document_text(row) for name in DISTRACTORS for row in read_rows(EVAL_DATA / name / "corpus.jsonl.gz")]
    texts += book_paragraphs(NUM_BOOK_PARAGRAPHS)
    merged = merge_sets("merged", loaded, [embedder.truncate(text) for text in texts])
    queries = merged.queries[:: max(len(merged.queries) // NUM_QUERIES, 1)][:NUM_QUERIES]
    return cache.encode(merged.texts), cache.encode(queries)


def draw(num_passages: int, num_queries: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return unit vectors around topics, and queries near some of them."""
    rng = np.random.default_rng(0)
    topics = rng.standard_normal((max(num_passages // 50, 1), DIM))
    vectors = topics[rng.integers(0, len(topics), num_passages)] + 0.8 * rng.standard_normal((num_passages, DIM))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = vectors[rng.integers(0, num_passages, num_queries)] + 0.04 * rng.standard_normal((num_queries, DIM))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    return vectors.astype(np.float32), queries.astype(np.float32)


@contextmanager
def opened(
    folder: Path,
    make_store: Callable[[Path], ObjectStore],
    make_tables: Callable[[], MakeTable] = no_tables,
    *,
    rows_bytes: int = sealed_collections.ROWS_BYTES,
) -> Iterator[collection.Collections]:
    """An empty data directory with a key."""
    data = database.Database(folder / "data")
    sealed_tables.create_tables(data)
    provider = LocalKeyProvider(SecretKey.generate())
    keyring = Keyring(sealed_tables.KeyTable(data), lambda tenant: [provider], time.monotonic)
    sealed = sealed_collections.SealedCollections(
        data, keyring, lambda: make_store(folder), dim=DIM, make_tables=make_tables, rows_bytes=rows_bytes
    )
    uploads = files.Files(data, folder / "data", sealed_uploads.UploadSealer(keyring))
    model: Any = NoModel()
    collections = collection.Collections(data, uploads, model, folder / "data", sealed=sealed)
    try:
        yield collections
    finally:
        collections.close()
        data.close()


def fill(collections: collection.Collections, mode: Any, vectors: NDArray[np.float32]) -> int:
    """Make a vector store of passages with these vectors; return the bytes that the data directory grew by."""
    folder = collections.database.path.parent.parent
    before = size(folder)
    store_id = f"vs_{mode}"
    collections.create(TENANT, vector_store_id=store_id, mode=mode)
    queue = IngestionQueue(collections.database, collections.embedder.model_id)
    for first in range(0, len(vectors), PASSAGES_PER_FILE):
        part = vectors[first : first + PASSAGES_PER_FILE]
        path = collections.files.upload_path()
        path.write_text(f"{mode} {first}")
        file = collections.files.create(TENANT, f"{first}.txt", "assistants", path)
        collections.attach(TENANT, store_id, [collection.NewFile(file.id)])
        job = queue.take()
        assert job is not None
        assert collections.contents.complete(job, parsed(range(first, first + len(part)), part))
        queue.release(job)
    collections.contents.close()
    return size(folder) - before


def parsed(numbers: Sequence[int], vectors: NDArray[np.float32]) -> ParsedDocument:
    """Return a document whose passages begin with their numbers."""
    texts = [f"{number} ".ljust(PASSAGE_LEN, "x") for number in numbers]
    starts = range(0, PASSAGE_LEN * len(texts), PASSAGE_LEN)
    passages = [Passage(start, start + PASSAGE_LEN, None, None) for start in starts]
    return ParsedDocument(Document("".join(texts), (), "text"), passages, vectors)


def size(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
