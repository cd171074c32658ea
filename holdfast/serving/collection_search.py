"""Search of one vector store: index or exact vectors, words, attribute filters, and the file a passage is cited from.

Hybrid search takes from each store the passages nearest to the question and those that hold its words best, and fuses
the two over all stores. A passage's `score` is its cosine all the same, so that a threshold means one thing: fusing
decides which passages come, and in which order.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.retrieval import store
from holdfast.retrieval.exact import search_exact
from holdfast.retrieval.filters import Predicate
from holdfast.retrieval.fuse import fuse_rankings, fuse_scores
from holdfast.retrieval.index import BinaryIndex
from holdfast.retrieval.lexical import search_words
from holdfast.retrieval.segment_search import SearchResult
from holdfast.serving.engine.protocol import Source
from holdfast.serving.sealed_collection import SealedCollection

COMPLETED_FILES = """
SELECT f.id, f.filename, s.attributes, s.document FROM store_files s JOIN files f ON f.position = s.file
WHERE s.store = ? AND s.status = 'completed'"""

Observe = Callable[[int], None]

POOL_SIZE = 100
"""passages that each ranking brings into the fusion, whatever `k`: a longer result begins as a shorter one does"""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The weights of reciprocal rank fusion, as OpenAI's `hybrid_search` has them; one at least is above 0."""

    embedding_weight: float
    text_weight: float
    """0: nearness alone"""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A passage before the rankings are fused."""

    source: Source
    text_score: float
    """BM25 among its own store's passages, 0 where it is not among the best"""


def search_passages(
    connection: sqlite3.Connection,
    collection: int,
    index: BinaryIndex | None,
    queries: NDArray[np.float32],
    k: int,
    predicate: Predicate | None,
    sealed: SealedCollection | None = None,
    *,
    observe_rescored: Observe,
) -> list[Source]:
    """Return the best `k` passages over all `queries` (Q, dim), score descending, then passage id.

    Args:
        index: the codes to search; None: the stored vectors themselves.
        predicate: which files' passages count, by their attributes; None: all.
        sealed: where the passages are, if not in the database.
        observe_rescored: told how many passages were compared by better vectors than codes.
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
        allowed_ids = None
        if documents is not None:
            allowed_ids = sealed.passage_ids(documents) if sealed else store.load_passage_ids(connection, documents)
        result = index.search(queries, k, allowed_ids=allowed_ids)
        observe_rescored(int(result.num_rescored.sum()))
    return _to_sources(connection, collection, _merge(result, k), predicate, sealed)


def find_candidates(
    connection: sqlite3.Connection,
    collection: int,
    index: BinaryIndex,
    query: NDArray[np.float32],
    question: str,
    predicate: Predicate | None,
    sealed: SealedCollection | None = None,
    *,
    observe_rescored: Observe,
) -> list[Candidate]:
    """Return what one store has for `fuse_candidates`: the passages nearest to `query` (1, dim) and by `question`.

    A `sealed` store has no list of words, which would lie readable in the database: nearness alone counts.
    """
    documents = None if predicate is None else _matching_documents(connection, collection, predicate)
    if len(index) == 0 or (documents is not None and not documents):
        return []
    allowed_ids = None
    if documents is not None:
        allowed_ids = sealed.passage_ids(documents) if sealed else store.load_passage_ids(connection, documents)
    result = index.search(query, POOL_SIZE, allowed_ids=allowed_ids)
    observe_rescored(int(result.num_rescored.sum()))
    near = _merge(result, POOL_SIZE)
    text_scores = {}
    if sealed is None:
        text_scores = dict(search_words(connection, collection, question, POOL_SIZE, documents=documents))
    others = np.array(sorted(text_scores.keys() - dict(near).keys()), dtype=np.uint64)
    if len(others):
        result = index.search(query, len(others), allowed_ids=others)
        observe_rescored(int(result.num_rescored.sum()))
        near += _merge(result, len(others))
    sources = _to_sources(connection, collection, near, predicate, sealed)
    return [Candidate(source, text_scores.get(source.passage_id, 0.0)) for source in sources]


def fuse_candidates(candidates: Iterable[Candidate], ranking: Ranking | None) -> list[tuple[Source, float]]:
    """Return the candidates of one question, from any number of stores, with their worth, best first, then by id.

    `ranking` fuses ranks, None scores. A passage that several stores hold is the first one's.
    """
    known: dict[int, Candidate] = {}
    for candidate in candidates:
        known.setdefault(candidate.source.passage_id, candidate)
    cosines = {passage_id: candidate.source.score for passage_id, candidate in known.items()}
    text_scores = {passage_id: candidate.text_score for passage_id, candidate in known.items() if candidate.text_score}
    if ranking is None:
        fused = fuse_scores(cosines, text_scores)
    else:
        weights = [ranking.embedding_weight, ranking.text_weight]
        fused = fuse_rankings([_ranked(cosines), _ranked(text_scores)], weights)
    return [(known[passage_id].source, worth) for passage_id, worth in fused]


def best_fused(found: Sequence[Sequence[tuple[Source, float]]], k: int) -> list[Source]:
    """Return the best `k` over several questions, each passage by its best rank's worth, then by id."""
    best: dict[int, tuple[Source, float]] = {}
    for source, worth in (pair for fused in found for pair in fused):
        known = best.get(source.passage_id)
        if known is None or worth > known[1]:
            best[source.passage_id] = source, worth
    return [source for source, _ in sorted(best.values(), key=lambda pair: (-pair[1], pair[0].passage_id))[:k]]


def all_passages(connection: sqlite3.Connection, collection: int) -> list[Source]:
    """Return every passage of a collection as a search would, with score 0, by document and place."""
    ids = store.load_passage_ids(connection, store.list_documents(connection, collection)).tolist()
    passages = store.load_passages(connection, collection, ids)
    files = _cited_files(connection, collection, {passage.document for passage in passages.values()}, None)
    return [_to_source(passage, 0.0, files[passage.document]) for passage in passages.values()]


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


def _ranked(scores: Mapping[int, float]) -> list[int]:
    return sorted(scores, key=lambda passage_id: (-scores[passage_id], passage_id))


def _to_sources(
    connection: sqlite3.Connection,
    collection: int,
    scored: Sequence[tuple[int, float]],
    predicate: Predicate | None,
    sealed: SealedCollection | None,
) -> list[Source]:
    """Return the passages of (id, cosine) pairs, in their order."""
    ids = [passage_id for passage_id, _ in scored]
    passages = sealed.load_passages(ids) if sealed else store.load_passages(connection, collection, ids)
    files = _cited_files(connection, collection, {passage.document for passage in passages.values()}, predicate)
    return [
        _to_source(passages[passage_id], score, files[passages[passage_id].document], is_sealed=sealed is not None)
        for passage_id, score in scored
    ]


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


def _to_source(
    passage: store.StoredPassage, score: float, file: Mapping[str, Any], *, is_sealed: bool = False
) -> Source:
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
        is_sealed=is_sealed,
    )
