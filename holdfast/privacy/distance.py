"""Comparison encodings: what an untrusted store may be given so that it can rank rows without being told the vectors.

They are encodings, not encryption: whoever ranks, learns. What each one reveals, and to whom, is measured by
`leakage.py` and written in docs/privacy.md. A row's exact vector travels beside its encoding, sealed; the store returns
more rows than are wanted, and the caller opens and reorders them. So noise costs rows to fetch, not quality.

    asym     a key a cell, padding, noise, other keys for rows than for queries; ranks within a cell, exactly
    sap      scale and perturb after a secret rotation; keeps distances, so a store may build any index over it
    codes    signs of secret projections, a key a cell; ranks by Hamming distance
    caprise  as published; next to no protection, for comparison only

Source: `hazard.py` for sap and caprise; ASPE (Wong et al., SIGMOD 2009) is what asym hardens; codes are SimHash
(Charikar 2002) with a key.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import InvalidInput, ShapeError
from holdfast.privacy.cells import Assignment, by_cell, on_grid
from holdfast.privacy.hazard import (
    UnsafeScalingKey,
    unsafe_caprise_encrypt_queries,
    unsafe_caprise_encrypt_rows,
    unsafe_sap_encrypt,
)
from holdfast.privacy.keys import KEY_SIZE, SecretKey
from holdfast.privacy.streams import (
    NONCE_SIZE,
    ball_and_normals,
    haar_rotation,
    normals,
    uniforms,
)

Metric = Literal["ip", "l2", "hamming"]
"""inner product; Euclidean distance; number of differing bits of packed codes"""
RandomBytes = Callable[[int], bytes]

MIN_CENTRE_ROWS = 1000


@dataclass(frozen=True, slots=True)
class PlainVector:
    """Vectors in the clear, one a row. A store is never given one."""

    values: NDArray[np.float32] = field(repr=False)
    """(N, dim) of unit norm"""


@dataclass(frozen=True, slots=True)
class CipherVector:
    """Encoded vectors, one a row: all of them may be given to the store."""

    cells: NDArray[np.int32]
    """(N,) which cell's key encoded it: rows are compared with the query of their own cell only"""
    values: NDArray[np.float32] | NDArray[np.uint8] = field(repr=False)
    """(N, width) numbers, or packed bits where the metric is Hamming"""


class Encoding(Protocol):
    """One recipe under one key. Thread-safe. Made once per collection and epoch: its matrices take a second to make."""

    metric: Metric
    num_cells: int

    def encode_rows(self, ids: Sequence[bytes], versions: Sequence[int], vectors: PlainVector) -> CipherVector:
        """Encode rows. The same (id, version) under other content would reveal the difference: bump the version."""

    def cells(self, ids: Sequence[bytes]) -> NDArray[np.int32]:
        """Return (N,) the cells that rows with these ids lie in."""

    def encode_queries(self, queries: Sequence[PlainVector]) -> list[CipherVector]:
        """Encode queries, each once for every cell, in their order.

        A query has one row, or one for each cell where noise was drawn for each (see `noise.py`). Many at a time cost
        little more than one: what takes time is to read the cells' matrices.
        """


