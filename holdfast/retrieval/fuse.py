"""Nearness and words made into one order of passages: by their scores, or by their ranks alone.

`fuse_scores` adds the cosine and the text score as a share of the best one, which tells a narrow lead from a wide one;
measured, it is the better of the two (`benchmarks/hybrid.py`). `fuse_rankings` is weighted reciprocal rank fusion, for
scores of which nothing is known. Both are total orders: equal worth goes by id.

Sources: Bruch, Gai and Ingber, "An analysis of fusion functions for hybrid retrieval" (arXiv 2210.11934); Cormack,
Clarke and Buettcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods" (SIGIR 2009).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from holdfast.errors import InvalidInput

RANK_CONSTANT = 60
"""the source's: how slowly a rank's worth falls"""
TEXT_WEIGHT = 0.2
"""what the best match of words is worth beside a cosine of 1 times the rest"""


def fuse_scores(
    cosines: Mapping[int, float], text_scores: Mapping[int, float], *, text_weight: float = TEXT_WEIGHT
) -> list[tuple[int, float]]:
    """Return every id of `cosines` with its score, at most 1, score descending, then id ascending.

    Args:
        cosines: id -> cosine with the question, in [-1, 1].
        text_scores: id -> score by words, at least 0; ids that are missing have none.
        text_weight: in [0, 1].
    """
    if not 0 <= text_weight <= 1:
        raise InvalidInput(f"text_weight must be between 0 and 1, not {text_weight}", param="text_weight")
    best = max(text_scores.values(), default=0.0) or 1.0
    fused = [
        (found, (1 - text_weight) * cosine + text_weight * (text_scores.get(found, 0.0) / best))
        for found, cosine in cosines.items()
    ]
    return sorted(fused, key=lambda pair: (-pair[1], pair[0]))


def fuse_rankings(
    rankings: Sequence[Sequence[int]], weights: Sequence[float], *, rank_constant: int = RANK_CONSTANT
) -> list[tuple[int, float]]:
    """Return every id of `rankings` with its score in (0, 1], score descending, then id ascending.

    A sum is rounded once, from its exact value: the order of the rankings does not matter.

    Args:
        rankings: ids, best first, each at most once; an id need not be in all.
        weights: one a ranking, at least 0, not all 0. An id that is first in each has score 1.
        rank_constant: at least 0; the id at rank r, from 1, gets weight / (rank_constant + r).
    """
    if len(weights) != len(rankings):
        raise InvalidInput(f"{len(weights)} weights for {len(rankings)} rankings", param="weights")
    if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
        raise InvalidInput(f"weights must be at least 0, and one above, not {list(weights)}", param="weights")
    if rank_constant < 0:
        raise InvalidInput(f"rank_constant must be at least 0, not {rank_constant}", param="rank_constant")
    parts: dict[int, list[float]] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        for rank, found in enumerate(ranking if weight else (), start=1):
            parts.setdefault(found, []).append(weight / (rank_constant + rank))
    best = math.fsum(weight / (rank_constant + 1) for weight in weights)
    fused = [(found, math.fsum(shares) / best) for found, shares in parts.items()]
    return sorted(fused, key=lambda pair: (-pair[1], pair[0]))
