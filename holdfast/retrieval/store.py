"""Documents, passages, vectors and words in SQLite, and which collections hold which documents.

This is the truth; indexes are derived from it and can be made again. Functions take the connection they work on, and
the caller owns the transaction. A document is known by what it was made from (`DocumentKey`), so the same bytes are
read and embedded once; a passage's id derives from its document's content and its place there, so it is the same in
every collection and after every re-upload.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdfast.retrieval.chunks import Chunking, Passage
from holdfast.retrieval.documents import Document
from holdfast.retrieval.lexical import add_words, check_words, drop_words, remove_words

SCHEMA = """
CREATE TABLE documents (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    owner TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    reader TEXT NOT NULL,
    max_tokens INTEGER NOT NULL,
    overlap_tokens INTEGER NOT NULL,
    model_id TEXT NOT NULL,
    format TEXT NOT NULL,
    num_passages INTEGER NOT NULL,
    num_bytes INTEGER NOT NULL,
    UNIQUE (owner, sha256, reader, max_tokens, overlap_tokens, model_id)
) STRICT;

CREATE TABLE document_texts (
    document INTEGER PRIMARY KEY REFERENCES documents (id) ON DELETE CASCADE,
    text TEXT NOT NULL,
    checksum BLOB NOT NULL
) STRICT;

CREATE TABLE document_vectors (
    document INTEGER PRIMARY KEY REFERENCES documents (id) ON DELETE CASCADE,
    ids BLOB NOT NULL,
    vectors BLOB NOT NULL,
    checksum BLOB NOT NULL
) STRICT;

CREATE TABLE passages (
    document INTEGER NOT NULL REFERENCES documents (id) ON DELETE CASCADE,
    row INTEGER NOT NULL,
    id INTEGER NOT NULL,
    start INTEGER NOT NULL,
    end INTEGER NOT NULL,
    page INTEGER,
    heading TEXT,
    text TEXT NOT NULL,
    UNIQUE (document, row)
) STRICT;
CREATE INDEX passages_by_id ON passages (id, document);

CREATE TABLE collections (id INTEGER PRIMARY KEY AUTOINCREMENT) STRICT;

CREATE TABLE segments (
    name TEXT PRIMARY KEY,
    collection INTEGER NOT NULL UNIQUE REFERENCES collections (id) ON DELETE CASCADE,
    num_passages INTEGER NOT NULL
) STRICT;

CREATE TABLE collection_documents (
    collection INTEGER NOT NULL REFERENCES collections (id) ON DELETE CASCADE,
    document INTEGER NOT NULL REFERENCES documents (id),
    segment TEXT REFERENCES segments (name) ON DELETE SET NULL,
    PRIMARY KEY (collection, document)
) STRICT, WITHOUT ROWID;
CREATE INDEX collections_by_document ON collection_documents (document);
CREATE INDEX documents_by_segment ON collection_documents (segment);
"""


@dataclass(frozen=True, slots=True)
class DocumentKey:
    """What a document's text, passages and vectors follow from."""

    owner: str
    """whose it is: a tenant's, or one collection's where nothing is shared with others"""
    sha256: str
    """of the file's bytes, in hex; a keyed digest where the plain one would tell which file it is"""
    reader: str
    """the filename's ending, in lower case: it chooses how the bytes are read"""
    chunking: Chunking
    model_id: str
    """of the embedder"""

    def passage_ids(self, passages: Sequence[Passage]) -> NDArray[np.uint64]:
        """Return (N,) ids that depend on the bytes, their reading, the chunking and each passage's place."""
        made_from = f"{self.sha256}\0{self.reader}\0{self.chunking.max_tokens}\0{self.chunking.overlap_tokens}"
        digests = [hashlib.sha256(f"{made_from}\0{passage.start}\0{passage.end}".encode()) for passage in passages]
        return np.frombuffer(b"".join(digest.digest()[:8] for digest in digests), dtype=">u8").astype(np.uint64)


@dataclass(frozen=True, slots=True)
class StoredPassage:
    """A passage as it lies in the database."""

    id: int
    document: int
    start: int
    end: int
    page: int | None
    heading: str | None
    text: str


def find_document(connection: sqlite3.Connection, key: DocumentKey) -> int | None:
    """Return the document made from `key`, if it is there."""
    row = connection.execute(
        "SELECT id FROM documents WHERE owner = ? AND sha256 = ? AND reader = ? AND max_tokens = ? "
        "AND overlap_tokens = ? AND model_id = ?",
        _key_columns(key),
    ).fetchone()
    return None if row is None else int(row["id"])


