"""Segments: unchanging runs of encoded vectors, sorted by id, of which rows can be masked out.

An index is a tuple of segments. Adding appends one and merges the small ones at the end, so that there are about
log2(N) of them and each row is copied about log2(N) times; removing swaps one for a copy with another mask. Whoever
holds a tuple sees one state of the index, whatever happens next.

Source: O'Neil et al., "The log-structured merge-tree" (1996).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from holdfast.kernels.packing import BLOCK_SIZE, num_blocks, pack_mask, take_codes, to_blocks
from holdfast.retrieval.index_file import CHUNK_SIZE, NewSection, StoredArray
from holdfast.retrieval.quantise import EncodedVectors

PART_SIZE = CHUNK_SIZE  # rows written at a time: then every part is a whole number of chunks, at any dimension
SMALL_SIZE = 4096  # rows; segments up to this size are always merged

Field = Literal["ids", "codes", "rows", "scales"]


@dataclass(frozen=True, slots=True)
class Segment:
    """N rows; `ids` ascend."""

    num_rows: int
    ids: StoredArray
    """(N,) uint64"""
    codes: StoredArray
    """(num_blocks(N), bytes, 32) uint8"""
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
        return self.ids, self.codes, self.rows, self.scales

    def live_rows(self) -> NDArray[np.int64]:
        """Return the rows that are not removed, ascending."""
        return np.arange(self.num_rows) if self.removed is None else np.flatnonzero(~self.removed)

    def take(self, field: Field, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return `field` of `rows`, checking only what they touch; codes come as (len(rows), bytes)."""
        if field == "codes":
            return self.codes.take(rows // BLOCK_SIZE)[np.arange(len(rows)), :, rows % BLOCK_SIZE]
        stored: StoredArray = getattr(self, field)
        return stored.take(rows)

    def find(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the live rows whose id is among the sorted, distinct `ids`, ascending."""
        own = self.ids.whole()
        if len(ids) <= len(own):
            places = np.searchsorted(own, ids)
            known = places < len(own)
            known[known] = own[places[known]] == ids[known]
            rows = places[known]
        else:
            places = np.minimum(np.searchsorted(ids, own), len(ids) - 1)
            rows = np.flatnonzero(ids[places] == own)
        return rows if self.removed is None else rows[~self.removed[rows]]

    def without(self, rows: NDArray[np.int64]) -> Segment:
        """Return the segment with `rows` removed too."""
        removed = np.zeros(self.num_rows, dtype=np.bool_) if self.removed is None else self.removed.copy()
        removed[rows] = True
        num_live = self.num_rows - int(removed.sum())
        return replace(self, num_live=num_live, removed=removed, masks=pack_mask(~removed))

    def allowed(self, ids: NDArray[np.uint64] | None) -> tuple[NDArray[np.uint32] | None, int]:
        """Return the block masks of the live rows among the sorted, distinct `ids` (None: any), and their number."""
        if ids is None:
            return self.masks, self.num_live
        members = np.zeros(self.num_rows, dtype=np.bool_)
        members[self.find(ids)] = True
        return pack_mask(members), int(members.sum())


def make_segment(ids: NDArray[np.uint64], encoded: EncodedVectors) -> Segment:
    """Return a segment of distinct `ids`, in any order, and the vectors they name."""
    order = np.argsort(ids)
    codes = take_codes(encoded.codes, order)
    return _segment(ids[order], codes, encoded.rows[order], encoded.scales[order])


def merge(segments: Sequence[Segment]) -> Segment:
    """Return one segment in memory of all live rows."""
    owners, rows = _sorted_by_id(segments)
    return _segment(
        take(segments, "ids", owners, rows),
        take(segments, "codes", owners, rows),
        take(segments, "rows", owners, rows),
        take(segments, "scales", owners, rows),
    )


def merge_small(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """Merge segments in memory from the end while the one before is not clearly larger; drop empty ones."""
    segments = tuple(segment for segment in segments if segment.num_live)
    while len(segments) > 1 and not segments[-2].is_on_disk:
        if segments[-2].num_rows > max(SMALL_SIZE, 2 * segments[-1].num_rows):
            break
        segments = (*segments[:-2], merge(segments[-2:]))
    return segments


def to_sections(segments: Sequence[Segment], dim: int, code_bytes: int) -> list[NewSection]:
    """Return what a file of all live rows holds; only one part of one section is in memory at a time."""
    owners, rows = _sorted_by_id(segments)

    def parts(field: Field) -> Iterator[NDArray[Any]]:
        for first in range(0, len(rows), PART_SIZE):
            part = slice(first, first + PART_SIZE)
            found = take(segments, field, owners[part], rows[part])
            yield to_blocks(found) if field == "codes" else found

    return [
        NewSection("ids", "<u8", (len(rows),), parts("ids")),
        NewSection("codes", "|u1", (num_blocks(len(rows)), code_bytes, BLOCK_SIZE), parts("codes")),
        NewSection("rows", "|i1", (len(rows), dim), parts("rows")),
        NewSection("scales", "<f4", (len(rows),), parts("scales")),
    ]


def _segment(
    ids: NDArray[np.uint64], codes: NDArray[np.uint8], rows: NDArray[np.int8], scales: NDArray[np.float32]
) -> Segment:
    arrays = StoredArray(ids), StoredArray(to_blocks(codes)), StoredArray(rows), StoredArray(scales)
    return Segment(len(ids), *arrays, num_live=len(ids))


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
    found: NDArray[Any] | None = None
    for owner, segment in enumerate(segments):
        chosen = owners == owner
        part = segment.take(field, rows[chosen])
        if found is None:
            found = np.empty((*rows.shape, *part.shape[1:]), dtype=part.dtype)
        found[chosen] = part
    assert found is not None, "at least one segment"
    return found
