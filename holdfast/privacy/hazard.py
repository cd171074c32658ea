"""The raw steps of published comparison-preserving schemes, numbered as in the papers. None of them hides a vector.

They are here to be attacked (`leakage.py`) and to be built upon (`distance.py`), and their names say `unsafe_`:

* SAP, scale and perturb: Fuchsbauer, Ghosal, Hauke, O'Neill, "Approximate distance-comparison-preserving symmetric
  encryption", SCN 2022, eprint 2021/1666.
* CAPRISE: Ye, Guo, Liu, Lam, arXiv 2601.12331. SAP with three quarters of the noise on the stored side; the paper's
  body was not available; the steps are those on which two public implementations agree.
* ASPE, asymmetric scalar-product-preserving encryption: Wong, Cheung, Kao, Mamoulis, SIGMOD 2009, scheme 1.

The papers' names: `scaling_factor` s, `approximation_factor` beta, K the key of a pseudo-random function, r or n a
nonce.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from holdfast.privacy.keys import SecretKey
from holdfast.privacy.streams import NONCE_SIZE, ball_and_normals, normals

SAP_SHARE = 1 / 4
CAPRISE_ROW_SHARE = 3 / 8
CAPRISE_QUERY_SHARE = 1 / 8


@dataclass(frozen=True, slots=True)
class UnsafeScalingKey:
    """(s, K) of SAP and CAPRISE, with the public beta."""

    prf_key: SecretKey
    """K"""
    scaling_factor: float
    """s: cancels as soon as an observer divides by the length"""
    approximation_factor: float
    """beta: pairs of distances that differ by more keep their order"""


def unsafe_sap_encrypt(
    key: UnsafeScalingKey, vectors: NDArray[np.floating], nonces: Sequence[bytes]
) -> NDArray[np.float32]:
    """SAP.Enc for rows and queries alike: (N, dim) float32.

    Steps 1 to 5 draw lambda, uniform in the ball of radius s beta / 4, from (K, nonce); step 6 is c = s m + lambda.

    Reveals: every distance between any two vectors up to the noise, and the vector itself up to scale and noise.
    Requires: nonces of 16 bytes, never used twice under one key.
    """
    return _scale_and_perturb(key, vectors, nonces, SAP_SHARE)


def unsafe_caprise_encrypt_rows(
    key: UnsafeScalingKey, vectors: NDArray[np.floating], nonces: Sequence[bytes]
) -> NDArray[np.float32]:
    """Enc_db: c = s e + lambda, lambda uniform in the ball of radius 3 s beta / 8. (N, dim) float32.

    Reveals: as SAP. That distances between rows are only 1.34 times noisier than those to queries hides none of them.
    Requires: nonces of 16 bytes, never used twice under one key.
    """
    return _scale_and_perturb(key, vectors, nonces, CAPRISE_ROW_SHARE)


def unsafe_caprise_encrypt_queries(
    key: UnsafeScalingKey, queries: NDArray[np.floating], nonces: Sequence[bytes]
) -> NDArray[np.float32]:
    """Enc_q: c = s q + eta, eta uniform in the ball of radius s beta / 8. (Q, dim) float32."""
    return _scale_and_perturb(key, queries, nonces, CAPRISE_QUERY_SHARE)


def unsafe_caprise_decrypt_rows(
    key: UnsafeScalingKey, ciphertexts: NDArray[np.float32], nonces: Sequence[bytes]
) -> NDArray[np.float32]:
    """Dec_db: e = (c - lambda) / s, up to the rounding of c to float32."""
    noise = _noise(key, ciphertexts.shape[1], nonces, CAPRISE_ROW_SHARE)
    return np.asarray((ciphertexts - noise) / key.scaling_factor, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class UnsafeAspeKey:
    """An invertible matrix M and its inverse, (dim + 1, dim + 1) float64."""

    matrix: NDArray[np.float64] = field(repr=False)
    inverse: NDArray[np.float64] = field(repr=False)


def make_unsafe_aspe_key(root: SecretKey, dim: int) -> UnsafeAspeKey:
    """ASPE.KeyGen: M with independent normal entries, invertible but for a set of measure zero."""
    width = dim + 1
    matrix = normals(root.derive("aspe"), [bytes(NONCE_SIZE)], width * width).reshape(width, width)
    return UnsafeAspeKey(matrix, np.asarray(np.linalg.inv(matrix), dtype=np.float64))


def unsafe_aspe_encrypt_rows(key: UnsafeAspeKey, vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Scheme 1, points: x = (m, -|m|^2 / 2), E(m) = M^T x. (N, dim + 1) float32.

    Reveals: every linear relation between the rows; with dim + 1 known rows, all of them.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    extended = np.concatenate([vectors, -0.5 * np.sum(vectors**2, axis=1, keepdims=True)], axis=1)
    encrypted: NDArray[np.float64] = extended @ key.matrix
    return encrypted.astype(np.float32)


def unsafe_aspe_encrypt_queries(
    key: UnsafeAspeKey, queries: NDArray[np.floating], scales: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Scheme 1, queries: y = r (q, 1), E(q) = M^-1 y, with a fresh r > 0 a query. (Q, dim + 1) float32.

    E(m) . E(q) = r (m . q - |m|^2 / 2) orders the rows by their distance from q.
    """
    queries = np.asarray(queries, dtype=np.float64)
    extended = scales[:, None] * np.concatenate([queries, np.ones((len(queries), 1))], axis=1)
    encrypted: NDArray[np.float64] = extended @ key.inverse.T
    return encrypted.astype(np.float32)


def _scale_and_perturb(
    key: UnsafeScalingKey, vectors: NDArray[np.floating], nonces: Sequence[bytes], share: float
) -> NDArray[np.float32]:
    scaled = key.scaling_factor * np.asarray(vectors, dtype=np.float64)
    noisy: NDArray[np.float64] = scaled + _noise(key, vectors.shape[1], nonces, share)
    return noisy.astype(np.float32)


def _noise(key: UnsafeScalingKey, dim: int, nonces: Sequence[bytes], share: float) -> NDArray[np.float64]:
    radius = share * key.scaling_factor * key.approximation_factor
    return ball_and_normals(key.prf_key, nonces, dim, radius)[0]
