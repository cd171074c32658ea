"""The definition of `permuted_attention.permuted_attention`, in plain NumPy and float64.

Every pair of query and key has a weight, either its own or its group's; nothing is gathered or merged.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from holdfast.kernels.group_tail import GROUP_SIZE
from holdfast.kernels.permuted_attention import (
    AUDIT,
    LARGEST_EXPONENT,
    MIN_HISTORY,
    NUM_SINKS,
    RUN,
    SEGMENT,
    WINDOW,
    section_ends,
)
from holdfast.kernels.sparse_attention import Array


def permuted_attention_reference(
    query: Array, keys: Array, values: Array, *, error: float = 0.1, scale: float | None = None
) -> Array:
    """`permuted_attention` in plain NumPy, float64: one weight for every pair, exact or its group's."""
    num_heads, T, head_dim = query.shape
    num_kv_heads, N, _ = keys.shape
    query = np.asarray(query, dtype=np.float64) * (head_dim**-0.5 if scale is None else scale)
    keys, values = np.asarray(keys, dtype=np.float64), np.asarray(values, dtype=np.float64)
    output = np.empty((num_heads, T, head_dim))
    for first in range(N - T - (N - T) % SEGMENT, N, SEGMENT):
        asked = range(max(first, N - T), min(first + SEGMENT, N))
        for head in range(num_kv_heads):
            heads = slice(head * num_heads // num_kv_heads, (head + 1) * num_heads // num_kv_heads)
            rows = slice(asked.start - N + T, asked.stop - N + T)
            output[heads, rows] = _segment_reference(query[heads, rows], keys[head], values[head], first, asked, error)
    return output


def _segment_reference(query: Array, keys: Array, values: Array, start: int, asked: range, error: float) -> Array:
    num_heads, T, head_dim = query.shape
    rows = query.reshape(-1, head_dim)
    positions = np.tile(asked, num_heads)
    logits = np.where(np.arange(asked.stop) <= positions[:, None], rows @ keys[: asked.stop].T, -np.inf)
    exact = _softmax(logits) @ values[: asked.stop]
    exact_rows = positions < MIN_HISTORY
    if exact_rows.all() or not start:
        return exact.reshape(query.shape)
    runs = np.concatenate([query[:, at : at + RUN].mean(axis=1) for at in range(0, T, RUN)])
    scores = _softmax(runs @ keys[:start].T).mean(axis=0).astype(np.float32)
    ranks, ends = np.empty(start, dtype=np.int64), section_ends(start)
    steps = scores.view(np.int32) >> 19
    steps[:NUM_SINKS] = steps[-WINDOW:] = 4095
    ranks[np.lexsort((np.arange(start), -steps))] = np.arange(start)
    sections = np.searchsorted(ends, ranks, side="right")

    base = logits.copy()
    base[:, :start][:, sections > 0] = -np.inf
    largest = base.max(axis=1, keepdims=True)
    lse = largest + np.log(np.exp(base - largest).sum(axis=1, keepdims=True))
    means = keys[:start].reshape(-1, GROUP_SIZE, head_dim).mean(axis=1)
    groups = np.repeat(np.exp(np.minimum(rows @ means.T - lse, LARGEST_EXPONENT)), GROUP_SIZE, axis=1)
    audited = np.flatnonzero(np.isin(np.arange(len(rows)) % T, np.arange(min(AUDIT // 2, T - 1), T, AUDIT)))
    weights = np.exp(logits - lse)
    estimate, off = np.zeros_like(groups), np.zeros(start)
    for section in range(1, len(ends)):
        inside = sections == section
        true, other = weights[audited, :start][:, inside], groups[audited][:, inside]
        factor = true.sum() / other.sum()
        estimate[:, inside] = factor * groups[:, inside]
        off[inside] = ((true - factor * other) ** 2).sum() / (other**2).sum()
    squares = groups**2 * off * (values[:start] ** 2).sum(axis=1)
    known = np.exp(base - lse)

    def result(read: npt.NDArray[np.bool_]) -> tuple[Array, Array]:
        used = known.copy()
        used[:, :start] += np.where(sections == 0, 0, np.where(read, weights[:, :start], estimate))
        total: Array = used.sum(axis=1)
        return used @ values[: asked.stop] / total[:, None], total

    approximate, total = result(np.zeros_like(groups, dtype=bool))
    allowed = error**2 * (approximate**2).sum(axis=1).mean() * total**2
    changes = np.stack([squares[:, sections > level].sum(axis=1) for level in range(len(ends) - 1)], axis=1)
    levels = (changes > allowed[:, None]).sum(axis=1) if len(ends) > 1 else np.zeros(len(rows), dtype=np.int64)
    approximate = result(sections <= levels[:, None])[0]
    approximate[audited] = exact[audited]
    return approximate.reshape(query.shape)


def _softmax(logits: Array) -> Array:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    normalised: Array = weights / weights.sum(axis=1, keepdims=True)
    return normalised