def insert_document(
    connection: sqlite3.Connection,
    key: DocumentKey,
    document: Document,
    passages: Sequence[Passage],
    vectors: NDArray[np.float32],
) -> int:
    """Store a document with its passages and their (N, dim) unit-norm vectors; return its row id."""
    assert vectors.shape[0] == len(passages), vectors.shape
    text = document.text.encode()
    floats = vectors.astype("<f4").tobytes()
    texts = [document.text[passage.start : passage.end] for passage in passages]
    num_bytes = len(text) + len(floats) + sum(len(passage.encode()) for passage in texts)
    document_id = insert_document_row(connection, key, document.format, len(passages), num_bytes)
    connection.execute("INSERT INTO document_texts VALUES (?, ?, ?)", (document_id, document.text, _checksum(text)))
    ids = key.passage_ids(passages)
    id_bytes = ids.astype("<u8").tobytes()
    connection.execute(
        "INSERT INTO document_vectors VALUES (?, ?, ?, ?)",
        (document_id, id_bytes, floats, _checksum(id_bytes + floats)),
    )
    signed_ids = ids.view(np.int64).tolist()
    connection.executemany(
        "INSERT INTO passages (document, row, id, start, end, page, heading, text) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (document_id, row, signed_ids[row], passage.start, passage.end, passage.page, passage.heading, texts[row])
            for row, passage in enumerate(passages)
        ],
    )
    return document_id


def insert_document_row(
    connection: sqlite3.Connection, key: DocumentKey, file_format: str, num_passages: int, num_bytes: int
) -> int:
    """Note that a document exists, without its contents; return its row id."""
    document_id = connection.execute(
        "INSERT INTO documents (owner, sha256, reader, max_tokens, overlap_tokens, model_id, format, num_passages, "
        "num_bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*_key_columns(key), file_format, num_passages, num_bytes),
    ).lastrowid
    assert document_id is not None
    return document_id


def link_document(connection: sqlite3.Connection, collection: int, document: int) -> bool:
    """Put a document into a collection; return False if it was there already."""
    cursor = connection.execute(
        "INSERT OR IGNORE INTO collection_documents (collection, document) VALUES (?, ?)", (collection, document)
    )
    if cursor.rowcount != 1:
        return False
    add_words(connection, collection, document)
    return True


def unlink_documents(connection: sqlite3.Connection, collection: int, documents: Sequence[int]) -> None:
    """Take documents out of a collection, and delete those that no other holds.

    A saved segment that still has their codes is forgotten: its other documents count as unsaved again.
    """
    remove_words(connection, collection, documents)
    for document in documents:
        connection.execute(
            "DELETE FROM segments WHERE name = (SELECT segment FROM collection_documents "
            "WHERE collection = ? AND document = ?)",
            (collection, document),
        )
        connection.execute(
            "DELETE FROM collection_documents WHERE collection = ? AND document = ?", (collection, document)
        )
        connection.execute(
            "DELETE FROM documents WHERE id = ? "
            "AND NOT EXISTS (SELECT 1 FROM collection_documents c WHERE c.document = documents.id)",
            (document,),
        )


def delete_collection(connection: sqlite3.Connection, collection: int) -> None:
    """Delete a collection and the documents that no other holds."""
    drop_words(connection, collection)
    rows = connection.execute("SELECT document FROM collection_documents WHERE collection = ?", (collection,))
    unlink_documents(connection, collection, [int(row["document"]) for row in rows.fetchall()])
    connection.execute("DELETE FROM collections WHERE id = ?", (collection,))


def load_text(connection: sqlite3.Connection, document: int) -> str:
    """Return the text that passages' offsets point into."""
    return str(connection.execute("SELECT text FROM document_texts WHERE document = ?", (document,)).fetchone()["text"])


def load_passages(connection: sqlite3.Connection, collection: int, ids: Sequence[int]) -> dict[int, StoredPassage]:
    """Return those of the passages `ids` that the collection holds, by id."""
    rows = connection.execute(
        "SELECT p.* FROM passages p JOIN collection_documents c ON c.document = p.document "
        "WHERE p.id IN (SELECT value FROM json_each(?)) AND c.collection = ?",
        (json.dumps([_to_signed(passage_id) for passage_id in ids]), collection),
    )
    found = {}
    for row in rows:
        passage_id = int(row["id"]) % 2**64
        found[passage_id] = StoredPassage(
            passage_id, row["document"], row["start"], row["end"], row["page"], row["heading"], row["text"]
        )
    return found


def load_passage_ids(connection: sqlite3.Connection, documents: Sequence[int]) -> NDArray[np.uint64]:
    """Return the (N,) passage ids of `documents`, in the documents' order and each by row."""
    query = "SELECT ids FROM document_vectors WHERE document = ?"
    data = b"".join(connection.execute(query, (document,)).fetchone()["ids"] for document in documents)
    return np.frombuffer(data, dtype="<u8").astype(np.uint64)


