"""The storage half of a server without HTTP or engine, and an embedder that needs no model."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from numpy.typing import NDArray

from holdfast.retrieval.documents import read_document
from holdfast.serving import ingestion
from holdfast.serving.collection import Collections, NewFile, StoredFile
from holdfast.serving.database import Database
from holdfast.serving.engine.protocol import Source
from holdfast.serving.files import FileRecord, Files
from holdfast.serving.ingestion import Ingestion
from holdfast.serving.parse_process import ParseLimits
from tests.serving.http_fixtures import client, facts, http, server, specification, upload  # noqa: F401 - fixtures

TENANT = "default"
STORE = "vs_default"


class HashEmbedder:
    """Stands in for `Embedder` where loading a model would be the test's whole cost: each word is a fixed vector."""

    name = "hash"
    revision = "0"
    model_id = "hash@0"
    dim = 64
    max_tokens = 254

    def __init__(self) -> None:
        self.num_encoded = 0

    def token_offsets(self, text: str) -> list[tuple[int, int]]:
        return [match.span() for match in re.finditer(r"\w+|[^\w\s]", text)]

    def encode(self, texts: Sequence[str], *, progress: Callable[[int], None] | None = None) -> NDArray[np.float32]:
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()) or [""]:
                digest = hashlib.shake_256(word.encode()).digest(self.dim)
                vectors[row] += np.frombuffer(digest, dtype=np.int8)
            self.num_encoded += 1
            if progress is not None:
                progress(1)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors


@dataclass
class Storage:
    """An open data directory with one vector store."""

    data_dir: Path
    database: Database
    files: Files
    collections: Collections
    ingestion: Ingestion
    embedder: Any

    def upload(self, name: str, data: bytes | str, tenant: str = TENANT) -> FileRecord:
        path = self.files.upload_path()
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return self.files.create(tenant, name, "assistants", path)

    def ingest(self, name: str, data: bytes | str, **options: Any) -> StoredFile:
        """Upload, attach and ingest one file."""
        file = self.upload(name, data)
        self.collections.attach(TENANT, STORE, [NewFile(file.id, **options)])
        self.ingestion.run_until_idle()
        return self.collections.get_file(TENANT, STORE, file.id)

    def search(self, query: str, k: int = 5, **options: Any) -> list[Source]:
        return self.collections.search(TENANT, STORE, self.embedder.encode([query]), k, **options)

    def close(self) -> None:
        self.ingestion.stop()
        self.collections.close()
        self.database.close()


class OpenStorage(Protocol):
    def __call__(self, *, embedder: Any = ..., clock: Callable[[], float] | None = ...) -> Storage: ...


@pytest.fixture
def hash_embedder() -> HashEmbedder:
    return HashEmbedder()


@pytest.fixture
def open_storage(tmp_path: Path, hash_embedder: HashEmbedder) -> Iterator[OpenStorage]:
    """Open `tmp_path/data` (again), with the vector store `vs_default` in it."""
    opened: list[Storage] = []

    def open_it(*, embedder: Any = hash_embedder, clock: Callable[[], float] | None = None) -> Storage:
        data_dir = tmp_path / "data"
        database = Database(data_dir, clock=clock) if clock else Database(data_dir)
        try:
            files = Files(database, data_dir)
            collections = Collections(database, files, embedder, data_dir)
        except BaseException:
            database.close()
            raise
        opened.append(Storage(data_dir, database, files, collections, Ingestion(collections, ParseLimits()), embedder))
        if not database.read().execute("SELECT 1 FROM vector_stores").fetchone():
            collections.create(TENANT, vector_store_id=STORE)
        return opened[-1]

    yield open_it
    for storage in opened:
        storage.ingestion.stop()
        storage.database.close()


@pytest.fixture
def storage(open_storage: OpenStorage) -> Storage:
    return open_storage()


@pytest.fixture
def read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read files in this process, where a process for each would be most of the test's time."""
    monkeypatch.setattr(
        ingestion, "read_document_in_child", lambda path, name, limits: read_document(path.read_bytes(), name)
    )
