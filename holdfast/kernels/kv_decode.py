"""One token's attention over a long cache: the best keys exactly, the others by a sample.

The index (`kv_scan.py`) names candidates; their true scores choose the `budget` best of each query head, and all heads
that share the keys read what one of them chose. Of the keys left over, a sample spread evenly over the index stands
for all: each counts for as many as it represents, so that aggregates over the whole context are not lost as they are
when a softmax is merely cut. The sample is as large as the error allowed in the sum of weights asks for, at most
`max_tail_len`; what it says about its own error is returned.

Source: top keys and a sample with an (eps, delta) budget arXiv 2510.05688; importance of the tail 2410.16179; the mean
over a group of heads arXiv 2510.11292 is replaced by the union, by which no head loses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from holdfast.errors import ShapeError
from holdfast.kernels.kv_scan import KeyIndex, find_candidates
from holdfast.kernels.scan import Rows

if TYPE_CHECKING:
    import torch

OVERSAMPLING = 8.0
"""candidates of a query head are this times its budget"""
MIN_TAIL_LEN = 64
"""sampled keys that are kept, however little the others weigh"""


@dataclass(frozen=True, slots=True)
class TailBudget:
    """How well the keys that are not read must be known."""

    eps: float = 0.02
    """error allowed in the sum of weights, relative"""
    delta: float = 0.05
    """chance that it is larger"""
    max_tail_len: int = 1024
    """keys; 0 leaves the others out"""

    @property
    def deviations(self) -> float:
        """Standard deviations within which the error is to lie."""
        return NormalDist().inv_cdf(1 - self.delta / 2)


@dataclass(frozen=True, slots=True)
class Selection:
    """The keys and values that stand for those of one KV head, gathered."""

    rows: Rows
    """(S,) positions among all keys: first those read for themselves, ascending, then the sample"""
    num_exact: int
    num_rest: int
    """keys that the sample stands for"""
    keys: torch.Tensor
    """(S, D)"""
    values: torch.Tensor

    @property
    def tail_len(self) -> int:
        return len(self.rows) - self.num_exact


@dataclass(frozen=True, slots=True)
class Attended:
    """What a group of query heads read."""

    output: torch.Tensor
    """(G, D)"""
    lse: torch.Tensor
    """(G,)"""
    sampled_mass: torch.Tensor
    """(G,) share of the weight that lies with keys known by the sample only"""
    error: torch.Tensor
    """(G,) standard error of the sum of weights, relative"""


def select(
    index: KeyIndex,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    budget: int,
    *,
    scale: float,
    oversampling: float = OVERSAMPLING,
    tail: TailBudget = TailBudget(),
    seed: int = 0,
) -> Selection:
    """Choose what a group of query heads reads of one KV head.

    Args:
        query: (G, D) float32 on the CPU, the heads that share the keys.
        keys, values: (N, D) in the order of the index; the first `index.num_keys` are chosen from.
        budget: keys that each head reads exactly, at least 1; N and more reads everything.
        scale: factor of the scores.
        oversampling: candidates for each key of the budget, at least 1.
        tail: how well the other keys must be known.
        seed: where the sample begins.

    Raises:
        ShapeError: budget or oversampling below 1, or arrays that do not fit the index.

    Cost: one scan of the codes; reads the keys of the candidates, and the values of what is selected.
    """
    import torch

    _check(index, query, keys, values, budget, oversampling)
    num_keys = index.num_keys
    if budget >= num_keys:
        return Selection(np.arange(num_keys), num_keys, 0, keys[:num_keys], values[:num_keys])
    candidates = find_candidates(index, query.numpy(), math.ceil(oversampling * budget))
    first = int(np.random.default_rng(seed).integers(num_keys))
    sample = spread_rows(num_keys, min(tail.max_tail_len, num_keys), first)
    read = keys.index_select(0, torch.from_numpy(np.concatenate([candidates, sample])))
    scores = (query @ read.T) * scale
    found, sampled = scores[:, : len(candidates)], scores[:, len(candidates) :]
    best = np.arange(len(candidates))
    if len(candidates) > budget:
        least = found.kthvalue(len(candidates) - budget + 1, dim=1, keepdim=True).values
        best = np.flatnonzero((found >= least).any(dim=0).numpy())
    rows = candidates[best]
    num_rest = num_keys - len(rows)
    others = np.flatnonzero(~_is_in(rows, sample))
    if num_rest and len(others):
        tail_len = _tail_len(found[:, best], sampled[:, others], num_rest, tail)
        best = np.concatenate([best, len(candidates) + others[:tail_len]])
    chosen = np.concatenate([candidates, sample])[best]
    return Selection(
        chosen,
        len(rows),
        num_rest,
        read.index_select(0, torch.from_numpy(best)),
        values.index_select(0, torch.from_numpy(chosen)),
    )


def attend_selection(query: torch.Tensor, selection: Selection, *, scale: float) -> Attended:
    """Return the attention of (G, D) query heads over what was selected for them, or for a query much like theirs.

    Cost: reads the selection once.
    Reference: attend_selection_reference.
    """
    import torch

    scores = (query @ selection.keys.T) * scale
    num_exact, tail_len = selection.num_exact, selection.tail_len
    if tail_len:
        scores[:, num_exact:] += math.log(selection.num_rest / tail_len)
    lse = torch.logsumexp(scores, dim=1)
    weights = torch.exp(scores - lse[:, None])
    sampled = weights[:, num_exact:]
    error = sampled.std(dim=1, correction=0) * math.sqrt(tail_len) if tail_len else torch.zeros(len(query))
    return Attended(weights @ selection.values, lse, sampled.sum(dim=1), error)


def attend_selection_reference(
    query: np.ndarray, keys: np.ndarray, values: np.ndarray, num_exact: int, num_rest: int, *, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Output and lse of `attend_selection` by repeating each sampled key as often as it counts, in float64."""
    counts = np.ones(len(keys))
    counts[num_exact:] = num_rest / max(1, len(keys) - num_exact)
    weights = np.exp(query.astype(np.float64) @ keys.T.astype(np.float64) * scale) * counts
    total = weights.sum(axis=1, keepdims=True)
    return weights / total @ values.astype(np.float64), np.log(total[:, 0])


