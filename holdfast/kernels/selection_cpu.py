"""The best of many by (score descending, id ascending), for compiled kernels.

A scan writes what may be among the best into a pool, which has room for more than are wanted. When it is full, scores
are counted in 256 steps, and the pool keeps those from the step of the last one wanted up; what comes next has to
reach that step. Only what is left in the end is compared one by one. A heap, which branches at random for each that
comes, takes several times as long.

Source: Hoare, "Algorithm 65: Find" (1961), for the exact selection.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.kernels.compiled import compiled

NUM_STEPS = 256


@compiled
def make_room(
    scores: NDArray[np.int32],
    rows: NDArray[np.int64],
    counts: NDArray[np.int64],
    least: NDArray[np.int32],
    query: int,
    top_k: int,
    ids: NDArray[np.uint64],
) -> None:
    """Thin out the full pool of a query, line `query` of (Q, room) arrays, so that its best `top_k` stay.

    `counts` says how many each pool holds, `least` which score it takes from now on.
    """
    own, own_rows = scores[query], rows[query]
    room = len(own)
    kept, cut = thin_out(own, own_rows, room, top_k)
    if 2 * (kept - top_k) > room - top_k:  # many are equal, or nearly so
        keep_best(own, own_rows, kept, ids, top_k)
        kept, cut = top_k, own[top_k - 1]
    counts[query], least[query] = kept, cut


@compiled
def thin_out(scores: NDArray[np.int32], rows: NDArray[np.int64], count: int, top_k: int) -> tuple[int, np.int64]:
    """Move those of the first `count` that reach some score to the front: at least `top_k`, and not many more.

    Returns how many they are, and that score. No branch depends on a score.
    """
    low, high = np.int64(scores[0]), np.int64(scores[0])
    for place in range(count):
        low = min(low, np.int64(scores[place]))
        high = max(high, np.int64(scores[place]))
    shift = 0
    while (high - low) >> shift >= NUM_STEPS:
        shift += 1
    steps = np.zeros(NUM_STEPS, dtype=np.int64)
    for place in range(count):
        steps[(np.int64(scores[place]) - low) >> shift] += 1
    step, reached = NUM_STEPS, 0
    while reached < top_k:
        step -= 1
        reached += steps[step]
    cut = low + (np.int64(step) << shift)
    kept = 0
    for place in range(count):
        score, row = scores[place], rows[place]
        scores[kept], rows[kept] = score, row
        kept += 1 if score >= cut else 0
    return kept, cut


@compiled
def keep_best(scores: NDArray[Any], rows: NDArray[np.int64], count: int, ids: NDArray[np.uint64], top_k: int) -> None:
    """Move the best `top_k` of the first `count` to the front, the worst of them last."""
    first, last = 0, count - 1
    while first < last:
        middle = (first + last) // 2
        score, row = scores[middle], rows[middle]
        left, right = first, last
        while left <= right:
            while is_better(scores[left], rows[left], score, row, ids):
                left += 1
            while is_better(score, row, scores[right], rows[right], ids):
                right -= 1
            if left <= right:
                scores[left], scores[right] = scores[right], scores[left]
                rows[left], rows[right] = rows[right], rows[left]
                left += 1
                right -= 1
        if top_k - 1 <= right:
            last = right
        elif top_k - 1 >= left:
            first = left
        else:
            return


@compiled
def sort_best(scores: NDArray[Any], rows: NDArray[np.int64], count: int, ids: NDArray[np.uint64]) -> None:
    """Sort the first `count`, best first."""
    wide = -scores[:count].astype(np.float64)  # exact: scores are below 2 ** 53
    order = np.argsort(wide, kind="mergesort")
    own_scores, own_rows = scores[:count].copy(), rows[:count].copy()
    for place in range(count):
        score, row = own_scores[order[place]], own_rows[order[place]]
        while place > 0 and scores[place - 1] == score and ids[rows[place - 1]] > ids[row]:
            scores[place], rows[place] = scores[place - 1], rows[place - 1]
            place -= 1
        scores[place], rows[place] = score, row


@compiled
def is_better(score: Any, row: int, other_score: Any, other_row: int, ids: NDArray[np.uint64]) -> bool:
    """Whether (score, row) comes before another."""
    return bool(score > other_score or (score == other_score and ids[row] < ids[other_row]))


@compiled
def gather_pools(
    pool_scores: NDArray[np.int32],
    pool_rows: NDArray[np.int64],
    counts: NDArray[np.int64],
    ids: NDArray[np.uint64],
    scores: NDArray[np.int32],
    rows: NDArray[np.int64],
) -> None:
    """Write the best of W workers' (W, Q, room) pools to the front of (Q, top_k) `scores` and `rows`, best first."""
    num_workers, num_queries, room = pool_scores.shape
    top_k = scores.shape[1]
    all_scores = np.empty(num_workers * room, dtype=np.int32)
    all_rows = np.empty(num_workers * room, dtype=np.int64)
    for query in range(num_queries):
        total = 0
        for worker in range(num_workers):
            count = counts[worker, query]
            all_scores[total : total + count] = pool_scores[worker, query, :count]
            all_rows[total : total + count] = pool_rows[worker, query, :count]
            total += count
        if total > top_k:
            kept, _ = thin_out(all_scores, all_rows, total, top_k)
            keep_best(all_scores, all_rows, kept, ids, top_k)
            total = top_k
        sort_best(all_scores, all_rows, total, ids)
        scores[query, :total] = all_scores[:total]
        rows[query, :total] = all_rows[:total]
