"""What sparse attention is judged by: plain references, oracles, density and error.

Every method here and its peers leave out keys; which and how is theirs, how that is counted is written once. Density
counts whatever was computed, the ranking too, in units of full attention: a pair of query and key costs one score and
one weighted value, so a score alone counts half. Errors are given beside it, never a speed without them.

Arrays are NumPy, float64; nothing here is fast. Masks are True where a query reads a key.

Source: oracle top-p as in arXiv 2502.02770; the merge of parts by log-sum-exp is `attention.merge`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from holdfast.errors import ShapeError

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Work:
    """What an attention computed, in pairs of one query and one key of one query head."""

    pairs: float
    """pairs whose score and weighted value were computed, masked parts of tiles and repetitions included"""
    scored: float
    """pairs of which only a score was computed, as for ranking; a mean of queries counts as a query"""
    causal: float
    """pairs that exact causal attention needs"""

    @property
    def density(self) -> float:
        """The work as a share of exact causal attention; 1 costs as much."""
        return (self.pairs + self.scored / 2) / self.causal

    def __add__(self, other: Work) -> Work:
        return Work(self.pairs + other.pairs, self.scored + other.scored, self.causal + other.causal)


def causal_pairs(num_queries: int, num_keys: int, num_heads: int = 1) -> int:
    """Return the pairs of causal attention whose queries are the newest `num_queries` of `num_keys` positions."""
    return num_heads * (num_queries * (num_keys - num_queries) + num_queries * (num_queries + 1) // 2)


def attention_weights(query: Array, keys: Array, *, scale: float | None = None, mask: Mask | None = None) -> Array:
    """Return the (num_heads, T, N) causal softmax weights of the newest T queries, over the keys of `mask` if given.

    Args:
        query: (num_heads, T, head_dim).
        keys: (num_kv_heads, N, head_dim), N >= T.
        scale: softmax scale, head_dim ** -0.5 when None.
        mask: (num_heads, T, N), True for keys that are read; every query must read one that it may see.

    Raises:
        ShapeError: heads or head_dim differ, or T > N.
    """
    num_heads, T, head_dim = query.shape
    num_kv_heads, N, key_dim = keys.shape
    if key_dim != head_dim or num_heads % num_kv_heads or T > N:
        raise ShapeError(f"queries {query.shape} do not fit keys {keys.shape}; want (heads, tokens, head_dim)")
    scale = head_dim**-0.5 if scale is None else scale
    expanded = np.repeat(np.asarray(keys, dtype=np.float64), num_heads // num_kv_heads, axis=0)
    scores = np.asarray(query, dtype=np.float64) @ expanded.transpose(0, 2, 1) * scale
    seen = np.tri(T, N, N - T, dtype=bool)
    scores = np.where(seen if mask is None else seen & mask, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    normalised: Array = weights / weights.sum(axis=-1, keepdims=True)
    return normalised


def attention_reference(
    query: Array, keys: Array, values: Array, *, scale: float | None = None, mask: Mask | None = None
) -> Array:
    """Return the (num_heads, T, head_dim) output of causal attention over the keys of `mask`; see attention_weights."""
    weights = attention_weights(query, keys, scale=scale, mask=mask)
    output: Array = weights @ np.repeat(np.asarray(values, dtype=np.float64), len(query) // len(keys), axis=0)
    return output


def oracle_top_k(weights: Array, top_k: int) -> Mask:
    """Return the mask of each query's `top_k` heaviest keys, equal ones by position; no ranking can choose better."""
    order = np.argsort(-weights, axis=-1, kind="stable")[..., :top_k]
    mask = np.zeros(weights.shape, dtype=bool)
    np.put_along_axis(mask, order, True, axis=-1)
    return mask & (weights > 0)


def oracle_top_p(weights: Array, mass: float) -> Mask:
    """Return the mask of each query's fewest keys that hold `mass` of its weight, 0 < mass <= 1."""
    order = np.argsort(-weights, axis=-1, kind="stable")
    ordered = np.take_along_axis(weights, order, axis=-1)
    before = np.cumsum(ordered, axis=-1) - ordered
    mask = np.zeros(weights.shape, dtype=bool)
    np.put_along_axis(mask, order, before < mass * (1 - 1e-12), axis=-1)
    return mask & (weights > 0)


def missed_mass(weights: Array, mask: Mask) -> Array:
    """Return for each query the weight of the keys that it does not read, 0 to 1; (num_heads, T)."""
    missed: Array = np.where(mask, 0.0, weights).sum(axis=-1)
    return missed


def mass_recall(weights: Array, mask: Mask) -> float:
    """Return the mean share of weight that is read."""
    return float(1 - missed_mass(weights, mask).mean())


def relative_error(output: npt.NDArray[np.floating], exact: npt.NDArray[np.floating]) -> float:
    """Return the norm of the difference over the norm of `exact`, over everything given."""
    difference = np.asarray(output, dtype=np.float64) - np.asarray(exact, dtype=np.float64)
    return float(np.linalg.norm(difference) / np.linalg.norm(np.asarray(exact, dtype=np.float64)))


def kl_divergence(logits: Array, exact_logits: Array) -> Array:
    """Return KL(exact || approximate) of next-token distributions in nats, over the last axis."""
    exact, other = (values - _log_sum_exp(values) for values in (exact_logits, logits))
    divergence: Array = (np.exp(exact) * (exact - other)).sum(axis=-1)
    return divergence


def top1_agreement(logits: Array, exact_logits: Array) -> float:
    """Return the share of positions whose most likely token is the same; equal logits go to the lower token."""
    return float((logits.argmax(axis=-1) == exact_logits.argmax(axis=-1)).mean())


def _log_sum_exp(values: Array) -> Array:
    largest = values.max(axis=-1, keepdims=True)
    total: Array = largest + np.log(np.exp(values - largest).sum(axis=-1, keepdims=True))
    return total
