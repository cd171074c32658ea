"""What does sealing cost: a sealed vector store against a plain one, over each kind of object store.

The vectors are those of the merged evaluation set (with `--quick`, random directions around topics); the texts are of
the passages' usual length and say nothing: neither time nor bytes depend on what a text says. Recall is against exact
float search.
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
    plain, sealed = rows[0], rows[1]
    ratio = float(sealed["search_p95_ms"] or 0) / float(plain["search_p95_ms"] or 1)
    rate = float(sealed["rotated_a_second"] or 0)
    recall = float(sealed["recall@10"] or 0)
    return Result(
        rows,
        [
            Target("recall", "sealed: float top 10 among what is found", recall, must=0.995, aim=1.0),
            Target("p95", "sealed: search p95 over plain's", ratio, must=1.5, aim=1.2, better="lower"),
            Target("rotation", "passages rotated a second", rate, must=2_000, aim=10_000),
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
def opened(folder: Path, make_store: Callable[[Path], ObjectStore]) -> Iterator[collection.Collections]:
    """An empty data directory with a key."""
    data = database.Database(folder / "data")
    sealed_tables.create_tables(data)
    provider = LocalKeyProvider(SecretKey.generate())
    keyring = Keyring(sealed_tables.KeyTable(data), lambda tenant: [provider], time.monotonic)
    sealed = sealed_collections.SealedCollections(data, keyring, lambda: make_store(folder), dim=DIM)
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
