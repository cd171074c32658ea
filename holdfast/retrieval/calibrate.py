"""Choose a collection's quantiser and its search effort by trying them on its own vectors.

A sample of the vectors is encoded, some of them ask, and the nearest by codes are compared with the nearest by float
vectors. The cheapest code that lets 99 % of the true neighbours through is taken, then the fewest candidates that let
99.9 % through; rescoring stops by the error that 99.9 % of the neighbours' estimates stay within. Who asks is given by
the order of the sample, so equal contents in equal order make equal choices.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.kernels.packing import num_code_bytes, pack
from holdfast.retrieval.code_search import encode_queries, search_codes
from holdfast.retrieval.quantise import FACTOR_UNITS, Quantiser, find_scheme
from holdfast.retrieval.rescore import MIN_CANDIDATES

MIN_VECTORS = 1024
"""with fewer, a fit says little of the next vector, and the least candidates are most of the collection"""
MAX_SAMPLE = 65536
GROWTH = 4
"""a collection is fitted again when it has grown this many times"""
NUM_QUERIES = 256
NUM_NEIGHBOURS = 10
OPTIONS = (("hadamard", 1), ("mib", 1), ("mib", 2), ("mib", 4))
"""scheme and bits a dimension, cheapest first"""
OVERSAMPLINGS = (4, 10, 20, 40, 80)
ENOUGH = 0.99
NEARLY_ALL = 0.999
SURE = 0.99


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured when a quantiser was chosen."""

    num_vectors: int
    """in the collection at that time"""
    code_bytes: int
    """a vector"""
    oversampling: float
    """candidates a result"""
    gain: float
    """a cosine is the offset plus this many times what codes and weights add up to: codes make vectors shorter"""
    margin: float
    """a cosine is hardly ever above that estimate by more than this"""
    recall_by_codes: float
    """share of the float top 10 in the codes' top 10"""
    recall: float
    """share of the float top 10 among the candidates for 10 results"""

    def describe(self) -> str:
        """Say in a few words what was measured."""
        return (
            f"on {self.num_vectors} vectors, {self.oversampling:g} candidates a result held {100 * self.recall:.2f} % "
            f"of the float top 10, the codes alone {100 * self.recall_by_codes:.1f} %"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values; `from_json` reads them."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Calibration:
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Trial:
    """How one quantiser did: share of the true neighbours in the codes' top 10, and among more candidates."""

    quantiser: Quantiser
    recall_by_codes: float
    recalls: tuple[float, ...]
    """by `OVERSAMPLINGS`"""
    gain: float
    margin: float


def is_fit_due(num_vectors: int, calibration: Calibration | None) -> bool:
    """True when a collection of `num_vectors` should be fitted for the first time, or again."""
    return num_vectors >= (MIN_VECTORS if calibration is None else GROWTH * calibration.num_vectors)


def choose_quantiser(sample: NDArray[np.float32], num_vectors: int) -> tuple[Quantiser, Calibration]:
    """Return the quantiser for a collection of `num_vectors`, and what was measured of it.

    Args:
        sample: (S, dim) unit-norm vectors, up to MAX_SAMPLE of them and at least MIN_VECTORS; the first ask.
        num_vectors: in the whole collection.

    Cost: about ten seconds for 65,536 vectors of 384 dimensions.
    """
    neighbours = _true_neighbours(sample)
    best: Trial | None = None
    for scheme, bits in OPTIONS:
        if best is not None and bits > 1 and _recall_at_least(best) >= ENOUGH:
            break
        quantiser = find_scheme(scheme).fit(sample, num_bits=bits * sample.shape[1])
        trial = try_quantiser(quantiser, sample, neighbours)
        if best is None or trial.recalls[0] > best.recalls[0]:
            best = trial
    assert best is not None
    enough = [recall >= NEARLY_ALL for recall in best.recalls]
    place = enough.index(True) if any(enough) else len(enough) - 1
    code_bytes = num_code_bytes(best.quantiser.code_dim, best.quantiser.bits)
    calibration = Calibration(
        num_vectors,
        code_bytes,
        float(OVERSAMPLINGS[place]),
        best.gain,
        best.margin,
        best.recall_by_codes,
        best.recalls[place],
    )
    return best.quantiser, calibration


def try_quantiser(quantiser: Quantiser, sample: NDArray[np.float32], neighbours: NDArray[np.int64]) -> Trial:
    """Search the sample's codes for its first vectors, whose true `neighbours` (Q, 10), are known."""
    levels, factors = quantiser.encode(sample)
    asked = sample[: len(neighbours)]
    most = min(NUM_NEIGHBOURS * OVERSAMPLINGS[-1] + 1, len(sample))
    ids = np.arange(len(sample), dtype=np.uint64)
    _, found = search_codes(encode_queries(quantiser, asked), pack(levels, quantiser.bits), factors, ids, most)
    # a vector that asks is not its own neighbour
    others = np.array([line[line != asks][: most - 1] for asks, line in enumerate(found)])
    is_true = (others[:, :, None] == neighbours[:, None, :]).any(axis=2)
    recalls = [float(is_true[:, : NUM_NEIGHBOURS * times].sum() / neighbours.size) for times in (1, *OVERSAMPLINGS)]
    values = (2.0 * levels[neighbours] - ((1 << quantiser.bits) - 1)) * (factors / FACTOR_UNITS)[neighbours][:, :, None]
    gain, margin = _measure_errors(quantiser, values, sample[neighbours], asked)
    return Trial(quantiser, recalls[0], tuple(recalls[1:]), gain, margin)


def _measure_errors(
    quantiser: Quantiser, values: NDArray[np.float64], vectors: NDArray[np.float32], queries: NDArray[np.float32]
) -> tuple[float, float]:
    """Return gain and margin, each in thousandths, over what the queries' (Q, N) neighbours are and stand for."""
    weights, offsets = quantiser.project(queries)
    sums = np.einsum("qnj,qj->qn", values, weights.astype(np.float64))
    wanted = np.einsum("qnj,qj->qn", vectors.astype(np.float64), queries) - offsets[:, None]
    gain = max(round(float((sums * wanted).sum() / (sums * sums).sum()), 3), 0.001)
    margin = float(np.quantile(wanted - gain * sums, SURE, method="higher"))
    return gain, math.ceil(margin * 1000) / 1000


def _true_neighbours(sample: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the (Q, 10) nearest of each of the first vectors among all others."""
    neighbours = np.empty((min(NUM_QUERIES, len(sample)), NUM_NEIGHBOURS), dtype=np.int64)
    for first in range(0, len(neighbours), 64):
        products = sample[first : min(first + 64, len(neighbours))] @ sample.T
        for asks, line in enumerate(products, start=first):
            line[asks] = -np.inf
            neighbours[asks] = np.argpartition(line, -NUM_NEIGHBOURS)[-NUM_NEIGHBOURS:]
    return neighbours


def _recall_at_least(trial: Trial) -> float:
    """The share of neighbours among the candidates that every search looks at."""
    return trial.recalls[OVERSAMPLINGS.index(MIN_CANDIDATES // NUM_NEIGHBOURS)]
