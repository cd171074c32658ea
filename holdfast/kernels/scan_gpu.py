"""The Triton twin of `scan.py`: the same scores and rows, in the same order, from codes on a CUDA device.

Two passes. The first reads every code and keeps one number a query for each tile of 128 codes: its best. The best
`top_k` rows lie in the `top_k` tiles with the highest of those, so the second scores these tiles alone. Between them
only 8 bytes for 128 codes are written, and a lone query is bound by reading the codes, which all processors share.
Codes are expanded to their levels in registers and multiplied in 8-bit integers, on tensor cores.

A row's place in the total order is one 64-bit number: the score above, the rank of its id, counted down, below. So no
two are equal and no order of summation or selection shows.

This module imports triton and torch: it is imported on the first call for a CUDA device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from holdfast.kernels.scan import NO_SCORE, Rows, Scores, check_scan

BLOCK_N = 128  # codes of a tile: four blocks
BLOCK_BYTES = 16  # bytes of a code expanded at a time
MAX_BLOCK_Q = 64  # queries multiplied at a time
NO_KEY = tl.constexpr(-(2**63))
LOW = tl.constexpr(2**32 - 1)


@dataclass(frozen=True, slots=True)
class DeviceCodes:
    """N codes on a device."""

    blocks: Tensor
    """(num_blocks(N), num_code_bytes(dim, bits), 32) uint8"""
    ids: NDArray[np.uint64]
    """(N,) on the host"""
    order: NDArray[np.int64] | None
    """(N,) rows by ascending id, on the host; None where they ascend already"""
    ranks: Tensor | None
    """(N,) int64 place of each row's id among all; None where it is the row"""


def to_device(blocks: NDArray[np.uint8], ids: NDArray[np.uint64], device: str | torch.device) -> DeviceCodes:
    """Copy codes, laid out by `packing.pack`, to a device. N must be below 2 ** 32."""
    moved = torch.from_numpy(np.ascontiguousarray(blocks)).to(device)
    if bool((ids[1:] > ids[:-1]).all()):
        return DeviceCodes(moved, ids, None, None)
    order = np.argsort(ids)
    ranks = np.empty(len(ids), dtype=np.int64)
    ranks[order] = np.arange(len(ids))
    return DeviceCodes(moved, ids, order, torch.from_numpy(ranks).to(device))


def scan_top_k_gpu(
    codes: DeviceCodes,
    queries: NDArray[np.int8],
    top_k: int,
    *,
    bits: int = 1,
    allowed: NDArray[np.uint32] | None = None,
) -> tuple[Scores, Rows]:
    """Return the `top_k` best codes of each query, as `scan.scan_top_k` does.

    Args:
        codes: N codes of `bits` a dimension.
        queries: (Q, dim) integers.
        top_k: at least 1.
        bits: of a dimension in a code: 1, 2 or 4.
        allowed: (num_blocks(N),) masks of the rows to consider, all when None.

    Returns:
        scores: (Q, top_k) int32, best first, `NO_SCORE` where there are fewer than `top_k` rows.
        rows: (Q, top_k) int64, -1 where there are fewer.

    Cost: reads the codes once for each 64 queries, writes N / 16 bytes a query.
    Reference: scan.scan_top_k_reference, equal bit for bit.
    """
    check_scan(codes.blocks.shape, codes.ids, queries, top_k, bits, allowed)
    num_queries, num_rows = len(queries), len(codes.ids)
    scores = np.full((num_queries, top_k), NO_SCORE, dtype=np.int32)
    rows = np.full((num_queries, top_k), -1, dtype=np.int64)
    if num_rows == 0 or num_queries == 0:
        return scores, rows
    keys = _best_keys(codes, _padded(queries, codes, bits), top_k, bits, allowed)
    found = keys != NO_KEY.value
    ranks = np.where(found, LOW.value - (keys & LOW.value), 0)
    width = keys.shape[1]
    scores[:, :width] = np.where(found, keys >> 32, NO_SCORE)
    rows[:, :width] = np.where(found, ranks if codes.order is None else codes.order[ranks], -1)
    return scores, rows


