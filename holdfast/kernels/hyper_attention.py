"""HyperAttention: queries read the keys that hash beside them, and a sample stands for the rest.

Queries and keys are hashed by the signs of random projections, after the keys' mean is taken off: a constant added to
all keys changes no softmax, but with it all keys would hash alike. Hashes lie on a path where neighbours differ in one
bit, both are sorted along it, and each block of sorted queries reads its block of sorted keys. Sinks and the nearest
keys are read exactly by all. What remains is estimated by a sample, drawn in proportion to the norms of values, whose
weights are raised by what was left out; a sampled key that was already read exactly counts once.

For causal attention the later half of the positions reads the earlier half this way, and each half is split further
down to MIN_LEN, which is exact.

`sample_tail` estimates the tail of any method that knows which keys it has read.

Source: HyperAttention, arXiv 2310.05869. Its published code walks the Gray code the wrong way, does not mask padding,
counts sampled keys twice and hashes keys with their mean; none of that is kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from holdfast.errors import InvalidInput, ShapeError
from holdfast.kernels.attention import attend, causal_attend, merge
from holdfast.kernels.sparse_attention import Work, causal_pairs

if TYPE_CHECKING:
    import torch

NUM_SINKS = 8
WINDOW = 64
NUM_BITS = 7


@dataclass(frozen=True, slots=True)
class Hashing:
    """How much is read; the same seed hashes the same way at every length."""

    block_size: int = 256
    """sorted keys that a query reads exactly"""
    sample_size: int = 256
    """keys drawn for the rest, with replacement"""
    min_len: int = 2048
    """tokens up to which attention is exact"""
    seed: int = 0


def hyper_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    *,
    hashing: Hashing | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, Work]:
    """Return approximate causal attention of a whole sequence, and what it took.

    Args:
        query: (num_heads, N, head_dim) float32.
        keys, values: (num_kv_heads, N, head_dim) float32.
        scale: softmax scale, head_dim ** -0.5 when None.

    Returns:
        output: (num_heads, N, head_dim) float32; the same arguments give the same bytes.
        work: what was computed.

    Raises:
        ShapeError: shapes differ.
        InvalidInput: a size below 1.

    Cost: min_len / 2 + log2(N / min_len) * (block_size + sample_size + sinks and window) / 2 pairs a query.
    """
    import torch

    num_heads, N, head_dim = query.shape
    if keys.shape != values.shape or keys.shape[1:] != (N, head_dim) or num_heads % len(keys):
        shapes = ", ".join(str(tuple(part.shape)) for part in (query, keys, values))
        raise ShapeError(f"queries, keys and values of {shapes} do not fit; all are (heads, tokens, head_dim)")
    hashing = hashing or Hashing()
    if min(hashing.block_size, hashing.sample_size, hashing.min_len) < 1:
        raise InvalidInput(f"{hashing}: sizes are at least 1")
    query = query * (head_dim**-0.5 if scale is None else scale)
    group = num_heads // len(keys)
    parts, pairs = [], 0.0
    for head in range(num_heads):
        shared = head // group
        output, _, used = _causal(query[head], keys[shared], values[shared], hashing, 0)
        parts.append(output)
        pairs += used
    return torch.stack(parts), Work(pairs, num_heads * 2 * N * NUM_BITS / head_dim, causal_pairs(N, N, num_heads))


def _causal(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, hashing: Hashing, first: int
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return output, lse and pairs of one head's positions among themselves; `first` is the position they begin at."""
    import torch

    N = len(query)
    if hashing.min_len >= N:
        output, lse = causal_attend(query[None], keys[None], values[None], scale=1.0)
        return output[0], lse[0], causal_pairs(N, N)
    half = N // 2
    earlier = _causal(query[:half], keys[:half], values[:half], hashing, first)
    later = _causal(query[half:], keys[half:], values[half:], hashing, first + half)
    across = hashed_attend(query[half:], keys[:half], values[:half], hashing, first)
    output, lse = merge([(later[0], later[1]), (across[0], across[1])])
    return torch.cat([earlier[0], output]), torch.cat([earlier[1], lse]), earlier[2] + later[2] + across[2]


