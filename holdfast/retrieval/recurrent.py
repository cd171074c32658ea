"""Recurrent binarisation: a quantiser trained so that codes of near vectors are near, one bit a place after the other.

The first bit of each place is the sign of a learned projection. Every further bit is the sign of a projection of what
the bits so far leave unexplained, and counts half as much as the one before; so a place of u + 1 bits has the levels of
a uniform quantiser, in a space that was learned. A question is not binarised: its weights are its own projection.
Training sees vectors only: each one's nearest other is its positive, the hardest few of the batch are its negatives,
and those that are nearly the same or nearer than the positive are no negatives at all.

`fit_compatible` trains the quantiser of a new embedding model so that its questions also read an older quantiser's
codes: codes of both lie in one scan, and passages are encoded again when there is time.

Encoding adds whole numbers below 2^24, so a vector gives the same code in any batch and on any machine. Training does
not promise that: what was trained is stored with the codes, and its digest is the quantiser's version.

Source: Gan et al., "Binary embedding-based retrieval at Tencent" (BEBR, arXiv 2302.08714), with asymmetric scoring.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import InvalidInput, ShapeError
from holdfast.kernels.packing import check_bits
from holdfast.retrieval.quantise import FACTOR_UNITS, Encoded, Parameters, check_vectors, make_id, to_bytes
from holdfast.retrieval.quantise_rotated import STEPS

if TYPE_CHECKING:
    from torch import Tensor

UNITS = 4096
"""of vectors and means: 1 / UNITS"""
AXIS_UNITS = 2048
MIN_SAMPLE = 256
MAX_SAMPLE = 16384
"""trained on at most so many: all are compared with all to find the positives"""
BITS = 2
"""a place, unless said otherwise"""
NUM_STEPS = 1500
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


@dataclass(frozen=True, slots=True)
class RecurrentQuantiser:
    """What was trained, in whole numbers.

    Attributes:
        mean: (dim,) int16, in units of 1 / UNITS.
        axes: (bits, dim, places) int16, the projections of each bit, in units of 1 / AXIS_UNITS.
        feedback: (bits - 1, places, places) int16, what the code so far explains of them, likewise.
        readout: (dim, places) int16, the projections that a question's weights are, in units of the steps.
        steps: (places,) float32.
    """

    scheme: ClassVar[str] = "recurrent"
    mean: NDArray[np.int16]
    axes: NDArray[np.int16]
    feedback: NDArray[np.int16]
    readout: NDArray[np.int16]
    steps: NDArray[np.float32]

    @property
    def dim(self) -> int:
        return len(self.mean)

    @property
    def bits(self) -> int:
        return len(self.axes)

    @property
    def code_dim(self) -> int:
        return int(self.axes.shape[2])

    @property
    def id(self) -> str:
        return make_id(self.scheme, self.parameters())

    @classmethod
    def fit(
        cls, sample: NDArray[np.float32], *, num_bits: int, seed: int = 0, bits: int = BITS, num_steps: int = NUM_STEPS
    ) -> RecurrentQuantiser:
        """Train on (N, dim) unit-norm vectors, `bits` (1, 2 or 4) a place.

        Raises:
            InvalidInput: fewer than MIN_SAMPLE vectors, or not one place, or more places than coordinates.

        Cost: some minutes on one core for 16,384 vectors of 384 dimensions.
        """
        sample = _check_sample(sample, num_bits, bits, "sample")
        return _train(sample, num_bits // bits, bits, seed, num_steps)

    @classmethod
    def fit_compatible(
        cls,
        sample: NDArray[np.float32],
        old: RecurrentQuantiser,
        old_sample: NDArray[np.float32],
        *,
        seed: int = 0,
        num_steps: int = NUM_STEPS,
    ) -> RecurrentQuantiser:
        """Train for a new model's vectors (N, dim) so that its questions read `old` codes, too.

        Args:
            sample: unit-norm vectors of some texts by the new model.
            old: the quantiser of the codes that there are.
            old_sample: (N, old.dim) vectors of the same texts by the old model.
            seed: of the order of training.
            num_steps: batches.
        """
        sample = _check_sample(sample, old.code_dim * old.bits, old.bits, "sample")
        if len(old_sample) < len(sample):
            raise ShapeError(f"{len(old_sample)} old vectors for {len(sample)} new ones", param="old_sample")
        return _train(sample, old.code_dim, old.bits, seed, num_steps, old.encode(old_sample[: len(sample)]))

    def encode(self, vectors: NDArray[np.float32]) -> Encoded:
        whole = np.rint(check_vectors(vectors, self.dim, "vectors") * np.float32(UNITS)) - self.mean.astype(np.float32)
        codes = np.zeros((len(whole), self.code_dim), dtype=np.float32)  # odd whole numbers: 2 * level - highest level
        levels = np.zeros(codes.shape, dtype=np.uint8)
        for bit, axes in enumerate(self.axes):
            places = whole @ axes.astype(np.float32)
            if bit:
                places -= codes @ self.feedback[bit - 1].astype(np.float32) * np.float32(UNITS)
            is_set = places >= 0
            codes = 2 * codes + np.where(is_set, np.float32(1), np.float32(-1))
            levels = 2 * levels + is_set.astype(np.uint8)
        read = whole @ self.readout.astype(np.float32) * self.steps
        told = np.einsum("nj,nj->n", read, codes, dtype=np.float64) * UNITS
        energy = np.einsum("nj,nj->n", whole, whole, dtype=np.float64)
        factors = np.where(told > 0, energy / np.where(told > 0, told, 1), 1)
        return Encoded(levels, to_bytes(factors.astype(np.float32)))

    def project(self, queries: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        whole = np.rint(check_vectors(queries, self.dim, "queries") * np.float32(UNITS))
        weights = whole @ self.readout.astype(np.float32) * (self.steps / np.float32(UNITS))
        return weights, whole @ self.mean.astype(np.float32) / np.float32(UNITS**2)

    def project_symmetric(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return as weights (Q, code_dim) the questions' own codes: what both sides cost when both are binarised."""
        return 2.0 * self.encode(queries).levels.astype(np.float32) - np.float32((1 << self.bits) - 1)

    def parameters(self) -> Parameters:
        return {
            "mean": self.mean,
            "axes": self.axes,
            "feedback": self.feedback,
            "readout": self.readout,
            "steps": self.steps,
        }

    @classmethod
    def from_parameters(cls, parameters: Parameters) -> RecurrentQuantiser:
        return cls(*(parameters[name] for name in ("mean", "axes", "feedback", "readout", "steps")))


