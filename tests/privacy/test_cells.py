"""Cells are random and even, noise is bound to (id, version, epoch), and products are exact."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from holdfast.privacy.cells import GRID, Assignment, by_cell, on_grid
from holdfast.privacy.keys import SecretKey

ROOT = SecretKey(bytes(range(32)))
IDS = [number.to_bytes(8, "big") for number in range(8000)]


def test_cells_are_random_even_and_fixed() -> None:
    cells = Assignment(ROOT, 1, 16).cells(IDS)
    counts = np.bincount(cells, minlength=16)
    assert counts.min() > 400
    assert counts.max() < 600
    assert cells[:8].tolist() == [8, 4, 2, 14, 15, 4, 2, 11]
    assert np.array_equal(Assignment(ROOT, 2, 16).cells(IDS), cells), "an epoch has a root of its own"
    assert not np.array_equal(Assignment(SecretKey(bytes(32)), 1, 16).cells(IDS), cells)
    assert not Assignment(ROOT, 1, 1).cells(IDS).any()


def test_a_nonce_is_bound_to_id_version_and_epoch() -> None:
    nonces = {
        Assignment(ROOT, epoch, 4).nonces(key, [each], [version])[0]
        for epoch in (1, 2)
        for version in (1, 2)
        for each in IDS[:50]
        for key in (ROOT, SecretKey(bytes(32)))
    }
    assert len(nonces) == 400
    assert {len(nonce) for nonce in nonces} == {16}
    with pytest.raises(ValueError, match="shorter"):
        Assignment(ROOT, 1, 4).nonces(ROOT, IDS[:2], [1])


def test_products_on_the_grid_are_exact_up_to_its_limit() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((1, 512))
    values = on_grid(values * 3.9 / np.linalg.norm(values))
    matrix = rng.standard_normal((512, 3))
    matrix = on_grid(matrix * 8 / np.linalg.norm(matrix, axis=0))  # a column of a matrix of condition number 64
    product = np.asarray(values[0] @ matrix)
    for column in range(3):
        exact = sum(Fraction(x) * Fraction(m) for x, m in zip(values[0], matrix[:, column], strict=True))
        assert Fraction(product[column]) == exact
    assert np.abs(on_grid(values) - values).max() <= 0.5 / GRID


def test_each_row_meets_its_own_matrix() -> None:
    values = on_grid(np.random.default_rng(1).standard_normal((30, 5)))
    matrices = [on_grid(np.random.default_rng(seed).standard_normal((5, 7))) for seed in (2, 3, 4)]
    cells = (np.arange(30) * 7 % 3).astype(np.int32)
    products = by_cell(values, cells, matrices)
    for row in range(30):
        assert np.array_equal(products[row], (values[row] @ matrices[cells[row]]).astype(np.float32))
