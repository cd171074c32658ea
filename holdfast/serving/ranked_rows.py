"""Rows of a ranked collection: a passage's encoding for the store to compare, its exact vector sealed beside it.

A document's exact vectors are also one sealed object, listed by the manifest as its text is: rows can be made from it
at any time, for the first ranking, after a rotation, or to rank here instead. A row is never changed, so one that the
store brings back after it was deleted names a document that is not there any more, and counts for nothing.

What a store sees of a row: its opaque id, the cell, the encoding (see `privacy/distance.py`), a sealed vector, and a
token that rows of one document share, by which searches with filters are answered.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import DecryptionError, IntegrityError, TamperError
from holdfast.privacy.canaries import Canaries
from holdfast.privacy.distance import Asym, Encoding, Metric, PlainVector, make_encoding
from holdfast.privacy.keys import EpochKeys
from holdfast.privacy.seal import Kind, Place, Sealer
from holdfast.privacy.tokens import FieldTokens, RowNames
from holdfast.privacy.vector_bytes import SCALE_SIZE, pack_vectors, unpack_vectors
from holdfast.retrieval.ranking_store import RankedHit, RankedRow
from holdfast.serving.sealed_document import SealedDocument
from holdfast.serving.sealed_objects import ObjectName

GROUP = "ranking"
"""of the manifest: the parameters of each epoch"""
CELLS_AN_EPOCH = 1024
"""cells are numbered on from one epoch to the next: rows under two keys are never ranked together"""
CANARIES_A_TOKEN = 8
METRICS: Mapping[str, Metric] = {"asym": "ip", "sap": "l2", "codes": "hamming", "caprise": "l2"}
"""the modes in which a store ranks, and what it compares by"""
_ROW = struct.Struct("<QIQ")


@dataclass(frozen=True)
class DocumentVectors:
    """The passages of a document, rounded to 8 bits a dimension as they are sealed."""

    number: int
    """of the sealed document"""
    ids: NDArray[np.uint64]
    """(N,) passage ids"""
    packed: NDArray[np.uint8]
    """(N, 4 + dim) see `vector_bytes.py`"""

    @classmethod
    def of(cls, number: int, ids: NDArray[np.uint64], vectors: NDArray[np.float32]) -> DocumentVectors:
        """Return the passages of a document from its exact vectors."""
        return cls(number, ids, pack_vectors(vectors))

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """(N, dim)"""
        return unpack_vectors(self.packed, self.packed.shape[1] - SCALE_SIZE)

    def to_bytes(self) -> bytes:
        """Return what is sealed."""
        return self.ids.astype("<u8").tobytes() + self.packed.tobytes()

    @classmethod
    def from_bytes(cls, number: int, data: bytes, dim: int) -> DocumentVectors:
        """Return the passages that `to_bytes` was called on. Raises IntegrityError for other bytes."""
        num_rows, rest = divmod(len(data), 8 + SCALE_SIZE + dim)
        if rest:
            raise IntegrityError(f"{len(data)} bytes are not whole vectors of {dim} dimensions")
        ids = np.frombuffer(data, "<u8", num_rows).astype(np.uint64)
        return cls(number, ids, np.frombuffer(data, np.uint8, offset=8 * num_rows).reshape(num_rows, SCALE_SIZE + dim))


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the encoding of an epoch needs beside its keys. Secret: sealed where it is stored."""

    centre: NDArray[np.float64]
    """(dim,) mean of the collection's first passages"""
    canaries: Canaries

    def to_bytes(self) -> bytes:
        """Return what is sealed."""
        return self.centre.astype("<f8").tobytes() + self.canaries.to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes, dim: int) -> Parameters:
        """Return the parameters that `to_bytes` was called on. Raises IntegrityError for other bytes."""
        if len(data) < 8 * dim:
            raise IntegrityError("the stored parameters are damaged")
        return cls(np.frombuffer(data, "<f8", dim).astype(np.float64), Canaries.from_bytes(data[8 * dim :]))


@dataclass(frozen=True, slots=True)
class OpenedRow:
    """A row that the store returned, opened."""

    id: bytes
    number: int
    """of the sealed document; 0: a canary"""
    row: int
    """which passage of it"""
    passage_id: int
    vector: NDArray[np.float32]


