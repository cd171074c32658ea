"""Sparse prefill: each segment of queries reads the keys it needs most, and the groups that the others fall into.

Queries are taken in segments of SEGMENT. A segment reads its own keys exactly and ranks all earlier ones by how much
attention the means of its runs of RUN queries would pay them; query heads that share a KV head share the ranking. Ranks
are cut into sections that double in size. Every query reads the first, with the sinks and the window in it, exactly;
later ones until what they can still change is within the error asked for. What remains is not dropped: it is
estimated from groups of neighbours (`group_tail.py`). Nothing is moved: keys are gathered by index.

One query in AUDIT of each segment is computed exactly. From it come the factor by which the groups' weights are off,
the error left by a section, and the error reported to the caller: measured, not assumed.

Source: S2O, arXiv 2602.22575 (ranking for a segment, gather by index, early stop; one mean, keys dropped after the
stop); groups that stand for their keys: RetroInfer, arXiv 2505.02922.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from holdfast.errors import InvalidInput, ShapeError
from holdfast.kernels.attention import attend, causal_attend, merge
from holdfast.kernels.group_tail import GROUP_SIZE, GroupTail
from holdfast.kernels.sparse_attention import Work, causal_pairs

if TYPE_CHECKING:
    import torch

SEGMENT = 512
RUN = 64
FIRST = 512
AUDIT = 128
NUM_SINKS = 8
WINDOW = 64
MIN_HISTORY = 1536
"""keys before a segment from which on sparse attention pays; shorter ones are read whole"""
TILE = 256
"""queries whose keys in their own segment end at the same place, the rest being masked"""
LARGEST_EXPONENT = 60.0
"""of a group's weight beside what is read exactly; float32 ends at 88"""


@dataclass(frozen=True, slots=True)
class Sparsity:
    """What a sparse prefill did, all heads together."""

    work: Work
    squared_error: float
    """sum over the audited queries of the squared distance from their exact output"""
    squared_norm: float
    """sum over the audited queries of the squared norm of their exact output"""

    @property
    def error(self) -> float:
        """The relative error measured on the audited queries; 0 where nothing was approximated."""
        return float((self.squared_error / self.squared_norm) ** 0.5) if self.squared_norm else 0.0

    def __add__(self, other: Sparsity) -> Sparsity:
        return Sparsity(
            self.work + other.work,
            self.squared_error + other.squared_error,
            self.squared_norm + other.squared_norm,
        )


def permuted_attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *, error: float = 0.1, scale: float | None = None
) -> tuple[torch.Tensor, Sparsity]:
    """Return causal attention of the newest queries within a relative error, and what it took.

    The error is a target for the norm of the difference over the norm of the output, by segment and KV head, from an
    estimate that is right on average: queries that look for one key that nothing announces can miss it. `Sparsity`
    says what the error came to. With `error` 0 every key is read.

    Chunks of a prompt can be given one after the other; where they begin at multiples of SEGMENT, the result is bit for
    bit that of the whole prompt at once.

    Args:
        query: (num_heads, T, head_dim) float32, the newest T of N positions.
        keys, values: (num_kv_heads, N, head_dim) float32.
        error: 0 to 1.
        scale: softmax scale, head_dim ** -0.5 when None.

    Returns:
        output: (num_heads, T, head_dim) float32. The same arguments give the same bytes.
        sparsity: the density and the error measured.

    Raises:
        ShapeError: shapes differ, or T > N.
        InvalidInput: error out of range.

    Cost: about SEGMENT / 2 + FIRST + N / GROUP_SIZE exact pairs a query, and what the error asks for.
    Reference: permuted_attention_reference.
    """
    import torch

    num_heads, T, head_dim = query.shape
    num_kv_heads, N, _ = keys.shape
    if keys.shape != values.shape or keys.shape[2] != head_dim or num_heads % num_kv_heads or not 1 <= T <= N:
        shapes = ", ".join(str(tuple(part.shape)) for part in (query, keys, values))
        raise ShapeError(f"queries, keys and values of {shapes} do not fit; all are (heads, tokens, head_dim), T <= N")
    if not 0 <= error <= 1:
        raise InvalidInput(f"error is {error}; it is a share of the output's norm, 0 to 1", param="error")
    if N <= MIN_HISTORY:
        pairs = causal_pairs(T, N, num_heads)
        whole_output, _ = causal_attend(query, keys, values, scale=head_dim**-0.5 if scale is None else scale)
        return whole_output, Sparsity(Work(pairs, 0, pairs), 0, 0)
    query = query * (head_dim**-0.5 if scale is None else scale)
    whole = _Sequence(keys, values)
    outputs, done = [], Sparsity(Work(0, 0, 0), 0, 0)
    first = N - T
    if first < MIN_HISTORY:
        dense = min(N, MIN_HISTORY)
        outputs.append(causal_attend(query[:, : dense - first], keys[:, :dense], values[:, :dense], scale=1.0)[0])
        pairs = causal_pairs(dense - first, dense, num_heads)
        done += Sparsity(Work(pairs, 0, pairs), 0, 0)
        first = dense
    while first < N:
        start = first - first % SEGMENT
        end = min(start + SEGMENT, N)
        output, sparsity = _attend_segment(query[:, first - N + T : end - N + T], whole, start, end, error)
        outputs.append(output)
        done += sparsity
        first = end
    return torch.cat(outputs, dim=1), done


