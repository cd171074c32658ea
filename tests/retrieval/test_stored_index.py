from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from holdfast.errors import InvalidInput, StorageError
from holdfast.retrieval import calibrate, store, stored_index
from holdfast.retrieval.chunks import Chunking, Passage
from holdfast.retrieval.documents import Document
from holdfast.retrieval.quantise import SCHEMES
from holdfast.retrieval.quantise_rotated import HadamardQuantiser
from holdfast.retrieval.store import DocumentKey
from holdfast.retrieval.stored_index import StoredIndex, sweep_segments

DIM = 32


class OneConnection:
    """Transactions on one connection, which may be told to refuse the next."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.row_factory = sqlite3.Row
        self.connection.execute("PRAGMA foreign_keys = ON")
        self.connection.executescript(store.SCHEMA)
        self.connection.execute("INSERT INTO collections DEFAULT VALUES")
        self.is_full = False

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        if self.is_full:
            raise StorageError("the disk is full")
        with self.connection:
            self.connection.execute("BEGIN")
            yield self.connection

    @contextmanager
    def commit_after(self) -> Iterator[None]:
        """Fail after what is done inside, as a commit may."""
        yield
        with self.write():
            pass

    def read(self) -> sqlite3.Connection:
        return self.connection


@pytest.fixture
def connections() -> Iterator[OneConnection]:
    connections = OneConnection()
    yield connections
    connections.connection.close()


@pytest.fixture
def index(tmp_path: Path, connections: OneConnection) -> StoredIndex:
    return StoredIndex(1, tmp_path, DIM, connections)


def add(
    index: StoredIndex,
    connections: OneConnection,
    rng: np.random.Generator,
    num_passages: int,
    vectors: np.ndarray | None = None,
) -> int:
    if vectors is None:
        vectors = rng.standard_normal((num_passages, DIM)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    key = DocumentKey("", rng.bytes(32).hex(), ".txt", Chunking(), "model")
    passages = [Passage(row, row + 1, None, None) for row in range(num_passages)]
    with index.changing():
        index.load()
        with index.committing(), connections.write() as connection:
            text = Document("x" * num_passages, (), "text")
            document = store.insert_document(connection, key, text, passages, vectors)
            store.link_document(connection, 1, document)
            index.add(key.passage_ids(passages), vectors)
    return document


def ids(index: StoredIndex) -> list[int]:
    with index.reading() as codes:
        return [int(passage_id) for passage_id in codes.ids()]


def expected(connections: OneConnection) -> list[int]:
    documents = store.list_documents(connections.connection, 1)
    passage_ids: NDArray[np.uint64] = store.load_passage_ids(connections.connection, documents)
    return sorted(passage_ids.tolist())


def test_what_is_saved_is_loaded_and_what_is_not_is_added(
    tmp_path: Path, index: StoredIndex, connections: OneConnection, rng: np.random.Generator
) -> None:
    add(index, connections, rng, 10)
    index.save()
    assert index.verify() == []
    add(index, connections, rng, 5)
    assert len(ids(index)) == 15
    again = StoredIndex(1, tmp_path, DIM, connections)
    assert ids(again) == ids(index) == expected(connections)
    assert len(list(tmp_path.iterdir())) == 1


def test_codes_of_another_quantiser_are_made_again(
    tmp_path: Path,
    index: StoredIndex,
    connections: OneConnection,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add(index, connections, rng, 10)
    monkeypatch.setattr(HadamardQuantiser, "scheme", "older")
    monkeypatch.setitem(SCHEMES, "older", SCHEMES["hadamard"])
    index.save()
    monkeypatch.undo()
    assert "older" in index.verify()[0]
    again = StoredIndex(1, tmp_path, DIM, connections)
    assert ids(again) == expected(connections)
    assert list(tmp_path.iterdir()) == []
    again.save()
    assert again.verify() == []


def test_saving_nothing_new_writes_nothing(
    tmp_path: Path, index: StoredIndex, connections: OneConnection, rng: np.random.Generator
) -> None:
    add(index, connections, rng, 10)
    index.save()
    [before] = tmp_path.iterdir()
    index.save()
    StoredIndex(1, tmp_path, DIM, connections).save()
    assert list(tmp_path.iterdir()) == [before]


def test_removal_forgets_the_segment_and_large_ones_are_written_again(
    tmp_path: Path,
    index: StoredIndex,
    connections: OneConnection,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    documents = [add(index, connections, rng, 10) for _ in range(3)]
    index.save()
    for document, num_files in zip(documents, (0, 1, 0), strict=True):
        monkeypatch.setattr(stored_index, "MIN_UNSAVED", 1 if num_files else 1000)
        index.save()
        removed = store.load_passage_ids(connections.connection, [document])
        with index.changing(), index.committing():
            with connections.write() as connection:
                store.unlink_documents(connection, 1, [document])
            index.remove(removed)
        index.save_if_due()
        assert len(list(tmp_path.iterdir())) == num_files
        assert ids(index) == expected(connections)
    assert ids(index) == []


def test_an_exception_while_changing_leaves_what_was_committed(
    index: StoredIndex, connections: OneConnection, rng: np.random.Generator
) -> None:
    add(index, connections, rng, 10)
    before = ids(index)
    connections.is_full = True
    with pytest.raises(StorageError), index.changing(), index.committing(), connections.commit_after():
        index.add(np.array([1], dtype=np.uint64), np.eye(1, DIM, dtype=np.float32))
    assert ids(index) == before
    with pytest.raises(InvalidInput), index.changing(), index.committing():
        index.add(np.array([1], dtype=np.uint64), np.zeros((1, DIM), dtype=np.float32))
    assert ids(index) == before


def test_a_full_disk_costs_the_segment_only(
    tmp_path: Path,
    index: StoredIndex,
    connections: OneConnection,
    rng: np.random.Generator,
    caplog: pytest.LogCaptureFixture,
) -> None:
    add(index, connections, rng, 10)
    connections.is_full = True
    index.save()
    assert "no segment written" in caplog.text
    assert list(tmp_path.iterdir()) == []
    assert ids(index) == expected(connections)
    connections.is_full = False
    index.save()
    assert len(list(tmp_path.iterdir())) == 1


def test_verify_compares_the_segment_with_the_database(
    index: StoredIndex, connections: OneConnection, rng: np.random.Generator
) -> None:
    add(index, connections, rng, 10)
    index.save()
    connections.connection.execute("UPDATE document_vectors SET ids = zeroblob(80)")
    assert "holds other passages" in index.verify()[0]


def test_sweeping_keeps_known_segments_only(
    tmp_path: Path, index: StoredIndex, connections: OneConnection, rng: np.random.Generator
) -> None:
    add(index, connections, rng, 10)
    index.save()
    [kept] = tmp_path.iterdir()
    (tmp_path / "1-0000.segment").write_bytes(b"half-written")
    (tmp_path / ".1-0000.segment.tmp").write_bytes(b"half-written")
    sweep_segments(tmp_path, connections.connection)
    assert list(tmp_path.iterdir()) == [kept]


def text_like(rng: np.random.Generator, num_rows: int) -> np.ndarray:
    """Unit-norm vectors with variances that fall off, as an embedding model's do."""
    vectors = rng.standard_normal((num_rows, DIM)) / np.sqrt(1 + np.arange(DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_a_collection_is_fitted_when_it_has_grown_and_never_on_adding(
    tmp_path: Path,
    index: StoredIndex,
    connections: OneConnection,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(calibrate, "MIN_VECTORS", 400)
    schemes: list[str] = []
    fitted_to: list[int | None] = []
    for _ in range(6):
        before = quantiser_id(index)
        add(index, connections, rng, 300, text_like(rng, 300))
        assert quantiser_id(index) == before
        index.save_if_due()
        with index.reading() as codes:
            schemes.append(codes.quantiser.scheme)
            fitted_to.append(codes.calibration.num_vectors if codes.calibration else None)
    assert schemes == ["hadamard", *["mib"] * 5]
    assert fitted_to == [None, 600, 600, 600, 600, 600]
    add(index, connections, rng, 700, text_like(rng, 700))
    index.save_if_due()
    with index.reading() as codes:
        assert codes.calibration is not None
        assert codes.calibration.num_vectors == 2500
        kept = codes.search(text_like(rng, 5), 10)
    assert "of the float top 10" in caplog.text
    said = index.describe()
    assert said is not None
    assert said.startswith("2500 vectors, codes of mib:")
    assert StoredIndex(1, tmp_path, DIM, connections).describe() == said
    assert index.verify() == []
    assert len(list(tmp_path.iterdir())) == 1
    assert ids(StoredIndex(1, tmp_path, DIM, connections)) == ids(index) == expected(connections)
    assert kept.num_scanned == 2500


def test_nothing_is_said_of_no_codes(
    tmp_path: Path, index: StoredIndex, connections: OneConnection, rng: np.random.Generator
) -> None:
    assert index.describe() is None
    add(index, connections, rng, 10)
    said = index.describe()
    assert said is not None
    assert said.endswith("not measured: few vectors")
    index.save()
    [path] = tmp_path.iterdir()
    path.write_bytes(b"damaged")
    assert StoredIndex(1, tmp_path, DIM, connections).describe() is None


def quantiser_id(index: StoredIndex) -> str:
    with index.reading() as codes:
        return codes.quantiser.id


def test_contents_alone_decide_what_a_lost_segment_becomes(
    tmp_path: Path,
    index: StoredIndex,
    connections: OneConnection,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calibrate, "MIN_VECTORS", 400)
    for _ in range(2):
        add(index, connections, rng, 300, text_like(rng, 300))
    index.save_if_due()
    [path] = tmp_path.iterdir()
    before = path.read_bytes()
    path.unlink()
    again = StoredIndex(1, tmp_path, DIM, connections)
    assert quantiser_id(again) == quantiser_id(index)
    again.save()
    [path] = tmp_path.iterdir()
    assert path.read_bytes() == before