class EpochRows:
    """Makes and opens the rows of one epoch. Thread-safe.

    Cost: making one takes the time of a matrix decomposition for each cell, a second or so in `asym`.
    """

    def __init__(self, keys: EpochKeys, mode: str, parameters: Parameters) -> None:
        self.keys = keys
        self.parameters = parameters
        self.encoding: Encoding = make_encoding(mode, keys.vectors, parameters.centre, keys.epoch)
        self._dim = len(parameters.centre)
        self._names = RowNames(keys)
        self._tokens = FieldTokens(keys, "document")
        self._sealer = Sealer(keys)

    def ids(self, number: int, count: int) -> list[bytes]:
        """Return the ids of the first `count` rows of a document."""
        return row_ids(self._names, number, count)

    def count_cells(self, ids: Sequence[bytes]) -> NDArray[np.int64]:
        """Return (num_cells,) how many of these rows lie in each cell."""
        return np.bincount(self.encoding.cells(ids), minlength=self.encoding.num_cells)

    def cell_number(self, cell: int) -> int:
        """Return the number under which the store knows a cell."""
        return self.keys.epoch * CELLS_AN_EPOCH + cell

    def token(self, number: int) -> str:
        """Return what the rows of a document share."""
        return self._tokens.token(f"{number:016x}").hex()

    def rows(self, document: DocumentVectors) -> list[RankedRow]:
        """Return the rows of a document as the store is given them."""
        if not len(document):
            return []
        ids = self.ids(document.number, len(document))
        heads = [_ROW.pack(document.number, row, int(each)) for row, each in enumerate(document.ids)]
        return self._rows(ids, document.vectors, document.packed, heads, [self.token(document.number)] * len(ids))

    def canary_rows(self) -> list[RankedRow]:
        """Return the canaries' rows, which look like any others."""
        canaries = self.parameters.canaries
        heads = [_ROW.pack(0, row, 0) for row in range(len(canaries.row_ids))]
        tokens = [self._tokens.token(f"canary {row // CANARIES_A_TOKEN}").hex() for row in range(len(heads))]
        packed = pack_vectors(canaries.vectors)
        return self._rows(canaries.row_ids, unpack_vectors(packed.tobytes(), self._dim), packed, heads, tokens)

    def open(self, hit: RankedHit) -> OpenedRow:
        """Return what a returned row holds. Raises TamperError when it is not what was stored under its id."""
        try:
            data = self._sealer.open(hit.sealed, Place(Kind.VECTOR, hit.id))
        except DecryptionError:
            raise TamperError(f"row {hit.id.hex()} is not what was stored", code="forged") from None
        number, row, passage_id = _ROW.unpack_from(data)
        return OpenedRow(hit.id, number, row, passage_id, unpack_vectors(data[_ROW.size :], self._dim)[0])

    def _rows(
        self,
        ids: Sequence[bytes],
        vectors: NDArray[np.float32],
        packed: NDArray[np.uint8],
        heads: Sequence[bytes],
        tokens: Sequence[str],
    ) -> list[RankedRow]:
        encoded = self.encoding.encode_rows(ids, [1] * len(ids), PlainVector(vectors))
        sealed = [
            self._sealer.seal(head + row.tobytes(), Place(Kind.VECTOR, row_id))
            for row_id, head, row in zip(ids, heads, packed, strict=True)
        ]
        cells = [self.cell_number(cell) for cell in encoded.cells.tolist()]
        return list(map(RankedRow, ids, cells, encoded.values, sealed, tokens))


def row_ids(names: RowNames, number: int, count: int) -> list[bytes]:
    """Return the ids of the first `count` rows of a document."""
    document = f"{number:016x}"
    return [names.row_id(document, row, int(Kind.VECTOR)) for row in range(count)]


def vectors_name(sealed: SealedDocument, keys: EpochKeys) -> ObjectName:
    """Return the name of the object that holds a document's exact vectors."""
    row_id = RowNames(keys).row_id(f"{sealed.number:016x}", 0, int(Kind.CELL))
    return ObjectName(keys.epoch, sealed.group, Kind.CELL, row_id)


def parameters_name(keys: EpochKeys) -> ObjectName:
    """Return the name of an epoch's parameters."""
    return ObjectName(keys.epoch, GROUP, Kind.CENTRE, RowNames(keys).row_id("parameters", 0, int(Kind.CENTRE)))


def row_width(mode: str, dim: int) -> int:
    """Return the numbers, or bits, of an encoded row."""
    return {"asym": dim + Asym().num_pads(dim), "codes": 4 * dim}.get(mode, dim)
