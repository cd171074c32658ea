"""The training of recurrent codes, from vectors alone.

Each vector's nearest other is its positive; the hardest few of the batch are its negatives, and those that are nearly
the same or nearer than the positive are no negatives at all. The loss is contrastive, on estimated cosines and on codes
against codes, with the squared error of the estimates beside it. Signs pass gradients where they were not sure.

Training starts from principal axes turned so that signs fit best, as fitted codes do, or from what tells the codes of
an older quantiser that must stay readable.

Source: Gan et al., "Binary embedding-based retrieval at Tencent" (BEBR, arXiv 2302.08714); hard negatives within the
batch in place of its queue, and nearest vectors in place of its pairs of texts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdfast.retrieval.quantise import FACTOR_UNITS, Encoded
from holdfast.retrieval.quantise_rotated import STEPS

if TYPE_CHECKING:
    from torch import Tensor

UNITS = 4096
"""of vectors and means: 1 / UNITS"""
AXIS_UNITS = 2048
BATCH_SIZE = 512
LEARNING_RATE = 1e-3
"""in units of a parameter's own root mean square"""
TEMPERATURE = 0.05
NUM_HARD_NEGATIVES = 16
SAME_COSINE = 0.95
"""from here on two vectors say the same, and neither is the other's negative"""
SYMMETRIC_WEIGHT = 0.1
"""of the contrast of codes with codes"""
NUM_ROTATIONS = 20
MIN_TOLD = 0.1
"""of a vector's square that its code must tell for its factor to count in training"""
REGRESSION_WEIGHT = 1000.0
"""of the squared error of the cosines, beside the contrastive loss"""


class Trained(NamedTuple):
    """The fields of a `RecurrentQuantiser`, in their order."""

    mean: NDArray[np.int16]
    axes: NDArray[np.int16]
    feedback: NDArray[np.int16]
    readout: NDArray[np.int16]
    steps: NDArray[np.float32]


def train(
    sample: NDArray[np.float32],
    num_places: int,
    bits: int,
    seed: int,
    num_steps: int,
    old_codes: Encoded | None = None,
) -> Trained:
    """Return what is trained on unit-norm vectors (N, dim).

    Args:
        sample: the vectors.
        num_places: of a code, at most dim.
        bits: of a place: 1, 2 or 4.
        seed: of the start and of the order of the batches.
        num_steps: batches.
        old_codes: (N, num_places) of the same texts, which must stay readable.

    Cost: N^2 multiplications of vectors to find the positives, and some minutes for 1,500 steps of 384 dimensions.
    """
    import torch  # heavy, and needed where codes are trained only

    mean = np.rint(sample.mean(axis=0, dtype=np.float64) * UNITS).astype(np.int16)
    vectors = torch.from_numpy(sample)
    middle = torch.from_numpy(mean.astype(np.float32) / UNITS)
    centred, offsets = vectors - middle, (vectors @ middle)[:, None]
    positives = _nearest_others(vectors)
    old, old_read = None, torch.empty(0)
    if old_codes is not None:
        old = torch.from_numpy(2.0 * old_codes.levels.astype(np.float32) - ((1 << bits) - 1))
        old_read = old * torch.from_numpy(old_codes.factors.astype(np.float32) / FACTOR_UNITS)[:, None]
    axes, backs, forwards, readout = _start(centred, num_places, bits, seed, old)
    trained = [axes, *backs, *forwards, readout]
    for tensor in trained:
        tensor.requires_grad_()
    rates = [LEARNING_RATE * float(tensor.detach().square().mean().sqrt()) for tensor in trained]
    groups = [{"params": [tensor], "lr": rate} for tensor, rate in zip(trained, rates, strict=True)]
    optimiser = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, num_steps)
    chance = torch.Generator().manual_seed(seed)
    for _ in range(num_steps):
        asking = torch.randperm(len(vectors), generator=chance)[:BATCH_SIZE]
        rows = torch.cat([asking, positives[asking]])
        codes = _binarise(centred[rows], axes, backs, forwards)
        true = vectors[asking] @ vectors[rows].T
        told = ((centred[rows] @ readout) * codes).sum(dim=1)
        factors = centred[rows].square().sum(dim=1) / told.clamp(min=MIN_TOLD)
        estimates = offsets[asking] + (vectors[asking] @ readout) @ codes.T * factors
        loss = _loss(estimates, true, asking, rows)
        scaled = codes / codes.norm(dim=1, keepdim=True)
        loss = loss + SYMMETRIC_WEIGHT * _contrast(scaled[: len(asking)] @ scaled.T, true, asking, rows)
        if old is not None:
            loss = loss + _loss(offsets[asking] + (vectors[asking] @ readout) @ old_read[rows].T, true, asking, rows)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return _to_whole_numbers(mean, axes, backs, forwards, readout)


def _nearest_others(vectors: Tensor) -> Tensor:
    """Return for each of (N, dim) vectors the row of its nearest other that does not say the same."""
    import torch

    nearest = []
    for first in range(0, len(vectors), 1024):
        cosines = vectors[first : first + 1024] @ vectors.T
        cosines[cosines >= SAME_COSINE] = -1
        nearest.append(cosines.argmax(dim=1))
    return torch.cat(nearest)


