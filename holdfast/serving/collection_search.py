"""Search of one vector store: index or exact vectors, attribute filters, and the file each passage is cited from."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.retrieval import store
from holdfast.retrieval.exact import search_exact
from holdfast.retrieval.filters import Predicate
from holdfast.retrieval.index import BinaryIndex, SearchResult
from holdfast.serving.engine.protocol import Source

COMPLETED_FILES = """
SELECT f.id, f.filename, s.attributes, s.document FROM store_files s JOIN files f ON f.position = s.file
WHERE s.store = ? AND s.status = 'completed'"""


def search_passages(
    connection: sqlite3.Connection,
    collection: int,
    index: BinaryIndex | None,
    queries: NDArray[np.float32],
    k: int,
    predicate: Predicate | None,
) -> list[Source]:
    """Return the best `k` passages over all `queries` (Q, dim), score descending, then passage id.

    Args:
        index: the codes to search; None: the stored vectors themselves.
        predicate: which files' passages count, by their attributes; None: all.
    """
    documents = None if predicate is None else _matching_documents(connection, collection, predicate)
    if documents is not None and not documents:
        return []
    if index is None:
        parts = store.iterate_vectors(
            connection,
            store.list_documents(connection, collection) if documents is None else documents,
            dim=queries.shape[1],
        )
        result = search_exact(parts, queries, k)
    elif len(index) == 0:
        return []
    else:
        allowed_ids = None if documents is None else store.load_passage_ids(connection, documents)
        result = index.search(queries, k, allowed_ids=allowed_ids)
    best = _merge(result, k)
    passages = store.load_passages(connection, collection, [passage_id for passage_id, _ in best])
    files = _cited_files(connection, collection, {passage.document for passage in passages.values()}, predicate)
    return [_to_source(passages[passage_id], score, files[passages[passage_id].document]) for passage_id, score in best]


def best_sources(found: Sequence[Sequence[Source]], k: int) -> list[Source]:
    """Return the best `k` over several searches; a passage found twice counts once, with its best score."""
    best: dict[int, Source] = {}
    for sources in found:
        for source in sources:
            known = best.get(source.passage_id)
            if known is None or source.score > known.score:
                best[source.passage_id] = source
    return sorted(best.values(), key=lambda source: (-source.score, source.passage_id))[:k]


def _merge(result: SearchResult, k: int) -> list[tuple[int, float]]:
    best: dict[int, float] = {}
    for passage_id, score in zip(result.ids.ravel().tolist(), result.scores.ravel().tolist(), strict=True):
        best[passage_id] = max(best.get(passage_id, 0.0), min(score, 1.0))
    return sorted(best.items(), key=lambda item: (-item[1], item[0]))[:k]


def _matching_documents(connection: sqlite3.Connection, collection: int, predicate: Predicate) -> list[int]:
    rows = connection.execute(COMPLETED_FILES, (collection,))
    return sorted({int(row["document"]) for row in rows if predicate(json.loads(row["attributes"]))})


def _cited_files(
    connection: sqlite3.Connection, collection: int, documents: set[int], predicate: Predicate | None
) -> dict[int, Mapping[str, Any]]:
    """Return for each document the matching file that was attached first, then by id."""
    cited: dict[int, Mapping[str, Any]] = {}
    pointing = f"{COMPLETED_FILES} AND s.document = ? ORDER BY s.created_at, f.id"
    for document in documents:
        for row in connection.execute(pointing, (collection, document)):
            attributes = json.loads(row["attributes"])
            if predicate is None or predicate(attributes):
                cited[document] = {"id": row["id"], "filename": row["filename"], "attributes": attributes}
                break
    return cited


def _to_source(passage: store.StoredPassage, score: float, file: Mapping[str, Any]) -> Source:
    return Source(
        passage_id=passage.id,
        file_id=file["id"],
        filename=file["filename"],
        text=passage.text,
        start=passage.start,
        end=passage.end,
        page=passage.page,
        heading=passage.heading,
        score=score,
        attributes=file["attributes"],
    )
