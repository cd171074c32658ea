"""What keys that are not read would have added, estimated from the groups of neighbours that they fall into.

A group weighs what the mean of its keys would weigh, and every key that is left out adds its value with that weight:
values are summed exactly, only weights are estimated. The estimate is off by a factor, since the mean of exponentials
is not the exponential of the mean, and keys left out are left out for a reason. The factor is measured for each section
of the ranking, on a few queries that are computed exactly; so is what it leaves unexplained, from which the error of
leaving a section out follows.

Source: keys that stand for others in an estimation zone: RetroInfer, arXiv 2505.02922, which clusters and has no
correction; bucket sums for the rest of a softmax: SDIM, arXiv 2205.10249.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

GROUP_SIZE = 64


class GroupTail:
    """What groups of neighbouring keys weigh in place of the keys that are not read.

    A section's weights are off by a common factor, and by more than that from key to key; both are taken from queries
    for which the weights of all keys are known.
    """

    def __init__(
        self,
        exact: torch.Tensor,
        groups: torch.Tensor,
        values: torch.Tensor,
        squares: torch.Tensor,
        sections: npt.NDArray[np.uint8],
        num_sections: int,
    ) -> None:
        """Take the audited queries' (num_kv_heads, A, N) weights of keys and (num_kv_heads, A, G) of groups."""
        import torch

        from holdfast.kernels.group_tail_cpu import compare_sections, sum_squares

        num_kv_heads, num_groups = len(values), groups.shape[2]
        totals = np.zeros((num_kv_heads, num_sections, 5))
        other = groups.numpy().astype(np.float64)
        sums, squares_of = other.sum(axis=1), (other**2).sum(axis=1)
        compare_sections(exact.numpy(), groups.numpy(), sums, squares_of, sections, GROUP_SIZE, totals)
        total, expected, square, product, expected_square = np.moveaxis(totals, 2, 0)
        self.factors = total / np.maximum(expected, 1e-30)
        residue = square - 2 * self.factors * product + self.factors**2 * expected_square
        residue = np.maximum(residue, 0) / np.maximum(expected_square, 1e-30)
        self.values, self.sections, self.num_groups = values, sections, num_groups
        sums = np.zeros((num_kv_heads, num_groups, num_sections), dtype=np.float32)
        sum_squares(squares.numpy(), sections, GROUP_SIZE, sums)
        later = np.cumsum((sums * residue[:, None, :])[..., :0:-1], axis=2)[..., ::-1]
        self.squares = torch.from_numpy(later.astype(np.float32))

    def sums(self, head: int, level: int) -> torch.Tensor:
        """Return the (G, D + 1) values that groups stand for behind section `level`; the last column counts them."""
        import torch

        from holdfast.kernels.group_tail_cpu import sum_groups

        factors = np.where(np.arange(self.factors.shape[1]) > level, self.factors[head], 0).astype(np.float32)
        sums = np.zeros((self.num_groups, self.values.shape[2] + 1), dtype=np.float32)
        sum_groups(self.values[head].numpy(), self.sections[head], factors, GROUP_SIZE, sums)
        return torch.from_numpy(sums)

    def changes(self, groups: torch.Tensor) -> torch.Tensor:
        """Return (num_kv_heads, R, L - 1): the squared error to expect if section 0, 1, ... is the last one read."""
        return groups.square() @ self.squares
