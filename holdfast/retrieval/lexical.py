"""Which passages of a collection hold a question's words: BM25 by SQLite's FTS5, beside the passages themselves.

Each collection has an FTS5 table of its own, so that what is rare is judged by the collection alone. It changes in the
transaction that changes the collection: no crash parts the two, and nothing is loaded or rebuilt on start. The table
keeps words and places only, not a second copy of the texts. Deleting merges it into one segment at once, because that
is when FTS5 forgets the words of what was deleted.

Words are folded and stemmed by FTS5 (Unicode, no accents, Porter's endings). A question's function words are left
out: nearly every passage holds them, so they would cost most of the time and decide nothing. What is joined by a
hyphen, dot, colon or slash, as many names and numbers are, counts as its parts and once more as a whole.

Source: Robertson and Zaragoza, "The probabilistic relevance framework: BM25 and beyond" (2009), k1 = 1.2, b = 0.75.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Sequence

from holdfast.retrieval.words import spelled_words

MAX_TERMS = 64
"""distinct words and joined names of a question that are looked for: its first"""
SCORE_DIGITS = 9
"""decimals kept of a score: machines whose logarithms differ in the last bit rank alike"""
_JOINED = re.compile(r"\b\w++(?:[-./:]\w++)++")  # possessive, so that no text takes quadratic time
_WORDS_OF_PASSAGE = "COALESCE(heading || char(10), '') || text"


def add_words(connection: sqlite3.Connection, collection: int, document: int) -> None:
    """Make a document's passages findable in a collection by the words of their headings and texts."""
    table = _table(collection)
    connection.execute(
        f"CREATE VIRTUAL TABLE IF NOT EXISTS {table} USING fts5"
        "(text, content = '', tokenize = 'porter unicode61 remove_diacritics 2')"
    )
    connection.execute(
        f"INSERT INTO {table} (rowid, text) SELECT id, {_WORDS_OF_PASSAGE} FROM passages WHERE document = ?",
        (document,),
    )


def remove_words(connection: sqlite3.Connection, collection: int, documents: Sequence[int]) -> None:
    """Forget documents whose passages are still there. Cost: reads and writes all of the collection's words."""
    if not documents or not _exists(connection, collection):
        return
    table = _table(collection)
    for document in documents:
        connection.execute(
            f"INSERT INTO {table} ({table}, rowid, text) "
            f"SELECT 'delete', id, {_WORDS_OF_PASSAGE} FROM passages WHERE document = ?",
            (document,),
        )
    connection.execute(f"INSERT INTO {table} ({table}) VALUES ('optimize')")


def drop_words(connection: sqlite3.Connection, collection: int) -> None:
    """Forget all words of a collection."""
    connection.execute(f"DROP TABLE IF EXISTS {_table(collection)}")


def search_words(
    connection: sqlite3.Connection,
    collection: int,
    question: str,
    k: int,
    *,
    documents: Sequence[int] | None = None,
) -> list[tuple[int, float]]:
    """Return id and BM25 score of the best `k` passages that hold a word of `question`, score descending, then id.

    Args:
        connection: where the collection's documents are.
        collection: what to search.
        question: any text; its first `MAX_TERMS` terms count.
        k: results, at least 1.
        documents: only these documents' passages; None: all. The scores do not depend on it.
    """
    expression = _expression(question)
    if not expression or not _exists(connection, collection):
        return []
    table, condition, params = _table(collection), "", [expression]
    if documents is not None:
        # the + keeps SQLite from asking FTS5 once for each of these passages
        condition = "AND +rowid IN (SELECT id FROM passages WHERE document IN (SELECT value FROM json_each(?)))"
        params.append(json.dumps(list(documents)))
    rows = connection.execute(
        f"SELECT rowid, round(-bm25({table}), {SCORE_DIGITS}) AS score FROM {table} WHERE {table} MATCH ? {condition} "
        "ORDER BY score DESC, rowid < 0, rowid LIMIT ?",  # ids are unsigned: the negative ones come last
        (*params, k),
    )
    return [(int(row[0]) % 2**64, float(row[1])) for row in rows]


def check_words(connection: sqlite3.Connection, collection: int) -> list[str]:
    """Return a line if a collection's words are of other passages than it holds."""
    held = "SELECT p.id FROM passages p JOIN collection_documents c USING (document) WHERE c.collection = ?"
    known = f"SELECT id FROM {_table(collection)}_docsize" if _exists(connection, collection) else "SELECT 0 WHERE 0"
    differences = f"SELECT * FROM ({held} EXCEPT {known}) UNION ALL SELECT * FROM ({known} EXCEPT {held})"
    if connection.execute(differences, (collection, collection)).fetchone() is None:
        return []
    return [f"collection {collection}: its words are of other passages than it holds"]


def _expression(question: str) -> str:
    """Return what FTS5 is asked: any of the terms. Quotes make each a phrase of what FTS5 takes for its words."""
    joined = [found.group() for found in _JOINED.finditer(question)]
    terms = list(dict.fromkeys([*spelled_words(question), *(re.sub(r"\W", " ", name).lower() for name in joined)]))
    return " OR ".join(f'"{term}"' for term in terms[:MAX_TERMS])


def _exists(connection: sqlite3.Connection, collection: int) -> bool:
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    return connection.execute(query, (_table(collection),)).fetchone() is not None


def _table(collection: int) -> str:
    return f"words_{int(collection)}"
