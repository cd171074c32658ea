"""An index over the keys of one KV head: which of them a query may need, found by the retriever's scan.

Keys are put in an order in which neighbours are alike (`group_keys`); GROUP_SIZE of them make a group. What is kept of
a group is its mean, and of a key its distance from that mean: rotated, with 2 bits for all but a sixteenth of the
coordinates, which pay for the rest. All together is less than 2 bits a coordinate: a sixteenth of keys and values in 16
bits. A query scores every mean; what a code must then score to be looked at is a threshold of its block, so that
the scan passes over groups that are too far off.

All that decides which keys are found is integer arithmetic: it depends neither on threads nor on the machine's BLAS.

Source: sign codes of rotated keys arXiv 2602.07721; rotation and levels after RaBitQ (SIGMOD 2024); means of alike keys
2505.02922 and 2510.11292.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import ShapeError
from holdfast.kernels.hadamard import Rotation, make_rotation, rotate
from holdfast.kernels.levels import to_levels
from holdfast.kernels.packing import BLOCK_SIZE, num_code_bytes, pack, unpack
from holdfast.kernels.scan import Rows, scan_above

Floats = NDArray[np.float32]

BITS = 2
GROUP_SIZE = 128
"""keys of one mean"""
STEP = 0.9957
"""best distance of the 4 even levels of a standard normal variable (Max, 1960)"""
NUM_AXES = 16
"""directions of largest variance along which keys are grouped"""
AXIS_LEVELS = 2047
AXIS_SAMPLE = 1024
"""keys by which the direction of a cut is chosen"""
MAX_MEAN = 127


@dataclass(frozen=True, slots=True)
class KeyIndex:
    """What is kept of the keys of one KV head."""

    blocks: NDArray[np.uint8]
    """codes of the keys' distances from their means"""
    sample: NDArray[np.int8]
    """(num_groups, code_dim(D)) the code of one key of each group as odd whole numbers, by which thresholds are set"""
    means: NDArray[np.int8]
    """(num_groups, D) rotated, in units of `mean_unit`"""
    centre: Floats
    """(D,) taken from all keys first: the same for all, it changes no attention"""
    unit: np.float32
    """distance of two levels"""
    mean_unit: np.float32
    rotation: Rotation

    @property
    def num_keys(self) -> int:
        return len(self.means) * GROUP_SIZE

    @property
    def num_bytes(self) -> int:
        return self.blocks.nbytes + self.sample.nbytes + self.means.nbytes + self.centre.nbytes


