"""Fitted bits go where the variance is, find more than unfitted ones, and are the same however they are computed."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from holdfast.errors import InvalidInput
from holdfast.retrieval.exact import nearest_rows
from holdfast.retrieval.quantise import FACTOR_UNITS, Quantiser
from holdfast.retrieval.quantise_mib import AXIS_UNITS, MAX_BITS, MIN_SAMPLE, VECTOR_UNITS, MibQuantiser, allocate_bits
from holdfast.retrieval.quantise_rotated import HadamardQuantiser
from tests.retrieval.quantiser_cases import text_like_vectors


def recall(quantiser: Quantiser, vectors: np.ndarray, queries: np.ndarray) -> float:
    weights, offsets = quantiser.project(queries)
    levels, factors = quantiser.encode(vectors)
    values = (2.0 * levels - ((1 << quantiser.bits) - 1)).astype(np.float32)
    found = np.argsort(-(offsets[:, None] + weights @ values.T * factors / FACTOR_UNITS), axis=1)[:, :10]
    truth, _ = nearest_rows(vectors, queries, 10)
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), truth.tolist(), strict=True)]))


@pytest.mark.parametrize(("bits", "gain"), [(1, 0.03), (2, 0.03), (4, 0.02)])
def test_they_find_more_than_unfitted_codes_of_the_same_size_also_where_not_fitted(bits: int, gain: float) -> None:
    fitted = MibQuantiser.fit(text_like_vectors(3000), num_bits=64 * bits)
    vectors, queries = text_like_vectors(3000, seed=1), text_like_vectors(200, seed=2)
    assert recall(fitted, vectors, queries) > recall(HadamardQuantiser(64, bits), vectors, queries) + gain


def test_bits_go_where_they_remove_most_error() -> None:
    assert allocate_bits(np.array([1.0, 1.0, 1.0, 1.0]), 4).tolist() == [1, 1, 1, 1]
    assert allocate_bits(np.array([100.0, 1.0, 0.1]), 3).tolist() == [3, 0, 0]
    assert allocate_bits(np.array([4.0, 1.0, 0.0]), 3).tolist() == [2, 1, 0]
    assert allocate_bits(np.array([1.0, 1.0]), 100).tolist() == [MAX_BITS, MAX_BITS]


def test_bits_fall_along_the_axes_and_none_is_left_over() -> None:
    fitted = MibQuantiser.fit(text_like_vectors(2000), num_bits=64)
    assert fitted.counts.sum() == 64
    assert (np.diff(fitted.counts) <= 0).all()
    assert fitted.axes.shape == (64, fitted.counts[0])
    assert fitted.counts[0] < 64  # the least axes get none
    lengths = np.linalg.norm(fitted.axes / AXIS_UNITS, axis=0)
    assert np.abs(lengths - 1).max() < 0.01


def test_levels_are_what_float64_says() -> None:
    fitted, vectors = MibQuantiser.fit(text_like_vectors(2000), num_bits=64), text_like_vectors(500, seed=1)
    whole = np.rint(vectors.astype(np.float64) * VECTOR_UNITS) - fitted.mean
    places = whole @ fitted.axes.astype(np.float64) / (fitted.steps.astype(np.float64) * VECTOR_UNITS * AXIS_UNITS)
    bits = (fitted.counts[:, None] > np.arange(len(fitted.steps))).sum(axis=0)
    levels = np.clip(np.floor(places) + 2.0 ** (bits - 1), 0, 2.0**bits - 1).astype(np.int64)
    planes = [(levels[:, :count] >> plane) & 1 for plane, count in enumerate(fitted.counts.tolist())]
    assert np.mean(np.concatenate(planes, axis=1) == fitted.encode(vectors).levels) > 0.9999


def test_projections_of_the_longest_vectors_are_exact() -> None:
    """A vector along an axis gives the largest sum there can be; float32 still holds it to the unit."""
    fitted = MibQuantiser.fit(text_like_vectors(2000), num_bits=64)
    vectors = (fitted.axes.T / np.linalg.norm(fitted.axes, axis=0)[:, None]).astype(np.float32)
    sums = np.rint(vectors * np.float32(VECTOR_UNITS)) @ fitted.axes.astype(np.float32)
    exact = np.rint(vectors * np.float32(VECTOR_UNITS)).astype(np.int64) @ fitted.axes.astype(np.int64)
    assert np.array_equal(sums.astype(np.int64), exact)
    assert 2**22 < np.abs(exact).max() < 2**24


def test_encoding_does_not_depend_on_the_number_of_threads() -> None:
    script = """
import hashlib, numpy as np
from holdfast.retrieval.quantise_mib import MibQuantiser
rng = np.random.default_rng(0)
parameters = {"mean": rng.integers(-99, 99, 384).astype(np.int16),
    "axes": rng.integers(-200, 200, (384, 200)).astype(np.int16),
    "steps": np.full(200, 0.05, dtype=np.float32), "counts": np.array([200, 100, 84])}
vectors = rng.standard_normal((3000, 384)).astype(np.float32)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
levels, factors = MibQuantiser.from_parameters(parameters).encode(vectors)
print(hashlib.sha256(levels.tobytes() + factors.tobytes()).hexdigest())
"""
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"OPENBLAS_NUM_THREADS": threads, "OPENBLAS_CORETYPE": core, "PYTHONPATH": ":".join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for threads, core in (("1", "HASWELL"), ("2", "HASWELL"), ("2", "PRESCOTT"))
    }
    assert len(digests) == 1


def test_equal_vectors_can_be_fitted() -> None:
    vectors = np.repeat(text_like_vectors(1), MIN_SAMPLE, axis=0)
    fitted = MibQuantiser.fit(vectors, num_bits=64)
    assert len(np.unique(fitted.encode(vectors).levels, axis=0)) == 1
    assert fitted.code_dim == 64


def test_too_few_vectors_are_refused() -> None:
    with pytest.raises(InvalidInput, match=f"at least {MIN_SAMPLE} vectors, not 255"):
        MibQuantiser.fit(text_like_vectors(255), num_bits=64)
