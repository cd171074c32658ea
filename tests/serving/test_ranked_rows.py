"""What a row holds: bytes that come back, bytes that do not, and rows that open under their own id only."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.errors import IntegrityError, TamperError
from holdfast.privacy.canaries import make_canaries
from holdfast.privacy.keys import EpochKeys, SecretKey
from holdfast.retrieval.ranking_store import RankedHit
from holdfast.serving.ranked_rows import METRICS, DocumentVectors, EpochRows, Parameters, row_width

DIM = 32
ROOT = SecretKey(bytes(range(32)))
KEYS = EpochKeys("tenant", "collection", 3, ROOT)


@pytest.fixture
def vectors(rng: np.random.Generator) -> np.ndarray:
    drawn = rng.standard_normal((60, DIM))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def document(vectors: np.ndarray) -> DocumentVectors:
    return DocumentVectors.of(7, np.arange(60, dtype=np.uint64) + 2**63, vectors)


@pytest.fixture
def parameters(vectors: np.ndarray, rng: np.random.Generator) -> Parameters:
    canaries = make_canaries(vectors, [bytes([number] * 16) for number in range(5)], rng)
    return Parameters(vectors.mean(axis=0, dtype=np.float64), canaries)


def test_vectors_and_parameters_come_back_and_damaged_ones_do_not(
    document: DocumentVectors, parameters: Parameters
) -> None:
    again = DocumentVectors.from_bytes(7, document.to_bytes(), DIM)
    assert np.array_equal(again.ids, document.ids)
    assert np.array_equal(again.vectors, document.vectors)
    assert len(DocumentVectors.from_bytes(1, b"", DIM)) == 0
    with pytest.raises(IntegrityError):
        DocumentVectors.from_bytes(7, document.to_bytes()[:-1], DIM)
    read = Parameters.from_bytes(parameters.to_bytes(), DIM)
    assert np.array_equal(read.centre, parameters.centre)
    assert read.canaries.row_ids == parameters.canaries.row_ids
    for damaged in (b"", parameters.to_bytes()[:-1]):
        with pytest.raises(IntegrityError):
            Parameters.from_bytes(damaged, DIM)


@pytest.mark.parametrize("mode", METRICS)
def test_rows_are_as_wide_as_said_and_open_under_their_own_id(
    mode: str, document: DocumentVectors, parameters: Parameters
) -> None:
    rows = EpochRows(KEYS, mode, parameters)
    made = rows.rows(document)
    bits = 8 if METRICS[mode] == "hamming" else 1
    assert {len(row.vector) * bits for row in made} == {row_width(mode, DIM)}
    assert [row.id for row in made] == rows.ids(7, 60)
    assert len({row.token for row in made}) == 1
    cells = np.array([row.cell for row in made])
    assert cells.min() >= rows.cell_number(0) > EpochRows(keys_of(2), mode, parameters).cell_number(100)
    counted = np.bincount(cells - rows.cell_number(0), minlength=rows.encoding.num_cells)
    assert np.array_equal(counted, rows.count_cells(rows.ids(7, 60)))
    for number in (0, 59):
        opened = rows.open(RankedHit(made[number].id, 0.0, made[number].sealed))
        assert (opened.number, opened.row, opened.passage_id) == (7, number, 2**63 + number)
        assert np.array_equal(opened.vector, document.vectors[number])
    with pytest.raises(TamperError, match="not what was stored"):
        rows.open(RankedHit(made[0].id, 0.0, made[1].sealed))


def keys_of(epoch: int) -> EpochKeys:
    return EpochKeys("tenant", "collection", epoch, ROOT)


def test_canaries_look_like_rows(document: DocumentVectors, parameters: Parameters) -> None:
    rows = EpochRows(KEYS, "sap", parameters)
    made, canaries = rows.rows(document), rows.canary_rows()
    assert {len(row.sealed) for row in canaries} == {len(row.sealed) for row in made}
    assert {row.vector.dtype for row in canaries} == {row.vector.dtype for row in made}
    assert {len(row.token) for row in canaries} == {len(row.token) for row in made}
    assert rows.open(RankedHit(canaries[2].id, 0.0, canaries[2].sealed)).number == 0


def test_an_empty_document_has_no_rows(parameters: Parameters) -> None:
    none = DocumentVectors.of(1, np.empty(0, np.uint64), np.empty((0, DIM), np.float32))
    assert EpochRows(KEYS, "sap", parameters).rows(none) == []