def code_dim(head_dim: int) -> int:
    """Return how many rotated coordinates of a key are coded."""
    return head_dim - max(1, head_dim // 16)


def group_keys(keys: Floats) -> Rows:
    """Return an order of (N, D) keys in which GROUP_SIZE neighbours, from the first on, are alike.

    Keys are cut in two along the direction in which they differ most, again and again; equal ones keep their order.

    Raises:
        ShapeError: N is no multiple of GROUP_SIZE.

    Cost: a few microseconds a key.
    """
    _check_whole(keys)
    num_groups = len(keys) // GROUP_SIZE
    places = _principal(keys)
    order = np.arange(len(keys))
    pending = [(0, num_groups)]
    while pending:
        first, last = pending.pop()
        if last - first < 2:
            continue
        middle = (first + last) // 2
        own = order[first * GROUP_SIZE : last * GROUP_SIZE]
        sample = places[own[:: max(1, len(own) // AXIS_SAMPLE)]].astype(np.int64)
        spread = len(sample) * (sample**2).sum(axis=0) - sample.sum(axis=0) ** 2
        along = places[own, int(spread.argmax())]
        own[:] = own[np.argsort(along, kind="stable")]
        pending += [(first, middle), (middle, last)]
    return order


def make_index(keys: Floats, *, seed: int = 0) -> KeyIndex:
    """Return the index of (N, D) keys that are in the order of `group_keys`.

    Raises:
        ShapeError: N is no multiple of GROUP_SIZE, or 0.

    Cost: about a microsecond a key.
    """
    _check_whole(keys)
    if not len(keys):
        raise ShapeError("there are no keys to index", param="keys")
    dim = keys.shape[1]
    centre = keys.mean(axis=0, dtype=np.float64).astype(np.float32)
    rotation = make_rotation(dim, seed)
    means, distances = _parts(keys, centre, rotation)
    unit = np.float32(STEP * max(np.sqrt((distances.astype(np.float64) ** 2).mean()), 1e-6))
    # keys that come later may lie farther out than any of these
    mean_unit = np.float32(2 * max(float(np.abs(means).max()), 1e-6) / MAX_MEAN)
    empty = KeyIndex(
        np.empty((0, num_code_bytes(code_dim(dim), BITS), BLOCK_SIZE), dtype=np.uint8),
        np.empty((0, code_dim(dim)), dtype=np.int8),
        np.empty((0, dim), dtype=np.int8),
        centre,
        unit,
        mean_unit,
        rotation,
    )
    return _with_parts(empty, means, distances)


def extend(index: KeyIndex, keys: Floats) -> KeyIndex:
    """Return `index` with whole groups of (N, D) keys added behind; what is there stays as it is."""
    _check_whole(keys)
    return _with_parts(index, *_parts(keys, index.centre, index.rotation))


def find_candidates(index: KeyIndex, queries: Floats, num_candidates: int) -> Rows:
    """Return the keys that at least one query may score among its best.

    Args:
        queries: (G, D), of the heads that share these keys.
        num_candidates: keys that each query is to contribute; about as many are found, by a sample of the scores.

    Returns:
        (M,) int64 rows, ascending; all rows where `num_candidates` reaches their number.

    Cost: one scan of the codes, less the groups that are too far off.
    Reference: find_candidates_reference, equal.
    """
    if num_candidates >= index.num_keys:
        return np.arange(index.num_keys)
    coarse, thresholds = _thresholds(index, queries, num_candidates)
    return scan_above(index.blocks, index.num_keys, coarse, thresholds, bits=BITS)


def find_candidates_reference(index: KeyIndex, queries: Floats, num_candidates: int) -> Rows:
    """The definition of `find_candidates`: the estimate of every score, against the sample's."""
    if num_candidates >= index.num_keys:
        return np.arange(index.num_keys)
    coarse, thresholds = _thresholds(index, queries, num_candidates)
    values = 2 * unpack(index.blocks, index.num_keys, coarse.shape[1], BITS).astype(np.int64) - 3
    scores = coarse.astype(np.int64) @ values.T
    return np.flatnonzero((scores >= np.repeat(thresholds, BLOCK_SIZE, axis=1)).any(axis=0))


def _thresholds(index: KeyIndex, queries: Floats, num_candidates: int) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """Return the queries in 8 bits and what their scores must reach, (G, num_blocks).

    Sums are of whole numbers that float32 holds, so they are exact in any order.
    """
    rotated = rotate(queries, index.rotation)
    units = np.maximum(np.abs(rotated).max(axis=1, keepdims=True), np.float32(1e-30)) / np.float32(127)
    coarse = np.rint(rotated / units)
    to_scores = float(index.mean_unit) / (float(index.unit) / 2)
    offsets = (coarse @ index.means.T.astype(np.float32)) * to_scores

    coarse = coarse[:, : code_dim(queries.shape[1])]
    scores = coarse @ index.sample.T.astype(np.float32) + offsets
    rank = len(index.sample) - max(1, round(num_candidates / GROUP_SIZE))
    wanted = np.partition(scores, rank, axis=1)[:, rank, None]
    thresholds = np.ceil(wanted - offsets).astype(np.int64)
    return coarse.astype(np.int8), np.repeat(thresholds, GROUP_SIZE // BLOCK_SIZE, axis=1)


def _parts(keys: Floats, centre: Floats, rotation: Rotation) -> tuple[Floats, Floats]:
    """Return the (num_groups, D) means of rotated keys and the (N, D) distances from them."""
    rotated = rotate(keys - centre, rotation).reshape(-1, GROUP_SIZE, keys.shape[1])
    means = rotated.mean(axis=1)
    return means, (rotated - means[:, None]).reshape(keys.shape)


def _with_parts(index: KeyIndex, means: Floats, distances: Floats) -> KeyIndex:
    num_coded = code_dim(distances.shape[1])
    middles, units = np.zeros(num_coded, dtype=np.float32), np.full(num_coded, index.unit, dtype=np.float32)
    highest = np.full(num_coded, (1 << BITS) - 1, dtype=np.float32)
    levels, _ = to_levels(np.ascontiguousarray(distances[:, :num_coded]), middles, units, highest)
    rounded = np.clip(np.rint(means / index.mean_unit), -MAX_MEAN, MAX_MEAN).astype(np.int8)
    return replace(
        index,
        blocks=np.concatenate([index.blocks, pack(levels, BITS)]),
        sample=np.concatenate([index.sample, 2 * levels[::GROUP_SIZE].astype(np.int8) - 3]),
        means=np.concatenate([index.means, rounded]),
    )


def _principal(keys: Floats) -> NDArray[np.int32]:
    """Return the keys along their NUM_AXES directions of largest variance, as whole numbers."""
    if not len(keys):
        return np.empty((0, 1), dtype=np.int32)
    centred = keys - keys.mean(axis=0, dtype=np.float64).astype(np.float32)
    whole = np.rint(centred * (127 / max(float(np.abs(centred).max()), 1e-30))).astype(np.float64)
    _, directions = np.linalg.eigh(whole.T @ whole)
    places = centred @ directions[:, ::-1][:, :NUM_AXES].astype(np.float32)
    whole_places: NDArray[np.int32] = np.rint(places * (AXIS_LEVELS / max(float(np.abs(places).max()), 1e-30))).astype(
        np.int32
    )
    return whole_places


def _check_whole(keys: Floats) -> None:
    if keys.ndim != 2 or keys.dtype != np.float32 or len(keys) % GROUP_SIZE:
        raise ShapeError(
            f"keys must be (N, D) float32, N a multiple of {GROUP_SIZE}, not {keys.shape} {keys.dtype}", param="keys"
        )