def _check_sample(sample: NDArray[np.float32], num_bits: int, bits: int, param: str) -> NDArray[np.float32]:
    check_bits(bits)
    if sample.ndim != 2 or len(sample) < MIN_SAMPLE:
        raise InvalidInput(f"{param} must be at least {MIN_SAMPLE} vectors, not {sample.shape}", param=param)
    if not bits <= num_bits <= bits * sample.shape[1]:
        raise InvalidInput(
            f"num_bits must be between {bits} and {bits * sample.shape[1]}, not {num_bits}", param="num_bits"
        )
    evenly = np.linspace(0, len(sample) - 1, min(len(sample), MAX_SAMPLE)).astype(np.int64)
    return check_vectors(sample[evenly] if len(sample) > MAX_SAMPLE else sample, sample.shape[1], param)


def _train(
    sample: NDArray[np.float32],
    num_places: int,
    bits: int,
    seed: int,
    num_steps: int,
    old_codes: Encoded | None = None,
) -> RecurrentQuantiser:
    """Return what is trained on `sample`; `old_codes` (N, num_places) are the same texts' that must stay readable."""
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
) -> RecurrentQuantiser:
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
    return RecurrentQuantiser(
        mean,
        np.stack(whole).astype(np.int16),
        np.array(told, dtype=np.int16).reshape(len(told), num_places, num_places),
        np.rint(weights / steps).astype(np.int16),
        steps.astype(np.float32),
    )
