"""The index of a sealed collection: its parts as they are sealed, and all of them open in memory for searching.

A part is a run of rows, of one new document or of many merged ones: ids, which passage of which document each is, and
the rows of a BinaryIndex. Every part is an object of its own, so ingesting a document writes its rows only; parts are
merged when there are many, the smallest first, so that each row is written again about log(N) times.

Open in memory, the parts are one BinaryIndex with rows of 16 bits a dimension: a search asks the store for nothing and
finds what exact search over the float vectors finds, unless codes are as wrong as they are once in a thousand results.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import IntegrityError
from holdfast.privacy.seal import Kind
from holdfast.privacy.tokens import ID_SIZE
from holdfast.retrieval.index import BinaryIndex, SearchResult
from holdfast.serving.sealed_objects import ObjectName

GROUP = "index"
MAX_PARTS = 64
"""when there are more, as many of the smallest are merged into one"""
MAX_MERGED_ROWS = 65_536
"""parts this large are left alone"""
ROW_BITS = 16
"""of a row a dimension; with 8, recall of the float top 10 ends at 0.99"""
MIN_CANDIDATES = 400
"""let through by the codes; with 100, the float top 10 of 100,000 passages lose one in a hundred"""
_HEAD = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Places:
    """Which passage of which document each row is."""

    ids: NDArray[np.uint64]
    """(N,) passage ids, ascending"""
    documents: NDArray[np.uint64]
    """(N,) numbers of the sealed documents"""
    rows: NDArray[np.uint32]
    """(N,) which passage of its document"""

    def __len__(self) -> int:
        return len(self.ids)

    def only(self, kept: NDArray[np.bool_]) -> Places:
        """Return the rows where `kept`."""
        return Places(self.ids[kept], self.documents[kept], self.rows[kept])

    @classmethod
    def joined(cls, parts: Sequence[Places]) -> Places:
        """Return the rows of all parts, by id."""
        none = Places(np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.uint32))
        ids = np.concatenate([part.ids for part in (none, *parts)])
        order = np.argsort(ids)
        documents = np.concatenate([part.documents for part in (none, *parts)])[order]
        return cls(ids[order], documents, np.concatenate([part.rows for part in (none, *parts)])[order])


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of an index that are sealed together."""

    places: Places
    index: BinaryIndex

    @classmethod
    def of_document(cls, document: int, ids: NDArray[np.uint64], vectors: NDArray[np.float32], dim: int) -> Part:
        """Return the part of one document's passages, given in their order."""
        order = np.argsort(ids)
        numbers = np.full(len(ids), document, dtype=np.uint64)
        index = BinaryIndex(dim, row_bits=ROW_BITS)
        index.add(ids, vectors)
        return cls(Places(ids[order], numbers, order.astype(np.uint32)), index)

    @classmethod
    def merged(cls, parts: Sequence[Part], dim: int) -> Part:
        """Return one part of the rows of all."""
        index = BinaryIndex(dim, row_bits=ROW_BITS)
        for part in parts:
            index.absorb(part.index)
        return cls(Places.joined([part.places for part in parts]), index)

    def without(self, documents: Iterable[int]) -> Part:
        """Return the part without the rows of some documents; the index is changed in place."""
        gone = np.isin(self.places.documents, np.array(list(documents), dtype=np.uint64))
        self.index.remove(self.places.ids[gone])
        return Part(self.places.only(~gone), self.index)

    def to_bytes(self) -> bytes:
        """Return the part as it is sealed."""
        places = self.places
        columns = places.ids.astype("<u8"), places.documents.astype("<u8"), places.rows.astype("<u4")
        return _HEAD.pack(len(places)) + b"".join(c.tobytes() for c in columns) + self.index.to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Part:
        """Return the part that `to_bytes` was called on. Raises IntegrityError for other bytes."""
        [num_rows] = _HEAD.unpack_from(data)
        starts = _HEAD.size + np.array([0, 8, 16, 20]) * num_rows
        ids, documents = (np.frombuffer(data, "<u8", num_rows, starts[n]).astype(np.uint64) for n in (0, 1))
        rows = np.frombuffer(data, "<u4", num_rows, starts[2]).astype(np.uint32)
        index = BinaryIndex.from_bytes(data[starts[3] :])
        if not np.array_equal(index.ids(), ids):
            raise IntegrityError("a part of the index holds other passages than it says")
        return cls(Places(ids, documents, rows), index)


class OpenIndex:
    """All parts of a collection's index in memory.

    Attributes:
        index: the rows of all parts.
        parts: the places of each part, under its name in the store.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.index = BinaryIndex(dim, row_bits=ROW_BITS)
        self.parts: dict[ObjectName, Places] = {}
        self._all: Places | None = None

    def __len__(self) -> int:
        return len(self.index)

    def search(
        self, queries: NDArray[np.float32], k: int, *, allowed_ids: NDArray[np.uint64] | None = None
    ) -> SearchResult:
        """Return the `k` nearest of each query, as `BinaryIndex.search`."""
        return self.index.search(queries, k, min_candidates=MIN_CANDIDATES, allowed_ids=allowed_ids)

    def add(self, name: ObjectName, part: Part) -> None:
        """Take in a part that is part of the collection now."""
        self.index.absorb(part.index)
        self.parts[name] = part.places
        self._all = None

    def replace(self, old: Iterable[ObjectName], new: Mapping[ObjectName, Places]) -> None:
        """Exchange parts; ids that are in none of the new ones are dropped."""
        gone = [self.parts.pop(name) for name in old]
        ids = np.concatenate([np.empty(0, np.uint64), *(places.ids for places in gone)])
        kept = np.concatenate([np.empty(0, np.uint64), *(places.ids for places in new.values())])
        self.index.remove(np.setdiff1d(ids, kept))
        self.parts.update(new)
        self._all = None

    def places(self) -> Places:
        """Return the places of all rows, by id."""
        if self._all is None:
            self._all = Places.joined(list(self.parts.values()))
        return self._all

    def find(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """Return (document, row) of each passage; all of them are here."""
        places = self.places()
        found = np.searchsorted(places.ids, np.array(ids, dtype=np.uint64))
        return list(zip(places.documents[found].tolist(), places.rows[found].tolist(), strict=True))

    def ids_of(self, documents: Iterable[int]) -> NDArray[np.uint64]:
        """Return the passage ids of some documents, ascending."""
        places = self.places()
        return places.ids[np.isin(places.documents, np.array(list(documents), dtype=np.uint64))]

    def parts_of(self, documents: Iterable[int]) -> list[ObjectName]:
        """Return the parts that hold rows of some documents."""
        numbers = np.array(list(documents), dtype=np.uint64)
        return [name for name, places in self.parts.items() if np.isin(places.documents, numbers).any()]

    def parts_to_merge(self) -> list[ObjectName]:
        """Return the parts that should be one, if there are too many."""
        small = sorted(
            (name for name, places in self.parts.items() if len(places) < MAX_MERGED_ROWS),
            key=lambda name: (len(self.parts[name]), name.id),
        )
        return small[:MAX_PARTS] if len(small) > MAX_PARTS else []


def new_part_name(epoch: int) -> ObjectName:
    """Return a name that was never used; nobody can tell a small part from a merged one but by its size."""
    return ObjectName(epoch, GROUP, Kind.CELL, secrets.token_bytes(ID_SIZE))
