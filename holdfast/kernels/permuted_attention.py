"""Sparse prefill: each segment of queries reads the keys it needs most, and the groups that the others fall into.

Queries are taken in segments of SEGMENT. A segment reads its own keys exactly and ranks all earlier ones by how much
attention the means of its runs of RUN queries would pay them; query heads that share a KV head share the ranking. Ranks
are cut into sections that double in size. Every query reads the first, with the sinks and the window in it, exactly;
later ones until what they can still change is within the error asked for. What remains is not dropped: neighbours are
grouped by GROUP, a group weighs what its mean key would, and every key left out adds its value with that weight. So the
early stop needs no hope that the ranking is right, and the order of keys is a matter of speed. Nothing is moved: keys
are gathered by index.

One query in AUDIT of each segment is computed exactly. From it come the factor by which the groups' weights are off,
the error left by a section, and the error reported to the caller: measured, not assumed.

Source: S2O, arXiv 2602.22575 (ranking for a segment, gather by index, early stop; one mean, keys dropped after the
stop); groups that stand for their keys: RetroInfer, arXiv 2505.02922.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from holdfast.errors import InvalidInput, ShapeError
from holdfast.kernels.attention import attend, causal_attend, causal_attend_pairs, merge
from holdfast.kernels.sparse_attention import Work, causal_pairs

if TYPE_CHECKING:
    import torch

SEGMENT = 256
RUN = 32
FIRST = 512
GROUP = 64
AUDIT = 64
NUM_SINKS = 8
WINDOW = 64
MIN_HISTORY = 1024
"""keys before a segment from which on sparse attention pays; shorter ones are read whole"""
LARGEST_EXPONENT = 60.0
"""of a group's weight beside what is read exactly; float32 ends at 88"""


@dataclass(frozen=True, slots=True)
class Sparsity:
    """What a sparse prefill did, all heads together."""

    work: Work
    squared_error: float
    """sum over the audited queries of the squared distance from their exact output"""
    squared_norm: float
    """sum over the audited queries of the squared norm of their exact output"""

    @property
    def error(self) -> float:
        """The relative error measured on the audited queries; 0 where nothing was approximated."""
        return float((self.squared_error / self.squared_norm) ** 0.5) if self.squared_norm else 0.0

    def __add__(self, other: Sparsity) -> Sparsity:
        return Sparsity(
            self.work + other.work,
            self.squared_error + other.squared_error,
            self.squared_norm + other.squared_norm,
        )


def permuted_attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *, error: float = 0.05, scale: float | None = None
) -> tuple[torch.Tensor, Sparsity]:
    """Return causal attention of the newest queries within a relative error, and what it took.

    The error is a target for the norm of the difference over the norm of the output, by segment and KV head, from an
    estimate that is right on average: queries that look for one key that nothing announces can miss it. `Sparsity`
    says what the error came to. With `error` 0 every key is read.

    Chunks of a prompt can be given one after the other; where they begin at multiples of SEGMENT, the result is bit for
    bit that of the whole prompt at once.

    Args:
        query: (num_heads, T, head_dim) float32, the newest T of N positions.
        keys, values: (num_kv_heads, N, head_dim) float32.
        error: 0 to 1.
        scale: softmax scale, head_dim ** -0.5 when None.

    Returns:
        output: (num_heads, T, head_dim) float32. The same arguments give the same bytes.
        sparsity: the density and the error measured.

    Raises:
        ShapeError: shapes differ, or T > N.
        InvalidInput: error out of range.

    Cost: about SEGMENT / 2 + FIRST + N / GROUP exact pairs a query, and what the error asks for.
    Reference: permuted_attention_reference.
    """
    import torch

    num_heads, T, head_dim = query.shape
    num_kv_heads, N, _ = keys.shape
    if keys.shape != values.shape or keys.shape[2] != head_dim or num_heads % num_kv_heads or not 1 <= T <= N:
        raise ShapeError(f"queries {tuple(query.shape)}, keys {tuple(keys.shape)}, values {tuple(values.shape)}: no fit")
    if not 0 <= error <= 1:
        raise InvalidInput(f"error is {error}; it is a share of the output's norm, 0 to 1", param="error")
    query = query * (head_dim**-0.5 if scale is None else scale)
    whole = _Sequence(keys, values)
    outputs, done = [], Sparsity(Work(0, 0, 0), 0, 0)
    first = N - T
    if first < MIN_HISTORY:
        dense = min(N, MIN_HISTORY)
        outputs.append(causal_attend(query[:, : dense - first], keys[:, :dense], values[:, :dense], scale=1.0)[0])
        pairs = causal_attend_pairs(dense - first, dense) * num_heads
        done += Sparsity(Work(pairs, 0, causal_pairs(dense - first, dense, num_heads)), 0, 0)
        first = dense
    while first < N:
        start = first - first % SEGMENT
        end = min(start + SEGMENT, N)
        output, sparsity = _attend_segment(query[:, first - N + T : end - N + T], whole, start, end, error)
        outputs.append(output)
        done += sparsity
        first = end
    return torch.cat(outputs, dim=1), done


