"""Queries as tables of 16 partial sums, one for each nibble of a code, for `scan_vector.py`.

Entries are unsigned bytes: each table is moved up by its lowest entry, which the query's constant takes back. How many
entries can be added up in a byte follows from the query's own numbers. A query of which one entry is too wide becomes
two, 16 * high + low: `num_parts` is 1 or 2 accordingly. So sums are exact, whatever the query.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.kernels.compiled import compiled

HIGH_WEIGHT = 16  # of the high half of a query scanned as two


@compiled
def fill_tables(
    queries: NDArray[np.int8],
    bits: int,
    tables: NDArray[np.uint8],
    groups: NDArray[np.int64],
    constants: NDArray[np.int64],
) -> bool:
    """Make the tables of `sum_block`, of each query or of its high and low half; False when they do not suffice.

    A score is twice the sum of what is looked up (high half times 16) plus the query's constant.
    """
    num_queries, width = queries.shape
    num_parts, per_nibble, top = len(tables) // num_queries, 4 // bits, (1 << bits) - 1
    ranges = np.empty(2 * tables.shape[1], dtype=np.int64)
    entries = np.empty(16, dtype=np.int64)
    for place in range(len(tables)):
        query, is_low = place // num_parts, place % num_parts == 1
        weight = HIGH_WEIGHT if num_parts == 2 and not is_low else 1
        constant = 0
        for nibble in range(width // per_nibble):
            lowest = highest = 0
            for value in range(16):
                entries[value] = 0
            for step in range(per_nibble):
                number: Any = np.int64(queries[query, per_nibble * nibble + step])
                constant -= 0 if is_low else top * number
                if num_parts == 2:
                    low = ((number + 8) & 15) - 8
                    number = low if is_low else (number - low) >> 4
                lowest += top * min(number, 0)
                highest += top * max(number, 0)
                for value in range(16):
                    entries[value] += ((value >> (bits * step)) & top) * number
            for value in range(16):
                tables[place, nibble >> 1, nibble & 1, value] = (entries[value] - lowest) & 255
            ranges[nibble] = highest - lowest
            constant += 2 * weight * lowest
        constants[query] = constant + (constants[query] if is_low else 0)
        groups[place] = widest_group(ranges)
        if groups[place] == 0:
            return False
    return True


@compiled
def widest_group(ranges: NDArray[np.int64]) -> int:
    """Return how many neighbours (8, 4, 2 or 1) can be added up in a byte; 0 if none, or if 16 bits do not hold all."""
    whole = two = four = eight = 0
    group = 8
    for nibble in range(len(ranges)):
        own = ranges[nibble]
        whole += own
        two = own + (two if nibble % 2 else 0)
        four = own + (four if nibble % 4 else 0)
        eight = own + (eight if nibble % 8 else 0)
        if own > 255 or whole > 65535:
            return 0
        if two > 255:
            group = 1
        elif four > 255:
            group = min(group, 2)
        elif eight > 255:
            group = min(group, 4)
    return group
