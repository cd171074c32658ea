"""BinaryIndex: exhaustive, deterministic search over codes of a few bits, ordered by int8 rescoring.

Scores are exact integers and the order is total (score descending, id ascending), so a result depends neither on
threads, batch size nor the order in which vectors were added. Neither does a saved file: it holds the rows by id.
Segments of several quantisers may lie in one index: each gives its own candidates, and the rows, which are the same for
all, order them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import InvalidInput, ShapeError
from holdfast.kernels.hadamard import make_rotation
from holdfast.kernels.packing import num_code_bytes
from holdfast.retrieval.calibrate import MAX_SAMPLE, Calibration, choose_quantiser
from holdfast.retrieval.candidates import Scope
from holdfast.retrieval.encoding_anew import Part, encode_anew, gather_vectors
from holdfast.retrieval.index_contents import from_contents, to_contents
from holdfast.retrieval.index_file import NewSection, map_file, read_index_file, render_index, write_index_file
from holdfast.retrieval.quantise import Quantiser, check_vectors
from holdfast.retrieval.quantise_rotated import HadamardQuantiser
from holdfast.retrieval.rescore import MIN_CANDIDATES, encode_rows, num_candidates
from holdfast.retrieval.segment import Segment, by_quantiser, make_segment, merge, merge_small
from holdfast.retrieval.segment_search import SearchResult, search_segments

OVERSAMPLING = 4.0
ROW_SEED = 0


class BinaryIndex:
    """Vectors as codes of a few bits with an int8 copy for rescoring.

    `add` encodes new vectors only. `save` writes one immutable, checksummed file atomically; `load` memory-maps it.
    Any number of threads may search while others add and remove: each search sees the index as it was at one moment.

    Args:
        dim: length of the vectors.
        quantiser: how they become codes; by default one bit a coordinate after a seeded rotation.
        calibration: what was measured of the quantiser on such vectors: it sets how many candidates are looked at.
    """

    def __init__(self, dim: int, quantiser: Quantiser | None = None, *, calibration: Calibration | None = None) -> None:
        self._rotation = make_rotation(dim, ROW_SEED)
        self._dim = dim
        self._segments: tuple[Segment, ...] = ()
        self._write_lock = threading.Lock()
        self._calibrations: dict[str, Calibration] = {}
        self.set_quantiser(quantiser or HadamardQuantiser(dim), calibration)

    def __len__(self) -> int:
        return sum(segment.num_live for segment in self._segments)

    @property
    def quantiser(self) -> Quantiser:
        """How added vectors are encoded."""
        return self._quantiser

    @property
    def calibration(self) -> Calibration | None:
        """What was measured of the quantiser when it was fitted to this collection."""
        return self._calibrations.get(self._quantiser.id)

    def describe(self) -> str:
        """Say in one line how vectors are encoded and what was measured of it."""
        code_bytes = num_code_bytes(self._quantiser.code_dim, self._quantiser.bits)
        known = self.calibration
        measured = "not measured: few vectors" if known is None else known.describe()
        return f"{len(self)} vectors, codes of {self._quantiser.id}, {code_bytes} bytes each; {measured}"

    def set_quantiser(self, quantiser: Quantiser, calibration: Calibration | None = None) -> None:
        """Encode what is added from now on with `quantiser`; what is there stays as it is."""
        if quantiser.dim != self._dim:
            raise ShapeError(f"the index is of vectors of {self._dim}, not of {quantiser.dim}", param="quantiser")
        self._quantiser = quantiser
        if calibration is not None:
            self._calibrations = {**self._calibrations, quantiser.id: calibration}

    def add(self, ids: NDArray[np.uint64], vectors: NDArray[np.float32]) -> None:
        """Add unit-norm (N, dim) vectors under ids (N,) that are not in the index yet.

        Raises:
            InvalidInput: an id is already there or given twice, or a vector is not of length 1; nothing is added.
        """
        ids = _as_ids(ids, "ids")
        quantiser = self._quantiser
        encoded = quantiser.encode(vectors)
        if len(ids) != len(encoded.levels):
            raise ShapeError(f"{len(ids)} ids for {len(encoded.levels)} vectors", param="ids")
        rows, scales = encode_rows(np.asarray(vectors, dtype=np.float32), self._rotation)
        distinct, counts = np.unique(ids, return_counts=True)
        if len(distinct) != len(ids):
            raise InvalidInput(f"id {distinct[counts > 1][0]} is given twice", param="ids")
        if not len(ids):
            return
        segment = make_segment(quantiser, ids, encoded, rows, scales)
        with self._write_lock:
            for other in self._segments:
                known = other.find(distinct)
                if len(known):
                    raise InvalidInput(f"id {other.ids.whole()[known[0]]} is in the index already", param="ids")
            self._segments = merge_small((*self._segments, segment))

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

    def refitted(self, parts: Callable[[], Iterable[Part]]) -> BinaryIndex:
        """Return an index of the same vectors in the codes that suit them best, and how far they err measured.

        Equal contents give equal choices: the sample is of the lowest ids, which are as good as random where ids derive
        from content.

        Args:
            parts: gives all ids in the index, each once, with their vectors; called twice.
        """
        sample = gather_vectors(self.ids()[:MAX_SAMPLE], parts(), self._dim)
        quantiser, calibration = choose_quantiser(sample, len(self))
        return self.encoded_anew(quantiser, parts(), calibration)

    def encoded_anew(
        self,
        quantiser: Quantiser,
        parts: Iterable[Part],
        calibration: Calibration | None = None,
    ) -> BinaryIndex:
        """Return an index of the same vectors whose codes are all of `quantiser`; ids and rows are shared, not copied.

        Args:
            quantiser: the new one.
            parts: all ids in the index, each once, with their vectors; ids that are not in it are passed over.
            calibration: what was measured of the quantiser.

        Raises:
            IntegrityError: an id of the index has no vector.
        """
        index = BinaryIndex(self._dim, quantiser, calibration=calibration)
        index._segments = encode_anew(self._segments, quantiser, parts)
        return index

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        oversampling: float | None = None,
        min_candidates: int = MIN_CANDIDATES,
        allowed_ids: NDArray[np.uint64] | None = None,
        by_codes: bool = False,
        num_threads: int | None = None,
    ) -> SearchResult:
        """Return the `k` nearest of each unit-norm query (Q, dim), among `allowed_ids` where given.

        The codes let ceil(oversampling * k) candidates through, at least `min_candidates`, and the int8 rows order
        them. Where a calibration says how far codes err, rescoring stops once no candidate left can be among the best.

        Args:
            queries: (Q, dim) float32.
            k: results, at least 1.
            oversampling: candidates a result; by default what the calibration found, else 4.
            min_candidates: the least candidates.
            allowed_ids: all when None; ids that are not in the index are passed over.
            by_codes: order by the codes alone, and leave the rows alone.
            num_threads: all processors when None; no result depends on it.
        """
        if oversampling is None:
            oversampling = self.calibration.oversampling if self.calibration else OVERSAMPLING
        wanted = num_candidates(k, oversampling, min_candidates)
        queries = check_vectors(queries, self._dim, "queries")
        allowed = None if allowed_ids is None else np.unique(_as_ids(allowed_ids, "allowed_ids"))
        return search_segments(
            [Scope(segment, *segment.allowed(allowed)) for segment in self._segments],
            queries,
            k,
            wanted,
            calibrations=self._calibrations,
            rotation=self._rotation,
            by_codes=by_codes,
            num_threads=num_threads,
        )

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
        """Add all rows of another index, as they are encoded there.

        Raises:
            InvalidInput: an id is already here, or the vectors are of another length; nothing is added.
        """
        if other._dim != self._dim:
            raise ShapeError(f"the index is of vectors of {self._dim}, not of {other._dim}", param="other")
        with self._write_lock:
            segments = self._segments
            for segment in map(merge, by_quantiser(other._segments)):
                for own in self._segments:
                    known = own.find(segment.ids.whole())
                    if len(known):
                        raise InvalidInput(f"id {own.ids.whole()[known[0]]} is in the index already", param="other")
                segments = merge_small((*segments, segment))
            self._segments = segments
            self._calibrations = {**other._calibrations, **self._calibrations}

    def compact(self) -> None:
        """Hold all rows of a quantiser in one segment, which is searched in one go. Cost: copies every row."""
        with self._write_lock:
            groups = by_quantiser(self._segments)
            self._segments = tuple(merge(group) if len(group) > 1 else group[0] for group in groups)

    def _to_file(self) -> tuple[dict[str, Any], list[NewSection]]:
        return to_contents(self._dim, self._quantiser, self._calibrations, self._segments)

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
        contents = from_contents(*read_index_file(data, name))
        index = cls(contents.quantiser.dim, contents.quantiser)
        index._calibrations, index._segments = contents.calibrations, contents.segments
        return index

    def verify(self) -> None:
        """Check every checksum. Raises IntegrityError naming what does not hold."""
        for segment in self._segments:
            for stored in segment.arrays():
                stored.verify()


def warm_up() -> None:
    """Compile what adding and searching need, or load what was compiled: seconds, or a fraction of one."""
    index, vector = BinaryIndex(8), np.eye(1, 8, dtype=np.float32)
    index.add(np.zeros(1, dtype=np.uint64), vector)
    index.search(vector, 1)


def _as_ids(ids: NDArray[np.uint64], param: str) -> NDArray[np.uint64]:
    array = np.asarray(ids)
    if array.ndim != 1 or (array.size and array.dtype != np.uint64):
        raise ShapeError(f"{param} must be (N,) uint64, not {array.shape} {array.dtype}", param=param)
    return array.astype(np.uint64, copy=False)