class _Sequence:
    """Keys and values, and what is known of them whatever asks."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        num_kv_heads, N, head_dim = keys.shape
        num_groups = N // GROUP
        self.keys, self.values = keys, values
        self.means = keys[:, : num_groups * GROUP].reshape(num_kv_heads, num_groups, GROUP, head_dim).mean(dim=2)
        self.squares = values.square().sum(dim=2)


def _attend_segment(
    query: torch.Tensor, whole: _Sequence, start: int, end: int, error: float
) -> tuple[torch.Tensor, Sparsity]:
    """Return the output of the newest T queries before `end`, scaled already; their segment begins at `start`."""
    import torch

    num_heads, T, head_dim = query.shape
    keys, values = whole.keys[:, :start], whole.values[:, :start]
    num_kv_heads, num_groups = len(keys), start // GROUP
    rows = query.reshape(num_kv_heads, -1, head_dim)  # the heads of a group read the same keys
    num_rows = rows.shape[1]

    own = causal_attend(query, whole.keys[:, start:end], whole.values[:, start:end], scale=1.0)
    runs = torch.cat([run.mean(dim=1, keepdim=True) for run in query.split(RUN, dim=1)], dim=1)
    runs = runs.reshape(num_kv_heads, -1, head_dim)
    order, sections, ends = rank_keys(torch.softmax(runs @ keys.transpose(1, 2), dim=2).mean(dim=1))
    output, lse = merge([own, attend(query, *_gather(keys, values, order[:, : ends[0]]), scale=1.0)])
    output, lse = output.reshape(rows.shape), lse.reshape(rows.shape[:2])

    groups = _weights(rows, whole.means[:, :num_groups], lse)
    audited = torch.arange(min(AUDIT // 2, T - 1), T, AUDIT)
    audited = (torch.arange(0, num_rows, T)[:, None] + audited).reshape(-1)
    logits = rows[:, audited] @ keys.transpose(1, 2)
    exact = _audit(logits, values, own, audited)
    weights = _weights(rows[:, audited], keys, lse[:, audited])
    tail = _Tail(weights, groups[:, audited], values, whole.squares[:, :start], sections, len(ends))

    result, total = _add(output, groups, torch.stack([tail.sums(head, 0) for head in range(num_kv_heads)]))
    allowed = error**2 * result.square().sum(dim=2).mean(dim=1)
    levels = (tail.changes(groups) > (allowed[:, None] * total.square())[..., None]).sum(dim=2)
    pairs = causal_attend_pairs(T, end - start) * num_heads + num_rows * num_kv_heads * (ends[0] + num_groups)
    pairs += audited.numel() * num_kv_heads * start
    for head in range(num_kv_heads):
        for level in range(1, int(levels[head].max()) + 1):
            reading = torch.nonzero(levels[head] >= level)[:, 0]
            ids = order[head : head + 1, ends[level - 1] : ends[level]]
            part = _gather(keys[head : head + 1], values[head : head + 1], ids)
            more = attend(rows[head, reading][None], *part, scale=1.0)
            more = merge([(output[head, reading][None], lse[head, reading][None]), more])
            pairs += len(reading) * ids.shape[1]
            fading = torch.exp(lse[head, reading] - more[1][0])
            output[head, reading], lse[head, reading] = more[0][0], more[1][0]
            groups[head, reading] *= fading[:, None]  # weights are beside what is read exactly, which has grown
            staying = reading[levels[head, reading] == level]
            result[head, staying] = output[head, staying]
            if level + 1 < len(ends):
                result[head, staying] = _add(output[head, staying], groups[head, staying], tail.sums(head, level))[0]
    squared_error, squared_norm = (result[:, audited] - exact).square().sum(), exact.square().sum()
    result[:, audited] = exact
    scored = runs.shape[1] * num_kv_heads * start + num_rows * num_kv_heads * num_groups * len(ends) / head_dim
    work = Work(float(pairs), scored, causal_pairs(T, end, num_heads))
    return result.reshape(query.shape), Sparsity(work, float(squared_error), float(squared_norm))


class _Tail:
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

        from holdfast.kernels.permuted_attention_cpu import compare_sections, sum_squares

        num_kv_heads, num_groups = len(values), groups.shape[2]
        totals = np.zeros((num_kv_heads, num_sections, 5))
        compare_sections(exact.numpy(), groups.numpy(), sections, GROUP, totals)
        own, other, own_square, product, other_square = np.moveaxis(totals, 2, 0)
        self.factors = own / np.maximum(other, 1e-30)
        residue = own_square - 2 * self.factors * product + self.factors**2 * other_square
        residue = np.maximum(residue, 0) / np.maximum(other_square, 1e-30)
        self.values, self.sections, self.num_groups = values, sections, num_groups
        sums = np.zeros((num_kv_heads, num_groups, num_sections), dtype=np.float32)
        sum_squares(squares.numpy(), sections, GROUP, sums)
        later = np.cumsum((sums * residue[:, None, :])[..., :0:-1], axis=2)[..., ::-1]
        self.squares = torch.from_numpy(later.astype(np.float32))

    def sums(self, head: int, level: int) -> torch.Tensor:
        """Return the (G, D + 1) values that groups stand for behind section `level`, and in the last column their number."""
        import torch

        from holdfast.kernels.permuted_attention_cpu import sum_groups

        factors = np.where(np.arange(self.factors.shape[1]) > level, self.factors[head], 0).astype(np.float32)
        sums = np.zeros((self.num_groups, self.values.shape[2] + 1), dtype=np.float32)
        sum_groups(self.values[head].numpy(), self.sections[head], factors, GROUP, sums)
        return torch.from_numpy(sums)

    def changes(self, groups: torch.Tensor) -> torch.Tensor:
        """Return (num_kv_heads, R, L - 1): the squared error to expect if section 0, 1, ... is the last read exactly."""
        return groups.square() @ self.squares


def rank_keys(scores: torch.Tensor) -> tuple[torch.Tensor, npt.NDArray[np.uint8], list[int]]:
    """Return the order of (num_kv_heads, N) keys by score, the section of each, and the ranks where sections end.

    Sinks and window come first; scores within a sixteenth of each other count as equal and stay in order of position.
    """
    import torch

    from holdfast.kernels.permuted_attention_cpu import order_keys

    num_kv_heads, N = scores.shape
    ends = [min(FIRST, N)]
    while ends[-1] < N:
        ends.append(2 * ends[-1] if 3 * ends[-1] <= N else N)  # no small last section
    forced = np.zeros(N, dtype=bool)
    forced[:NUM_SINKS] = forced[-WINDOW:] = True
    order, sections = np.empty((num_kv_heads, N), dtype=np.int64), np.empty((num_kv_heads, N), dtype=np.uint8)
    order_keys(scores.contiguous().numpy().view(np.int32), forced, np.array(ends), order, sections)
    return torch.from_numpy(order), sections, ends


def _gather(keys: torch.Tensor, values: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    heads = range(len(keys))
    return (
        torch.stack([keys[head].index_select(0, ids[head]) for head in heads]),
        torch.stack([values[head].index_select(0, ids[head]) for head in heads]),
    )


def _weights(rows: torch.Tensor, keys: torch.Tensor, lse: torch.Tensor) -> torch.Tensor:
    """Return (num_kv_heads, R, N) weights beside the sum of weights that `lse` stands for."""
    return (rows @ keys.transpose(1, 2)).sub_(lse[..., None]).clamp_(max=LARGEST_EXPONENT).exp_()


def _add(output: torch.Tensor, groups: torch.Tensor, sums: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what is read exactly and what groups stand for, as one mean of values, and the sum of weights."""
    added = groups @ sums
    total = 1 + added[..., -1]
    return (output + added[..., :-1]) / total[..., None], total


def _audit(
    logits: torch.Tensor, values: torch.Tensor, own: tuple[torch.Tensor, torch.Tensor], audited: torch.Tensor
) -> torch.Tensor:
    """Return the exact output of the audited rows from their logits of all earlier keys and their own segment's part."""
    import torch

    num_kv_heads = len(values)
    own_output, own_lse = (part.reshape(num_kv_heads, -1, *part.shape[2:])[:, audited] for part in own)
    return merge([(own_output, own_lse), (torch.softmax(logits, dim=2) @ values, torch.logsumexp(logits, dim=2))])[0]
