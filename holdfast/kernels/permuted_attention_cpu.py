"""The compiled loop of `permuted_attention.py`: keys in order of score, without a sort.

Kept in a module of its own because importing it imports numba.
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
    starts, section_of = np.empty(NUM_BINS + 1, dtype=np.int64), np.empty(NUM_BINS, dtype=np.int64)
    bins = np.empty(N, dtype=np.int64)
    for head in range(num_heads):
        starts[:] = 0
        for key in range(N):
            bins[key] = 0 if forced[key] else NUM_BINS - 1 - (bits[head, key] >> SHIFT)
            starts[bins[key] + 1] += 1
        section = 0
        for place in range(NUM_BINS):
            starts[place + 1] += starts[place]
            while starts[place] >= ends[section] and section + 1 < len(ends):
                section += 1
            section_of[place] = section
        for key in range(N):
            place = bins[key]
            rank = starts[place]
            starts[place] = rank + 1
            while rank >= ends[section_of[place]]:
                section_of[place] += 1
            order[head, rank] = key
            sections[head, key] = section_of[place]
