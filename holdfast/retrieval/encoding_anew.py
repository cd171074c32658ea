"""Segments encoded by another quantiser, from the vectors in the database; ids and int8 rows are shared, not copied."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import IntegrityError
from holdfast.retrieval.quantise import Encoded, Quantiser
from holdfast.retrieval.segment import Segment

Part = tuple[NDArray[np.uint64], NDArray[np.float32]]
"""ids (N,) and their unit-norm vectors (N, dim)"""


def gather_vectors(ids: NDArray[np.uint64], parts: Iterable[Part], dim: int) -> NDArray[np.float32]:
    """Return the vectors (N, dim) of ascending `ids`, zeros where no part has one."""
    found = np.zeros((len(ids), dim), dtype=np.float32)
    for part_ids, vectors in parts:
        places = np.minimum(np.searchsorted(ids, part_ids), len(ids) - 1)
        known = ids[places] == part_ids
        found[places[known]] = vectors[known]
    return found


def encode_anew(segments: Sequence[Segment], quantiser: Quantiser, parts: Iterable[Part]) -> tuple[Segment, ...]:
    """Return the segments with codes of `quantiser`.

    Args:
        segments: whose live rows are encoded.
        quantiser: the new one.
        parts: all live ids, each once, with their vectors; ids that are not there are passed over.

    Raises:
        IntegrityError: a live id has no vector.
    """
    anew = [
        Encoded(
            np.zeros((segment.num_rows, quantiser.code_dim), dtype=np.uint8),
            np.ones(segment.num_rows, dtype=np.uint8),
        )
        for segment in segments
    ]
    num_found = 0
    for ids, vectors in parts:
        order = np.argsort(ids)
        encoded = quantiser.encode(vectors)
        for segment, own in zip(segments, anew, strict=True):
            rows, places = segment.match(ids[order])
            own.levels[rows] = encoded.levels[order[places]]
            own.factors[rows] = encoded.factors[order[places]]
            num_found += len(rows)
    if num_found != sum(segment.num_live for segment in segments):
        raise IntegrityError("the stored vectors are not those of the index")
    return tuple(segment.with_codes(quantiser, own) for segment, own in zip(segments, anew, strict=True))
