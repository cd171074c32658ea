"""Passages that repeat another: found among many by their codes, told apart by their words.

Boilerplate, old versions and copies in several files say one thing several times, and would fill an answer's few
slots. Two codes within `MAX_HAMMING` bits agree whole in one of `MAX_HAMMING + 1` bands of bytes, so sorting by each
band finds every such pair without comparing all with all. Codes only suggest; `is_repetition` decides, and strictly:
two clauses that differ in a figure or in a "not" do not repeat each other.

Source: Norouzi, Punjani and Fleet, "Fast search in Hamming space with multi-index hashing" (CVPR 2012); Broder, "On the
resemblance and containment of documents" (1997) for shingles.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import ShapeError
from holdfast.retrieval.words import words

MAX_HAMMING = 23
"""bits: a cosine of about 0.98 at 384"""
SHINGLE_LEN = 3
"""words"""
MIN_RESEMBLANCE = 0.85
"""share of the shingles of both that are in both"""
PAIR_SLICE = 1 << 20
_DECISIVE = re.compile(r"\d+|\b(?:no|not|nor|none|never|without|except|unless|cannot)\b|n[’']t\b")


def is_repetition(text: str, other: str) -> bool:
    """Say whether two texts are alike but for a few words, none of them a number or an (English) negation."""
    return distinct_rows([text, other]) == [0]


def distinct_rows(texts: Sequence[str]) -> list[int]:
    """Return the rows of `texts`, in order, that repeat no kept one before them. For the results of a search."""
    kept: list[tuple[list[str], set[tuple[str, ...]]]] = []
    rows: list[int] = []
    for row, text in enumerate(texts):
        decisive, shingles = _DECISIVE.findall(text.lower()), _shingles(text)
        if not any(decisive == before and _resemble(shingles, others) for before, others in kept):
            kept.append((decisive, shingles))
            rows.append(row)
    return rows


def first_alike(codes: NDArray[np.uint8], max_hamming: int = MAX_HAMMING) -> NDArray[np.int64]:
    """Return for each row of `codes` the first row within `max_hamming` bits of it: itself where none is before.

    Args:
        codes: (N, num_bytes) packed bits, row by row.
        max_hamming: bits, below num_bytes.

    Returns:
        (N,) int64.

    Cost: (max_hamming + 1) sorts of N, and a comparison of every two distinct codes that share a band.
    Reference: first_alike_reference, equal.
    """
    _check(codes, max_hamming)
    distinct, first_rows, owners = np.unique(codes, axis=0, return_index=True, return_inverse=True)
    first = first_rows.astype(np.int64)
    alike = first.copy()
    bands = np.array_split(np.arange(codes.shape[1]), max_hamming + 1)
    for band in bands:
        for left, right in _pairs_of_equals(distinct[:, band]):
            is_near = np.bitwise_count(distinct[left] ^ distinct[right]).sum(axis=1, dtype=np.int64) <= max_hamming
            left, right = left[is_near], right[is_near]
            np.minimum.at(alike, left, first[right])
            np.minimum.at(alike, right, first[left])
    return alike[owners.ravel()]


def first_alike_reference(codes: NDArray[np.uint8], max_hamming: int = MAX_HAMMING) -> NDArray[np.int64]:
    """The definition of `first_alike`: every row against every row before it."""
    _check(codes, max_hamming)
    alike = np.arange(len(codes))
    for row in range(len(codes)):
        hamming = np.bitwise_count(codes[: row + 1] ^ codes[row]).sum(axis=1, dtype=np.int64)
        alike[row] = np.flatnonzero(hamming <= max_hamming)[0]
    return alike


def _pairs_of_equals(keys: NDArray[np.uint8]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield all pairs of rows of (N, band) `keys` that are equal, in slices."""
    _, groups = np.unique(keys, axis=0, return_inverse=True)
    order = np.argsort(groups.ravel(), kind="stable")
    ordered = groups.ravel()[order]
    step = 1
    ends = np.searchsorted(ordered, ordered, side="right")  # where each one's group ends
    places = np.arange(len(ordered))
    while len(places := places[places + step < ends[places]]):
        for start in range(0, len(places), PAIR_SLICE):
            part = places[start : start + PAIR_SLICE]
            yield order[part], order[part + step]
        step += 1


def _resemble(shingles: set[tuple[str, ...]], others: set[tuple[str, ...]]) -> bool:
    return len(shingles & others) >= MIN_RESEMBLANCE * len(shingles | others)


def _shingles(text: str) -> set[tuple[str, ...]]:
    said = words(text)
    return {tuple(said[start : start + SHINGLE_LEN]) for start in range(max(1, len(said) - SHINGLE_LEN + 1))}


def _check(codes: NDArray[np.uint8], max_hamming: int) -> None:
    if codes.ndim != 2 or codes.dtype != np.uint8:
        raise ShapeError(f"codes must be (N, num_bytes) uint8, not {codes.shape} {codes.dtype}", param="codes")
    if not 0 <= max_hamming < codes.shape[1]:
        raise ShapeError(f"max_hamming must be below {codes.shape[1]} bytes, not {max_hamming}", param="max_hamming")
