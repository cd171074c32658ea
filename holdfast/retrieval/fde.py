"""Many vectors a passage searched like one: fixed dimensional encodings, then MaxSim over the best.

Late-interaction models give a vector for each token, and score a passage by adding up each question token's best match
(MaxSim). An encoding sorts tokens into partitions by random signs and adds up (questions) or averages (passages) what
falls into each, in a few random directions, so that one inner product comes near MaxSim. Encodings are vectors like any
other: `BinaryIndex` keeps them as codes, and MaxSim over int8 tokens orders what the codes let through.

Signs and directions are coordinates of a seeded Hadamard rotation, a new one each repetition: the same bits on every
machine. Partitions are numbered by their signs (the source's Gray code numbers the same partitions otherwise).

Source: Dhulipala et al., "MUVERA: multi-vector retrieval via fixed dimensional encodings" (arXiv 2405.19504).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import InvalidInput, ShapeError
from holdfast.kernels.hadamard import Rotation, make_rotation, rotate
from holdfast.retrieval.index import BinaryIndex
from holdfast.retrieval.segment_search import SearchResult

TOKEN_LIMIT = 127
OVERSAMPLING = 10.0

Tokens = NDArray[np.float32]
"""(T, dim) vectors of one text's tokens"""


@dataclass(frozen=True, slots=True)
class FixedDimensionalEncoder:
    """Encodes sets of vectors of length `dim` as unit-norm vectors of length `fde_dim`."""

    dim: int
    num_repetitions: int = 16
    num_simhash_projections: int = 4
    """signs that choose a partition: there are 2 ** this many"""
    projection_dim: int = 16
    fill_empty_partitions: bool = True
    """of passages: by the token whose signs are nearest"""
    seed: int = 0
    _rotations: tuple[Rotation, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if min(self.dim, self.num_repetitions, self.projection_dim) < 1 or self.num_simhash_projections < 0:
            raise InvalidInput("dim, num_repetitions and projection_dim must be at least 1", param="num_repetitions")
        if self.num_simhash_projections + self.projection_dim > self.dim:
            raise InvalidInput(
                f"num_simhash_projections + projection_dim must be at most dim, {self.dim}", param="projection_dim"
            )
        rotations = (make_rotation(self.dim, self.seed + repetition) for repetition in range(self.num_repetitions))
        object.__setattr__(self, "_rotations", tuple(rotations))

    @property
    def fde_dim(self) -> int:
        """Length of an encoding."""
        return self.num_repetitions * self.projection_dim << self.num_simhash_projections

    def encode_documents(self, texts: Sequence[Tokens]) -> NDArray[np.float32]:
        """Return the (N, fde_dim) encodings of passages' tokens: averages, empty partitions filled if so set."""
        return self._encode(texts, is_query=False)

    def encode_queries(self, texts: Sequence[Tokens]) -> NDArray[np.float32]:
        """Return the (N, fde_dim) encodings of questions' tokens: sums."""
        return self._encode(texts, is_query=True)

    def _encode(self, texts: Sequence[Tokens], *, is_query: bool) -> NDArray[np.float32]:
        for row, tokens in enumerate(texts):
            if tokens.ndim != 2 or tokens.shape[1] != self.dim or not len(tokens):
                raise ShapeError(f"texts[{row}] must be (T, {self.dim}), T > 0, not {tokens.shape}", param="texts")
        num_partitions = 1 << self.num_simhash_projections
        shape = (len(texts), self.num_repetitions, num_partitions, self.projection_dim)
        encoded = np.zeros(shape, dtype=np.float32)
        if not len(texts):
            return encoded.reshape(0, self.fde_dim)
        lengths = [len(tokens) for tokens in texts]
        owners = np.repeat(np.arange(len(texts)), lengths)
        together = np.concatenate(texts).astype(np.float32)
        places = 1 << np.arange(self.num_simhash_projections)
        last = self.num_simhash_projections + self.projection_dim
        for repetition, rotation in enumerate(self._rotations):
            rotated = rotate(together, rotation)
            partitions = (rotated[:, : self.num_simhash_projections] > 0) @ places
            projected = rotated[:, self.num_simhash_projections : last]
            sums = np.zeros((len(texts), num_partitions, self.projection_dim))  # float64: exact enough in any order
            np.add.at(sums, (owners, partitions), projected)
            if not is_query:
                counts = np.zeros((len(texts), num_partitions))
                np.add.at(counts, (owners, partitions), 1)
                sums /= np.maximum(counts, 1)[:, :, None]
                if self.fill_empty_partitions:
                    _fill(sums, counts, partitions, projected, lengths)
            encoded[:, repetition] = sums
        flat = encoded.reshape(len(texts), self.fde_dim)
        norms = np.linalg.norm(flat.astype(np.float64), axis=1, keepdims=True)
        if not norms.all():
            raise InvalidInput("texts have only zero vectors", param="texts")
        unit: NDArray[np.float32] = (flat / norms).astype(np.float32)
        return unit


def _fill(
    sums: NDArray[np.float64],
    counts: NDArray[np.float64],
    partitions: NDArray[np.int64],
    projected: NDArray[np.float32],
    lengths: Sequence[int],
) -> None:
    """Put into each empty partition the first of the text's tokens whose signs differ least from its own."""
    starts = np.cumsum([0, *lengths])
    numbers = np.arange(counts.shape[1])
    for text in np.flatnonzero((counts == 0).any(axis=1)):
        own = partitions[starts[text] : starts[text + 1]]
        empty = numbers[counts[text] == 0]
        nearest = np.bitwise_count(empty[:, None] ^ own[None, :]).argmin(axis=1)
        sums[text, empty] = projected[starts[text] + nearest]


@dataclass(frozen=True, slots=True)
class TokenRows:
    """A text's tokens in 8 bits a coordinate."""

    rows: NDArray[np.int8]
    """(T, dim) in units of the scale"""
    scales: NDArray[np.float64]
    """(T,) largest magnitude of a token / 127"""


def to_token_rows(tokens: Tokens) -> TokenRows:
    """Round (T, dim) tokens, to nearest, half to even."""
    scales = np.abs(tokens).max(axis=1, initial=0).astype(np.float64) / TOKEN_LIMIT
    units = np.where(scales > 0, scales, 1.0)[:, None]
    return TokenRows(np.rint(tokens / units).astype(np.int8), scales)


def maxsim(query: TokenRows, document: TokenRows) -> float:
    """Return the sum over the query's tokens of their largest inner product with one of the document's.

    Products are sums of whole numbers, exact in float64 in any order; only the scales round.
    """
    products = query.rows.astype(np.float64) @ document.rows.astype(np.float64).T
    best = (products * document.scales).max(axis=1) * query.scales
    return float(np.cumsum(best)[-1])  # one after the other, so that the sum has one value


class MultiVectorIndex:
    """Passages of many vectors: encodings as codes in a BinaryIndex, tokens in memory for MaxSim."""

    def __init__(self, encoder: FixedDimensionalEncoder) -> None:
        self._encoder = encoder
        self._index = BinaryIndex(encoder.fde_dim)
        self._tokens: dict[int, TokenRows] = {}

    def __len__(self) -> int:
        return len(self._index)

    def add(self, ids: NDArray[np.uint64], texts: Sequence[Tokens]) -> None:
        """Add the tokens of passages under ids (N,) that are not in the index yet; errors as of `BinaryIndex.add`."""
        self._index.add(ids, self._encoder.encode_documents(texts))
        self._tokens.update(zip(ids.tolist(), map(to_token_rows, texts), strict=True))

    def remove(self, ids: NDArray[np.uint64]) -> int:
        """Drop the given ids; return how many were there."""
        for passage_id in ids.tolist():
            self._tokens.pop(passage_id, None)
        return self._index.remove(ids)

    def search(self, query: Tokens, k: int, *, oversampling: float = OVERSAMPLING) -> list[tuple[int, float]]:
        """Return ids and MaxSim of the best `k` for one question's tokens, score descending, then id.

        The codes of the encodings let ceil(oversampling * k) passages through, and MaxSim orders them.
        """
        if oversampling < 1:
            raise InvalidInput(f"oversampling must be at least 1.0, not {oversampling}", param="oversampling")
        rows = to_token_rows(query)
        candidates = self.candidates([query], int(np.ceil(oversampling * k)))
        scored = [(passage_id, maxsim(rows, self._tokens[passage_id])) for passage_id in candidates.ids[0].tolist()]
        return sorted(scored, key=lambda pair: (-pair[1], pair[0]))[:k]

    def candidates(self, queries: Sequence[Tokens], k: int) -> SearchResult:
        """Return the `k` passages whose encodings are nearest to each question's."""
        return self._index.search(self._encoder.encode_queries(queries), k)
