"""Streams: known answers, independence of slices, and distributions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from holdfast.privacy.keys import SecretKey
from holdfast.privacy.streams import (
    ball_and_normals,
    haar_rotation,
    normals,
    prf,
    uniforms,
)

KEY = SecretKey(bytes(range(32)))
NONCES = [number.to_bytes(16, "big") for number in range(600)]


def test_keys_and_streams_are_what_they_were() -> None:
    """Stored rows depend on these bytes: they may never change."""
    assert prf(KEY, b"a", b"bc").hex() == "7281caf026ca30a3a915c06b7f9c266bd0ba77f782615b6a0553f2c7cd649020"
    assert uniforms(KEY, [NONCES[7]], 2)[0].tolist() == [0.3340994814293097, 0.41890708728859327]
    assert normals(KEY, [NONCES[7]], 2)[0] == pytest.approx([-0.7872450129045201, 0.43985824067020673], abs=1e-14)


def test_a_stream_depends_on_its_nonce_only() -> None:
    together = ball_and_normals(KEY, NONCES, 24, 0.7, 9)
    alone = [ball_and_normals(KEY, [nonce], 24, 0.7, 9) for nonce in NONCES]
    assert np.array_equal(together[0], np.concatenate([points for points, _ in alone]))
    assert np.array_equal(together[1], np.concatenate([beside for _, beside in alone]))


def test_the_block_counter_of_a_nonce_counts_for_nothing() -> None:
    assert np.array_equal(uniforms(KEY, [b"\xff" * 4 + bytes(12)], 3), uniforms(KEY, [bytes(16)], 3))


def test_numbers_have_their_distributions() -> None:
    assert stats.kstest(uniforms(KEY, NONCES, 100).ravel(), "uniform").pvalue > 0.01
    drawn = normals(KEY, NONCES, 101)
    assert stats.kstest(drawn.ravel(), "norm").pvalue > 0.01
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 50])[0, 1]) < 0.15  # both halves of a Box-Muller pair
    points, beside = ball_and_normals(KEY, NONCES, 5, 2.0, 3)
    assert stats.kstest((np.linalg.norm(points, axis=1) / 2.0) ** 5, "uniform").pvalue > 0.01
    assert stats.kstest(beside.ravel(), "norm").pvalue > 0.01
    assert np.abs(points.mean(axis=0)).max() < 0.2


def test_a_rotation_is_orthogonal_and_has_no_favourite_direction() -> None:
    rotations = [haar_rotation(KEY, nonce, 16) for nonce in NONCES[:200]]
    assert np.allclose(rotations[0] @ rotations[0].T, np.eye(16), atol=1e-12)
    corner = np.array([rotation[0, 0] for rotation in rotations])
    # One coordinate of a random direction in d dimensions: (x + 1) / 2 is Beta((d - 1) / 2, (d - 1) / 2).
    assert stats.kstest((corner + 1) / 2, stats.beta(7.5, 7.5).cdf).pvalue > 0.01
