"""BinaryIndex: exhaustive, deterministic search over 1-bit codes, ordered by int8 rescoring.

Scores are exact integers and the order is total (score descending, id ascending), so a result depends neither on
threads, batch size nor the order in which vectors were added. Neither does a saved file: it holds the rows by id.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import IntegrityError, InvalidInput, ShapeError
from holdfast.kernels.packing import num_code_bytes
from holdfast.kernels.scan import scan_top_k, total_order
from holdfast.retrieval.index_file import NewSection, map_file, read_index_file, render_index, write_index_file
from holdfast.retrieval.quantise import EncodedQueries, Quantiser
from holdfast.retrieval.rescore import MIN_CANDIDATES, best_candidates, estimate_cosines, num_candidates
from holdfast.retrieval.segment import Segment, make_segment, merge, merge_small, take, to_sections

QUERY_SLICE = 32  # queries searched at a time: the candidates' int8 rows, as float64, are 4 MB at k = 10


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The `k` nearest rows of each query; shorter corpora leave fewer columns."""

    ids: NDArray[np.uint64]
    """(Q, K)"""
    scores: NDArray[np.float32]
    """(Q, K), estimated cosine in [-1, 1], descending"""
    num_scanned: int
    """codes compared with each query"""


class BinaryIndex:
    """Vectors as 1-bit codes with an int8 copy for rescoring.

    `add` encodes new vectors only. `save` writes one immutable, checksummed file atomically; `load` memory-maps it.
    Any number of threads may search while others add and remove: each search sees the index as it was at one moment.

    Attributes:
        quantiser: how vectors become codes; its `id` is written into saved files.
    """

    def __init__(self, dim: int, *, seed: int = 0) -> None:
        self.quantiser = Quantiser(dim, seed)
        self._segments: tuple[Segment, ...] = ()
        self._write_lock = threading.Lock()

    def __len__(self) -> int:
        return sum(segment.num_live for segment in self._segments)

    def add(self, ids: NDArray[np.uint64], vectors: NDArray[np.float32]) -> None:
        """Add unit-norm (N, dim) vectors under ids (N,) that are not in the index yet.

        Raises:
            InvalidInput: an id is already there or given twice, or a vector is not of length 1; nothing is added.
        """
        ids = _as_ids(ids, "ids")
        encoded = self.quantiser.encode(vectors)
        if len(ids) != len(encoded.rows):
            raise ShapeError(f"{len(ids)} ids for {len(encoded.rows)} vectors", param="ids")
        distinct, counts = np.unique(ids, return_counts=True)
        if len(distinct) != len(ids):
            raise InvalidInput(f"id {distinct[counts > 1][0]} is given twice", param="ids")
        if not len(ids):
            return
        with self._write_lock:
            for segment in self._segments:
                known = segment.find(distinct)
                if len(known):
                    raise InvalidInput(f"id {segment.ids.whole()[known[0]]} is in the index already", param="ids")
            self._segments = merge_small((*self._segments, make_segment(ids, encoded)))

    def remove(self, ids: NDArray[np.uint64]) -> int:
        """Drop the given ids; return how many were there. Saved files no longer hold them after the next `save`."""
        distinct = np.unique(_as_ids(ids, "ids"))
        with self._write_lock:
            segments, num_removed = [], 0
            for segment in self._segments:
                rows = segment.find(distinct)
                segments.append(segment.without(rows) if len(rows) else segment)
                num_removed += len(rows)
            self._segments = merge_small(tuple(segments))
        return num_removed

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        oversampling: float = 4.0,
        min_candidates: int = MIN_CANDIDATES,
        allowed_ids: NDArray[np.uint64] | None = None,
        num_threads: int | None = None,
    ) -> SearchResult:
        """Return the `k` nearest of each unit-norm query (Q, dim), among `allowed_ids` where given.

        The codes let ceil(oversampling * k) candidates through, at least `min_candidates`, and the int8 rows order
        them. Ids in `allowed_ids` that are not in the index are passed over. `num_threads` None uses all processors; no
        result depends on it.
        """
        wanted = num_candidates(k, oversampling, min_candidates)
        allowed = None if allowed_ids is None else np.unique(_as_ids(allowed_ids, "allowed_ids"))
        scopes = [(segment, *segment.allowed(allowed)) for segment in self._segments]
        scopes = [scope for scope in scopes if scope[2]]
        num_scanned = sum(num_allowed for _, _, num_allowed in scopes)
        encoded = self.quantiser.encode_queries(queries)
        num_queries, num_found = len(encoded.coarse), min(k, num_scanned)
        ids = np.empty((num_queries, num_found), dtype=np.uint64)
        scores = np.empty((num_queries, num_found), dtype=np.float32)
        for first in range(0, num_queries if num_found else 0, QUERY_SLICE):
            part = slice(first, first + QUERY_SLICE)
            some = EncodedQueries(encoded.coarse[part], encoded.fine[part], encoded.fine_scales[part])
            ids[part], scores[part] = _search_scopes(scopes, some, k, min(wanted, num_scanned), num_threads)
        return SearchResult(ids, scores, num_scanned)

    def ids(self) -> NDArray[np.uint64]:
        """Return the ids in the index, ascending."""
        live = [segment.ids.whole()[segment.live_rows()] for segment in self._segments]
        return np.sort(np.concatenate([np.empty(0, dtype=np.uint64), *live]))

    def save(self, path: Path) -> None:
        """Write to `path` atomically and durably (temporary file, fsync, rename, fsync of the folder)."""
        write_index_file(path, *self._to_file())

    def to_bytes(self) -> bytes:
        """Return what `save` would write."""
        return render_index(*self._to_file())

    def absorb(self, other: BinaryIndex) -> None:
        """Add all rows of an index of the same quantiser, as they are encoded there.

        Raises:
            InvalidInput: an id is already here, or the quantiser is another; nothing is added.
        """
        if other.quantiser.id != self.quantiser.id:
            raise InvalidInput(f"codes of {other.quantiser.id} do not compare with those of {self.quantiser.id}")
        if not len(other):
            return
        with self._write_lock:
            segment = merge(other._segments)
            for own in self._segments:
                known = own.find(segment.ids.whole())
                if len(known):
                    raise InvalidInput(f"id {own.ids.whole()[known[0]]} is in the index already", param="other")
            self._segments = merge_small((*self._segments, segment))

    def compact(self) -> None:
        """Hold all rows in one segment, which is searched in one go. Cost: copies every row."""
        with self._write_lock:
            if len(self._segments) > 1:
                self._segments = (merge(self._segments),)

    def _to_file(self) -> tuple[dict[str, Any], list[NewSection]]:
        quantiser = self.quantiser
        about = {"quantiser": quantiser.id, "dim": quantiser.dim, "seed": quantiser.seed}
        return about, to_sections(self._segments, quantiser.dim, num_code_bytes(quantiser.dim))

    @classmethod
    def load(cls, path: Path) -> BinaryIndex:
        """Memory-map a saved index; checksums of the sections are checked on first use, the header's at once.

        Raises:
            NotFound: there is no such file.
            IntegrityError: the file was cut short, or its header damaged.
        """
        return cls._from_buffer(map_file(path), str(path))

    @classmethod
    def from_bytes(cls, data: bytes) -> BinaryIndex:
        """As `load`, from bytes in memory."""
        return cls._from_buffer(data, "index")

    @classmethod
    def _from_buffer(cls, data: memoryview | bytes, name: str) -> BinaryIndex:
        about, arrays = read_index_file(data, name)
        index = cls(about["dim"], seed=about["seed"])
        if about["quantiser"] != index.quantiser.id:
            raise IntegrityError(f"{name}: encoded by {about['quantiser']}, which this release does not know")
        if num_rows := arrays["ids"].num_rows:
            stored = arrays["ids"], arrays["codes"], arrays["rows"], arrays["scales"]
            index._segments = (Segment(num_rows, *stored, num_live=num_rows),)
        return index

    def verify(self) -> None:
        """Check every checksum. Raises IntegrityError naming what does not hold."""
        for segment in self._segments:
            for stored in segment.arrays():
                stored.verify()


