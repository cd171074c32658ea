"""Is decoding over a long cache cheap with KV retrieval, what does it miss, and what does it take?

The heads of the published workload (`kernels/attention_workload.py`), four query heads to a KV head. The last tokens'
queries are decoded one after the other over everything before. Beside ours: torch's SDPA over the whole cache, with the
heads of a group packed into one call, which is its fastest form, and the best choice of as many keys that there is
(oracle). One thread; times are of the processor, the least of three passes over the same steps. Both ways to decode
are timed: choosing keys at every step, and choosing only when the queries turn, as the engine does. Queries of the
workload have no rotary embedding to take back, so they are compared as they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.results import Result, Target, Value
from holdfast.kernels.attention_workload import HEADS, Head, make_head
from holdfast.kernels.kv_decode import Selection, attend_selection, select
from holdfast.kernels.kv_scan import KeyIndex, find_candidates, find_candidates_reference, group_keys, make_index
from holdfast.kernels.sparse_attention import relative_error
from holdfast.serving.engine.kv_retrieval import KvOptions

LENGTHS = (16_384, 65_536, 262_144)
QUICK_LENGTHS = (16_384,)
GROUP = 4
HEAD_DIM = 64
SCALE = HEAD_DIM**-0.5
TOP_K = 256
NUM_STEPS = 64
NUM_TIMED = 8
"""steps of a timed pass"""
OPTIONS = KvOptions()


@dataclass(frozen=True, slots=True)
class Cache:
    """One KV head's cache, indexed, and the queries that decode over it."""

    queries: torch.Tensor
    """(NUM_STEPS, GROUP, HEAD_DIM)"""
    keys: torch.Tensor
    values: torch.Tensor
    index: KeyIndex
    build_us: float
    """microseconds a token"""

    def choose(self, query: torch.Tensor) -> Selection:
        return select(self.index, query, self.keys, self.values, OPTIONS.budget, scale=SCALE)


def check() -> None:
    """What is found equals its definition, and a budget of all keys is dense attention."""
    cache = make_cache(HEADS["slash"], 4096)
    query = cache.queries[0]
    found = find_candidates(cache.index, query.numpy(), 512)
    np.testing.assert_array_equal(found, find_candidates_reference(cache.index, query.numpy(), 512))
    everything = select(cache.index, query, cache.keys, cache.values, 4096, scale=SCALE)
    output = attend_selection(query, everything, scale=SCALE).output
    assert float((output - dense(query, cache)).abs().max()) <= 1e-5


def run(quick: bool) -> Result:
    torch.set_num_threads(1)
    lengths = QUICK_LENGTHS if quick else LENGTHS
    rows = [measure(name, head, length) for length in lengths for name, head in HEADS.items()]
    return Result(rows, targets(rows[-len(HEADS) :]))


def make_cache(head: Head, num_tokens: int) -> Cache:
    queries, keys, values = make_head(head, num_tokens, head_dim=HEAD_DIM, group=GROUP, seed=1)
    start = time.thread_time()
    order = group_keys(keys[0])
    ordered = np.ascontiguousarray(keys[0][order])
    index = make_index(ordered)
    build_us = (time.thread_time() - start) / num_tokens * 1e6
    newest = np.ascontiguousarray(queries.transpose(1, 0, 2)[-NUM_STEPS:])
    return Cache(
        torch.from_numpy(newest),
        torch.from_numpy(ordered),
        torch.from_numpy(np.ascontiguousarray(values[0][order])),
        index,
        build_us,
    )


def dense(query: torch.Tensor, cache: Cache) -> torch.Tensor:
    """Attention over the whole cache, the heads of the group as the rows of one call."""
    attention = torch.nn.functional.scaled_dot_product_attention
    return attention(query[None, None], cache.keys[None, None], cache.values[None, None], scale=SCALE)[0, 0]