def _padded(queries: NDArray[np.int8], codes: DeviceCodes, bits: int) -> Tensor:
    """Return the queries on the device, with zeros up to a whole number of expansions."""
    num_bytes = triton.cdiv(codes.blocks.shape[1], BLOCK_BYTES) * BLOCK_BYTES
    padded = np.zeros((len(queries), num_bytes * 8 // bits), dtype=np.int8)
    padded[:, : queries.shape[1]] = queries
    return torch.from_numpy(padded).to(codes.blocks.device)


def _best_keys(
    codes: DeviceCodes, queries: Tensor, top_k: int, bits: int, allowed: NDArray[np.uint32] | None
) -> NDArray[np.int64]:
    """Return (Q, at most top_k) keys, best first."""
    device, num_queries, num_rows = codes.blocks.device, len(queries), len(codes.ids)
    num_tiles = triton.cdiv(num_rows, BLOCK_N)
    unused = codes.blocks  # in place of what is not there
    masks = unused if allowed is None else torch.from_numpy(allowed.view(np.int32).copy()).to(device)
    ranks = unused if codes.ranks is None else codes.ranks
    block_q = min(MAX_BLOCK_Q, max(16, triton.next_power_of_2(num_queries)))
    inputs = codes.blocks, ranks, masks, queries
    sizes = {"NUM_BYTES": codes.blocks.shape[1], "WIDTH": queries.shape[1], "BITS": bits}
    sizes |= {"BLOCK_N": BLOCK_N, "BLOCK_BYTES": BLOCK_BYTES}
    sizes |= {"HAS_RANKS": codes.ranks is not None, "HAS_MASKS": allowed is not None}
    best = torch.empty((num_queries, num_tiles), dtype=torch.int64, device=device)
    grid = (num_tiles, triton.cdiv(num_queries, block_q))
    _best_of_tiles[grid](*inputs, best, num_rows, num_queries, num_tiles, BLOCK_Q=block_q, **sizes)
    tiles = torch.topk(best, min(top_k, num_tiles), dim=1).indices.contiguous()
    keys = torch.empty((num_queries, tiles.shape[1], BLOCK_N), dtype=torch.int64, device=device)
    _keys_of_tiles[(tiles.shape[1], num_queries)](*inputs, tiles, keys, num_rows, tiles.shape[1], BLOCK_Q=16, **sizes)
    flat = keys.reshape(num_queries, -1)
    best_keys: NDArray[np.int64] = torch.topk(flat, min(top_k, flat.shape[1]), dim=1).values.cpu().numpy()
    return best_keys


@triton.jit
def _tile_keys(
    blocks,
    ranks,
    masks,
    queries,
    tile,
    query,
    is_query,
    num_rows,
    NUM_BYTES: tl.constexpr,
    WIDTH: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_BYTES: tl.constexpr,
    HAS_RANKS: tl.constexpr,
    HAS_MASKS: tl.constexpr,
):
    """Return the (BLOCK_Q, BLOCK_N) keys of some queries in one tile of codes."""
    PER_BYTE: tl.constexpr = 8 // BITS
    TOP: tl.constexpr = (1 << BITS) - 1
    row = tile.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_row = row < num_rows
    block, lane = row // 32, row % 32
    shifts = tl.arange(0, PER_BYTE) * BITS
    score = tl.zeros((BLOCK_Q, BLOCK_N), dtype=tl.int32)
    for first in range(0, NUM_BYTES, BLOCK_BYTES):
        byte = first + tl.arange(0, BLOCK_BYTES)
        at = block[:, None] * (NUM_BYTES * 32) + byte[None, :] * 32 + lane[:, None]
        code = tl.load(blocks + at, mask=is_row[:, None] & (byte < NUM_BYTES)[None, :], other=0).to(tl.int32)
        level = (code[:, :, None] >> shifts[None, None, :]) & TOP
        value = tl.reshape(2 * level - TOP, (BLOCK_N, BLOCK_BYTES * PER_BYTE)).to(tl.int8)
        place = first * PER_BYTE + tl.arange(0, BLOCK_BYTES * PER_BYTE)
        number = tl.load(queries + query[:, None] * WIDTH + place[None, :], mask=is_query[:, None], other=0)
        score += tl.dot(number, tl.trans(value), out_dtype=tl.int32)
    if HAS_MASKS:
        allowed = tl.load(masks + block, mask=is_row, other=0)
        is_row = is_row & (((allowed >> lane.to(tl.int32)) & 1) != 0)
    rank = row
    if HAS_RANKS:
        rank = tl.load(ranks + row, mask=is_row, other=0)
    key = (score.to(tl.int64) << 32) | (-rank + LOW)[None, :]
    return tl.where(is_row[None, :], key, NO_KEY)


@triton.jit
def _best_of_tiles(
    blocks,
    ranks,
    masks,
    queries,
    best,
    num_rows,
    num_queries,
    num_tiles,
    NUM_BYTES: tl.constexpr,
    WIDTH: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_BYTES: tl.constexpr,
    HAS_RANKS: tl.constexpr,
    HAS_MASKS: tl.constexpr,
):
    """best (Q, num_tiles): the highest key of each query in each tile."""
    tile = tl.program_id(0)
    query = tl.program_id(1) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    is_query = query < num_queries
    keys = _tile_keys(
        blocks, ranks, masks, queries, tile, query, is_query, num_rows,
        NUM_BYTES, WIDTH, BITS, BLOCK_Q, BLOCK_N, BLOCK_BYTES, HAS_RANKS, HAS_MASKS,
    )  # fmt: skip
    tl.store(best + query.to(tl.int64) * num_tiles + tile, tl.max(keys, axis=1), mask=is_query)


@triton.jit
def _keys_of_tiles(
    blocks,
    ranks,
    masks,
    queries,
    tiles,
    keys,
    num_rows,
    num_chosen,
    NUM_BYTES: tl.constexpr,
    WIDTH: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_BYTES: tl.constexpr,
    HAS_RANKS: tl.constexpr,
    HAS_MASKS: tl.constexpr,
):
    """keys (Q, num_chosen, BLOCK_N): all of each query in the tiles (Q, num_chosen) chosen for it."""
    chosen = tl.program_id(1).to(tl.int64) * num_chosen + tl.program_id(0)
    lane = tl.arange(0, BLOCK_Q)
    query = tl.program_id(1) + lane
    found = _tile_keys(
        blocks, ranks, masks, queries, tl.load(tiles + chosen), query, lane == 0, num_rows,
        NUM_BYTES, WIDTH, BITS, BLOCK_Q, BLOCK_N, BLOCK_BYTES, HAS_RANKS, HAS_MASKS,
    )  # fmt: skip
    own = tl.max(tl.where((lane == 0)[:, None], found, NO_KEY), axis=0)
    tl.store(keys + chosen * BLOCK_N + tl.arange(0, BLOCK_N), own)
