from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import numpy as np
import pytest

from holdfast.retrieval import store
from holdfast.retrieval.chunks import Chunking, Passage
from holdfast.retrieval.documents import Document
from holdfast.retrieval.store import DocumentKey

TEXT = "Ä first passage.\n\nA second one."
PASSAGES = [Passage(0, 16, page=1, heading=None), Passage(18, 31, page=2, heading="Two")]
KEY = DocumentKey("default", "ab" * 32, ".txt", Chunking(), "model@1")


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    connection.executescript(store.SCHEMA)
    connection.execute("INSERT INTO collections DEFAULT VALUES")
    connection.execute("INSERT INTO collections DEFAULT VALUES")
    yield connection
    connection.close()


def insert(connection: sqlite3.Connection, key: DocumentKey = KEY) -> int:
    vectors = np.eye(2, 8, dtype=np.float32)
    return store.insert_document(connection, key, Document(TEXT, (), "text"), PASSAGES, vectors)


def test_what_is_stored_comes_back(connection: sqlite3.Connection) -> None:
    document = insert(connection)
    assert store.link_document(connection, 1, document)
    assert store.find_document(connection, KEY) == document
    assert store.load_text(connection, document) == TEXT
    ids = store.load_passage_ids(connection, [document])
    assert np.array_equal(ids, KEY.passage_ids(PASSAGES))
    found = store.load_passages(connection, 1, ids.tolist())
    assert [found[passage_id].text for passage_id in ids.tolist()] == ["Ä first passage.", "A second one."]
    assert found[int(ids[1])].page == 2
    assert np.array_equal(store.load_vectors(connection, document, 8), np.eye(2, 8, dtype=np.float32))


def test_passages_are_found_in_their_own_collections_only(connection: sqlite3.Connection) -> None:
    document = insert(connection)
    store.link_document(connection, 1, document)
    assert store.load_passages(connection, 2, KEY.passage_ids(PASSAGES).tolist()) == {}


@pytest.mark.parametrize(
    "other",
    [
        DocumentKey("default", "cd" * 32, ".txt", Chunking(), "model@1"),
        DocumentKey("default", "ab" * 32, ".md", Chunking(), "model@1"),
        DocumentKey("default", "ab" * 32, ".txt", Chunking(100, 0), "model@1"),
        DocumentKey("default", "ab" * 32, ".txt", Chunking(200, 50), "model@1"),
    ],
)
def test_passage_ids_depend_on_what_passages_are_made_from(other: DocumentKey) -> None:
    assert not set(other.passage_ids(PASSAGES).tolist()) & set(KEY.passage_ids(PASSAGES).tolist())


def test_passage_ids_are_the_same_for_ever() -> None:
    assert KEY.passage_ids(PASSAGES[:1]).tolist() == [4581628723734226858]


def test_a_document_goes_with_its_last_collection(connection: sqlite3.Connection) -> None:
    document = insert(connection)
    assert store.link_document(connection, 1, document)
    assert not store.link_document(connection, 1, document)
    store.link_document(connection, 2, document)
    store.unlink_documents(connection, 1, [document])
    assert store.load_text(connection, document) == TEXT
    store.delete_collection(connection, 2)
    for table in ("documents", "document_texts", "document_vectors", "passages", "collection_documents"):
        assert connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] == 0, table


def test_a_segment_is_forgotten_with_the_first_document_it_loses(connection: sqlite3.Connection) -> None:
    first = insert(connection)
    second = insert(connection, DocumentKey("default", "cd" * 32, ".txt", Chunking(), "model@1"))
    for document in (first, second):
        store.link_document(connection, 1, document)
    store.replace_segment(connection, 1, "1-abc", 4)
    assert store.list_documents(connection, 1, is_unsaved=True) == []
    store.unlink_documents(connection, 1, [first])
    assert store.find_segment(connection, 1) is None
    assert store.list_documents(connection, 1, is_unsaved=True) == [second]


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        ("UPDATE document_texts SET text = text || '.'", "text is not what was written"),
        ("UPDATE document_vectors SET vectors = zeroblob(64)", "vectors are not what was written"),
        ("UPDATE passages SET text = 'x' WHERE row = 1", "passage 1 is not what was written"),
        ("UPDATE passages SET start = 1 WHERE row = 0", "passage 0 is not what was written"),
        ("DELETE FROM passages WHERE row = 0", "1 passages instead of 2"),
        ("DELETE FROM document_vectors", "vectors are not what was written"),
        ("DELETE FROM collection_documents", "in no collection"),
    ],
)
def test_damage_is_reported(connection: sqlite3.Connection, damage: str, fault: str) -> None:
    store.link_document(connection, 1, insert(connection))
    assert list(store.check_documents(connection, dim=8)) == []
    connection.execute(damage)
    assert any(fault in line for line in store.check_documents(connection, dim=8))
