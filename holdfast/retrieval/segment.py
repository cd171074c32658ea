"""Segments: unchanging runs of encoded vectors, sorted by id, of which rows can be masked out.

An index is a tuple of segments. Adding appends one and merges the small ones at the end, so that there are about
log2(N) of them and each row is copied about log2(N) times; removing swaps one for a copy with another mask. Whoever
holds a tuple sees one state of the index, whatever happens next. The codes of a segment are of one quantiser; only
segments of the same are merged.

Source: O'Neil et al., "The log-structured merge-tree" (1996).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from holdfast.kernels.packing import BLOCK_SIZE, num_blocks, num_code_bytes, pack, pack_mask, to_blocks
from holdfast.retrieval.index_file import CHUNK_SIZE, NewSection, StoredArray
from holdfast.retrieval.quantise import Encoded, Quantiser

PART_SIZE = CHUNK_SIZE  # rows written at a time: then every part is a whole number of chunks, at any dimension
SMALL_SIZE = 4096  # rows; segments up to this size are always merged

Field = Literal["ids", "codes", "factors", "rows", "scales"]


@dataclass(frozen=True, slots=True)
class Segment:
    """N rows; `ids` ascend."""

    quantiser: Quantiser
    """what the codes are of"""
    num_rows: int
    ids: StoredArray
    """(N,) uint64"""
    codes: StoredArray
    """(num_blocks(N), bytes, 32) uint8"""
    factors: StoredArray
    """(N,) uint8, of the codes"""
    rows: StoredArray
    """(N, dim) int8"""
    scales: StoredArray
    """(N,) float32"""
    num_live: int
    """rows that are not removed"""
    removed: NDArray[np.bool_] | None = None
    """(N,), None while nothing is"""
    masks: NDArray[np.uint32] | None = None
    """(num_blocks(N),) the rows that are not removed, None while nothing is"""

    @property
    def is_on_disk(self) -> bool:
        """True for a segment of a loaded file."""
        return self.ids.is_on_disk

    def arrays(self) -> tuple[StoredArray, ...]:
        """Return all that is stored."""
        return self.ids, self.codes, self.factors, self.rows, self.scales

    def live_rows(self) -> NDArray[np.int64]:
        """Return the rows that are not removed, ascending."""
        return np.arange(self.num_rows) if self.removed is None else np.flatnonzero(~self.removed)

    def take(self, field: Field, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return `field` of `rows`, checking only what they touch; codes come as (len(rows), bytes)."""
        if field == "codes":
            return self.codes.take(rows // BLOCK_SIZE)[np.arange(len(rows)), :, rows % BLOCK_SIZE]
        stored: StoredArray = getattr(self, field)
        return stored.take(rows)

    def match(self, ids: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the live rows whose id is among the sorted, distinct `ids`, ascending, and the ids' places there."""
        own = self.ids.whole()
        if len(ids) <= len(own):
            rows = np.searchsorted(own, ids)
            places = np.flatnonzero(own[np.minimum(rows, len(own) - 1)] == ids)
            rows = rows[places]
        else:
            places = np.minimum(np.searchsorted(ids, own), len(ids) - 1)
            rows = np.flatnonzero(ids[places] == own)
            places = places[rows]
        if self.removed is None:
            return rows, places
        is_live = ~self.removed[rows]
        return rows[is_live], places[is_live]

    def find(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the live rows whose id is among the sorted, distinct `ids`, ascending."""
        return self.match(ids)[0]

    def without(self, rows: NDArray[np.int64]) -> Segment:
        """Return the segment with `rows` removed too."""
        removed = np.zeros(self.num_rows, dtype=np.bool_) if self.removed is None else self.removed.copy()
        removed[rows] = True
        num_live = self.num_rows - int(removed.sum())
        return replace(self, num_live=num_live, removed=removed, masks=pack_mask(~removed))

    def with_codes(self, quantiser: Quantiser, encoded: Encoded) -> Segment:
        """Return the segment with the codes of another quantiser, of all N rows."""
        codes = StoredArray(pack(encoded.levels, quantiser.bits))
        return replace(self, quantiser=quantiser, codes=codes, factors=StoredArray(encoded.factors))

    def allowed(self, ids: NDArray[np.uint64] | None) -> tuple[NDArray[np.uint32] | None, int]:
        """Return the block masks of the live rows among the sorted, distinct `ids` (None: any), and their number."""
        if ids is None:
            return self.masks, self.num_live
        members = np.zeros(self.num_rows, dtype=np.bool_)
        members[self.find(ids)] = True
        return pack_mask(members), int(members.sum())


def make_segment(
    quantiser: Quantiser,
    ids: NDArray[np.uint64],
    encoded: Encoded,
    rows: NDArray[np.int8],
    scales: NDArray[np.float32],
) -> Segment:
    """Return a segment of distinct `ids`, in any order, and what encodes the vectors they name."""
    order = np.argsort(ids)
    codes = pack(encoded.levels[order], quantiser.bits)
    return _segment(quantiser, ids[order], codes, encoded.factors[order], rows[order], scales[order])


def merge(segments: Sequence[Segment]) -> Segment:
    """Return one segment in memory of all live rows of segments of one quantiser."""
    owners, rows = _sorted_by_id(segments)
    return _segment(
        segments[0].quantiser,
        take(segments, "ids", owners, rows),
        to_blocks(take(segments, "codes", owners, rows)),
        take(segments, "factors", owners, rows),
        take(segments, "rows", owners, rows),
        take(segments, "scales", owners, rows),
    )


def by_quantiser(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Return the segments that have live rows, in groups of one quantiser each."""
    groups: dict[str, list[Segment]] = {}
    for segment in segments:
        if segment.num_live:
            groups.setdefault(segment.quantiser.id, []).append(segment)
    return list(groups.values())


def merge_small(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """Merge segments in memory from the end while the one before is not clearly larger; drop empty ones."""
    segments = tuple(segment for segment in segments if segment.num_live)
    while len(segments) > 1 and not segments[-2].is_on_disk:
        if segments[-2].quantiser.id != segments[-1].quantiser.id:
            break
        if segments[-2].num_rows > max(SMALL_SIZE, 2 * segments[-1].num_rows):
            break
        segments = (*segments[:-2], merge(segments[-2:]))
    return segments


def to_sections(prefix: str, segments: Sequence[Segment], quantiser: Quantiser) -> list[NewSection]:
    """Return what a file holds of all live rows, of one quantiser; one part of one section is in memory at a time."""
    owners, rows = _sorted_by_id(segments)
    code_bytes = num_code_bytes(quantiser.code_dim, quantiser.bits)

    def parts(field: Field) -> Iterator[NDArray[Any]]:
        for first in range(0, len(rows), PART_SIZE):
            part = slice(first, first + PART_SIZE)
            found = take(segments, field, owners[part], rows[part])
            yield to_blocks(found) if field == "codes" else found

    return [
        NewSection(f"{prefix}ids", "<u8", (len(rows),), parts("ids")),
        NewSection(f"{prefix}codes", "|u1", (num_blocks(len(rows)), code_bytes, BLOCK_SIZE), parts("codes")),
        NewSection(f"{prefix}factors", "|u1", (len(rows),), parts("factors")),
        NewSection(f"{prefix}rows", "|i1", (len(rows), quantiser.dim), parts("rows")),
        NewSection(f"{prefix}scales", "<f4", (len(rows),), parts("scales")),
    ]


def from_sections(prefix: str, arrays: dict[str, StoredArray], quantiser: Quantiser) -> Segment:
    """Return the segment that `to_sections` described."""
    ids, codes, factors, rows, scales = (arrays[prefix + field] for field in get_args(Field))
    return Segment(quantiser, ids.num_rows, ids, codes, factors, rows, scales, num_live=ids.num_rows)


def _segment(
    quantiser: Quantiser,
    ids: NDArray[np.uint64],
    codes: NDArray[np.uint8],
    factors: NDArray[np.uint8],
    rows: NDArray[np.int8],
    scales: NDArray[np.float32],
) -> Segment:
    stored = StoredArray(ids), StoredArray(codes), StoredArray(factors), StoredArray(rows), StoredArray(scales)
    return Segment(quantiser, len(ids), *stored, num_live=len(ids))


def _sorted_by_id(segments: Sequence[Segment]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (segment, row) of every live row, by ascending id."""
    if not segments:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    live = [segment.live_rows() for segment in segments]
    ids = np.concatenate([segment.ids.whole()[rows] for segment, rows in zip(segments, live, strict=True)])
    owners = np.repeat(np.arange(len(segments)), [len(rows) for rows in live])
    order = np.argsort(ids, kind="stable")
    return owners[order], np.concatenate(live)[order]


def take(segments: Sequence[Segment], field: Field, owners: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[Any]:
    """Return `field` of row `rows[i]` of segment `owners[i]`, for each i of arrays of any one shape."""
    if len(segments) == 1:
        return segments[0].take(field, rows)
    found: NDArray[Any] | None = None
    for owner, segment in enumerate(segments):
        chosen = owners == owner
        part = segment.take(field, rows[chosen])
        if found is None:
            found = np.empty((*rows.shape, *part.shape[1:]), dtype=part.dtype)
        found[chosen] = part
    assert found is not None, "at least one segment"
    return found
