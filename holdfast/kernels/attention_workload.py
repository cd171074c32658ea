"""Queries, keys and values that behave like a language model's, at any length, from a few measured numbers.

What sparse attention can leave out depends on how a head looks, so it is judged on heads that are written down: their
logits are a sum of the effects that measurements of trained models agree on. First tokens that every query looks at
(sinks); a peak at the query's own position that decays, and sometimes a second one at a fixed distance (slashes), both
through rotations as in rotary position embedding; keys that are heavy for every query; topics that come and go and find
their earlier passages; and noise that is the pair's own. Now and then a query looks for one single key (needles). Keys
share a large common mean, and a random rotation mixes all coordinates.

`fit` measures the same numbers on captured queries and keys, so that a head can be continued beyond the length at which
it was captured. The split of the logits into row, column, distance and rest is an analysis of variance.

Source: sinks arXiv 2309.17453; heavy hitters 2306.14048; slashes 2407.02490; keys in a cone 2410.16179.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import ShapeError

NUM_SINKS = 4
NUM_TOPICS = 16
NUM_FREQUENCIES = 8
TOPIC_VARIANCE = 0.1
"""variance of the inner products of topics, the same one's among them, at 64 coordinates"""
NEAR = 256
"""tokens; a distance below which a key counts as near"""
NEEDLE = 5.0
"""standard deviations above its neighbours from which a key counts as looked for"""

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Head:
    """One KV head, in units of logits (nats) unless another is named."""

    sink: float
    """how much the first NUM_SINKS keys stand out"""
    local: float
    """height of the peak at the query's own position"""
    local_len: float
    """tokens: where that peak has fallen to half"""
    heavy: float
    """standard deviation of what a key has for every query; exponentially distributed"""
    topic: float
    """how much a key of the query's topic stands out"""
    topic_len: float
    """tokens that a topic lasts"""
    noise: float
    """standard deviation of what is the pair's own"""
    smoothness: float
    """correlation of that between neighbouring queries, 0 to 1"""
    slash: float = 0.0
    """height of the second peak"""
    slash_distance: int = 0
    """tokens between it and the query"""
    needle: float = 0.0
    """how much a looked-for key stands out"""
    needle_rate: float = 0.0
    """share of queries that look for one key"""
    key_mean: float = 2.0
    """norm of the keys' mean, in units of the norm of what differs"""


HEADS = {
    "stream": Head(sink=7, local=7, local_len=24, heavy=0.5, topic=1, topic_len=96, noise=0.8, smoothness=0.8),
    "vertical": Head(sink=5, local=3, local_len=16, heavy=1.2, topic=1.5, topic_len=128, noise=1.0, smoothness=0.7),
    "topic": Head(sink=4, local=4, local_len=32, heavy=0.6, topic=5, topic_len=192, noise=1.0, smoothness=0.8),
    "slash": Head(
        sink=5, local=5, local_len=16, heavy=0.7, topic=2, topic_len=96, noise=1.0, smoothness=0.5,
        slash=4, slash_distance=777, needle=9, needle_rate=0.02,
    ),
}  # fmt: skip
"""The published workload: one head of each kind."""


