"""Parts of a sealed index: the codes of some rows in one object, the rows themselves in cells of 64.

A part is of one new document, or of many merged ones. Its codes, with which passage each row is and where it lies, are
one object that is always open; a row of 16 bits a dimension is needed only where codes say that it may be among the
best, so it lies in a cell, an object of its own. Cells follow the documents: passages that lie side by side are often
wanted together, and which cells are read tells the store nothing of the vectors that reading the texts would not.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import IntegrityError
from holdfast.kernels.hadamard import make_rotation
from holdfast.privacy.seal import Kind
from holdfast.privacy.tokens import ID_SIZE
from holdfast.retrieval.index import ROW_SEED, BinaryIndex
from holdfast.retrieval.rescore import encode_rows
from holdfast.serving.sealed_objects import ObjectName

GROUP = "index"
"""of the objects with codes"""
NUM_GROUPS = 16
"""groups that share out the cells, each part's lying in one, so that adding one rewrites the inventory of one"""
CELL_SIZE = 64
"""rows of a cell at most"""
ROW_BITS = 16
"""of a row a dimension; with 8, recall of the float top 10 ends at 0.99"""
_HEAD = struct.Struct("<III")
_COLUMNS = ("<u8", "<u8", "<u4", "<u4", "<u4")


@dataclass(frozen=True, slots=True)
class CellRows:
    """Rows of one cell, or of several, one after the other."""

    scales: NDArray[np.float32]
    """(N,)"""
    rows: NDArray[np.int16]
    """(N, dim)"""

    @classmethod
    def of(cls, vectors: NDArray[np.float32], dim: int) -> CellRows:
        """Return the rows of unit-norm vectors (N, dim)."""
        rows, scales = encode_rows(vectors, make_rotation(dim, ROW_SEED), ROW_BITS)
        return cls(scales, rows.astype(np.int16, copy=False))

    @classmethod
    def joined(cls, cells: Sequence[CellRows], dim: int) -> CellRows:
        """Return the rows of all."""
        none = cls(np.empty(0, np.float32), np.empty((0, dim), np.int16))
        scales = np.concatenate([cell.scales for cell in (none, *cells)])
        return cls(scales, np.concatenate([cell.rows for cell in (none, *cells)]))

    def take(self, places: NDArray[np.int64]) -> CellRows:
        """Return some of the rows."""
        return CellRows(self.scales[places], self.rows[places])

    def cut(self) -> list[CellRows]:
        """Return the rows in cells."""
        starts = range(0, len(self.scales), CELL_SIZE)
        return [self.take(np.arange(start, min(start + CELL_SIZE, len(self.scales)))) for start in starts]

    def to_bytes(self) -> bytes:
        """Return a cell as it is sealed."""
        return self.scales.astype("<f4").tobytes() + self.rows.astype("<i2").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes, dim: int) -> CellRows:
        """Return the cell that `to_bytes` was called on."""
        num_rows, rest = divmod(len(data), 4 + 2 * dim)
        if rest:
            raise IntegrityError(f"{len(data)} bytes are not rows of {dim} dimensions")
        scales = np.frombuffer(data, "<f4", num_rows).astype(np.float32)
        rows = np.frombuffer(data, "<i2", num_rows * dim, 4 * num_rows).astype(np.int16)
        return cls(scales, rows.reshape(num_rows, dim))


@dataclass(frozen=True, slots=True)
class Places:
    """Which passage of which document each row is, and where it lies."""

    ids: NDArray[np.uint64]
    """(N,) passage ids, ascending"""
    documents: NDArray[np.uint64]
    """(N,) numbers of the sealed documents"""
    rows: NDArray[np.uint32]
    """(N,) which passage of its document"""
    cells: NDArray[np.uint32]
    """(N,) which cell, of those of the part, or of all parts one after the other"""
    offsets: NDArray[np.uint32]
    """(N,) which row of its cell"""

    def __len__(self) -> int:
        return len(self.ids)

    def columns(self) -> tuple[NDArray[np.uint64] | NDArray[np.uint32], ...]:
        """Return the fields in the order they are declared in."""
        return self.ids, self.documents, self.rows, self.cells, self.offsets

    def only(self, kept: NDArray[np.bool_]) -> Places:
        """Return the rows where `kept`."""
        return Places(*(column[kept] for column in self.columns()))  # type: ignore[arg-type]

    @classmethod
    def joined(cls, parts: Sequence[Places], num_cells: Sequence[int]) -> Places:
        """Return the rows of all parts, by id; cells are counted on from each part to the next."""
        firsts = np.concatenate([[0], np.cumsum(num_cells, dtype=np.int64)])[: len(parts)].astype(np.uint32)
        moved = [replace(part, cells=part.cells + first) for part, first in zip(parts, firsts, strict=True)]
        none = cls(*(np.empty(0, dtype) for dtype in _COLUMNS))
        columns = [np.concatenate(column) for column in zip(*(part.columns() for part in (none, *moved)), strict=True)]
        order = np.argsort(columns[0])
        return cls(*(column[order] for column in columns))