@dataclass(frozen=True, slots=True)
class Asym:
    """The published parameters of `asym`. All rows of a collection, and all cells, share one set.

    Padding hides what an observer has of a row, and costs recall only by the product of the rows' and the queries'. So
    rows get much, wide enough to weigh as much as the vector's own leading directions, and queries next to none.
    """

    num_cells: int = 16
    """independent keys; a row's cell is random"""
    noise_radius: float = 0.55
    """radius of the ball from which a row's noise is drawn, where vectors have length 1"""
    condition_number: float = 16.0
    """of each cell's matrix, at most 64"""
    query_padding: float = 0.003
    """standard deviation of a query's padding"""

    def num_pads(self, dim: int) -> int:
        """Further coordinates of an encoded row."""
        return -(-dim // 2)

    def row_padding(self, dim: int) -> float:
        """Standard deviation of a row's padding."""
        return 3.0 / math.sqrt(dim)


def centre_of(vectors: PlainVector) -> NDArray[np.float64]:
    """Return the mean of a collection's first vectors, 1000 or more of them.

    It is a secret: the caller seals it, and keeps it for the epoch.
    """
    if len(vectors.values) < MIN_CENTRE_ROWS:
        message = f"a centre needs at least {MIN_CENTRE_ROWS} vectors, not {len(vectors.values)}"
        raise InvalidInput(message, param="vectors")
    return np.asarray(vectors.values.mean(axis=0, dtype=np.float64))


class AsymEncoding:
    """`asym`: E(m) = M^T (m - mean + noise, padding) for rows, E(q) = r M^-1 (q, padding) for queries, M a cell's own.

    A cell's rows are ordered by the inner product with its query: r ((m - mean + noise) . q + a little). r is random
    and differs between the cells, so a store cannot merge them: it returns the best few of each.

    Reveals, to a copy of the store: sizes, and about 1/num_cells of the neighbours. To a store that watches queries:
    with a few hundred of them most neighbours. To whoever knows enough texts, has texts ingested or poses queries:
    the vectors, up to the noise. See docs/privacy.md.
    Cost: a row about 40 us, queries one product with every cell's matrix.
    """

    metric: Metric = "ip"

    def __init__(
        self,
        root: SecretKey,
        centre: NDArray[np.float64],
        epoch: int,
        parameters: Asym = Asym(),
        *,
        random: RandomBytes = os.urandom,
    ) -> None:
        if not 1 <= parameters.condition_number <= 64:
            message = f"condition_number must be 1 to 64, not {parameters.condition_number}"
            raise InvalidInput(message, param="parameters")
        root = root.derive("asym")
        self.num_cells = parameters.num_cells
        self.parameters = parameters
        self._dim = len(centre)
        self._num_pads = parameters.num_pads(self._dim)
        self._centre = centre
        self._assign = Assignment(root, epoch, parameters.num_cells)
        self._noise_key = root.derive("noise")
        self._random = random
        width = self._dim + self._num_pads
        pairs = [self._matrices(root.derive("matrix", str(cell)), width) for cell in range(self.num_cells)]
        self._row_matrices = [matrix for matrix, _ in pairs]
        self._query_matrices = np.stack([inverse for _, inverse in pairs])

    def encode_rows(self, ids: Sequence[bytes], versions: Sequence[int], vectors: PlainVector) -> CipherVector:
        """Return (N, dim + padding) float32."""
        values = _checked_rows(ids, versions, vectors, self._dim)
        nonces = self._assign.nonces(self._noise_key, ids, versions)
        points, pads = ball_and_normals(
            self._noise_key, nonces, self._dim, self.parameters.noise_radius, self._num_pads
        )
        points += values
        points -= self._centre
        pads *= self.parameters.row_padding(self._dim)
        extended = on_grid(np.concatenate([points, pads], axis=1))
        cells = self._assign.cells(ids)
        return CipherVector(cells, by_cell(extended, cells, self._row_matrices))

    def cells(self, ids: Sequence[bytes]) -> NDArray[np.int32]:
        return self._assign.cells(ids)

    def encode_queries(self, queries: Sequence[PlainVector]) -> list[CipherVector]:
        """Return (num_cells, dim + padding) float32 each; other bytes each time."""
        values = np.stack([_for_each_cell(_checked(query, self._dim), self.num_cells) for query in queries])
        key = SecretKey(self._random(KEY_SIZE))
        shape = (len(queries), self.num_cells)
        pads = normals(key, _numbered(len(queries), b"p"), self.num_cells * self._num_pads).reshape(*shape, -1)
        pads *= self.parameters.query_padding
        scales = np.exp2(2.0 * uniforms(key, _numbered(len(queries), b"s"), self.num_cells) - 1.0)
        extended = (np.concatenate([values, pads], axis=2) * scales[:, :, None]).astype(np.float32)
        encoded = np.matmul(self._query_matrices, extended.transpose(1, 2, 0)).transpose(2, 0, 1)
        cells = np.arange(self.num_cells, dtype=np.int32)
        return [CipherVector(cells, np.ascontiguousarray(each)) for each in encoded]

    def _matrices(self, key: SecretKey, width: int) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Return M on the grid, whose rows multiply from the left, and M^-1: U diag(s) V^T with s up to sqrt(kappa)."""
        left, right = (haar_rotation(key, bytes(15) + bytes([side]), width) for side in (1, 2))
        spread = uniforms(key, [bytes(15) + b"\x03"], width)[0] - 0.5
        stretch = np.exp(spread * math.log(self.parameters.condition_number))
        matrix, inverse = (left * stretch) @ right.T, (right / stretch) @ left.T
        return on_grid(matrix), inverse.astype(np.float32)


class SapEncoding:
    """`sap`: c = s Q (m - mean) + noise for rows and queries alike, with a secret Haar rotation Q and a secret mean.

    Reveals, to anyone with a copy: all distances up to the noise, so nearly all neighbours; with about half as many
    known texts as dimensions, the vectors. To one who knows the subject, the leading directions without any known
    text.
    """

    metric: Metric = "l2"
    num_cells = 1

    def __init__(
        self,
        root: SecretKey,
        centre: NDArray[np.float64],
        epoch: int,
        *,
        scaling_factor: float = 1.0,
        approximation_factor: float = 2.0,
        random: RandomBytes = os.urandom,
    ) -> None:
        root = root.derive("sap")
        self._key = UnsafeScalingKey(root.derive("noise"), scaling_factor, approximation_factor)
        self._assign = Assignment(root, epoch, 1)
        self._rotation = on_grid(haar_rotation(root.derive("rotation"), bytes(NONCE_SIZE), len(centre)))
        self._centre = centre
        self._random = random

    def encode_rows(self, ids: Sequence[bytes], versions: Sequence[int], vectors: PlainVector) -> CipherVector:
        """Return (N, dim) float32."""
        rotated = self._rotate(_checked_rows(ids, versions, vectors, len(self._centre)))
        nonces = self._assign.nonces(self._key.prf_key, ids, versions)
        return CipherVector(self._assign.cells(ids), unsafe_sap_encrypt(self._key, rotated, nonces))

    def cells(self, ids: Sequence[bytes]) -> NDArray[np.int32]:
        return self._assign.cells(ids)

    def encode_queries(self, queries: Sequence[PlainVector]) -> list[CipherVector]:
        """Return (1, dim) float32 each; other bytes each time."""
        rotated = [self._rotate(_for_each_cell(_checked(query, len(self._centre)), 1)) for query in queries]
        nonces = [self._random(NONCE_SIZE) for _ in queries]
        encoded = unsafe_sap_encrypt(self._key, np.concatenate(rotated), nonces)
        return [CipherVector(np.zeros(1, np.int32), each[None]) for each in encoded]

    def _rotate(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return on_grid(values - self._centre) @ self._rotation


class CodesEncoding:
    """`codes`: the signs of secret random projections of (m - mean), `num_bits` of them, with a key a cell.

    A form of compression that takes a key to make and none to read: two codes of one cell differ in a share of bits
    that is their angle over pi, and no key makes this less true.

    Reveals, to anyone with a copy: all angles within a cell up to about 1 / sqrt(num_bits), the neighbours in it;
    with some hundreds of known texts a cell, the direction of every vector.
    """

    metric: Metric = "hamming"

    def __init__(
        self,
        root: SecretKey,
        centre: NDArray[np.float64],
        epoch: int,
        *,
        num_cells: int = 16,
        num_bits: int | None = None,
    ) -> None:
        root = root.derive("codes")
        dim = len(centre)
        self.num_cells = num_cells
        self.num_bits = 4 * dim if num_bits is None else num_bits
        self._centre = centre
        self._assign = Assignment(root, epoch, num_cells)
        keys = [root.derive("projection", str(cell)) for cell in range(num_cells)]
        drawn = [normals(key, [bytes(NONCE_SIZE)], dim * self.num_bits).reshape(dim, self.num_bits) for key in keys]
        # Columns of length 1 keep the sums within the grid's limit; a column's length does not change a sign.
        self._projections = [on_grid(each / np.linalg.norm(each, axis=0)) for each in drawn]

    def encode_rows(self, ids: Sequence[bytes], versions: Sequence[int], vectors: PlainVector) -> CipherVector:
        """Return (N, num_bits / 8) uint8, least significant bit first. Nothing here depends on the version."""
        centred = on_grid(_checked_rows(ids, versions, vectors, len(self._centre)) - self._centre)
        cells = self._assign.cells(ids)
        return CipherVector(cells, _pack(by_cell(centred, cells, self._projections)))

    def cells(self, ids: Sequence[bytes]) -> NDArray[np.int32]:
        return self._assign.cells(ids)

    def encode_queries(self, queries: Sequence[PlainVector]) -> list[CipherVector]:
        """Return (num_cells, num_bits / 8) uint8 each."""
        asked = [_for_each_cell(_checked(query, len(self._centre)), self.num_cells) for query in queries]
        cells = np.arange(self.num_cells, dtype=np.int32)
        every = np.tile(cells, len(queries))
        codes = _pack(by_cell(on_grid(np.concatenate(asked) - self._centre), every, self._projections))
        return [CipherVector(cells, each) for each in codes.reshape(len(queries), self.num_cells, -1)]


class CapriseEncoding:
    """`caprise` as published: c = s e + noise, three quarters of the noise on the rows. No rotation, no mean, no cell.

    Reveals: the vectors. Divided by its length, a row at the paper's beta of 0.2 has cosine 0.997 with what it encodes.
    """

    metric: Metric = "l2"
    num_cells = 1

    def __init__(
        self,
        root: SecretKey,
        *,
        scaling_factor: float = 3.0,
        approximation_factor: float = 0.2,
        random: RandomBytes = os.urandom,
    ) -> None:
        self._key = UnsafeScalingKey(root.derive("caprise"), scaling_factor, approximation_factor)
        self._random = random

    def encode_rows(self, ids: Sequence[bytes], versions: Sequence[int], vectors: PlainVector) -> CipherVector:
        """Return (N, dim) float32; a fresh nonce a row, as published, so writing a row again gives other bytes."""
        nonces = [self._random(NONCE_SIZE) for _ in ids]
        values = unsafe_caprise_encrypt_rows(self._key, vectors.values, nonces)
        return CipherVector(np.zeros(len(ids), np.int32), values)

    def cells(self, ids: Sequence[bytes]) -> NDArray[np.int32]:
        return np.zeros(len(ids), np.int32)

    def encode_queries(self, queries: Sequence[PlainVector]) -> list[CipherVector]:
        """Return (1, dim) float32 each; other bytes each time."""
        asked = np.concatenate([_for_each_cell(_checked(query, query.values.shape[-1]), 1) for query in queries])
        nonces = [self._random(NONCE_SIZE) for _ in queries]
        encoded = unsafe_caprise_encrypt_queries(self._key, asked, nonces)
        return [CipherVector(np.zeros(1, np.int32), each[None]) for each in encoded]


def make_encoding(mode: str, root: SecretKey, centre: NDArray[np.float64], epoch: int) -> Encoding:
    """Return the encoding of a mode, with its published parameters."""
    if mode == "asym":
        return AsymEncoding(root, centre, epoch)
    if mode == "sap":
        return SapEncoding(root, centre, epoch)
    if mode == "codes":
        return CodesEncoding(root, centre, epoch)
    assert mode == "caprise", mode
    return CapriseEncoding(root)


def _checked(vectors: PlainVector, dim: int) -> NDArray[np.float64]:
    values = np.asarray(vectors.values, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != dim:
        raise ShapeError(f"vectors must be (N, {dim}), not of shape {values.shape}", param="vectors")
    if not (np.abs(np.einsum("nd,nd->n", values, values) - 1.0) < 0.02).all():
        raise InvalidInput("vectors must have length 1: divide each by its length", param="vectors")
    return values


def _checked_rows(
    ids: Sequence[bytes], versions: Sequence[int], vectors: PlainVector, dim: int
) -> NDArray[np.float64]:
    if not len(ids) == len(versions) == len(vectors.values):
        counts = f"{len(ids)} ids, {len(versions)} versions and {len(vectors.values)} vectors"
        raise ShapeError(f"{counts} do not go together", param="vectors")
    return _checked(vectors, dim)


def _for_each_cell(values: NDArray[np.float64], num_cells: int) -> NDArray[np.float64]:
    if len(values) not in (1, num_cells):
        raise ShapeError(f"a query has 1 row or one for each of {num_cells} cells, not {len(values)}", param="query")
    return np.broadcast_to(values, (num_cells, values.shape[1]))


def _numbered(count: int, purpose: bytes) -> list[bytes]:
    """Return `count` nonces of a key that serves once; the first four bytes of a nonce are not used."""
    return [purpose.rjust(8, b"\0") + number.to_bytes(8, "big") for number in range(count)]


def _pack(products: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.packbits(products >= 0, axis=1, bitorder="little")
