"""The compiled loops of `permuted_attention.py`: what matrix products cannot do.

Kept in a module of its own because importing it imports numba. Each loop runs in one thread and in one order, so that
sums come out the same in every run.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from holdfast.kernels.scan_cpu import compiled

NUM_BINS = 4096
SHIFT = 19
"""float32 bits dropped: 8 of exponent and 4 of mantissa remain, scores within 1/16 of each other are equal"""


@compiled
def order_keys(
    bits: NDArray[np.int32], forced: NDArray[np.bool_], ends: NDArray[np.int64], order: NDArray[np.int64],
    sections: NDArray[np.uint8],
) -> None:  # fmt: skip
    """Write the keys of each head in descending order of score, `forced` ones first and equal ones by position.

    Args:
        bits: (num_kv_heads, N), the bits of float32 scores that are 0 or more.
        forced: (N,).
        ends: (L,) ranks at which sections end, the last is N.
        order: (num_kv_heads, N), out.
        sections: (num_kv_heads, N), out: the section of each key's rank.
    """
    num_heads, N = bits.shape
    starts = np.empty(NUM_BINS + 1, dtype=np.int64)
    for head in range(num_heads):
        starts[:] = 0
        for key in range(N):
            bin_ = 0 if forced[key] else NUM_BINS - 1 - (bits[head, key] >> SHIFT)
            starts[bin_ + 1] += 1
        for bin_ in range(NUM_BINS):
            starts[bin_ + 1] += starts[bin_]
        for key in range(N):
            bin_ = 0 if forced[key] else NUM_BINS - 1 - (bits[head, key] >> SHIFT)
            rank = starts[bin_]
            starts[bin_] += 1
            order[head, rank] = key
            section = 0
            while rank >= ends[section]:
                section += 1
            sections[head, key] = section


@compiled
def sum_groups(
    values: NDArray[np.float32], sections: NDArray[np.uint8], factors: NDArray[np.float32], group_size: int,
    sums: NDArray[np.float32],
) -> None:  # fmt: skip
    """Add up the values of the keys of each group, each times its section's factor.

    Args:
        values: (N, D).
        sections: (N,).
        factors: (L,), 0 for sections that are left out.
        group_size: keys of a group; they are neighbours.
        sums: (G, D + 1), zeros, out: the last column adds up the factors.
    """
    N, D = values.shape
    for key in range(N):
        factor = factors[sections[key]]
        if factor == 0:
            continue
        into, value = sums[key // group_size], values[key]
        for place in range(D):
            into[place] += factor * value[place]
        into[D] += factor


@compiled
def sum_squares(
    squares: NDArray[np.float32], sections: NDArray[np.uint8], group_size: int, sums: NDArray[np.float32]
) -> None:
    """Add up (num_kv_heads, N) squared norms of values by group and section into (num_kv_heads, G, L) zeros."""
    num_heads, N = squares.shape
    for head in range(num_heads):
        for key in range(N):
            sums[head, key // group_size, sections[head, key]] += squares[head, key]


@compiled
def compare_sections(
    exact: NDArray[np.float32], grouped: NDArray[np.float32], sections: NDArray[np.uint8], group_size: int,
    totals: NDArray[np.float64],
) -> None:  # fmt: skip
    """Add up, for each section, what the audited queries' weights and their groups' weights come to.

    Args:
        exact: (num_kv_heads, A, N) weights of keys.
        grouped: (num_kv_heads, A, G) weights of groups.
        totals: (num_kv_heads, L, 5), zeros, out: sums of exact, grouped, exact², exact * grouped and grouped².
    """
    num_heads, num_audited, N = exact.shape
    for head in range(num_heads):
        for row in range(num_audited):
            for key in range(N):
                one, other = np.float64(exact[head, row, key]), np.float64(grouped[head, row, key // group_size])
                into = totals[head, sections[head, key]]
                into[0] += one
                into[1] += other
                into[2] += one * one
                into[3] += one * other
                into[4] += other * other
