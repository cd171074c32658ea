"""The evaluation corpora, read from `HOLDFAST_EVAL_DATA`, and an index of their words."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import lzma
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.retrieval import lexical, store
from holdfast.retrieval.chunks import Chunking, Passage
from holdfast.retrieval.documents import Document
from holdfast.retrieval.store import DocumentKey

EVAL_DATA = Path(os.environ.get("HOLDFAST_EVAL_DATA", Path(__file__).parents[2] / "shared" / "data")).resolve()
EMBEDDING_CACHE = Path(os.environ.get("HOLDFAST_EVAL_CACHE", Path.home() / ".cache" / "holdfast")) / "embeddings.bin"


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a gzipped JSON-lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def book_paragraphs(limit: int) -> list[str]:
    """Return the first `limit` book paragraphs of 150 to 400 characters: distractors for a large merged corpus."""
    found: list[str] = []
    for path in sorted((EVAL_DATA / "lm_text").glob("books_*.txt.xz")):
        with lzma.open(path, "rt", encoding="utf-8") as lines:
            paragraph: list[str] = []
            for line in lines:
                if line.strip():
                    paragraph.append(line.strip())
                    continue
                text = " ".join(paragraph)
                paragraph = []
                if 150 <= len(text) <= 400:
                    found.append(text)
                    if len(found) == limit:
                        return found
    return found


class WordIndex:
    """Texts in a database in memory, as a server's store holds them, found by their words."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.row_factory = sqlite3.Row
        self.connection.executescript(store.SCHEMA)
        collection = self.connection.execute("INSERT INTO collections DEFAULT VALUES").lastrowid
        ends = list(itertools.accumulate(len(text) + 1 for text in texts))
        passages = [Passage(end - 1 - len(text), end - 1, None, None) for text, end in zip(texts, ends, strict=True)]
        whole = "\n".join(texts)
        key = DocumentKey("", hashlib.sha256(whole.encode()).hexdigest(), ".txt", Chunking(), "none")
        vectors = np.zeros((len(texts), 1), dtype=np.float32)
        document = store.insert_document(self.connection, key, Document(whole, (), "text"), passages, vectors)
        self._rows = {passage_id: row for row, passage_id in enumerate(key.passage_ids(passages).tolist())}
        assert collection is not None
        store.link_document(self.connection, collection, document)
        self._collection = collection

    def search(self, question: str, k: int) -> dict[int, float]:
        """Return row -> BM25 score of the best `k` texts."""
        found = lexical.search_words(self.connection, self._collection, question, k)
        return {self._rows[passage_id]: score for passage_id, score in found}