def load_vectors(connection: sqlite3.Connection, document: int, dim: int) -> NDArray[np.float32]:
    """Return a document's (N, dim) float32 vectors by row."""
    row = connection.execute("SELECT vectors FROM document_vectors WHERE document = ?", (document,)).fetchone()
    return np.frombuffer(row["vectors"], dtype="<f4").reshape(-1, dim)


def list_documents(connection: sqlite3.Connection, collection: int, *, is_unsaved: bool = False) -> list[int]:
    """Return the documents of a collection, or only those that are in no segment."""
    condition = "AND segment IS NULL" if is_unsaved else ""
    rows = connection.execute(
        f"SELECT document FROM collection_documents WHERE collection = ? {condition} ORDER BY document", (collection,)
    )
    return [int(row["document"]) for row in rows]


def iterate_vectors(
    connection: sqlite3.Connection, documents: Sequence[int], dim: int
) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.float32]]]:
    """Yield each document's passage ids (N,) and vectors (N, dim)."""
    for document in documents:
        yield load_passage_ids(connection, [document]), load_vectors(connection, document, dim)


def find_segment(connection: sqlite3.Connection, collection: int) -> str | None:
    """Return the name of the collection's saved segment."""
    row = connection.execute("SELECT name FROM segments WHERE collection = ?", (collection,)).fetchone()
    return None if row is None else str(row["name"])


def replace_segment(connection: sqlite3.Connection, collection: int, name: str | None, num_passages: int = 0) -> None:
    """Say that segment `name` holds all documents of the collection now; None: that there is none."""
    connection.execute("DELETE FROM segments WHERE collection = ?", (collection,))
    if name is not None:
        connection.execute("INSERT INTO segments VALUES (?, ?, ?)", (name, collection, num_passages))
        connection.execute("UPDATE collection_documents SET segment = ? WHERE collection = ?", (name, collection))


def check_documents(connection: sqlite3.Connection, dim: int, *, elsewhere: Container[int] = ()) -> Iterator[str]:
    """Yield one line per fault: checksums, passages against texts, documents held by nothing, words of others.

    The contents of the documents `elsewhere` are not kept here.
    """
    rows = connection.execute(
        "SELECT d.*, t.text, t.checksum AS text_checksum, v.ids, v.vectors, v.checksum AS vectors_checksum, "
        "EXISTS (SELECT 1 FROM collection_documents c WHERE c.document = d.id) AS is_held "
        "FROM documents d LEFT JOIN document_texts t ON t.document = d.id "
        "LEFT JOIN document_vectors v ON v.document = d.id ORDER BY d.id"
    )
    for row in rows:
        name = f"document {row['id']} ({row['sha256'][:12]})"
        if not row["is_held"]:
            yield f"{name}: in no collection"
        if row["id"] in elsewhere:
            continue
        if row["text"] is None or _checksum(row["text"].encode()) != row["text_checksum"]:
            yield f"{name}: its text is not what was written"
            continue
        if row["vectors"] is None or _checksum(row["ids"] + row["vectors"]) != row["vectors_checksum"]:
            yield f"{name}: its vectors are not what was written"
        elif len(row["vectors"]) != 4 * dim * row["num_passages"]:
            yield f"{name}: {len(row['vectors'])} bytes of vectors for {row['num_passages']} passages"
        chunking = Chunking(row["max_tokens"], row["overlap_tokens"])
        key = DocumentKey(row["owner"], row["sha256"], row["reader"], chunking, row["model_id"])
        yield from _check_passages(connection, name, row["id"], key, row["text"], row["num_passages"])
    for row in connection.execute("SELECT id FROM collections ORDER BY id").fetchall():
        yield from check_words(connection, row["id"])


def _check_passages(
    connection: sqlite3.Connection, name: str, document: int, key: DocumentKey, text: str, num_passages: int
) -> Iterator[str]:
    rows = connection.execute("SELECT * FROM passages WHERE document = ? ORDER BY row", (document,)).fetchall()
    if len(rows) != num_passages:
        yield f"{name}: {len(rows)} passages instead of {num_passages}"
    ids = key.passage_ids([Passage(row["start"], row["end"], None, None) for row in rows]).view(np.int64).tolist()
    for row, passage_id in zip(rows, ids, strict=True):
        if text[row["start"] : row["end"]] != row["text"] or row["id"] != passage_id:
            yield f"{name}: passage {row['row']} is not what was written"


def _key_columns(key: DocumentKey) -> tuple[str, str, str, int, int, str]:
    chunking = key.chunking
    return key.owner, key.sha256, key.reader, chunking.max_tokens, chunking.overlap_tokens, key.model_id


def _checksum(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _to_signed(passage_id: int) -> int:
    """SQLite's integers are signed."""
    return passage_id - 2**64 if passage_id >= 2**63 else passage_id
