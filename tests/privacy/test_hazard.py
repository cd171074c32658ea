"""The published schemes keep what their papers prove, and hide as little as we say."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.privacy.hazard import (
    UnsafeScalingKey,
    make_unsafe_aspe_key,
    unsafe_aspe_encrypt_queries,
    unsafe_aspe_encrypt_rows,
    unsafe_caprise_decrypt_rows,
    unsafe_caprise_encrypt_queries,
    unsafe_caprise_encrypt_rows,
    unsafe_sap_encrypt,
)
from holdfast.privacy.keys import SecretKey
from holdfast.privacy.leakage_view import Floats, unit

ROOT = SecretKey(bytes(range(32)))
NONCES = [number.to_bytes(16, "big") for number in range(400)]


@pytest.fixture
def vectors(rng: np.random.Generator) -> Floats:
    return unit(rng.standard_normal((400, 48)).astype(np.float32))


def distances(queries: Floats, rows: Floats) -> Floats:
    return np.asarray(np.linalg.norm(queries[:, None].astype(np.float64) - rows[None], axis=2))


@pytest.mark.parametrize("beta", [0.2, 1.0])
def test_sap_keeps_the_order_of_distances_that_differ_by_beta(vectors: Floats, beta: float) -> None:
    key = UnsafeScalingKey(ROOT, 3.0, beta)
    encrypted = unsafe_sap_encrypt(key, vectors, NONCES)
    moved = distances(encrypted, encrypted) / 3.0 - distances(vectors, vectors)
    assert np.abs(moved).max() <= beta / 2 + 1e-5
    lengths = np.linalg.norm(encrypted / 3.0 - vectors, axis=1)
    assert 0.9 * beta / 4 < lengths.mean() <= beta / 4 + 1e-5


def test_caprise_is_sap_with_uneven_noise(vectors: Floats) -> None:
    key = UnsafeScalingKey(ROOT, 3.0, 0.2)
    rows = unsafe_caprise_encrypt_rows(key, vectors, NONCES)
    queries = unsafe_caprise_encrypt_queries(key, vectors, NONCES)
    assert np.abs(distances(queries, rows) / 3.0 - distances(vectors, vectors)).max() <= 0.2 / 2 + 1e-5
    assert np.linalg.norm(rows / 3.0 - vectors, axis=1).max() <= 0.2 * 3 / 8 + 1e-5
    assert np.linalg.norm(queries / 3.0 - vectors, axis=1).max() <= 0.2 / 8 + 1e-5
    assert np.allclose(unsafe_caprise_decrypt_rows(key, rows, NONCES), vectors, atol=1e-6)


def test_a_caprise_row_is_nearly_its_vector(vectors: Floats) -> None:
    """A documented failure: no key is needed to read it. 1 / sqrt(1 + (3 beta / 8)^2)."""
    rows = unsafe_caprise_encrypt_rows(UnsafeScalingKey(ROOT, 3.0, 0.2), vectors, NONCES)
    cosines = np.einsum("nd,nd->n", unit(rows), vectors)
    assert cosines.mean() == pytest.approx(0.997, abs=0.001)


def test_aspe_ranks_as_the_distances_do(vectors: Floats, rng: np.random.Generator) -> None:
    key = make_unsafe_aspe_key(ROOT, 48)
    rows = vectors * rng.uniform(0.5, 1.5, (400, 1)).astype(np.float32)
    queries = unsafe_aspe_encrypt_queries(key, vectors[:9], rng.uniform(0.5, 2, 9))
    scores = queries @ unsafe_aspe_encrypt_rows(key, rows).T
    assert np.array_equal(np.argsort(-scores, axis=1)[:, :20], np.argsort(distances(vectors[:9], rows), axis=1)[:, :20])


def test_aspe_falls_to_as_many_pairs_as_it_has_dimensions(vectors: Floats) -> None:
    """A documented failure."""
    encrypted = unsafe_aspe_encrypt_rows(make_unsafe_aspe_key(ROOT, 48), vectors).astype(np.float64)
    read = np.linalg.lstsq(encrypted[:49], vectors[:49], rcond=None)[0]
    assert np.abs(encrypted[49:] @ read - vectors[49:]).max() < 1e-2


def test_keys_do_not_print() -> None:
    assert "31" not in repr(UnsafeScalingKey(SecretKey(b"\x1f" * 32), 3.0, 0.2))
    assert "[" not in repr(make_unsafe_aspe_key(ROOT, 3))
