"""The compiled loops of `group_tail.py`.

Kept in a module of its own because importing it imports numba. Each loop runs in one thread and in one order, so that
sums come out the same in every run.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from holdfast.kernels.scan_cpu import compiled


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
    for group in range(len(sums)):
        for key in range(group * group_size, min(N, (group + 1) * group_size)):
            factor = factors[sections[key]]
            if factor != 0:
                for place in range(D):
                    sums[group, place] += factor * values[key, place]
                sums[group, D] += factor


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
    exact: NDArray[np.float32], grouped: NDArray[np.float32], sums: NDArray[np.float64], squares: NDArray[np.float64],
    sections: NDArray[np.uint8], group_size: int, totals: NDArray[np.float64],
) -> None:  # fmt: skip
    """Add up, for each section, what the audited queries' weights and their groups' weights come to.

    Args:
        exact: (num_kv_heads, A, N) weights of keys.
        grouped: (num_kv_heads, A, G) weights of groups; `sums` and `squares` (num_kv_heads, G) are theirs over A.
        totals: (num_kv_heads, L, 5), zeros, out: sums of exact, grouped, exact², exact * grouped and grouped².
    """
    num_heads, num_audited, N = exact.shape
    for head in range(num_heads):
        for group in range(grouped.shape[2]):
            for key in range(group * group_size, min(N, (group + 1) * group_size)):
                total = square = product = 0.0
                for row in range(num_audited):
                    one = np.float64(exact[head, row, key])
                    total += one
                    square += one * one
                    product += one * grouped[head, row, group]
                section = sections[head, key]
                totals[head, section, 0] += total
                totals[head, section, 1] += sums[head, group]
                totals[head, section, 2] += square
                totals[head, section, 3] += product
                totals[head, section, 4] += squares[head, group]
