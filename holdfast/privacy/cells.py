"""Which key and which noise a row gets, and products that are the same bits for any batch.

A row's cell is a pseudo-random function of its id, its noise one of id, version and epoch: writing a row again gives
the same bytes, so that nothing can be averaged away. Numbers are rounded to a grid on which sums of products are exact
in float64, hence independent of the order in which a library adds them.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from holdfast.privacy.keys import SecretKey, length_prefixed
from holdfast.privacy.streams import NONCE_SIZE, prf

GRID = 2.0**24
"""numbers are multiples of 1 / GRID: a sum of products is exact while |x| |y| < 32, since 32 GRID^2 = 2^53"""


class Assignment:
    """Which cell a row falls into, and the nonce of its noise."""

    def __init__(self, root: SecretKey, epoch: int, num_cells: int) -> None:
        self._key = root.derive("cell")
        self._epoch = epoch.to_bytes(4, "big")
        self._num_cells = num_cells

    def cells(self, ids: Sequence[bytes]) -> NDArray[np.int32]:
        """Return (N,) random cells, fixed by the id; never a cluster of similar rows."""
        if self._num_cells == 1:
            return np.zeros(len(ids), np.int32)
        joined = b"".join(prf(self._key, each)[:8] for each in ids)
        return (np.frombuffer(joined, "<u8") % np.uint64(self._num_cells)).astype(np.int32)

    def nonces(self, key: SecretKey, ids: Sequence[bytes], versions: Sequence[int]) -> list[bytes]:
        """Return 16 bytes for each (id, version, epoch)."""
        material = key.reveal()
        numbers = (version.to_bytes(8, "big") for version in versions)
        return [
            hmac.digest(material, length_prefixed(each, number, self._epoch), "sha256")[:NONCE_SIZE]
            for each, number in zip(ids, numbers, strict=True)
        ]


def on_grid(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the nearest multiples of 2^-24."""
    return np.rint(numbers * GRID) / GRID


def by_cell(
    values: NDArray[np.float64], cells: NDArray[np.int32], matrices: Sequence[NDArray[np.float64]]
) -> NDArray[np.float32]:
    """Return (N, width) the product of each row of `values` with its cell's matrix; both must be on the grid."""
    products = np.empty((len(values), matrices[0].shape[1]), dtype=np.float32)
    for cell in np.unique(cells):
        rows = np.flatnonzero(cells == cell)
        products[rows] = values[rows] @ matrices[cell]
    return products
