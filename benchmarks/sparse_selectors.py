"""The selectors of other sparse prefill methods, as masks: which keys each query of one head reads.

Only the choice is theirs; the attention over what is chosen is computed exactly, so that nothing but the choice is
compared. `scored` counts the pairs that choosing took. Each takes queries and keys (N, D) and one number that trades
density for error.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

Choice = tuple[torch.Tensor, float]
"""(N, N) bool, True is read, causal; pairs scored"""
Selector = Callable[[torch.Tensor, torch.Tensor, float], Choice]

BLOCK = 64
SEGMENT = 256


def xattention(query: torch.Tensor, keys: torch.Tensor, mass: float) -> Choice:
    """Antidiagonal sums of strided scores choose blocks up to a share of mass (arXiv 2503.16428; stride 8)."""
    N, D = query.shape
    stride = 8
    strided = query.view(N // stride, stride, D).flip(1).reshape(N // stride, -1)
    scores = strided @ keys.reshape(N // stride, -1).T / (math.sqrt(D) * stride)
    rows = N // stride
    weights = torch.softmax(scores.masked_fill(~torch.ones(rows, rows, dtype=torch.bool).tril(), -math.inf), dim=1)
    per_block = BLOCK // stride
    blocks = weights.view(rows // per_block, per_block, rows // per_block, per_block).sum(dim=(1, 3))
    return _of_blocks(_heaviest(blocks, mass, torch.eye(N // BLOCK, dtype=torch.bool))), N * N / (2 * stride)


def pbs(query: torch.Tensor, keys: torch.Tensor, mass: float) -> Choice:
    """Keys sorted in segments by what the last 128 queries look at, then mean-pooled blocks (arXiv 2510.21270)."""
    N, D = query.shape
    scores = torch.softmax(query[-128:] @ keys.T / math.sqrt(D), dim=1).mean(dim=0)
    order = torch.argsort(scores.view(-1, SEGMENT), dim=1, descending=True, stable=True)
    order = (order + torch.arange(0, N, SEGMENT)[:, None]).reshape(-1)
    pooled = query.view(-1, BLOCK, D).mean(dim=1) @ keys[order].view(-1, BLOCK, D).mean(dim=1).T / math.sqrt(D)
    segment = torch.arange(N // BLOCK) // (SEGMENT // BLOCK)
    own, later = segment[:, None] == segment, segment[:, None] < segment
    forced = own | ((order == 0).view(-1, BLOCK).any(dim=1)[None] & ~later)
    weights = torch.softmax(pooled.masked_fill(later, -math.inf), dim=1)
    chosen = _of_blocks(_heaviest(weights, mass, forced), causal=False)
    mask = torch.zeros_like(chosen)
    mask[:, order] = chosen
    return mask & torch.ones(N, N, dtype=torch.bool).tril(), 128 * N + (N / BLOCK) ** 2 / 2


def quest(query: torch.Tensor, keys: torch.Tensor, share: float) -> Choice:
    """Each query reads the pages of 16 keys with the highest bound on a score (arXiv 2406.10774)."""
    N, D = query.shape
    pages = keys.view(-1, 16, D)
    low, high = pages.amin(dim=1), pages.amax(dim=1)
    bounds = query.clamp(min=0) @ high.T + query.clamp(max=0) @ low.T
    own = torch.arange(N) // 16
    bounds = bounds.masked_fill(torch.arange(N // 16) > own[:, None], -math.inf)
    bounds[torch.arange(N), own] = math.inf
    ranks = torch.argsort(torch.argsort(bounds, dim=1, descending=True, stable=True), dim=1)
    chosen = ranks < torch.ceil(share * (own + 1))[:, None]
    return chosen.repeat_interleave(16, dim=1) & torch.ones(N, N, dtype=torch.bool).tril(), N * N / 16


def s2o_published(query: torch.Tensor, keys: torch.Tensor, gain: float) -> Choice:
    """One mean query ranks a segment's history; tiles are read until they add less than `gain` (arXiv 2602.22575)."""
    N, D = query.shape
    mask = torch.zeros(N, N, dtype=torch.bool)
    for start in range(0, N, SEGMENT):
        rows = query[start : start + SEGMENT]
        order = torch.argsort(rows.mean(dim=0) @ keys[:start].T, descending=True, stable=True)
        order = torch.cat([torch.tensor([0]), order[order != 0]]) if start else order
        weights = torch.exp(rows @ keys[: start + SEGMENT].T / math.sqrt(D) - 20)
        guide = keys[order[:BLOCK]].mean(dim=0) if start else keys[0]
        for tile in torch.argsort(rows @ guide, descending=True, stable=True).split(BLOCK):
            mask[start + tile, start : start + SEGMENT] = True
            total = (weights[tile, start:] * (torch.arange(SEGMENT) <= tile[:, None])).sum(dim=1)
            for ids in order.split(BLOCK):
                added = weights[tile][:, ids].sum(dim=1)
                mask[(start + tile)[:, None], ids] = True
                total += added
                if float((added / total).mean()) < gain:
                    break
    return mask & torch.ones(N, N, dtype=torch.bool).tril(), N * N / (2 * SEGMENT)


def oracle(query: torch.Tensor, keys: torch.Tensor, mass: float) -> Choice:
    """The fewest keys that hold a share of each query's weight; what choosing costs is not counted."""
    N, D = query.shape
    seen = torch.ones(N, N, dtype=torch.bool).tril()
    weights = torch.softmax((query @ keys.T / math.sqrt(D)).masked_fill(~seen, -math.inf), dim=1)
    return _heaviest(weights, mass, torch.zeros_like(seen)) & seen, 0.0


SELECTORS: dict[str, tuple[Selector, tuple[float, ...]]] = {
    "PBS": (pbs, (0.5, 0.7, 0.9)),
    "XAttention": (xattention, (0.6, 0.75, 0.9)),
    "Quest": (quest, (0.05, 0.15, 0.4)),
    "S2O as published": (s2o_published, (3e-3, 1e-3, 3e-4)),
    "oracle top-p": (oracle, (0.8, 0.9, 0.97)),
}


def _heaviest(weights: torch.Tensor, mass: float, forced: torch.Tensor) -> torch.Tensor:
    """The smallest set of columns of each row that holds `mass` of it, and those that are forced."""
    ordered, order = torch.sort(weights, dim=1, descending=True, stable=True)
    before = ordered.cumsum(dim=1) - ordered
    chosen = torch.zeros_like(weights, dtype=torch.bool)
    chosen.scatter_(1, order, before < mass * ordered.sum(dim=1, keepdim=True))
    return chosen | forced


def _of_blocks(blocks: torch.Tensor, *, causal: bool = True) -> torch.Tensor:
    mask = blocks.repeat_interleave(BLOCK, dim=0).repeat_interleave(BLOCK, dim=1)
    return mask.tril() if causal else mask
