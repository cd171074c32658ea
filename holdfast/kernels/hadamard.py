"""Seeded randomised Hadamard rotation of vectors of any length, the same bits on every machine.

Four rounds of random signs, an orthonormal Walsh-Hadamard transform of the first (even rounds) or last (odd rounds)
2^k coordinates, and, where the length is no power of two, a butterfly between the two halves. Signs are the bits of
SHAKE-256, not of a library's generator. Every step is an element-wise float32 addition, subtraction or multiplication
in a fixed order, so the result depends neither on batch size nor on the instruction set.

Source: Ailon and Chazelle, "The fast Johnson-Lindenstrauss transform" (2009); Kac's walk on halves as in RaBitQ.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

NUM_ROUNDS = 4
SLICE_SIZE = 256  # rows; a slice of ordinary vectors stays in the second-level cache


def make_signs(dim: int, seed: int) -> NDArray[np.float32]:
    """Return the (NUM_ROUNDS, dim) signs, +1 or -1, of the rotation named by `dim` and `seed`."""
    num_bits = NUM_ROUNDS * dim
    stream = hashlib.shake_256(f"holdfast hadamard 1 dim={dim} seed={seed}".encode()).digest((num_bits + 7) // 8)
    bits = np.unpackbits(np.frombuffer(stream, dtype=np.uint8), count=num_bits, bitorder="little")
    return np.where(bits, np.float32(1), np.float32(-1)).reshape(NUM_ROUNDS, dim)


def rotate(vectors: NDArray[np.float32], signs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rotate (N, dim) vectors by the rotation of `signs`: lengths and inner products stay, up to rounding.

    Cost: about 4 * log2(dim) additions per coordinate.
    """
    rotated = np.empty(vectors.shape, dtype=np.float32)
    for first in range(0, len(vectors), SLICE_SIZE):
        columns = np.array(vectors[first : first + SLICE_SIZE].T, dtype=np.float32, order="C")  # never a view
        rotated[first : first + SLICE_SIZE] = _rotate_columns(columns, signs).T
    return rotated


def _rotate_columns(columns: NDArray[np.float32], signs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rotate (dim, N) columns in place."""
    dim = len(columns)
    width = 1 << (dim.bit_length() - 1)
    half = dim // 2
    scratch = np.empty_like(columns)
    for round_, flips in enumerate(signs):
        columns *= flips[:, None]
        _transform(columns[:width] if round_ % 2 == 0 else columns[dim - width :], scratch[:width])
        if width != dim:
            _butterfly(columns[:half], columns[dim - half :], scratch[:half])
            columns[:half] *= np.float32(0.5**0.5)
            columns[dim - half :] *= np.float32(0.5**0.5)
    return columns


def _transform(columns: NDArray[np.float32], scratch: NDArray[np.float32]) -> None:
    """Walsh-Hadamard transform, orthonormal, of (2^k, N) columns in place."""
    width, num_columns = columns.shape
    step = 1
    while step < width:
        pairs = columns.reshape(width // (2 * step), 2, step, num_columns)
        room = scratch[: width // 2].reshape(width // (2 * step), step, num_columns)
        _butterfly(pairs[:, 0], pairs[:, 1], room)
        step *= 2
    columns *= np.float32(width**-0.5)


def _butterfly(left: NDArray[np.float32], right: NDArray[np.float32], scratch: NDArray[np.float32]) -> None:
    """Replace (left, right) by (left + right, left - right)."""
    np.subtract(left, right, out=scratch)
    np.add(left, right, out=left)
    right[...] = scratch
