"""One sealed collection: its documents and index as sealed objects, open in memory while it is used.

The database says which documents there are; the store holds what they say, under the manifest. A document is added by
committing its objects, then its row, and removed by deleting its row, then its objects: so whatever a crash leaves is
an object without a row, and loading removes it. A change keeps other changes out; searches wait only for the moment in
which what they see changes.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import Conflict, IntegrityError
from holdfast.privacy.keys import EpochKeys
from holdfast.privacy.manifest import Anchor
from holdfast.privacy.seal import Kind
from holdfast.retrieval.read_write_lock import ReadWriteLock
from holdfast.retrieval.store import StoredPassage
from holdfast.serving import sealed_tables
from holdfast.serving.database import Database
from holdfast.serving.parsed_document import ParsedDocument
from holdfast.serving.sealed_document import SealedDocument, to_blocks, to_objects
from holdfast.serving.sealed_index import OpenIndex
from holdfast.serving.sealed_objects import ObjectName, SealedObjects
from holdfast.serving.sealed_part_store import Exchange, PartStore, part_objects
from holdfast.serving.sealed_parts import GROUP, CellRows, Part, new_part_name
from holdfast.serving.sealed_tables import SealedRow
from holdfast.serving.sealed_texts import SealedTexts


@dataclass(frozen=True, slots=True)
class Addition:
    """A document whose objects are committed and whose row is not."""

    sealed: SealedDocument
    name: ObjectName | None
    """of its part of the index; None without passages"""
    part: Part
    rows: CellRows
    anchor: Anchor
    num_bytes: int
    """of text, passages and codes, before sealing"""


class SealedCollection:
    """The contents of one vector store whose mode is not `plain`. Safe to call from many threads.

    Args:
        row: the collection as the database knows it.
        objects: its objects.
        database: for the anchor and the list of documents.
        dim: length of the vectors.
        cache_bytes: how much opened text is kept in memory.
        rows_bytes: how much of the index's rows is; see `OpenIndex`.
        num_decoys: see there.
    """

    def __init__(
        self,
        row: SealedRow,
        objects: SealedObjects,
        database: Database,
        *,
        dim: int,
        cache_bytes: int,
        rows_bytes: int,
        num_decoys: int,
    ) -> None:
        self.row = row
        self._objects = objects
        self._database = database
        self._dim = dim
        self._parts = PartStore(objects, dim)
        self._rows_bytes, self._num_decoys = rows_bytes, num_decoys
        self._open: OpenIndex | None = None
        self._documents: dict[int, SealedDocument] = {}
        self._texts = SealedTexts(objects, cache_bytes)
        self._changes = threading.Lock()
        self._lock = ReadWriteLock()

    # searching

    @contextmanager
    def reading(self) -> Iterator[None]:
        """For searching and reading; the contents do not change inside. Raises KeyUnavailable once a key is revoked."""
        self._objects.all_keys()
        while True:
            if self._open is None:
                with self._changes:
                    self.load()
            with self._lock.reading():
                if self._open is not None:
                    yield
                    return

    @property
    def index(self) -> OpenIndex:
        """The rows of all documents, inside `reading`."""
        return self._opened

    def passage_ids(self, documents: Sequence[int]) -> NDArray[np.uint64]:
        """Return the passage ids of some documents (rows of the database), ascending, inside `reading`."""
        wanted = set(documents)
        return self._opened.ids_of(n for n, sealed in self._documents.items() if sealed.document in wanted)

    def load_passages(self, ids: Sequence[int]) -> dict[int, StoredPassage]:
        """Return passages by id, inside `reading`; all of them are in the index."""
        places = dict(zip(ids, self._opened.find(ids), strict=True))
        return self._texts.load_passages(places, self._documents)

    def load_text(self, document: int) -> str:
        """Return the text that passages' offsets point into, inside `reading`."""
        [sealed] = [sealed for sealed in self._documents.values() if sealed.document == document]
        return self._texts.load_text(sealed)

    # changing

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Keep other changes out; searches go on. After an exception the collection is loaded again."""
        with self._changes:
            try:
                yield
            except BaseException:
                self._close()
                raise

    @contextmanager
    def committing(self) -> Iterator[None]:
        """Inside `changing`, keep searches out."""
        with self._lock.writing():
            yield

    def load(self) -> None:
        """Inside `changing`: read the manifest and the index, and remove what has no row, unless that is done."""
        if self._open is not None and self._objects.is_loaded:
            return
        with self._lock.writing():
            self._open = None
            connection = self._database.read()
            self._load_manifest(connection)
            documents = {d.number: d for d in sealed_tables.list_documents(connection, self.row.collection)}
            parts = self._parts.load(self._parts.names())
            num_rows = sum(len(part.places) for part in parts.values())
            opened = OpenIndex(
                self._dim, self._parts.load_cells, self._rows_bytes, num_rows, num_decoys=self._num_decoys
            )
            for name, part in parts.items():
                opened.add(name, part)
            opened.index.compact()
            self._open, self._documents = opened, documents
            self._texts.forget()
        self._remove_orphans()

    def add(self, parsed: ParsedDocument, ids: NDArray[np.uint64]) -> Addition:
        """Inside `changing`: commit a document's objects. It is found once `publish` was called with its row."""
        keys = self._newest()
        sealed = sealed_tables.new_document(len(to_blocks(parsed.document.text)))
        objects = to_objects(sealed, keys, parsed.document.text, parsed.passages)
        (part, rows), name = Part.of_document(sealed.number, ids, parsed.vectors, self._dim), None
        if len(ids):
            name = new_part_name(keys.epoch)
            objects |= part_objects(name, part, rows)
        num_bytes = sum(map(len, objects.values()))
        return Addition(sealed, name, part, rows, self._objects.commit(objects), num_bytes)

    def unload(self) -> None:
        """Forget what is open; the next use loads it again."""
        self._open = None

    def publish(self, added: Addition, document: int) -> None:
        """Inside `committing`: let searches find a document that is a row of the database now."""
        sealed = SealedDocument(added.sealed.number, added.sealed.num_blocks, document)
        self._documents[sealed.number] = sealed
        if added.name is not None:
            self._opened.add(added.name, added.part, added.rows)

    def hide(self, documents: Sequence[SealedDocument]) -> None:
        """Inside `committing`: let searches find nothing of documents whose rows are being deleted."""
        numbers = [sealed.number for sealed in documents]
        self._opened.index.remove(self._opened.ids_of(numbers))
        for number in numbers:
            self._documents.pop(number, None)

    def remove(self, documents: Sequence[SealedDocument]) -> None:
        """Inside `changing`: remove hidden documents, whose rows are gone, from the manifest and the store."""
        self._remove([sealed.number for sealed in documents], self._listed_names(documents))
        self._texts.forget()

    def merge_parts_if_due(self) -> None:
        """Write many small parts of the index as one; searches go on. What no longer fits the memory is let go."""
        with self.changing():
            self.load()
            names = self._opened.parts_to_merge()
            if names:
                self._exchange(self._parts.merge(names, self._newest().epoch))
                self._opened.index.compact()
            if self._opened.is_outgrown:
                self._close()

    def delete_objects(self) -> None:
        """Delete everything from the store, inside `changing`."""
        with self._lock.writing():
            self._open = None
            self._documents = {}
            self._objects.delete_all()

    # rotation

    def epochs(self) -> list[int]:
        """Return the epochs that have keys, the newest first."""
        return [keys.epoch for keys in self._objects.all_keys()]

    def rotate_some(self, max_objects: int) -> int:
        """Seal up to about `max_objects` objects of older epochs under the newest one; return how many were left to do.

        Searches go on meanwhile, over both epochs.
        """
        with self.changing():
            self.load()
            keys = self._newest()
            old = [other for other in self._objects.all_keys() if other.epoch != keys.epoch]
            chosen: list[tuple[ObjectName, ObjectName]] = []
            num_left = 0
            for sealed in self._documents.values():
                for other in old:
                    if sealed.table_name(other) in self._objects:
                        if len(chosen) < max_objects:
                            chosen += zip(sealed.names(other), sealed.names(keys), strict=True)
                        else:
                            num_left += 1
            parts = [name for name in self._parts.names() if name.epoch != keys.epoch]
            if chosen:
                bodies = self._objects.get([before for before, _ in chosen])
                added = {after: bodies[before] for before, after in chosen}
                self._exchange(Exchange([], {}, added, [before for before, _ in chosen]))
            elif parts:
                sizes = np.cumsum([1 + len(self._opened.parts[name].cell_ids) for name in parts])
                count = max(1, int((sizes <= max_objects).sum()))
                self._exchange(self._parts.rotate(parts[:count], keys.epoch))
                parts = parts[count:]
            return num_left + len(parts)

    def finish_rotation(self, destroy_old_keys: Callable[[], object]) -> None:
        """Seal the manifest under the newest epoch, of which everything is, and let the old keys be destroyed."""
        with self.changing():
            self.load()
            newest = self._newest().epoch
            if self.epochs() != [newest]:
                self._save_anchor(self._objects.sign_again(newest))
                destroy_old_keys()

    def sign_again(self) -> None:
        """Sign the manifest with the newest tenant root."""
        with self.changing():
            self.load()
            self._save_anchor(self._objects.sign_again())

    # checking

    def verify(self) -> list[str]:
        """Return one line per fault: objects against the manifest, documents against objects, passages in the index."""
        try:
            with self._changes:
                self._open = None
                self.load()
                faults = self._objects.verify()
            if faults:
                return faults
            with self.reading():
                return list(self._check_documents())
        except IntegrityError as error:
            return [str(error)]

    def _check_documents(self) -> Iterator[str]:
        numbers, num_rows = np.unique(self._opened.places().documents, return_counts=True)
        counts = dict(zip(numbers.tolist(), num_rows.tolist(), strict=True))
        for number, sealed in sorted(self._documents.items()):
            if not self._texts.is_whole(sealed):
                yield f"document {sealed.document}: objects of it are missing"
                continue
            table = self._texts.load_tables({number: sealed})[number]
            if counts.get(number, 0) != len(table):
                yield f"document {sealed.document}: {counts.get(number, 0)} passages in the index, not {len(table)}"
            if len(table) and int(table.ends.max()) > len(self._texts.load_text(sealed)):
                yield f"document {sealed.document}: passages reach beyond its text"

    # inside

    def _load_manifest(self, connection: sqlite3.Connection) -> None:
        """Read the manifest, and note how far it is. Raises Conflict where another gateway has changed it."""
        row = sealed_tables.find_collection(connection, self.row.collection)
        assert row is not None
        anchor = self._objects.load(row.anchor)
        if anchor.sequence > row.anchor.sequence + 1:  # a crash leaves one change that was not noted, never two
            self._objects.unload()
            raise Conflict(
                "another gateway has changed this vector store: a data directory and its copy cannot both be used"
            )
        self._save_anchor(anchor)

    def _close(self) -> None:
        """Have the next use load it again; searches that are running finish with what they have."""
        with self._lock.writing():
            self._open = None

    @property
    def _opened(self) -> OpenIndex:
        assert self._open is not None, "load first"
        return self._open

    def _newest(self) -> EpochKeys:
        return self._objects.all_keys()[0]

    def _remove_orphans(self) -> None:
        """Remove from the manifest and the store what belongs to no document of the database."""
        orphans = self._orphans(GROUP, {cell_id for part in self._opened.parts.values() for cell_id in part.cell_ids})
        numbers = np.unique(self._opened.places().documents)
        strangers = [int(number) for number in numbers.tolist() if number not in self._documents]
        if orphans or strangers:
            self._remove(strangers, orphans)
        self._objects.sweep_all()

    def _names(self, sealed: SealedDocument, keys: EpochKeys) -> list[ObjectName]:
        """Return the names of all objects of a document in one epoch."""
        return sealed.names(keys)

    def _listed_names(self, documents: Iterable[SealedDocument]) -> list[ObjectName]:
        """Return the names of the objects that documents have, in any epoch."""
        all_keys = self._objects.all_keys()
        names = [name for sealed in documents for keys in all_keys for name in self._names(sealed, keys)]
        return [name for name in names if name in self._objects]

    def _orphans(self, own_group: str, known: Collection[bytes] = ()) -> list[ObjectName]:
        """Return the names of objects of no document, but for `known` ids and a group that is not of documents."""
        known = {*known, *(name.id for name in self._listed_names(self._documents.values()))}
        return [
            ObjectName(keys.epoch, group, Kind.METADATA, row_id)
            for keys in self._objects.all_keys()
            for group in self._objects.groups(keys.epoch)
            for row_id in self._objects.ids(keys.epoch, group)
            if group != own_group and row_id not in known
        ]

    def _remove(self, numbers: Sequence[int], names: Sequence[ObjectName]) -> None:
        """Take the rows of some documents out of the index, and objects out of the collection."""
        self._exchange(self._parts.cut(self._opened.parts_of(numbers), numbers, names))

    def _exchange(self, exchange: Exchange) -> None:
        gone = [*exchange.old, *exchange.removed]
        if gone or exchange.added:
            self._save_anchor(self._objects.commit(exchange.added, gone))
            with self._lock.writing():  # and whoever reads what is gone has finished
                self._opened.replace(exchange.old, exchange.new)
            self._objects.sweep(gone)

    def _save_anchor(self, anchor: Anchor) -> None:
        with self._database.write() as connection:
            sealed_tables.save_anchor(connection, self.row.collection, anchor)

