"""One collection whose vectors a store ranks by their encodings: modes `asym`, `sap`, `codes` and `caprise`.

Texts lie in sealed objects under the manifest, as in `sealed` mode, and so do the exact vectors, a document's in one.
Until there are enough passages to take a mean of, the gateway ranks: it has all vectors in memory. Then rows and
canaries go to the ranking store, and the gateway keeps in memory only how many rows each document has in each cell.

Rows are in the store before the manifest lists their document, and leave it after. So what a crash leaves is rows of no
document, which loading removes; a row that is missing when the collection is loaded is the store's doing, and an error.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import TamperError
from holdfast.privacy import distance
from holdfast.privacy.canaries import make_canaries
from holdfast.privacy.distance import PlainVector, centre_of
from holdfast.privacy.keys import EpochKeys
from holdfast.privacy.noise import GUESS_DISTANCE, Account
from holdfast.privacy.overfetch import DEFAULT_CANDIDATES, NOISY_CANDIDATES
from holdfast.privacy.seal import Kind
from holdfast.privacy.tokens import RowNames
from holdfast.retrieval.ranking_store import RankedRow, RankingStore
from holdfast.retrieval.store import StoredPassage
from holdfast.serving import ranked_tables, sealed_tables
from holdfast.serving.database import Database
from holdfast.serving.parsed_document import ParsedDocument
from holdfast.serving.ranked_epoch import EpochRanking, RankingStats
from holdfast.serving.ranked_rows import (
    GROUP,
    DocumentVectors,
    EpochRows,
    Parameters,
    parameters_name,
    row_ids,
    vectors_name,
)
from holdfast.serving.sealed_collection import Addition, SealedCollection
from holdfast.serving.sealed_document import SealedDocument, to_blocks, to_objects
from holdfast.serving.sealed_index import OpenIndex
from holdfast.serving.sealed_objects import ObjectName, SealedObjects
from holdfast.serving.sealed_parts import Part
from holdfast.serving.sealed_tables import SealedRow

NUM_CANARIES = 512
"""the loss of one row in a hundred is noticed, once all were asked for, with a probability of 0.994"""
OVERSAMPLING = 4
"""candidates for each result, beyond the published number for ten; twice as many where questions carry noise"""
UPSERT_SIZE = 1000
STORE = "ranking"


@dataclass(frozen=True, slots=True)
class RankedPassage:
    """A passage that was found."""

    passage_id: int
    score: float
    """cosine, with the 8-bit vector"""
    number: int
    """of the sealed document"""
    row: int
    """which passage of it"""


@dataclass(frozen=True, slots=True)
class RankedAddition(Addition):
    """A document whose objects and rows are stored and whose row of the database is not there yet."""

    vectors: DocumentVectors


class RankedCollection(SealedCollection):
    """The contents of one vector store in a ranking mode. Safe to call from many threads.

    Args:
        open_store: opens the collection's table in the ranking store; called once, when it is first needed.
        options: what the collection was made with.
        stats: where to count.
    """

    def __init__(
        self,
        row: SealedRow,
        objects: SealedObjects,
        database: Database,
        *,
        dim: int,
        cache_bytes: int,
        open_store: Callable[[], RankingStore],
        options: ranked_tables.RankingOptions,
        stats: RankingStats,
    ) -> None:
        super().__init__(row, objects, database, dim=dim, cache_bytes=cache_bytes, rows_bytes=0, num_decoys=0)
        self._open_store = open_store
        self._opened_store: RankingStore | None = None
        self._options = options
        self._stats = stats
        self._ledger = ranked_tables.load_ledger(database.read(), row.collection)
        self._rankings: dict[int, EpochRanking] = {}
        """by epoch; none while the gateway ranks"""
        self._vectors: dict[int, DocumentVectors] | None = None
        """by document, where the gateway ranks"""

    # searching

    def search(
        self, queries: NDArray[np.float32], k: int, documents: Sequence[int] | None
    ) -> list[RankedPassage]:
        """Return the best `k` passages over all `queries` (Q, dim), inside `reading`; score descending, then id.

        Args:
            documents: rows of the database whose passages count; None: all.
        """
        numbers = None
        if documents is not None:
            wanted = set(documents)
            numbers = {number for number, sealed in self._documents.items() if sealed.document in wanted}
        best: dict[int, RankedPassage] = {}
        are_sent = [bool(self._rankings) and self._may_send(query) for query in queries]
        for query, is_sent in zip(queries, are_sent, strict=True):
            rank = self._rank_there if is_sent else self._rank_here
            for passage in rank(query, k, numbers):
                known = best.get(passage.passage_id)
                if known is None or passage.score > known.score:
                    best[passage.passage_id] = passage
        found = sorted(best.values(), key=lambda passage: (-passage.score, passage.passage_id))[:k]
        if any(are_sent):
            self._stats.add(rows_returned=len(found))
        return found

    def load_found(self, found: Sequence[RankedPassage]) -> dict[int, StoredPassage]:
        """Return the passages that `search` found, by id, inside the same `reading`."""
        places = {passage.passage_id: (passage.number, passage.row) for passage in found}
        return self._texts.load_passages(places, self._documents)

    def _rank_there(
        self, query: NDArray[np.float32], k: int, numbers: Collection[int] | None
    ) -> Iterator[RankedPassage]:
        is_noisy = self._options.query_noise is not None
        least, oversampling = (NOISY_CANDIDATES, 2 * OVERSAMPLING) if is_noisy else (DEFAULT_CANDIDATES, OVERSAMPLING)
        for ranking in self._rankings.values():
            rows = ranking.nearest(query, max(least, oversampling * k), numbers)
            for row in rows:
                if row.number in self._documents and (numbers is None or row.number in numbers):
                    [score] = _cosines(row.vector[None], query).tolist()
                    yield RankedPassage(row.passage_id, score, row.number, row.row)

    def _rank_here(
        self, query: NDArray[np.float32], k: int, numbers: Collection[int] | None
    ) -> Iterator[RankedPassage]:
        if self._vectors is None:
            self._vectors = self._load_vectors(list(self._documents.values()))
        for number, document in self._vectors.items():
            if len(document) and number in self._documents and (numbers is None or number in numbers):
                scores = _cosines(document.vectors, query)
                for row in np.argsort(-scores, kind="stable")[:k].tolist():
                    yield RankedPassage(int(document.ids[row]), float(scores[row]), number, row)

    def _may_send(self, query: NDArray[np.float32]) -> bool:
        """Charge the account for sending a question; False when its budget is spent, and the gateway has to rank."""
        if self._options.query_noise is None:
            return True
        account = Account(self.row.tenant, self.row.prefix, STORE)
        for ranking in self._rankings.values():
            assert ranking.noise is not None
            mu = ranking.noise.mu(GUESS_DISTANCE, self._dim)
            if self._ledger.charge(account, ranking.release_id(query), mu) == "sealed":
                return False
        ranked_tables.save_ledger(self._database, self.row.collection, self._ledger)
        return True

    # changing

    def load(self) -> None:
        """Inside `changing`: read the manifest, compare the rows, and remove what has no document, unless it is done.

        Raises:
            TamperError: rows are missing, or the objects are not what the manifest says.
        """
        if self._open is not None and self._objects.is_loaded:
            return
        with self._lock.writing():
            self._open = None
            connection = self._database.read()
            self._load_manifest(connection)
            self._documents = {d.number: d for d in sealed_tables.list_documents(connection, self.row.collection)}
            self._texts.forget()
            self._rankings, self._vectors = {}, None
            for keys in self._objects.all_keys():
                if parameters_name(keys) in self._objects:
                    [data] = self._objects.get([parameters_name(keys)]).values()
                    self._rankings[keys.epoch] = self._ranking(keys, Parameters.from_bytes(data, self._dim))
            if self._rankings:
                self._compare_rows()
            else:
                self._vectors = self._load_vectors([d for d in self._documents.values() if self._is_listed(d)])
            self._open = OpenIndex(self._dim, self._parts.load_cells, 0, 0)
        self._remove_orphans()

    def add(self, parsed: ParsedDocument, ids: NDArray[np.uint64]) -> Addition:
        """Inside `changing`: store a document's rows and objects; it is found once `publish` was called."""
        keys = self._newest()
        sealed = sealed_tables.new_document(len(to_blocks(parsed.document.text)))
        vectors = DocumentVectors.of(sealed.number, ids, parsed.vectors.reshape(-1, self._dim))
        objects = to_objects(sealed, keys, parsed.document.text, parsed.passages)
        objects[vectors_name(sealed, keys)] = vectors.to_bytes()
        if self._rankings:
            self._begin_epoch(keys)
            self._upsert(self._rankings[keys.epoch].rows.rows(vectors))
        num_bytes = sum(map(len, objects.values()))
        part, rows = Part.of_document(sealed.number, ids[:0], vectors.vectors[:0], self._dim)
        return RankedAddition(sealed, None, part, rows, self._objects.commit(objects), num_bytes, vectors)

    def publish(self, added: Addition, document: int) -> None:
        """Inside `committing`: let searches find a document that is a row of the database now."""
        super().publish(added, document)
        assert isinstance(added, RankedAddition)
        vectors, epoch = added.vectors, self._newest().epoch
        if self._vectors is not None:
            self._vectors[vectors.number] = vectors
        if epoch in self._rankings:
            ranking = self._rankings[epoch]
            ranking.add(vectors.number, ranking.rows.ids(vectors.number, len(vectors)))

    def hide(self, documents: Sequence[SealedDocument]) -> None:
        """Inside `committing`: let searches find nothing of documents whose rows are being deleted."""
        for sealed in documents:
            self._documents.pop(sealed.number, None)
            for ranking in self._rankings.values():
                ranking.remove(sealed.number)
            if self._vectors is not None:
                self._vectors.pop(sealed.number, None)

    def remove(self, documents: Sequence[SealedDocument]) -> None:
        """Inside `changing`: remove hidden documents, whose rows are gone, from the manifest and the stores."""
        names = self._listed_names(documents)
        gone = self._load_vectors([sealed for sealed in documents if self._is_listed(sealed)])
        self._commit({}, names)
        self._objects.sweep(names)
        self._texts.forget()
        if self._rankings:
            all_keys = self._objects.all_keys()
            self._store().delete_rows(
                [each for keys in all_keys for vectors in gone.values() for each in _row_ids(keys, vectors)]
            )

    def merge_parts_if_due(self) -> None:
        """Let the store rank, once there are passages enough to take a mean of; searches go on."""
        with self.changing():
            self.load()
            if self._rankings or self._vectors is None or len(self._objects.all_keys()) > 1:
                return
            documents = [document for document in self._vectors.values() if len(document)]
            if sum(map(len, documents)) < distance.MIN_CENTRE_ROWS:
                return
            vectors = np.concatenate([document.vectors for document in documents])
            keys = self._newest()
            unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            generator = np.random.default_rng(secrets.randbits(128))
            canaries = make_canaries(unit, _canary_ids(keys, NUM_CANARIES), generator)
            parameters = Parameters(centre_of(PlainVector(vectors)), canaries)
            ranking = self._ranking(keys, parameters)
            self._upsert(ranking.rows.canary_rows())
            for document in documents:
                self._upsert(ranking.rows.rows(document))
                ranking.add(document.number, ranking.rows.ids(document.number, len(document)))
            self._commit({parameters_name(keys): parameters.to_bytes()}, [])
            with self._lock.writing():
                self._rankings, self._vectors = {keys.epoch: ranking}, None

    def delete_objects(self) -> None:
        """Delete everything from both stores, inside `changing`."""
        super().delete_objects()
        self._store().drop()

    # rotation

    def rotate_some(self, max_objects: int) -> int:
        """Seal and encode documents of older epochs under the newest one; return how many are left to do.

        Searches go on meanwhile, over both epochs. Rows get new ids, new cells, new noise.
        """
        with self.changing():
            self.load()
            keys = self._newest()
            old = [other for other in self._objects.all_keys() if other.epoch != keys.epoch]
            if self._rankings:
                self._begin_epoch(keys)
            waiting = [
                (sealed, other)
                for sealed in self._documents.values()
                for other in old
                if sealed.table_name(other) in self._objects
            ]
            chosen: list[tuple[SealedDocument, EpochKeys]] = []
            num_objects = 0
            while waiting and num_objects < max_objects:
                chosen.append(waiting.pop())
                num_objects += chosen[-1][0].num_blocks + 2
            if chosen:
                self._rotate_documents(chosen, keys)
            if not waiting:
                self._end_epochs(old)
            return len(waiting)

    def _begin_epoch(self, keys: EpochKeys) -> None:
        """Give the newest epoch an encoding and canaries of its own, unless it has them."""
        if keys.epoch in self._rankings:
            return
        before = self._rankings[max(self._rankings)].rows.parameters
        canaries = make_canaries(before.canaries.vectors, _canary_ids(keys, len(before.canaries.row_ids)))
        parameters = Parameters(before.centre, canaries)
        ranking = self._ranking(keys, parameters)
        self._upsert(ranking.rows.canary_rows())
        self._commit({parameters_name(keys): parameters.to_bytes()}, [])
        with self._lock.writing():
            self._rankings[keys.epoch] = ranking

    def _rotate_documents(self, chosen: Sequence[tuple[SealedDocument, EpochKeys]], new: EpochKeys) -> None:
        """Seal and encode documents, each with the keys it has, under the `new` ones."""
        renamed = {
            before: after
            for sealed, old in chosen
            for before, after in zip(self._names(sealed, old), self._names(sealed, new), strict=True)
        }
        bodies = self._objects.get(list(renamed))
        rotated = [
            (DocumentVectors.from_bytes(sealed.number, bodies[vectors_name(sealed, old)], self._dim), old)
            for sealed, old in chosen
        ]
        ranking = self._rankings.get(new.epoch)
        if ranking is not None:
            self._upsert([row for vectors, _ in rotated for row in ranking.rows.rows(vectors)])
        self._commit({after: bodies[before] for before, after in renamed.items()}, list(renamed))
        with self._lock.writing():  # and whoever reads what is gone has finished
            if ranking is not None:
                for vectors, old in rotated:
                    ranking.add(vectors.number, ranking.rows.ids(vectors.number, len(vectors)))
                    self._rankings[old.epoch].remove(vectors.number)
        if ranking is not None:
            self._store().delete_rows([each for vectors, old in rotated for each in _row_ids(old, vectors)])
        self._objects.sweep(list(renamed))

    def _end_epochs(self, old: Sequence[EpochKeys]) -> None:
        """Remove what is left of older epochs, of which no document is."""
        names = [parameters_name(keys) for keys in old if parameters_name(keys) in self._objects]
        if not names:
            return
        ended = [self._rankings[keys.epoch] for keys in old if keys.epoch in self._rankings]
        self._commit({}, names)
        with self._lock.writing():
            for ranking in ended:
                del self._rankings[ranking.rows.keys.epoch]
        self._store().delete_rows([each for r in ended for each in r.rows.parameters.canaries.row_ids])
        self._objects.sweep(names)

    # checking

    def _check_documents(self) -> Iterator[str]:
        for sealed in sorted(self._documents.values(), key=lambda each: each.document):
            if not self._texts.is_whole(sealed) or not self._is_listed(sealed):
                yield f"document {sealed.document}: objects of it are missing"
                continue
            table = self._texts.load_tables({sealed.number: sealed})[sealed.number]
            [vectors] = self._load_vectors([sealed]).values()
            if len(vectors) != len(table):
                yield f"document {sealed.document}: {len(vectors)} vectors, not {len(table)}"
            if len(table) and int(table.ends.max()) > len(self._texts.load_text(sealed)):
                yield f"document {sealed.document}: passages reach beyond its text"

    # inside

    def _names(self, sealed: SealedDocument, keys: EpochKeys) -> list[ObjectName]:
        return [*super()._names(sealed, keys), vectors_name(sealed, keys)]

    def _commit(self, added: Mapping[ObjectName, bytes], removed: Sequence[ObjectName]) -> None:
        self._save_anchor(self._objects.commit(added, removed))

    def _store(self) -> RankingStore:
        if self._opened_store is None:
            self._opened_store = self._open_store()
        return self._opened_store

    def _ranking(self, keys: EpochKeys, parameters: Parameters) -> EpochRanking:
        rows = EpochRows(keys, self.row.mode, parameters)
        return EpochRanking(rows, self._store(), self._options.query_noise, self._stats)

    def _upsert(self, rows: Sequence[RankedRow]) -> None:
        for first in range(0, len(rows), UPSERT_SIZE):
            self._store().upsert_rows(rows[first : first + UPSERT_SIZE])

    def _epoch_of(self, sealed: SealedDocument) -> EpochKeys | None:
        for keys in self._objects.all_keys():
            if vectors_name(sealed, keys) in self._objects:
                return keys
        return None

    def _is_listed(self, sealed: SealedDocument) -> bool:
        return self._epoch_of(sealed) is not None

    def _load_vectors(self, documents: Sequence[SealedDocument]) -> dict[int, DocumentVectors]:
        names = {}
        for sealed in documents:
            keys = self._epoch_of(sealed)
            if keys is None:
                raise TamperError(f"the vectors of document {sealed.document} are not listed", code="omitted")
            names[vectors_name(sealed, keys)] = sealed.number
        found = self._objects.get(list(names))
        return {names[name]: DocumentVectors.from_bytes(names[name], body, self._dim) for name, body in found.items()}

    def _remove_orphans(self) -> None:
        """Remove from the manifest and the store what belongs to no document of the database."""
        orphans = self._orphans(GROUP)
        if orphans:
            self._commit({}, orphans)
            self._objects.sweep(orphans)
        self._objects.sweep_all()

    def _compare_rows(self) -> None:
        """Expect the rows of every document; remove rows of none, and raise TamperError where one is missing."""
        counts = sealed_tables.count_passages(self._database.read(), self.row.collection)
        expected: set[bytes] = set()
        for ranking in self._rankings.values():
            expected.update(ranking.rows.parameters.canaries.row_ids)
        for sealed in self._documents.values():
            keys = self._epoch_of(sealed)
            if keys is not None and keys.epoch in self._rankings:
                ids = self._rankings[keys.epoch].rows.ids(sealed.number, counts[sealed.document])
                self._rankings[keys.epoch].add(sealed.number, ids)
                expected.update(ids)
        stored = set(self._store().list_ids())
        if missing := len(expected - stored):
            self._stats.add(omissions=1)
            raise TamperError(f"{missing} of {len(expected)} rows are missing in the ranking store", code="omitted")
        if strangers := sorted(stored - expected):
            self._store().delete_rows(strangers)


def _canary_ids(keys: EpochKeys, count: int) -> list[bytes]:
    names = RowNames(keys)
    return [names.row_id("canary", number, int(Kind.VECTOR)) for number in range(count)]


def _row_ids(keys: EpochKeys, vectors: DocumentVectors) -> list[bytes]:
    return row_ids(RowNames(keys), vectors.number, len(vectors))


def _cosines(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the (N,) cosines of a query with 8-bit vectors; rounded, so that it matters not how many there are."""
    return np.clip(vectors.astype(np.float64) @ query.astype(np.float64), 0.0, 1.0).astype(np.float32)
