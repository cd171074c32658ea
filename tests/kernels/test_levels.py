"""The compiled levels and factors equal their definition, and the factor does what it is for."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from holdfast.kernels.levels import to_levels, to_levels_reference


def grids(random: np.random.Generator, num_axes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    middles = random.standard_normal(num_axes).astype(np.float32)
    units = (random.random(num_axes) + 0.01).astype(np.float32)
    highest = (2.0 ** random.integers(1, 9, num_axes) - 1).astype(np.float32)
    return middles, units, highest


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(0, 20), st.sampled_from([0.1, 1.0, 300.0]))
def test_equal_to_the_reference_bit_for_bit(seed: int, num_axes: int, num_rows: int, spread: float) -> None:
    random = np.random.default_rng(seed)
    middles, units, highest = grids(random, num_axes)
    places = (spread * random.standard_normal((num_rows, num_axes))).astype(np.float32)
    places[::3] = middles  # the zero vector, on the border of two levels
    for found, expected in zip(
        to_levels(places, middles, units, highest), to_levels_reference(places, middles, units, highest), strict=True
    ):
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected)


def test_levels_are_the_nearest_and_their_factor_restores_the_inner_product() -> None:
    random = np.random.default_rng(0)
    middles, units, highest = grids(random, 64)
    places = random.standard_normal((100, 64)).astype(np.float32)
    levels, factors = to_levels(places, middles, units, highest)
    assert (levels <= highest).all()
    values = (levels - highest / 2) * units
    nearest = np.clip(np.rint((places - middles) / units - 0.5) + (highest + 1) / 2, 0, highest)
    assert np.mean(levels == nearest) > 0.999
    centred = (places - middles).astype(np.float64)
    assert np.allclose(factors * (centred * values).sum(axis=1), (centred**2).sum(axis=1), rtol=1e-5)
