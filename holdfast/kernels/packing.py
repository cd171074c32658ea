"""Levels to bytes and back: the one place that defines bit order and block layout.

A code gives each dimension one of 2 ** bits levels, in 1, 2 or 4 bits, and is a row of bytes: dimension d lies in the
bits from bits * d on, counted from the least significant bit of byte 0. So no nibble cuts a dimension in two, and one
look-up of 16 entries serves every `bits`. Codes are stored in blocks of 32, transposed: byte row j of a block holds
byte j of its 32 codes side by side, so that a scan reads one byte of many codes at once. The last block is padded with
zeros. A set of rows is one 32-bit mask per block, bit i for its row i.

Source: the layout of André, Kermarrec and Le Scouarnec, "Cache locality is not enough" (VLDB 2015), with 32 lanes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import ShapeError

BLOCK_SIZE = 32
BITS = (1, 2, 4)


def num_code_bytes(dim: int, bits: int = 1) -> int:
    """Return the bytes of one code; the unused high bits of the last byte are zero."""
    return (bits * dim + 7) // 8


def num_blocks(num_rows: int) -> int:
    """Return the blocks that hold `num_rows` codes."""
    return (num_rows + BLOCK_SIZE - 1) // BLOCK_SIZE


def pack(levels: NDArray[np.uint8] | NDArray[np.bool_], bits: int = 1) -> NDArray[np.uint8]:
    """Pack (N, dim) levels, each below 2 ** bits, into (num_blocks(N), num_code_bytes(dim, bits), 32) blocks."""
    check_bits(bits)
    if levels.ndim != 2:
        raise ShapeError(f"levels must be (rows, dim), not of shape {levels.shape}", param="levels")
    if bits == 1:
        return to_blocks(np.packbits(levels.astype(np.bool_, copy=False), axis=1, bitorder="little"))
    num_rows, dim = levels.shape
    padded = np.zeros((num_rows, num_code_bytes(dim, bits) * 8 // bits), dtype=np.uint8)
    padded[:, :dim] = levels
    codes = np.zeros((num_rows, num_code_bytes(dim, bits)), dtype=np.uint8)
    for place in range(8 // bits):
        codes |= padded[:, place :: 8 // bits] << np.uint8(bits * place)
    return to_blocks(codes)


def unpack(blocks: NDArray[np.uint8], num_rows: int, dim: int, bits: int = 1) -> NDArray[np.uint8]:
    """Return the (num_rows, dim) levels that `pack` was given."""
    check_bits(bits)
    codes = take_codes(blocks, np.arange(num_rows))
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    levels = (codes[:, :, None] >> shifts) & np.uint8((1 << bits) - 1)
    return np.ascontiguousarray(levels.reshape(num_rows, codes.shape[1] * len(shifts))[:, :dim])


def check_bits(bits: int) -> None:
    """Raise ShapeError unless `bits` is one of BITS."""
    if bits not in BITS:
        raise ShapeError(f"bits must be one of {BITS}, not {bits}", param="bits")


def to_blocks(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lay (N, num_bytes) codes out in (num_blocks(N), num_bytes, 32) blocks."""
    num_rows, num_bytes = codes.shape
    padded = np.zeros((num_blocks(num_rows) * BLOCK_SIZE, num_bytes), dtype=np.uint8)
    padded[:num_rows] = codes
    return np.ascontiguousarray(padded.reshape(-1, BLOCK_SIZE, num_bytes).transpose(0, 2, 1))


def take_codes(blocks: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the codes of `rows` as (len(rows), num_bytes)."""
    return blocks[rows // BLOCK_SIZE, :, rows % BLOCK_SIZE]


def pack_mask(members: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Return the (num_blocks(N),) masks of the rows for which `members`, (N,), is true."""
    padded = np.zeros(num_blocks(len(members)) * BLOCK_SIZE, dtype=np.bool_)
    padded[: len(members)] = members
    return np.packbits(padded, bitorder="little").view("<u4").astype(np.uint32)


def unpack_mask(masks: NDArray[np.uint32], num_rows: int) -> NDArray[np.bool_]:
    """Return the (num_rows,) members that `pack_mask` was given."""
    packed = masks.astype("<u4").view(np.uint8)
    return np.unpackbits(packed, count=num_rows, bitorder="little").astype(np.bool_)


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array contiguous and not to be written, as memory-mapped ones are: one compiled kernel serves all."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view
