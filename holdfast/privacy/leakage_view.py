"""What the red team shares: the corpus, the modes, what a store sees of a mode, and how success is counted.

No attack is given a key. Encoded rows are divided by their typical length first: a factor hides nothing. Vectors are
compared about the mean of the adversary's own corpus, so that guessing the mean counts for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from holdfast.privacy.distance import (
    Asym,
    AsymEncoding,
    CapriseEncoding,
    CipherVector,
    CodesEncoding,
    Encoding,
    Metric,
    PlainVector,
    SapEncoding,
    centre_of,
)
from holdfast.privacy.keys import EpochKeys, SecretKey
from holdfast.privacy.noise import GUESS_DISTANCE, Gaussian, QueryNoise
from holdfast.privacy.overfetch import DEFAULT_CANDIDATES, NOISY_CANDIDATES, quota
from holdfast.privacy.seal import Kind, Place, Sealer
from holdfast.privacy.streams import NONCE_SIZE, prf, uniforms
from holdfast.privacy.vector_bytes import pack_vectors, unpack_vectors

K = 10
EPOCH = 1
NUM_ANCHORS = 1000
NUM_TESTED = 1000
SLICE_SIZE = 256
"""queries encoded at a time"""

_PUBLIC = SecretKey(bytes(32))
QUERY_DEVIATION = 0.05
MODES = ("sealed", "asym", "asym 64", "asym, noise", "codes", "sap", "caprise", "plain")
"""`asym 64` has 64 cells and fetches 256 rows; `asym, noise` adds noise of 0.05 to queries, drawn for each cell"""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Corpus:
    """What is true, and what adversaries may know of it. All vectors have length 1."""

    vectors: Floats = field(repr=False)
    """(N, dim) what the store must not learn"""
    texts: Sequence[str] = field(repr=False)
    """(N,) what the vectors stand for"""
    labels: NDArray[np.int64] = field(repr=False)
    """(N,) an attribute of each text, such as its source"""
    other_vectors: Floats = field(repr=False)
    """(A, dim) of the adversary's own texts on the same subjects, none of them in the store"""
    other_texts: Sequence[str] = field(repr=False)
    queries: Floats = field(repr=False)
    """(Q, dim)"""
    paraphrases: Floats = field(repr=False)
    """(P, dim) of the first P queries"""

    @cached_property
    def ids(self) -> list[bytes]:
        """Row ids as a store sees them."""
        return [prf(_PUBLIC, str(row).encode())[:16] for row in range(len(self.vectors))]

    @cached_property
    def mean(self) -> Floats:
        """(dim,) what the adversary takes for the mean: that of its own texts."""
        return np.asarray(self.other_vectors.mean(axis=0), dtype=np.float32)

    @cached_property
    def anchors(self) -> NDArray[np.int64]:
        """The rows whose neighbours are looked for."""
        rng = np.random.default_rng(1)
        return np.sort(rng.permutation(len(self.vectors))[:NUM_ANCHORS])

    @cached_property
    def neighbours(self) -> NDArray[np.int64]:
        """(anchors, 10) the true nearest rows of each anchor."""
        return nearest(self.vectors, self.anchors)

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """The rows in random order: the first are the ones that leak, the last the ones on which attacks are tested."""
        return np.random.default_rng(2).permutation(len(self.vectors))

    @property
    def tested(self) -> NDArray[np.int64]:
        """The rows on which attacks are tested."""
        return self.order[-min(NUM_TESTED, len(self.vectors) // 3) :]


@dataclass(frozen=True)
class Mode:
    """One way to keep a collection in a store."""

    name: str
    encode_rows: Callable[[Sequence[bytes], Sequence[int], PlainVector], CipherVector] = field(repr=False)
    """row ids, versions, vectors -> what the store is given"""
    encode_queries: Callable[[Sequence[str], Floats], NDArray[np.generic]] | None = field(repr=False)
    """Q texts, (Q, dim) -> (Q, cells, width) what the store is given; None where it is given nothing"""
    metric: Metric | None
    """by which the store ranks; None where it does not"""
    num_candidates: int = DEFAULT_CANDIDATES
    """rows that the store returns"""
    query_mu: float | None = None
    """of one query's noise, for two queries at distance 0.1; None without noise"""


@dataclass(frozen=True)
class View:
    """What a store has of one collection in one mode."""

    mode: Mode
    cells: NDArray[np.int32] = field(repr=False)
    """(N,) which rows share a key"""
    rows: Floats = field(repr=False)
    """(N, width) as numbers of length about 1"""
    queries: Floats | None = field(repr=False)
    """(Q, cells, width) as numbers of length about 1"""
    scores: Floats | None = field(repr=False)
    """(Q, N) higher is nearer; comparable within a query and a cell"""

    @property
    def num_cells(self) -> int:
        return 1 if self.queries is None else self.queries.shape[1]

    def members(self) -> list[NDArray[np.int64]]:
        """Return the rows of each cell."""
        return [np.flatnonzero(self.cells == cell) for cell in range(self.num_cells)]


def make_mode(name: str, root: SecretKey, corpus: Corpus) -> Mode:
    """Return one of `MODES`, keyed from `root`. The same root gives the same bytes: measurements are repeated."""
    random = _generator(root)
    if name == "plain":
        return plain_mode()
    if name == "sealed":
        return sealed_mode(root)
    if name == "caprise":
        return to_mode(name, CapriseEncoding(root, random=random))
    centre = centre_of(PlainVector(corpus.vectors[:1000]))
    if name == "sap":
        return to_mode(name, SapEncoding(root, centre, EPOCH, random=random))
    if name == "codes":
        return to_mode(name, CodesEncoding(root, centre, EPOCH))
    parameters = Asym(num_cells=64) if name == "asym 64" else Asym()
    encoding = AsymEncoding(root, centre, EPOCH, parameters, random=random)
    if name == "asym, noise":
        noise = QueryNoise(root, EPOCH, Gaussian(QUERY_DEVIATION), parameters.num_cells)
        return Mode(
            name,
            encoding.encode_rows,
            lambda texts, queries: _encoded(
                encoding, [noise.perturb(text, each) for text, each in zip(texts, _each(queries), strict=True)]
            ),
            encoding.metric,
            NOISY_CANDIDATES,
            noise.mu(GUESS_DISTANCE, len(centre)),
        )
    candidates = NOISY_CANDIDATES if name == "asym 64" else DEFAULT_CANDIDATES
    return replace(to_mode(name, encoding), num_candidates=candidates)


def to_mode(name: str, encoding: Encoding) -> Mode:
    """Return a mode that gives the store what `encoding` makes."""
    return Mode(
        name, encoding.encode_rows, lambda texts, queries: _encoded(encoding, _each(queries)), encoding.metric
    )


def plain_mode() -> Mode:
    """Return the mode without protection."""
    return Mode(
        "plain",
        lambda ids, versions, vectors: _one_cell(vectors.values),
        lambda texts, queries: queries[:, None],
        "ip",
        num_candidates=K,
    )


def sealed_mode(root: SecretKey) -> Mode:
    """Return the mode in which the store has sealed objects of 8-bit vectors, and is asked nothing."""
    sealer = Sealer(EpochKeys("tenant", "collection", EPOCH, root))

    def encode_rows(ids: Sequence[bytes], versions: Sequence[int], vectors: PlainVector) -> CipherVector:
        packed = pack_vectors(vectors.values)
        sealed = []
        for each, version, row in zip(ids, versions, packed, strict=True):
            drawn = prf(root, each, version.to_bytes(8, "big"))
            place = Place(Kind.VECTOR, each, version)
            sealed.append(sealer.seal_from_parts_for_testing(row.tobytes(), place, drawn[:16], drawn[16:28]))
        return _one_cell(np.frombuffer(b"".join(sealed), np.uint8).reshape(len(ids), -1))

    return Mode("sealed", encode_rows, None, None, num_candidates=K)


def look(mode: Mode, corpus: Corpus) -> View:
    """Return what the store sees when `corpus` is kept, and its queries are asked, in `mode`."""
    rows = mode.encode_rows(corpus.ids, [1] * len(corpus.ids), PlainVector(corpus.vectors))
    numbers = to_numbers(rows, mode.metric)
    if mode.encode_queries is None:
        return View(mode, rows.cells, numbers, None, None)
    asked = encode_queries(mode, corpus.queries)
    scores = np.empty((len(asked), len(numbers)), dtype=np.float32)
    for cell in range(asked.shape[1]):
        members = np.flatnonzero(rows.cells == cell)
        scores[:, members] = asked[:, cell] @ numbers[members].T
    if mode.metric == "l2":
        scores -= 0.5 * np.einsum("nd,nd->n", numbers, numbers)
    return View(mode, rows.cells, numbers, asked, scores)


def encode_queries(mode: Mode, queries: Floats, *, name: str = "query") -> Floats:
    """Return (Q, cells, width) numbers of length about 1; query i has the text `NAME i`."""
    assert mode.encode_queries is not None
    parts = []
    for first in range(0, len(queries), SLICE_SIZE):
        part = queries[first : first + SLICE_SIZE]
        parts.append(mode.encode_queries([f"{name} {first + row}" for row in range(len(part))], part))
    encoded = np.concatenate(parts)
    numbers = _to_numbers(encoded.reshape(-1, encoded.shape[2]), mode.metric)
    return numbers.reshape(len(queries), encoded.shape[1], -1)


def to_numbers(cipher: CipherVector, metric: Metric | None) -> Floats:
    """Return what an observer computes with: bits as +-1, bytes about their mean, all divided by the typical length."""
    return _to_numbers(cipher.values, metric)


def _to_numbers(values: NDArray[np.generic], metric: Metric | None) -> Floats:
    if metric == "hamming":
        values = np.unpackbits(values.astype(np.uint8), axis=1, bitorder="little").astype(np.float32) * 2 - 1
    elif values.dtype == np.uint8:
        values = values.astype(np.float32) - 127.5
    numbers = np.asarray(values, dtype=np.float32)
    return np.asarray(numbers / np.linalg.norm(numbers, axis=1).mean(), dtype=np.float32)


def retrieved(view: View, num_candidates: int | None = None) -> list[NDArray[np.int64]]:
    """Return, for each query, the rows that an exact store answers with."""
    assert view.scores is not None
    wanted = quota(num_candidates or view.mode.num_candidates, view.num_cells)
    found: list[list[NDArray[np.int64]]] = [[] for _ in view.scores]
    for members in view.members():
        scores = view.scores[:, members]
        count = min(wanted, len(members))
        best = np.argpartition(-scores, count - 1, axis=1)[:, :count] if count else np.empty((len(scores), 0), int)
        for query, rows in enumerate(best):
            found[query].append(members[rows])
    return [np.concatenate(rows) for rows in found]


def recall_at_10(view: View, corpus: Corpus, num_candidates: int | None = None) -> float:
    """Return the share of the true ten best rows that are found, after the candidates are opened and reordered exactly.

    Where the store does not rank, the rows are ranked by their opened 8-bit vectors.
    """
    exact = corpus.queries @ corpus.vectors.T
    truth = top(exact, K)
    if view.scores is None:
        opened = unpack_vectors(pack_vectors(corpus.vectors), corpus.vectors.shape[1])
        found: Sequence[NDArray[np.int64]] = list(top(corpus.queries @ opened.T, K))
    else:
        found = retrieved(view, num_candidates)
    hits = [len(np.intersect1d(each, wanted)) for each, wanted in zip(found, truth, strict=True)]
    return float(np.mean(hits)) / K


def nearest(
    features: Floats,
    anchors: NDArray[np.int64],
    cells: NDArray[np.int32] | None = None,
    *,
    by_distance: bool = False,
) -> NDArray[np.int64]:
    """Return (anchors, 10) the rows with the largest inner product or the smallest distance, the anchor left out.

    Only rows of the anchor's own cell count where `cells` are given; where a cell has too few, -1 fills up.
    """
    found = np.full((len(anchors), K), -1, dtype=np.int64)
    for cell in (0,) if cells is None else np.unique(cells[anchors]):
        rows = np.arange(len(features)) if cells is None else np.flatnonzero(cells == cell)
        asking = np.arange(len(anchors)) if cells is None else np.flatnonzero(cells[anchors] == cell)
        own = features if cells is None else features[rows]
        halves = 0.5 * np.einsum("nd,nd->n", own, own) if by_distance else np.float32(0)
        count = min(K, len(rows) - 1)
        for first in range(0, len(asking) if count else 0, 500):
            part = asking[first : first + 500]
            scores = features[anchors[part]] @ own.T - halves
            scores[np.arange(len(part)), np.searchsorted(rows, anchors[part])] = -np.inf
            found[part, :count] = rows[top(scores, count)]
    return found


def top(scores: Floats, count: int) -> NDArray[np.int64]:
    """Return (Q, count) the columns of the largest scores, in no order."""
    return np.argpartition(-scores, count - 1, axis=1)[:, :count]


def overlap(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Return the share of `truth` that was found, row by row. Chance is 10 / N."""
    return float((found[:, :, None] == truth[:, None, :]).any(axis=1).mean())


def auc(positives: NDArray[np.floating], negatives: NDArray[np.floating]) -> float:
    """Return how often a positive is above a negative, ties counted half. Chance is 0.5."""
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, "left") + np.searchsorted(ordered, positives, "right")
    return float(below.mean() / (2 * len(negatives)))


def unit(vectors: Floats) -> Floats:
    """Return the rows divided by their length."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0))


def _each(queries: Floats) -> list[PlainVector]:
    return [PlainVector(query[None]) for query in queries]


def _encoded(encoding: Encoding, queries: Sequence[PlainVector]) -> NDArray[np.generic]:
    return np.stack([encoded.values for encoded in encoding.encode_queries(queries)])


def _one_cell(values: NDArray[np.float32] | NDArray[np.uint8]) -> CipherVector:
    return CipherVector(np.zeros(len(values), np.int32), values)


def _generator(root: SecretKey) -> Callable[[int], bytes]:
    """Return a source of bytes that is the same in every run: measurements are repeated, secrets are not at stake."""
    counter = iter(range(2**62))

    def random(size: int) -> bytes:
        numbers = uniforms(root, [next(counter).to_bytes(NONCE_SIZE, "big")], -(-size // 4))
        drawn: bytes = (numbers[0] * 2.0**32).astype("<u4").tobytes()
        return drawn[:size]

    return random