def _search_scopes(
    scopes: list[tuple[Segment, NDArray[np.uint32] | None, int]],
    queries: EncodedQueries,
    k: int,
    wanted: int,
    num_threads: int | None,
) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    """Return ids and scores of the `k` best; the scopes allow at least `wanted` rows together."""
    segments = [segment for segment, _, _ in scopes]
    found = [
        scan_top_k(
            segment.codes.whole(), segment.ids.whole(), queries.coarse, wanted, allowed=masks, num_threads=num_threads
        )
        for segment, masks, _ in scopes
    ]
    scores = np.concatenate([scores for scores, _ in found], axis=1)
    rows = np.concatenate([rows for _, rows in found], axis=1)
    owners = np.broadcast_to(np.repeat(np.arange(len(segments)), wanted), rows.shape)
    ids = take(segments, "ids", owners, np.maximum(rows, 0))
    order = total_order(scores, ids, rows >= 0)[:, :wanted]
    ids, rows, owners = (np.take_along_axis(array, order, axis=1) for array in (ids, rows, owners))
    cosines = estimate_cosines(queries, take(segments, "rows", owners, rows), take(segments, "scales", owners, rows))
    return best_candidates(cosines, ids, k)


def _as_ids(ids: NDArray[np.uint64], param: str) -> NDArray[np.uint64]:
    array = np.asarray(ids)
    if array.ndim != 1 or (array.size and array.dtype != np.uint64):
        raise ShapeError(f"{param} must be (N,) uint64, not {array.shape} {array.dtype}", param=param)
    return array.astype(np.uint64, copy=False)