def make_head(
    head: Head, num_tokens: int, *, head_dim: int = 64, group: int = 1, seed: int = 0
) -> tuple[Floats, Floats, Floats]:
    """Return queries (group, N, D), keys (1, N, D) and values (1, N, D) of one KV head and the heads that share it.

    The same arguments give the same bytes. Values of sinks are small, as models make them; the others share a part by
    topic and are otherwise independent, so that what attention leaves out is not made up for by luck.

    Raises:
        ShapeError: head_dim below 32 or odd.
    """
    if head_dim < 32 or head_dim % 2:
        raise ShapeError(f"head_dim is {head_dim}; the workload needs an even number of at least 32 coordinates")
    chance = np.random.default_rng(seed)
    num_topic_dims = (head_dim - 2 - 2 * NUM_FREQUENCIES) // 2
    num_noise_dims = head_dim - 2 - 2 * NUM_FREQUENCIES - num_topic_dims
    positions = np.arange(num_tokens)

    centres = chance.standard_normal((NUM_TOPICS, num_topic_dims))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    topics = _topics(chance, num_tokens, head.topic_len)
    own = chance.standard_normal((num_tokens, num_noise_dims)) / num_noise_dims**0.25
    keys = np.concatenate(
        [
            np.where(positions < NUM_SINKS, head.sink, 0.0)[:, None],
            head.heavy * (chance.exponential(size=(num_tokens, 1)) - 1),
            _rotations(positions, head.local_len),
            centres[topics],
            own,
        ],
        axis=1,
    )
    queries = []
    for _ in range(group):
        noise = _smooth(chance, num_tokens, num_noise_dims, head.smoothness) * (head.noise / num_noise_dims**0.25)
        looking = np.flatnonzero((chance.random(num_tokens) < head.needle_rate) & (positions > 0))
        wanted = own[(chance.random(len(looking)) * looking).astype(np.int64)]
        noise[looking] = wanted * (head.needle / (wanted**2).sum(axis=1, keepdims=True))
        turned = head.local * _rotations(positions, head.local_len)
        turned += head.slash * _rotations(positions - head.slash_distance, head.local_len)
        ones = np.ones((num_tokens, 2))
        queries.append(np.concatenate([ones, turned, head.topic * centres[topics], noise], axis=1))

    mean = chance.standard_normal(head_dim)
    spread = np.sqrt(((keys - keys.mean(axis=0)) ** 2).sum(axis=1).mean())
    keys += head.key_mean * spread / np.linalg.norm(mean) * mean
    rotation = np.linalg.qr(chance.standard_normal((head_dim, head_dim)))[0] * head_dim**0.25
    values = chance.standard_normal((num_tokens, head_dim))
    values += 0.7 * chance.standard_normal((NUM_TOPICS, head_dim))[topics]
    values[:NUM_SINKS] *= 0.1
    return (np.stack(queries) @ rotation).astype(np.float32), _one(keys @ rotation), _one(values)


def make_workload(
    num_tokens: int, *, heads: dict[str, Head] | None = None, head_dim: int = 64, group: int = 1, seed: int = 0
) -> tuple[Floats, Floats, Floats]:
    """Return queries (num_heads, N, D), keys and values (num_kv_heads, N, D) of `heads`, the published ones if None."""
    made = [
        make_head(head, num_tokens, head_dim=head_dim, group=group, seed=1000 * seed + place)
        for place, head in enumerate((HEADS if heads is None else heads).values())
    ]
    queries, keys, values = (np.concatenate(parts) for parts in zip(*made, strict=True))
    return queries, keys, values