def measure(name: str, head: Head, num_tokens: int) -> dict[str, Value]:
    """Return one row: what a head's decoding misses and takes."""
    cache = make_cache(head, num_tokens)
    recalls, missed, missed_kept, oracle, ours, cut, exact = [], [], [], [], [], [], []
    kept: Selection | None = None
    last = chosen_for = cache.queries[0]
    num_retrievals = 0
    for query in cache.queries:
        selection = cache.choose(query)
        cosine = torch.nn.functional.cosine_similarity
        alike = torch.minimum(cosine(query, last, dim=1), cosine(query, chosen_for, dim=1)).mean()
        if kept is None or float(alike) < OPTIONS.similarity:
            kept, chosen_for = selection, query
            num_retrievals += 1
        last = query
        weights = torch.softmax(query @ cache.keys.T * SCALE, dim=1)
        read = selection.rows[: selection.num_exact]
        best = weights.topk(TOP_K, dim=1).indices.numpy()
        recalls.append(np.isin(best, read).mean())
        missed.append(1 - weights[:, read].sum(dim=1))
        missed_kept.append(1 - weights[:, kept.rows[: kept.num_exact]].sum(dim=1))
        oracle.append(1 - weights.topk(len(read), dim=1).values.sum(dim=1))
        exact.append(weights @ cache.values)
        ours.append(attend_selection(query, selection, scale=SCALE).output)
        only = Selection(read, len(read), 0, selection.keys[: len(read)], selection.values[: len(read)])
        cut.append(attend_selection(query, only, scale=SCALE).output)
    rate = num_retrievals / NUM_STEPS
    dense_ms = timed(lambda query: dense(query, cache), cache)
    choose_ms = timed(lambda query: attend_selection(query, cache.choose(query), scale=SCALE), cache)
    ready = cache.choose(cache.queries[0])
    keep_ms = timed(lambda query: attend_selection(query, ready, scale=SCALE), cache)
    return {
        "head": name,
        "tokens": num_tokens,
        "dense_ms": dense_ms,
        "choosing_ms": choose_ms,
        "keeping_ms": keep_ms,
        "chosen_share_of_steps": rate,
        "times_dense_choosing": dense_ms / choose_ms,
        "times_dense": dense_ms / (rate * choose_ms + (1 - rate) * keep_ms),
        "recall_of_top_256": float(np.mean(recalls)),
        "missed_mass_p95": percentile(missed),
        "missed_mass_p95_oracle": percentile(oracle),
        "missed_mass_more_when_kept": float((torch.cat(missed_kept) - torch.cat(missed)).mean()),
        "output_error": relative_error(torch.cat(ours).numpy(), torch.cat(exact).numpy()),
        "output_error_without_sample": relative_error(torch.cat(cut).numpy(), torch.cat(exact).numpy()),
        "index_share_of_16_bit_kv": cache.index.num_bytes / (num_tokens * 2 * 2 * HEAD_DIM),
        "index_us_per_token": cache.build_us,
    }


def timed(step: Callable[[torch.Tensor], object], cache: Cache) -> float:
    """Return the milliseconds of one step."""
    queries = cache.queries[:: NUM_STEPS // NUM_TIMED]
    least = float("inf")
    for _ in range(3):
        start = time.thread_time()
        for query in queries:
            step(query)
        least = min(least, time.thread_time() - start)
    return least / len(queries) * 1e3


def percentile(parts: list[torch.Tensor]) -> float:
    return float(torch.quantile(torch.cat(parts).float(), 0.95))


def targets(rows: list[dict[str, Value]]) -> list[Target]:
    """Hold the longest cache against what was promised; the worst head counts, the mean where it is said."""

    def column(name: str) -> list[float]:
        return [float(row[name] or 0) for row in rows]

    return [
        Target("decode_speed", "times dense attention, worst head", min(column("times_dense")), must=10, aim=20),
        Target(
            "decode_speed_choosing",
            "times dense attention, choosing at every step, worst head",
            min(column("times_dense_choosing")),
            must=10,
            aim=20,
        ),
        Target(
            "recall",
            "recall of the top 256 keys, mean of heads",
            float(np.mean(column("recall_of_top_256"))),
            0.95,
            0.99,
        ),
        Target("missed_mass", "missed mass p95, worst head", max(column("missed_mass_p95")), 0.02, 0.01, "lower"),
        Target(
            "index_bytes",
            "index, share of 16-bit keys and values",
            max(column("index_share_of_16_bit_kv")),
            1 / 16,
            1 / 32,
            "lower",
        ),
        Target(
            "trigger_rate",
            "share of steps that choose anew, worst head",
            max(column("chosen_share_of_steps")),
            0.25,
            0.1,
            "lower",
        ),
        Target(
            "kept_missed_mass",
            "more missed mass by keeping a choice, worst head",
            max(column("missed_mass_more_when_kept")),
            0.005,
            0.001,
            "lower",
        ),
        Target(
            "index_time", "microseconds to index a token, worst head", max(column("index_us_per_token")), 50, 5, "lower"
        ),
    ]