class _Sequence:
    """Keys and values, and what is known of them whatever asks."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        num_kv_heads, N, head_dim = keys.shape
        num_groups = N // GROUP_SIZE
        self.keys, self.values = keys, values
        self.keys_across = _across(keys)
        means = keys[:, : num_groups * GROUP_SIZE].reshape(num_kv_heads, num_groups, GROUP_SIZE, head_dim).mean(dim=2)
        self.means_across = _across(means)
        self.squares = values.square().sum(dim=2)


def _attend_segment(
    query: torch.Tensor, whole: _Sequence, start: int, end: int, error: float
) -> tuple[torch.Tensor, Sparsity]:
    """Return the output of the newest T queries before `end`, scaled already; their segment begins at `start`."""
    import torch

    num_heads, T, head_dim = query.shape
    keys, values = whole.keys[:, :start], whole.values[:, :start]
    num_kv_heads, num_groups = len(keys), start // GROUP_SIZE
    rows = query.reshape(num_kv_heads, -1, head_dim)  # the heads of a group read the same keys
    num_rows = rows.shape[1]

    audited = torch.arange(min(AUDIT // 2, T - 1), T, AUDIT)
    own_ends = end - T + 1 + audited.repeat(num_rows // T)
    audited = (torch.arange(0, num_rows, T)[:, None] + audited).reshape(-1)
    runs = _run_means(query).reshape(num_kv_heads, -1, head_dim)
    logits = torch.cat([runs, rows[:, audited]], dim=1) @ whole.keys_across[:, :, :end]
    order, sections, ends = rank_keys(torch.softmax(logits[:, : runs.shape[1], :start], dim=2).mean(dim=1))
    output, lse = _attend_first(rows, whole, order[:, : ends[0]], start, end, T)

    groups = rows @ whole.means_across[:, :, :num_groups]
    groups = groups.sub_(lse[..., None]).clamp_(max=LARGEST_EXPONENT).exp_()  # beside what is read exactly
    logits = logits[:, runs.shape[1] :]
    weights = (logits[:, :, :start] - lse[:, audited, None]).clamp_(max=LARGEST_EXPONENT).exp_()
    logits.masked_fill_(torch.arange(end) >= own_ends[:, None], -math.inf)
    exact = torch.softmax(logits, dim=2) @ whole.values[:, :end]
    tail = GroupTail(weights, groups[:, audited], values, whole.squares[:, :start], sections, len(ends))

    result, total = _add(output, groups, torch.stack([tail.sums(head, 0) for head in range(num_kv_heads)]))
    allowed = error**2 * result.square().sum(dim=2).mean(dim=1)
    levels = (tail.changes(groups) > (allowed[:, None] * total.square())[..., None]).sum(dim=2)
    pairs = num_heads * (_own_pairs(T, end - start) + T * (ends[0] + num_groups)) + audited.numel() * num_kv_heads * end
    for head in range(num_kv_heads):
        for level in torch.unique(levels[head]).tolist():
            if level == 0:
                continue
            reading = torch.nonzero(levels[head] == level)[:, 0]
            only = slice(head, head + 1)
            part = _gather(keys[only], values[only], order[only, ends[0] : ends[level]])
            pairs += len(reading) * part[0].shape[1]
            known = output[head, reading][None], lse[head, reading][None]
            read, read_lse = merge([known, attend(rows[head, reading][None], *part, scale=1.0)])
            if level + 1 < len(ends):
                weights = groups[head, reading] * torch.exp(known[1] - read_lse)[0, :, None]
                read = _add(read[0], weights, tail.sums(head, level))[0][None]
            result[head, reading] = read[0]
    squared_error, squared_norm = (result[:, audited] - exact).square().sum(), exact.square().sum()
    result[:, audited] = exact
    scored = runs.shape[1] * num_kv_heads * end + num_rows * num_kv_heads * num_groups * len(ends) / head_dim
    work = Work(float(pairs), scored, causal_pairs(T, end, num_heads))
    return result.reshape(query.shape), Sparsity(work, float(squared_error), float(squared_norm))


def rank_keys(scores: torch.Tensor) -> tuple[torch.Tensor, npt.NDArray[np.uint8], list[int]]:
    """Return the order of (num_kv_heads, N) keys by score, the section of each, and the ranks where sections end.

    Sinks and window come first; scores within a sixteenth of each other count as equal and stay in order of position.
    """
    import torch

    from holdfast.kernels.permuted_attention_cpu import order_keys

    num_kv_heads, N = scores.shape
    ends = section_ends(N)
    forced = np.zeros(N, dtype=bool)
    forced[:NUM_SINKS] = forced[-WINDOW:] = True
    order, sections = np.empty((num_kv_heads, N), dtype=np.int64), np.empty((num_kv_heads, N), dtype=np.uint8)
    order_keys(scores.contiguous().numpy().view(np.int32), forced, np.array(ends), order, sections)
    return torch.from_numpy(order), sections, ends


def section_ends(num_keys: int) -> list[int]:
    """Return the ranks at which sections end: FIRST, and twice the last, with no small one at the end."""
    ends = [min(FIRST, num_keys)]
    while ends[-1] < num_keys:
        ends.append(2 * ends[-1] if 3 * ends[-1] <= num_keys else num_keys)
    return ends


def _gather(keys: torch.Tensor, values: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    heads = range(len(keys))
    return (
        torch.stack([keys[head].index_select(0, ids[head]) for head in heads]),
        torch.stack([values[head].index_select(0, ids[head]) for head in heads]),
    )


def _across(rows: torch.Tensor) -> torch.Tensor:
    """Return (H, N, D) as (H, D, N), faster in products with few rows; padded, as rows 2^n bytes apart share caches."""
    H, N, D = rows.shape
    padded = rows.new_empty(H, D, N + 16)[..., :N]
    return padded.copy_(rows.transpose(1, 2))


def _run_means(query: torch.Tensor) -> torch.Tensor:
    """Return (num_heads, ceil(T / RUN), head_dim) means of neighbouring queries."""
    import torch

    num_heads, T, head_dim = query.shape
    whole = T - T % RUN
    means = [query[:, :whole].reshape(num_heads, whole // RUN, RUN, head_dim).mean(dim=2)]
    return torch.cat([*means, query[:, whole:].mean(dim=1, keepdim=True)], dim=1) if whole < T else means[0]


def _attend_first(
    rows: torch.Tensor, whole: _Sequence, ids: torch.Tensor, start: int, end: int, num_queries: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean of values over the earlier keys `ids` and, causally, the segment's own keys; and its lse."""
    import torch

    num_kv_heads, num_rows, head_dim = rows.shape
    group, T, num_first = num_rows // num_queries, num_queries, ids.shape[1]
    earlier = _gather(whole.keys, whole.values, ids)
    keys, values = (
        torch.cat([part, own[:, start:end]], dim=1)
        for part, own in zip(earlier, (whole.keys, whole.values), strict=True)
    )
    queries = rows.view(num_kv_heads, group, T, head_dim)
    outputs, lses = [], []
    for first in range(0, T, TILE):
        tile = queries[:, :, first : first + TILE]
        seen = num_first + end - start - T + min(first + TILE, T)
        hidden = torch.full((tile.shape[2], seen), -math.inf).triu_(seen - tile.shape[2] + 1).repeat(group, 1)
        output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            tile.reshape(1, num_kv_heads, -1, head_dim), keys[None, :, :seen], values[None, :, :seen], 0.0, False,
            attn_mask=hidden, scale=1.0,
        )  # fmt: skip
        outputs.append(output[0].view(num_kv_heads, group, -1, head_dim))
        lses.append(lse[0].view(num_kv_heads, group, -1))
    return torch.cat(outputs, dim=2).view(rows.shape), torch.cat(lses, dim=2).view(rows.shape[:2])


def _own_pairs(num_queries: int, num_keys: int) -> int:
    """Return the pairs a head that `_attend_first` computes in a segment: whole tiles."""
    tiles = [(first, min(first + TILE, num_queries)) for first in range(0, num_queries, TILE)]
    return sum((last - first) * (num_keys - num_queries + last) for first, last in tiles)


def _add(output: torch.Tensor, groups: torch.Tensor, sums: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what is read exactly and what groups stand for, as one mean of values, and the sum of weights."""
    added = groups @ sums
    total = 1 + added[..., -1]
    return (output + added[..., :-1]) / total[..., None], total