def _start(
    centred: Tensor, num_places: int, bits: int, seed: int, old: Tensor | None
) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    """Return where training starts: what tells the `old` codes best, or else axes whose signs fit the vectors.

    That is (dim, P) axes, and for each further bit (P, dim) reconstructions and (dim, P) projections of the rest, and
    the (dim, P) readout that tells inner products from the codes best.
    """
    import torch

    def fit(known: Tensor, wanted: Tensor) -> Tensor:
        solution: Tensor = torch.linalg.lstsq(known, wanted).solution
        return solution

    wanted = [] if old is None else _signs_of(old, bits)
    axes = fit(centred, wanted[0]) if wanted else _principal_signs(centred, num_places, seed)
    axes = axes / (centred @ axes).std(dim=0)
    backs: list[Tensor] = []
    forwards: list[Tensor] = []
    codes = _sign(centred @ axes)
    span = fit(centred @ axes, centred)
    for bit in range(1, bits):
        backs.append(span * (STEPS[bits] * 2 ** (bits - bit - 1)))  # the levels of a uniform quantiser
        rest = centred - codes @ backs[-1]
        forward = fit(rest, wanted[bit]) if wanted else axes
        forwards.append(forward / (rest @ forward).std(dim=0))
        codes = 2 * codes + _sign(rest @ forwards[-1])
    return axes.contiguous(), backs, forwards, fit(codes if old is None else old, centred).T.contiguous()


def _principal_signs(centred: Tensor, num_places: int, seed: int) -> Tensor:
    """Return (dim, P) principal axes, turned so that the signs come nearest (iterative quantisation)."""
    import torch

    chance = torch.Generator().manual_seed(seed)
    principal = torch.linalg.eigh(centred.T @ centred)[1].flip(1)[:, :num_places]
    turn = torch.linalg.qr(torch.randn(num_places, num_places, generator=chance))[0]
    values = centred @ principal
    for _ in range(NUM_ROTATIONS):
        left, _, right = torch.linalg.svd(values.T @ _sign(values @ turn))
        turn = left @ right
    turned: Tensor = principal @ turn
    return turned


def _signs_of(values: Tensor, bits: int) -> list[Tensor]:
    """Return the bits, +1 and -1, of odd whole numbers, the most telling first."""
    signs: list[Tensor] = []
    for bit in reversed(range(bits)):
        signs.append(_sign(values))
        values = values - signs[-1] * (1 << bit)
    return signs


def _binarise(centred: Tensor, axes: Tensor, backs: list[Tensor], forwards: list[Tensor]) -> Tensor:
    """Return (N, P) codes, odd whole numbers, through which gradients pass where a sign was not sure."""
    codes = _sign(centred @ axes)
    for back, forward in zip(backs, forwards, strict=True):
        codes = 2 * codes + _sign((centred - codes @ back) @ forward)
    return codes


def _sign(values: Tensor) -> Tensor:
    """The sign, +1 at 0; backwards the identity between -1 and 1 (straight-through)."""
    soft = values.clamp(-1, 1)
    return (values >= 0).to(values.dtype) * 2 - 1 + soft - soft.detach()


def _loss(estimates: Tensor, true: Tensor, asking: Tensor, rows: Tensor) -> Tensor:
    """What is wrong with estimated cosines: contrast, and squared error."""
    return _contrast(estimates, true, asking, rows) + REGRESSION_WEIGHT * (estimates - true).square().mean()


def _contrast(scores: Tensor, true: Tensor, asking: Tensor, rows: Tensor) -> Tensor:
    """Cross-entropy of each one's positive among the hardest negatives; (B, 2 B) scores and true cosines."""
    import torch

    num = len(asking)
    own = torch.arange(num)
    wanted = scores[own, num + own]
    is_same = (asking[:, None] == rows[None, :]) | (true >= SAME_COSINE) | (true >= true[own, num + own][:, None])
    negatives = scores.masked_fill(is_same, -torch.inf).topk(min(NUM_HARD_NEGATIVES, num), dim=1).values
    logits = torch.cat([wanted[:, None], negatives], dim=1) / TEMPERATURE
    return torch.nn.functional.cross_entropy(logits, torch.zeros(num, dtype=torch.long))


def _to_whole_numbers(
    mean: NDArray[np.int16], axes: Tensor, backs: list[Tensor], forwards: list[Tensor], readout: Tensor
) -> Trained:
    """Round what was trained; the length of an axis does not change a sign, so each is scaled to length 1."""
    planes = [axes.detach().numpy().astype(np.float64)]
    explained: list[NDArray[Any]] = []
    for back, forward in zip(backs, forwards, strict=True):
        planes.append(forward.detach().numpy().astype(np.float64))
        explained.append(back.detach().numpy().astype(np.float64) @ planes[-1])
    lengths = [np.linalg.norm(plane, axis=0) for plane in planes]
    whole = [np.rint(plane / length * AXIS_UNITS) for plane, length in zip(planes, lengths, strict=True)]
    told = [np.rint(each / length * AXIS_UNITS) for each, length in zip(explained, lengths[1:], strict=True)]
    weights = readout.detach().numpy().astype(np.float64)
    steps = np.linalg.norm(weights, axis=0) / AXIS_UNITS
    num_places = len(steps)
    return Trained(
        mean,
        np.stack(whole).astype(np.int16),
        np.array(told, dtype=np.int16).reshape(len(told), num_places, num_places),
        np.rint(weights / steps).astype(np.int16),
        steps.astype(np.float32),
    )
