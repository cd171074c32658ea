"""A data directory with a key, sealed vector stores, and a store that notes all that it is given."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from holdfast.privacy.key_providers import LocalKeyProvider, add_key_to_file
from holdfast.privacy.keyring import Keyring
from holdfast.privacy.keys import SecretKey
from holdfast.retrieval.documents import read_document
from holdfast.retrieval.object_store import Listing, ObjectStore, TaggedObject
from holdfast.retrieval.store_filesystem import FilesystemStore
from holdfast.serving import ingestion
from holdfast.serving.app import create_app
from holdfast.serving.collection import Collections
from holdfast.serving.config import Settings
from holdfast.serving.database import Database
from holdfast.serving.files import Files
from holdfast.serving.ingestion import Ingestion
from holdfast.serving.parse_process import ParseLimits
from holdfast.serving.ranked_tables import RankingOptions
from holdfast.serving.sealed_collections import SealedCollections
from holdfast.serving.sealed_tables import KeyTable
from holdfast.serving.sealed_uploads import UploadSealer
from holdfast.serving.service import Service
from holdfast.serving.untrusted_ranking import MakeTable, no_tables
from tests.serving.conftest import STORE, TENANT, HashEmbedder, Storage

KEY = SecretKey(bytes(range(32)))


class RecordingStore:
    """Passes everything on to another store, and remembers what it was given and asked for."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner
        self.calls: list[str] = []
        self.seen: list[bytes] = []

    def put_objects(self, objects: Mapping[str, bytes], *, if_absent: bool = False) -> set[str]:
        self._note("put", objects, objects.values())
        return self.inner.put_objects(objects, if_absent=if_absent)

    def get_objects(self, keys: Sequence[str]) -> dict[str, bytes]:
        if keys:
            self._note("get", keys)
        return self.inner.get_objects(keys)

    def get_tagged(self, key: str) -> TaggedObject | None:
        self._note("get_tagged", [key])
        return self.inner.get_tagged(key)

    def cas(self, key: str, body: bytes, etag: str | None) -> str:
        self._note("cas", [key], [body])
        return self.inner.cas(key, body, etag)

    def delete(self, keys: Sequence[str]) -> None:
        self._note("delete", keys)
        self.inner.delete(keys)

    def list(self, prefix: str, cursor: str | None = None) -> Listing:
        self._note("list", [prefix])
        return self.inner.list(prefix, cursor)

    def close(self) -> None:
        self.inner.close()

    def _note(self, call: str, keys: Iterable[str], bodies: Iterable[bytes] = ()) -> None:
        self.calls.append(call)
        self.seen += [key.encode() for key in keys]
        self.seen += bodies


def open_sealed(
    data_dir: Path,
    *,
    store: ObjectStore | None = None,
    key: SecretKey | None = KEY,
    mode: str = "sealed",
    embedder: Any = None,
    clock: Callable[[], float] | None = None,
    rows_bytes: int = 2**30,
    num_decoys: int = 0,
    make_tables: Callable[[], MakeTable] = no_tables,
    ranking: RankingOptions = RankingOptions(),
) -> Storage:
    """Open `data_dir` (again) with the sealed vector store `vs_default` in it."""
    embedder = embedder or HashEmbedder()
    database = Database(data_dir, clock=clock) if clock else Database(data_dir)
    keyring = None
    if key is not None:
        provider = LocalKeyProvider(key)
        keyring = Keyring(KeyTable(database), lambda tenant: [provider], lambda: 0.0)
    sealed = SealedCollections(
        database,
        keyring,
        lambda: store or FilesystemStore(data_dir / "sealed"),
        dim=embedder.dim,
        rows_bytes=rows_bytes,
        num_decoys=num_decoys,
        make_tables=make_tables,
    )
    files = Files(database, data_dir, None if keyring is None else UploadSealer(keyring))
    collections = Collections(database, files, embedder, data_dir, sealed=sealed)
    storage = Storage(data_dir, database, files, collections, Ingestion(collections, ParseLimits()), embedder)
    if not database.read().execute("SELECT 1 FROM vector_stores").fetchone():
        collections.create(TENANT, vector_store_id=STORE, mode=mode, ranking=ranking)  # type: ignore[arg-type]
    return storage


@contextmanager
def sealed_storage(data_dir: Path, **options: Any) -> Iterator[Storage]:
    """Open, and close as after a crash: nothing is saved that was not committed."""
    storage = open_sealed(data_dir, **options)
    try:
        yield storage
    finally:
        storage.ingestion.stop()
        storage.database.close()


@contextmanager
def sealed_server(data_dir: Path) -> Iterator[tuple[TestClient, Service]]:
    """A client of an application in this process whose vector stores are sealed, and what it serves."""
    key_file = data_dir.parent / "keys"
    if not key_file.exists():
        add_key_to_file(key_file)
    settings = Settings(data_dir=data_dir, key_file=key_file, encryption="sealed")
    service = Service(settings, embedder=HashEmbedder())  # type: ignore[arg-type]
    with TestClient(create_app(settings, service), base_url="http://localhost") as client:
        yield client, service


def read_here() -> None:
    """Read files in this process, where a process for each would be most of the test's time."""

    def read(source: Any, name: str, limits: ParseLimits) -> Any:
        data = source.read_bytes() if isinstance(source, Path) else b"".join(source)
        return read_document(data, name)

    ingestion.read_document_in_child = read  # type: ignore[attr-defined]


def forms(text: str) -> Iterator[bytes]:
    """Yield a text as it might lie somewhere: raw, in UTF-16, and in base64 at each alignment."""
    raw = text.encode()
    yield raw
    yield text.encode("utf-16-le")
    yield raw.hex().encode()
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + raw)
        yield encoded[(4 if shift else 0) : -4]


def float_forms(vector: NDArray[np.float32]) -> Iterator[bytes]:
    """Yield stretches of a vector as it might lie somewhere: in three widths, and in base64."""
    for dtype in ("<f4", "<f2", "<f8"):
        raw = vector.astype(dtype).tobytes()
        yield raw[:32]
        for shift in range(3):
            yield base64.b64encode(bytes(shift) + raw[:48])[4:-4]


def residue(needles: Sequence[bytes], haystacks: Iterable[bytes]) -> list[bytes]:
    """Return the needles that are found."""
    found = []
    for data in haystacks:
        found += [needle for needle in needles if needle in data]
    return found


def files_below(folder: Path) -> Iterator[bytes]:
    """Yield every file's bytes, and its path."""
    for path in sorted(folder.rglob("*")):
        yield str(path.relative_to(folder)).encode()
        if path.is_file():
            yield path.read_bytes()