def fit(queries: Floats, keys: Floats, *, scale: float | None = None, num_rows: int = 256, seed: int = 0) -> Head:
    """Return the numbers of one KV head, measured on what a model computed.

    Args:
        queries: (group, N, D) after rotary embedding, N at least 4 * NEAR.
        keys: (N, D) after rotary embedding.
        scale: softmax scale, head_dim ** -0.5 when None.
        num_rows: pairs of neighbouring queries that are looked at, from the second half of the sequence.

    Raises:
        ShapeError: too short, or the shapes differ.

    Cost: 2 * num_rows rows of logits.
    """
    group, N, D = queries.shape
    if keys.shape != (N, D) or 4 * NEAR > N:
        raise ShapeError(f"queries {queries.shape}, keys {keys.shape}: want (group, N, D) and (N, D), N >= {4 * NEAR}")
    chance = np.random.default_rng(seed)
    picked = np.sort(chance.choice(np.arange(N // 2, N - 1), size=min(num_rows, N // 2 - 1), replace=False))
    heads = chance.integers(group, size=len(picked))
    chosen, followers = np.float64(queries[heads, picked]), np.float64(queries[heads, picked + 1])
    scale = D**-0.5 if scale is None else scale
    centred = np.float64(keys) - keys.mean(axis=0, dtype=np.float64)
    logits, following = chosen @ centred.T * scale, followers @ centred.T * scale

    far = slice(NEAR // 4, N // 2 - NEAR)  # seen by every row, near to none, behind the sinks
    rows = logits[:, far].mean(axis=1)
    columns = (logits[:, far] - rows[:, None]).mean(axis=0)
    rest = logits[:, far] - rows[:, None] - columns
    rest_following = following[:, far] - following[:, far].mean(axis=1, keepdims=True) - columns
    lags = {lag: float((rest[:, lag:] * rest[:, :-lag]).mean()) for lag in (1, 33)}
    shared = max(lags[1], 0.0)
    topic_len = 32 / max(np.log(shared / lags[33]), 0.05) if shared > lags[33] > 0 else 32.0
    own = max(float((rest**2).mean()) - shared, 1e-6)
    heavy = float(columns.var()) - own / len(picked)
    between = float((rest * rest_following).mean()) - shared

    by_distance = np.array([(logits[np.arange(len(picked)), picked - lag] - rows).mean() for lag in range(N // 2)])
    peak, ripples = max(float(by_distance[0]), 0.0), float(by_distance[NEAR:].var())
    topic = min(float(np.sqrt(max(shared - ripples, 0.0) / TOPIC_VARIANCE)), peak)
    local = peak - topic
    below = np.flatnonzero(by_distance[:NEAR] < topic / 2 + local / 2)
    heights = (rest[:, 1:-1] - (rest[:, 2:] + rest[:, :-2]) / 2).max(axis=1)  # above its neighbours in the text
    needles = heights > NEEDLE * np.sqrt(1.5 * own)
    return Head(
        sink=max(float((logits[:, :NUM_SINKS] - rows[:, None]).mean()), 0.0),
        local=local,
        local_len=float(below[0]) if len(below) and local > 0 else float(NEAR),
        heavy=float(np.sqrt(max(heavy, 0.0))),
        topic=topic,
        topic_len=float(np.clip(topic_len, 1, N)),
        noise=float(np.sqrt(own)),
        smoothness=float(np.clip(between / own, 0, 0.99)),
        needle=float(heights[needles].mean()) if needles.any() else 0.0,
        needle_rate=float(needles.mean()),
        key_mean=float(np.linalg.norm(keys.mean(axis=0)) / np.sqrt((centred**2).sum(axis=1).mean())),
    )


def _rotations(positions: NDArray[np.int64], half_len: float) -> Doubles:
    """Return (N, 2 * NUM_FREQUENCIES) unit vectors whose inner products fall with distance, to half at `half_len`."""
    angles = positions[:, None] * (1.6 / half_len * 2.2 ** -np.arange(NUM_FREQUENCIES, dtype=np.float64) * 4)
    turned = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    unit: Doubles = turned / np.sqrt(NUM_FREQUENCIES)
    return unit


def _topics(chance: np.random.Generator, num_tokens: int, topic_len: float) -> NDArray[np.int64]:
    changes = chance.random(num_tokens) < 1 / topic_len
    changes[0] = True
    drawn = chance.integers(NUM_TOPICS, size=num_tokens)
    topics: NDArray[np.int64] = drawn[np.maximum.accumulate(np.where(changes, np.arange(num_tokens), 0))]
    return topics


def _smooth(chance: np.random.Generator, num_tokens: int, num_dims: int, correlation: float) -> Doubles:
    """Return unit-variance noise of which neighbours correlate by `correlation`."""
    drawn = chance.standard_normal((num_tokens, num_dims))
    for row in range(1, num_tokens):
        drawn[row] = correlation * drawn[row - 1] + np.sqrt(1 - correlation**2) * drawn[row]
    return drawn


def _one(rows: Doubles) -> Floats:
    return np.ascontiguousarray(rows[None], dtype=np.float32)
