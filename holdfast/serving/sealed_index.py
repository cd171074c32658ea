"""The index of a sealed collection, open in memory: all of it, or its codes while the rows stay in the store.

A search looks at every code, which takes a bit a dimension of memory. What decides among the best candidates are rows
of 16 bits a dimension. While they fit `rows_bytes`, all rows are in memory, and a search asks the store for nothing.
Beyond that, the cells that hold the candidates are fetched, unless they were used lately. Results are those of the
candidates alone, so they depend neither on which cells there are nor on what is in memory.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from holdfast.kernels.hadamard import make_rotation
from holdfast.retrieval.index import ROW_SEED, BinaryIndex, SearchResult
from holdfast.retrieval.rescore import best_candidates, encode_fine, estimate_cosines
from holdfast.serving.sealed_cache import OpenedCache
from holdfast.serving.sealed_objects import ObjectName
from holdfast.serving.sealed_parts import ROW_BITS, CellRows, Part, Places

MAX_PARTS = 64
"""when there are more, some of the smallest are merged into one"""
MAX_MERGED_ROWS = 16_384
"""parts this large are left alone"""
NUM_CANDIDATES = 400
"""let through by the codes; with 100, the float top 10 of 100,000 passages lose one in a hundred"""
NUM_FETCHED = 200
"""candidates whose cells are fetched: at most so many cells, 12,800 rows"""

LoadCells = Callable[[Sequence[ObjectName]], dict[ObjectName, CellRows]]


class OpenIndex:
    """All parts of a collection's index in memory, with or without their rows.

    Args:
        dim: length of the vectors.
        load_cells: reads cells from the store.
        rows_bytes: for rows in memory.
        num_rows: how many there will be, as far as that is known; with more than fit, they stay in the store.
        num_decoys: cells that are fetched with those that a search needs, drawn anew each time.

    Attributes:
        index: the rows of all parts, or their codes.
        parts: each part without its codes, under its name in the store.
    """

    def __init__(
        self, dim: int, load_cells: LoadCells, rows_bytes: int, num_rows: int, *, num_decoys: int = 0
    ) -> None:
        self.dim = dim
        self._load_cells = load_cells
        self._rows_bytes = rows_bytes
        self._num_decoys = num_decoys
        self.has_rows = self._fits(num_rows)
        self.index = BinaryIndex(dim, row_bits=ROW_BITS if self.has_rows else 0)
        self.parts: dict[ObjectName, Part] = {}
        self._cells: OpenedCache[CellRows] = OpenedCache(rows_bytes)
        self._rotation = make_rotation(dim, ROW_SEED)
        self._all: tuple[Places, list[ObjectName]] | None = None

    def __len__(self) -> int:
        return len(self.index)

    @property
    def is_outgrown(self) -> bool:
        """True once the rows in memory are more than fit: then it has to be opened again."""
        return self.has_rows and not self._fits(len(self))

    def search(
        self, queries: NDArray[np.float32], k: int, *, allowed_ids: NDArray[np.uint64] | None = None
    ) -> SearchResult:
        """Return the `k` nearest of each query, as `BinaryIndex.search`.

        Raises:
            TamperError, StoreUnavailable: cells had to be fetched, and could not be.
        """
        if self.has_rows:
            return self.index.search(queries, k, min_candidates=NUM_CANDIDATES, allowed_ids=allowed_ids)
        wanted = max(k, NUM_FETCHED)
        found = self.index.search(queries, wanted, oversampling=1.0, allowed_ids=allowed_ids, by_codes=True)
        if found.ids.size == 0:
            return found
        rows = self._fetch(found.ids.ravel())
        shape = found.ids.shape
        fine = encode_fine(np.asarray(queries, dtype=np.float32), self._rotation)
        cosines = estimate_cosines(fine, rows.rows.reshape(*shape, self.dim), rows.scales.reshape(shape))
        ids, scores = best_candidates(cosines, found.ids, k)
        return SearchResult(ids, scores, found.num_scanned, np.full(len(queries), shape[1], dtype=np.int64))

    def add(self, name: ObjectName, part: Part, rows: CellRows | None = None) -> None:
        """Take in a part that belongs to the collection now; `rows` are its rows, cell by cell, if they are at hand."""
        if self.has_rows:
            if rows is None:
                names = part.cell_names(name.epoch)
                cells = self._load_cells(names)
                rows = CellRows.joined([cells[cell] for cell in names], self.dim)
            rows = part.by_id(rows)
            self.index.absorb(part.index.with_rows(rows.rows, rows.scales))
        else:
            self.index.absorb(part.index)
        self.parts[name] = part.without_codes()
        self._all = None

    def replace(self, old: Iterable[ObjectName], new: Mapping[ObjectName, Part]) -> None:
        """Exchange parts; ids that are in none of the new ones are dropped."""
        gone = [self.parts.pop(name) for name in old]
        ids = np.concatenate([np.empty(0, np.uint64), *(part.places.ids for part in gone)])
        kept = np.concatenate([np.empty(0, np.uint64), *(part.places.ids for part in new.values())])
        self.index.remove(np.setdiff1d(ids, kept))
        self.parts.update({name: part.without_codes() for name, part in new.items()})
        self._all = None

    def places(self) -> Places:
        """Return the places of all rows, by id."""
        return self._joined()[0]

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
        return [name for name, part in self.parts.items() if np.isin(part.places.documents, numbers).any()]

    def parts_to_merge(self) -> list[ObjectName]:
        """Return the parts that should be one, if there are too many: small ones, up to a number of rows in all."""
        sizes = {name: len(part.places) for name, part in self.parts.items()}
        small = sorted((n for n in sizes if sizes[n] < MAX_MERGED_ROWS), key=lambda name: (sizes[name], name.id))
        if len(small) <= MAX_PARTS:
            return []
        totals = np.cumsum([sizes[name] for name in small])
        return small[: max(2, min(MAX_PARTS, int((totals <= 2 * MAX_MERGED_ROWS).sum())))]

    def _fits(self, num_rows: int) -> bool:
        return num_rows * self.dim * ROW_BITS // 8 <= self._rows_bytes

    def _joined(self) -> tuple[Places, list[ObjectName]]:
        """Return the places of all rows, and the names of all cells."""
        if self._all is None:
            parts = list(self.parts.values())
            places = Places.joined([part.places for part in parts], [len(part.cell_ids) for part in parts])
            names = [cell for name, part in self.parts.items() for cell in part.cell_names(name.epoch)]
            self._all = places, names
        return self._all

    def _fetch(self, ids: NDArray[np.uint64]) -> CellRows:
        """Return the rows of passages that are here, one for each of `ids`."""
        places, names = self._joined()
        found = np.searchsorted(places.ids, ids)
        numbers, owners = np.unique(places.cells[found], return_inverse=True)
        cells = {n: cell for n in numbers.tolist() if (cell := self._cells.get(names[n])) is not None}
        missing = [n for n in numbers.tolist() if n not in cells]
        if missing:
            decoys = secrets.SystemRandom().sample(range(len(names)), min(self._num_decoys, len(names)))
            wanted = sorted({*missing, *(n for n in decoys if n not in cells)})
            loaded = self._load_cells([names[n] for n in wanted])
            for n in wanted:
                cells[n] = loaded[names[n]]
                self._cells.put(names[n], cells[n], cells[n].rows.nbytes)
        firsts = np.cumsum([0, *(len(cells[n].scales) for n in numbers.tolist())])
        rows = CellRows.joined([cells[n] for n in numbers.tolist()], self.dim)
        return rows.take(firsts[owners] + places.offsets[found].astype(np.int64))
