"""The sums behind the estimate equal plain ones, and alike keys are estimated exactly."""

from __future__ import annotations

import numpy as np
import torch

from holdfast.kernels.group_tail import GROUP_SIZE as GROUP
from holdfast.kernels.group_tail import GroupTail
from holdfast.kernels.group_tail_cpu import compare_sections, sum_groups, sum_squares


def test_a_factor_common_to_a_section_is_found_and_leaves_no_error() -> None:
    chance = np.random.default_rng(2)
    groups = torch.from_numpy(chance.random((2, 4, 5)).astype(np.float32))
    sections = chance.integers(0, 3, (2, 5 * GROUP)).astype(np.uint8)
    factors = np.array([[1, 0.5, 3], [1, 2, 0.25]], dtype=np.float32)
    values = torch.from_numpy(chance.standard_normal((2, 5 * GROUP, 8)).astype(np.float32))
    of_keys = np.take_along_axis(factors, sections.astype(np.int64), axis=1)[:, None]
    exact = np.repeat(groups.numpy(), GROUP, axis=2) * of_keys
    tail = GroupTail(torch.from_numpy(exact), groups, values, values.square().sum(2), sections, 3)
    np.testing.assert_allclose(tail.factors, factors, rtol=1e-5)
    assert float(tail.changes(groups).max()) < 1e-4 * float(groups.square().sum() * values.square().sum())
    for head, level in [(0, 0), (1, 1)]:
        sums = tail.sums(head, level)
        left = exact[head] * (sections[head] > level)
        np.testing.assert_allclose(groups[head] @ sums[:, :8], left @ values[head].numpy(), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(groups[head] @ sums[:, 8], left.sum(axis=1), rtol=1e-4)


def test_the_compiled_sums_equal_plain_ones() -> None:
    chance = np.random.default_rng(7)
    values = chance.standard_normal((1, 3 * GROUP, 8)).astype(np.float32)
    sections, factors = chance.integers(0, 3, (1, 3 * GROUP)).astype(np.uint8), np.float32([0, 0.5, 2])
    sums = np.zeros((3, 9), dtype=np.float32)
    sum_groups(values[0], sections[0], factors, GROUP, sums)
    weighted = factors[sections[0]][:, None] * np.hstack([values[0], np.ones((3 * GROUP, 1), dtype=np.float32)])
    np.testing.assert_allclose(sums, weighted.reshape(3, GROUP, 9).sum(axis=1), rtol=1e-4, atol=1e-4)

    by_section = np.zeros((1, 3, 3), dtype=np.float32)
    sum_squares(values[:, :, 0] ** 2, sections, GROUP, by_section)
    one_hot = (sections[0][:, None] == np.arange(3)).reshape(3, GROUP, 3)
    expected = (one_hot * (values[0, :, 0] ** 2).reshape(3, GROUP, 1)).sum(axis=1)
    np.testing.assert_allclose(by_section[0], expected, rtol=1e-4)

    weights, groups = chance.random((1, 2, 3 * GROUP)).astype(np.float32), chance.random((1, 2, 3)).astype(np.float32)
    totals, wide = np.zeros((1, 3, 5)), np.float64(groups)
    compare_sections(weights, groups, wide.sum(axis=1), (wide**2).sum(axis=1), sections, GROUP, totals)
    each = np.repeat(wide, GROUP, axis=2)
    for section in range(3):
        one, other = weights[0][:, sections[0] == section].astype(np.float64), each[0][:, sections[0] == section]
        terms = [one.sum(), other.sum(), (one**2).sum(), (one * other).sum(), (other**2).sum()]
        np.testing.assert_allclose(totals[0, section], terms, rtol=1e-6)
