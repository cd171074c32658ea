"""The index of a sealed collection with its rows in memory and with its rows in the store: one and the same results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from holdfast.retrieval.exact import nearest_rows
from holdfast.serving import sealed_index
from holdfast.serving.sealed_index import OpenIndex
from holdfast.serving.sealed_objects import ObjectName
from holdfast.serving.sealed_parts import CellRows, Part, new_part_name
from tests.retrieval.quantiser_cases import text_like_vectors

NUM_ROWS, NUM_DOCUMENTS, DIM = 6000, 60, 64


class Cells:
    """A store of cells that notes what it is asked for."""

    def __init__(self) -> None:
        self.cells: dict[ObjectName, CellRows] = {}
        self.asked: list[ObjectName] = []

    def load(self, names: Sequence[ObjectName]) -> dict[ObjectName, CellRows]:
        self.asked += names
        return {name: self.cells[name] for name in names}


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return text_like_vectors(NUM_ROWS + 50, DIM)


def open_index(vectors: np.ndarray, rows_bytes: int, num_decoys: int = 0) -> tuple[OpenIndex, Cells]:
    cells = Cells()
    index = OpenIndex(DIM, cells.load, rows_bytes, NUM_ROWS, num_decoys=num_decoys)
    ids = np.random.default_rng(0).permutation(NUM_ROWS).astype(np.uint64)
    for document in range(NUM_DOCUMENTS):
        own = ids[document::NUM_DOCUMENTS]
        part, rows = Part.of_document(document, own, vectors[own.astype(np.int64)], DIM)
        name = new_part_name(1)
        cells.cells |= dict(zip(part.cell_names(1), rows.cut(), strict=True))
        index.add(name, part)
    return index, cells


def test_rows_in_the_store_order_candidates_as_rows_in_memory_do(
    vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = vectors[NUM_ROWS:]
    monkeypatch.setattr(sealed_index, "NUM_CANDIDATES", sealed_index.NUM_FETCHED)
    inside, cells = open_index(vectors, 2**30)
    outside, _ = open_index(vectors, 0)
    assert (inside.has_rows, outside.has_rows) == (True, False)
    asked = list(cells.asked)
    few = np.arange(0, NUM_ROWS, 7, dtype=np.uint64)
    for options in ({}, {"allowed_ids": few}, {"allowed_ids": few[:3]}, {"allowed_ids": few[:0]}):
        expected, found = (index.search(queries, 10, **options) for index in (inside, outside))
        assert np.array_equal(found.ids, expected.ids)
        assert np.array_equal(found.scores, expected.scores)
    assert cells.asked == asked, "rows in memory need no store"


def test_of_ten_nearest_nearly_all_are_found(vectors: np.ndarray) -> None:
    truth, _ = nearest_rows(vectors[:NUM_ROWS], vectors[NUM_ROWS:], 10)
    for rows_bytes, least in ((2**30, 0.98), (0, 0.92)):  # codes of 64 bits
        found = open_index(vectors, rows_bytes)[0].search(vectors[NUM_ROWS:], 10).ids
        shares = [len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), truth.tolist(), strict=True)]
        assert np.mean(shares) >= least


def test_a_search_fetches_the_cells_of_its_candidates_and_not_those_it_has(
    vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealed_index, "NUM_FETCHED", 50)
    index, cells = open_index(vectors, 2**19)
    assert not index.has_rows
    index.search(vectors[NUM_ROWS : NUM_ROWS + 1], 10)
    assert 0 < len(cells.asked) <= sealed_index.NUM_FETCHED
    assert len(set(cells.asked)) == len(cells.asked)
    cells.asked.clear()
    index.search(vectors[NUM_ROWS : NUM_ROWS + 1], 10)
    assert cells.asked == []


def test_decoys_come_with_what_is_fetched_and_change_no_result(vectors: np.ndarray) -> None:
    plain, cells = open_index(vectors, 0)
    hidden, more_cells = open_index(vectors, 0, num_decoys=30)
    queries = vectors[NUM_ROWS : NUM_ROWS + 1]
    assert np.array_equal(plain.search(queries, 10).ids, hidden.search(queries, 10).ids)
    assert len(more_cells.asked) > len(cells.asked)


def test_an_index_that_outgrows_its_memory_says_so(vectors: np.ndarray) -> None:
    index, _ = open_index(vectors, 2 * DIM * NUM_ROWS)
    assert not index.is_outgrown
    part, rows = Part.of_document(99, np.array([NUM_ROWS], dtype=np.uint64), vectors[:1], DIM)
    index.add(new_part_name(1), part, rows)
    assert index.is_outgrown


def test_small_parts_are_merged_up_to_a_size(vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    index, _ = open_index(vectors, 0)
    assert index.parts_to_merge() == []
    monkeypatch.setattr(sealed_index, "MAX_PARTS", 20)
    assert len(index.parts_to_merge()) == 20
    monkeypatch.setattr(sealed_index, "MAX_MERGED_ROWS", 250)
    assert len(index.parts_to_merge()) == 5
    monkeypatch.setattr(sealed_index, "MAX_MERGED_ROWS", 100)
    assert index.parts_to_merge() == []