@dataclass(frozen=True)
class Part:
    """Rows of an index whose codes are sealed together."""

    places: Places
    cell_ids: tuple[bytes, ...]
    group: str
    """of its cells"""
    index: BinaryIndex
    """codes without rows"""

    @classmethod
    def of_document(
        cls, document: int, ids: NDArray[np.uint64], vectors: NDArray[np.float32], dim: int
    ) -> tuple[Part, CellRows]:
        """Return the part of one document's passages, given in their order, and its rows, cell by cell."""
        index = BinaryIndex(dim, row_bits=0)
        index.add(ids, vectors)
        numbers = np.full(len(ids), document, dtype=np.uint64)
        return cls._cut(ids, numbers, np.arange(len(ids), dtype=np.uint32), index), CellRows.of(vectors, dim)

    @classmethod
    def merged(cls, parts: Sequence[Part], dim: int) -> Part:
        """Return one part of the rows of all: in the order of their cells, cut into full ones."""
        index = BinaryIndex(dim, row_bits=0)
        for part in parts:
            index.absorb(part.index)
        places = Places.joined([part.places for part in parts], [len(part.cell_ids) for part in parts])
        order = np.lexsort((places.offsets, places.cells))
        return cls._cut(places.ids[order], places.documents[order], places.rows[order], index)

    @classmethod
    def _cut(
        cls, ids: NDArray[np.uint64], documents: NDArray[np.uint64], rows: NDArray[np.uint32], index: BinaryIndex
    ) -> Part:
        """Return a part of rows in the order in which they fill its cells."""
        order = np.argsort(ids)
        cells, offsets = np.divmod(order.astype(np.uint32), np.uint32(CELL_SIZE))
        places = Places(ids[order], documents[order], rows[order], cells, offsets)
        group = f"c{secrets.randbelow(NUM_GROUPS):x}"
        return cls(places, new_ids(-(-len(ids) // CELL_SIZE)), group, index)

    @cached_property
    def cell_order(self) -> NDArray[np.int64]:
        """(N,) the rows, which are by id, cell by cell."""
        return np.lexsort((self.places.offsets, self.places.cells))

    def by_id(self, cells: CellRows) -> CellRows:
        """Return all rows by id, given cell by cell."""
        ranks = np.empty(len(self.places), dtype=np.int64)
        ranks[self.cell_order] = np.arange(len(self.places))
        return cells.take(ranks)

    def cell_names(self, epoch: int) -> list[ObjectName]:
        """Return the names of its cells, which are sealed under the epoch of its codes."""
        return [ObjectName(epoch, self.group, Kind.CELL, cell_id) for cell_id in self.cell_ids]

    def without_codes(self) -> Part:
        """Return the part without its codes, which an index of all parts holds."""
        return replace(self, index=BinaryIndex(self.index.dim, row_bits=0))

    def renamed(self) -> Part:
        """Return the part with other names for its cells."""
        return replace(self, cell_ids=new_ids(len(self.cell_ids)))

    def touched(self, documents: Iterable[int]) -> list[int]:
        """Return the cells that hold rows of some documents."""
        gone = np.isin(self.places.documents, np.array(list(documents), dtype=np.uint64))
        return [int(cell) for cell in np.unique(self.places.cells[gone])]

    def without(self, documents: Iterable[int], cells: Mapping[int, CellRows]) -> tuple[Part, dict[bytes, CellRows]]:
        """Return the part without the rows of some documents, and the cells that take the place of `cells`.

        Args:
            documents: what goes.
            cells: those that are `touched`.
        """
        gone = np.isin(self.places.documents, np.array(list(documents), dtype=np.uint64))
        index = BinaryIndex(self.index.dim, row_bits=0)
        index.absorb(self.index)
        index.remove(self.places.ids[gone])
        offsets, cell_ids, changed = self.places.offsets.copy(), list(self.cell_ids), dict[bytes, CellRows]()
        for cell, rows in cells.items():
            kept = np.flatnonzero((self.places.cells == cell) & ~gone)
            kept = kept[np.argsort(self.places.offsets[kept])]
            [cell_ids[cell]] = new_ids(1)
            changed[cell_ids[cell]] = rows.take(self.places.offsets[kept].astype(np.int64))
            offsets[kept] = np.arange(len(kept))
        part = replace(self, places=replace(self.places, offsets=offsets).only(~gone), cell_ids=tuple(cell_ids))
        return replace(part, index=index), changed

    def to_bytes(self) -> bytes:
        """Return the codes and places as they are sealed."""
        head = _HEAD.pack(len(self.places), len(self.cell_ids), int(self.group[1:], 16))
        columns = [c.astype(dtype).tobytes() for c, dtype in zip(self.places.columns(), _COLUMNS, strict=True)]
        return b"".join([head, *columns, *self.cell_ids, self.index.to_bytes()])

    @classmethod
    def from_bytes(cls, data: bytes) -> Part:
        """Return the part that `to_bytes` was called on. Raises IntegrityError for other bytes."""
        num_rows, num_cells, group = _HEAD.unpack_from(data)
        start, columns = _HEAD.size, []
        for dtype in _COLUMNS:
            column = np.frombuffer(data, dtype, num_rows, start)
            columns.append(column.astype(column.dtype.newbyteorder("=")))
            start += column.nbytes
        end = start + ID_SIZE * num_cells
        cell_ids = tuple(data[place : place + ID_SIZE] for place in range(start, end, ID_SIZE))
        part = cls(Places(*columns), cell_ids, f"c{group:x}", BinaryIndex.from_bytes(data[end:]))
        if not np.array_equal(part.index.ids(), part.places.ids):
            raise IntegrityError("a part of the index holds other passages than it says")
        return part


def new_ids(count: int) -> tuple[bytes, ...]:
    """Return ids that were never used."""
    return tuple(secrets.token_bytes(ID_SIZE) for _ in range(count))


def new_part_name(epoch: int) -> ObjectName:
    """Return a name that was never used; nobody can tell a small part from a merged one but by its size."""
    return ObjectName(epoch, GROUP, Kind.CODES, secrets.token_bytes(ID_SIZE))
