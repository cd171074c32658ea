"""Sign bits to bytes and back: the one place that defines bit order and block layout.

A code is a row of bytes: dimension 8j + b is bit b (least significant first) of byte j. Codes are stored in blocks of
32, transposed: byte row j of a block holds byte j of its 32 codes side by side, so that a scan reads one byte of many
codes at once. The last block is padded with zeros. A set of rows is one 32-bit mask per block, bit i for its row i.

Source: the layout of André, Kermarrec and Le Scouarnec, "Cache locality is not enough" (VLDB 2015), with 32 lanes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import ShapeError

BLOCK_SIZE = 32


def num_code_bytes(num_bits: int) -> int:
    """Return the bytes of one code; the unused high bits of the last byte are zero."""
    return (num_bits + 7) // 8


def num_blocks(num_rows: int) -> int:
    """Return the blocks that hold `num_rows` codes."""
    return (num_rows + BLOCK_SIZE - 1) // BLOCK_SIZE


def pack(bits: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Pack (N, num_bits) bits into (num_blocks(N), num_code_bytes(num_bits), 32) blocks."""
    if bits.ndim != 2:
        raise ShapeError(f"bits must be (rows, num_bits), not of shape {bits.shape}", param="bits")
    return to_blocks(np.packbits(bits, axis=1, bitorder="little"))


def unpack(blocks: NDArray[np.uint8], num_rows: int, num_bits: int) -> NDArray[np.bool_]:
    """Return the (num_rows, num_bits) bits that `pack` was given."""
    codes = take_codes(blocks, np.arange(num_rows))
    return np.unpackbits(codes, axis=1, count=num_bits, bitorder="little").astype(np.bool_)


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