def _tail_len(exact: torch.Tensor, sampled: torch.Tensor, num_rest: int, tail: TailBudget) -> int:
    """Return how many sampled keys bring the error of the sum of weights down to `tail.eps` for every head.

    `exact` are the (G, S) scores of what is read, `sampled` the (G, m) scores of a sample of `num_rest` others.
    """
    import torch

    largest = torch.maximum(_largest(exact), _largest(sampled))
    weights = torch.exp(sampled - largest)
    total = torch.exp(exact - largest).sum(dim=1) + num_rest * weights.mean(dim=1)
    deviation = num_rest * weights.std(dim=1, correction=0) / total
    wanted = math.ceil(float((tail.deviations * deviation / tail.eps).square().max()))
    return min(len(sampled[0]), max(MIN_TAIL_LEN, wanted))


def spread_rows(num_rows: int, count: int, first: int = 0) -> Rows:
    """Return `count` different rows below `num_rows`, spread evenly from `first` on: more of them are spread as well.

    A multiple of the golden section, modulo the number of rows, leaves no long gap at any count.
    """
    step = round(num_rows * 0.6180339887498949) | 1
    while math.gcd(step, num_rows) > 1:
        step += 2
    return (first + np.arange(count) * step) % num_rows


def _is_in(ascending: Rows, rows: Rows) -> np.ndarray:
    """Return which `rows` are among the `ascending` ones."""
    if not len(ascending):
        return np.zeros(len(rows), dtype=np.bool_)
    places = np.minimum(np.searchsorted(ascending, rows), len(ascending) - 1)
    found: np.ndarray = ascending[places] == rows
    return found


def _largest(scores: torch.Tensor) -> torch.Tensor:
    return scores.amax(dim=1, keepdim=True)


def _check(
    index: KeyIndex, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, budget: int, oversampling: float
) -> None:
    if budget < 1 or oversampling < 1:
        raise ShapeError(f"budget is {budget} and oversampling {oversampling}; both are at least 1", param="budget")
    dim = index.means.shape[1]
    if query.ndim != 2 or query.shape[1] != dim or keys.shape[1:] != (dim,) or keys.shape != values.shape:
        raise ShapeError(
            f"query {tuple(query.shape)}, keys {tuple(keys.shape)} and values {tuple(values.shape)} do not fit "
            f"an index of {dim} coordinates"
        )
    if len(keys) < index.num_keys:
        raise ShapeError(f"there are {len(keys)} keys, but the index holds {index.num_keys}", param="keys")
