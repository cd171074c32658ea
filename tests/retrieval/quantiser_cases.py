"""Vectors like an embedding model's, and one quantiser of each kind fitted to them."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from holdfast.retrieval.quantise import Quantiser, find_scheme

SCHEMES = [("sign", 64), ("hadamard", 64), ("hadamard", 128), ("hadamard", 256), ("mib", 64), ("mib", 128), ("mib", 40)]
"""scheme and bits a code, for 64 dimensions"""


def text_like_vectors(num_rows: int, dim: int = 64, seed: int = 0) -> NDArray[np.float32]:
    """Return unit-norm vectors around a mean, with variances that fall off as 1 / axis, in a turned frame."""
    frame = np.linalg.qr(np.random.default_rng(99).standard_normal((dim, dim)))[0]
    spread = 1 / np.sqrt(1 + np.arange(dim))
    values = np.random.default_rng(seed).standard_normal((num_rows, dim)) * spread + 0.5 * spread
    vectors = values @ frame
    unit: NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


@cache
def fitted(scheme: str, num_bits: int, *, num_rows: int = 2000) -> Quantiser:
    return find_scheme(scheme).fit(text_like_vectors(num_rows), num_bits=num_bits)