def hashed_attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, hashing: Hashing, first: int = 0
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return the approximate output, lse and pairs of (T, D) scaled queries that may all see all (N, D) keys.

    Read exactly: the first keys and the last, and the block of sorted keys beside the query's place.
    """
    import torch

    T, N = len(query), len(keys)
    always = torch.cat([torch.arange(min(NUM_SINKS, N)), torch.arange(max(NUM_SINKS, N - WINDOW), N)])
    rest = torch.arange(NUM_SINKS, max(NUM_SINKS, N - WINDOW))
    if len(rest) <= hashing.block_size + hashing.sample_size:
        output, lse = attend(query[None], keys[None], values[None], scale=1.0)
        return output[0], lse[0], T * N
    chance = torch.Generator().manual_seed(hashing.seed + 1_000_003 * first + N)
    projection = torch.randn(keys.shape[1], NUM_BITS, generator=torch.Generator().manual_seed(hashing.seed))
    centred = keys[rest] - keys[rest].mean(dim=0)
    key_order = torch.argsort(path_places(centred @ projection), stable=True)
    query_order = torch.argsort(path_places(query @ projection), stable=True)
    block_of = torch.empty(N, dtype=torch.int64).fill_(-1)
    num_blocks = -(-len(rest) // hashing.block_size)
    block_of[rest[key_order]] = torch.arange(len(rest)) * num_blocks // len(rest)
    place_of = torch.empty(T, dtype=torch.int64)
    place_of[query_order] = torch.arange(T) * num_blocks // T

    output, lse = attend(query[None], keys[None, always], values[None, always], scale=1.0)
    parts, pairs = [(output[0], lse[0])], T * len(always)
    own, own_lse = torch.empty(T, values.shape[1]), torch.empty(T)
    for block in range(num_blocks):
        asking, read = torch.nonzero(place_of == block)[:, 0], torch.nonzero(block_of == block)[:, 0]
        if len(asking):
            found = attend(query[None, asking], keys[None, read], values[None, read], scale=1.0)
            own[asking], own_lse[asking] = found[0][0], found[1][0]
            pairs += len(asking) * len(read)
    parts.append((own, own_lse))
    norms = torch.where(block_of >= 0, values.norm(dim=1), torch.zeros(()))
    norms = norms + (block_of >= 0) * norms.mean()  # a value near zero still counts in the sum of weights
    drawn = torch.multinomial(norms, hashing.sample_size, replacement=True, generator=chance)
    is_read = block_of[drawn] == place_of[:, None]
    parts.append(sample_tail(query, keys[drawn], values[drawn], (norms / norms.sum())[drawn], is_read))
    return *merge(parts), float(pairs + T * hashing.sample_size)


def sample_tail(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, chances: torch.Tensor, is_read: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the estimated output and lse of the keys that were not read, from a sample of all; to be merged.

    The sums of weights, and of weighted values, are right on average over samples.

    Args:
        query: (T, D), scaled.
        keys, values: (m, D), drawn with replacement.
        chances: (m,), the chance of each at every draw, above 0.
        is_read: (T, m), True where the query has read that key exactly.
    """
    import torch

    logits = query @ keys.T - torch.log(len(keys) * chances)
    logits = logits.masked_fill(is_read, -math.inf)
    lse = torch.logsumexp(logits, dim=1)
    weights = torch.exp(logits - torch.where(torch.isfinite(lse), lse, torch.zeros(()))[:, None])
    return weights @ values, lse


def path_places(projected: torch.Tensor) -> torch.Tensor:
    """Return the place of each row's sign pattern on a path on which neighbours differ in one bit; (N,) int64.

    The pattern is read as a Gray code: the place is the inverse of `i ^ (i >> 1)`.
    """
    import torch

    bits = projected > 0
    places = torch.zeros(len(projected), dtype=torch.int64)
    parity = torch.zeros(len(projected), dtype=torch.bool)
    for column in range(projected.shape[1] - 1, -1, -1):
        parity = parity ^ bits[:, column]
        places |= parity.long() << column
    return places


def path_places_reference(patterns: npt.NDArray[np.int64], num_bits: int) -> npt.NDArray[np.int64]:
    """`path_places` of patterns given as numbers, by listing the Gray code."""
    listed = np.arange(1 << num_bits)
    places = np.empty_like(listed)
    places[listed ^ (listed >> 1)] = listed
    found: npt.NDArray[np.int64] = places[patterns]
    return found
