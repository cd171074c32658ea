"""Seeded randomised Hadamard rotation of vectors of any length, the same bits on every machine.

Four rounds, each of random signs and an orthonormal Walsh-Hadamard transform of the first (even rounds) or last (odd
rounds) 2^k coordinates; between the second and the third a random permutation, so that every coordinate is mixed with
every other even where the two windows hardly overlap. Signs and permutation come from SHAKE-256, not from a library's
generator, and every step is an element-wise float32 operation in a fixed order: the result depends neither on batch
size nor on the instruction set.

Source: Ailon and Chazelle, "The fast Johnson-Lindenstrauss transform" (2009); alternating windows as in RaBitQ.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdfast.kernels.packing import read_only

NUM_ROUNDS = 4
SLICE_SIZE = 256  # rows; a slice of ordinary vectors stays in the second-level cache


@dataclass(frozen=True, slots=True)
class Rotation:
    """What is random in a rotation."""

    signs: NDArray[np.float32]
    """(NUM_ROUNDS, dim), +1 or -1"""
    permutation: NDArray[np.int64]
    """(dim,)"""


def make_rotation(dim: int, seed: int) -> Rotation:
    """Return the rotation named by `dim` and `seed`."""
    num_bits = NUM_ROUNDS * dim
    num_sign_bytes = (num_bits + 7) // 8
    stream = hashlib.shake_256(f"holdfast hadamard 1 dim={dim} seed={seed}".encode()).digest(num_sign_bytes + 8 * dim)
    bits = np.unpackbits(np.frombuffer(stream[:num_sign_bytes], dtype=np.uint8), count=num_bits, bitorder="little")
    signs = np.where(bits, np.float32(1), np.float32(-1)).reshape(NUM_ROUNDS, dim)
    keys = np.frombuffer(stream[num_sign_bytes:], dtype="<u8")
    return Rotation(signs, np.argsort(keys, kind="stable"))


def rotate(vectors: NDArray[np.float32], rotation: Rotation) -> NDArray[np.float32]:
    """Rotate (N, dim) vectors: lengths and inner products stay, up to rounding.

    Cost: about 4 * log2(dim) additions per coordinate. Releases the interpreter lock.
    Reference: rotate_reference, equal bit for bit.
    """
    from holdfast.kernels.hadamard_cpu import rotate_rows  # compiles, or loads what was compiled, on the first call

    rotated = np.empty(vectors.shape, dtype=np.float32)
    rotate_rows(read_only(vectors.astype(np.float32, copy=False)), rotation.signs, rotation.permutation, rotated)
    return rotated


def rotate_reference(vectors: NDArray[np.float32], rotation: Rotation) -> NDArray[np.float32]:
    """The definition of `rotate`, in plain NumPy."""
    rotated = np.empty(vectors.shape, dtype=np.float32)
    for first in range(0, len(vectors), SLICE_SIZE):
        columns = np.array(vectors[first : first + SLICE_SIZE].T, dtype=np.float32, order="C")  # never a view
        rotated[first : first + SLICE_SIZE] = _rotate_columns(columns, rotation).T
    return rotated


def _rotate_columns(columns: NDArray[np.float32], rotation: Rotation) -> NDArray[np.float32]:
    """Return the rotated (dim, N) columns; `columns` is overwritten."""
    dim = len(columns)
    width = 1 << (dim.bit_length() - 1)
    scratch = np.empty((width // 2, columns.shape[1]), dtype=np.float32)
    for round_, signs in enumerate(rotation.signs):
        if 2 * round_ == NUM_ROUNDS:
            columns = columns[rotation.permutation]
        columns *= signs[:, None]
        _transform(columns[:width] if round_ % 2 == 0 else columns[dim - width :], scratch)
    return columns


def _transform(columns: NDArray[np.float32], scratch: NDArray[np.float32]) -> None:
    """Walsh-Hadamard transform, orthonormal, of (2^k, N) columns in place; `scratch` is (2^(k-1), N)."""
    width, num_columns = columns.shape
    step = 1
    while step < width:
        pairs = columns.reshape(width // (2 * step), 2, step, num_columns)
        left, right = pairs[:, 0], pairs[:, 1]
        difference = np.subtract(left, right, out=scratch.reshape(left.shape))
        np.add(left, right, out=left)
        right[...] = difference
        step *= 2
    columns *= np.float32(width**-0.5)
