"""Parts of a sealed index: cut into cells, merged, and what is left without some documents; rows always find home."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import IntegrityError
from holdfast.serving import sealed_parts
from holdfast.serving.sealed_parts import CellRows, Part

DIM = 8


def make(document: int, num_rows: int) -> tuple[Part, CellRows]:
    rng = np.random.default_rng(document)
    vectors = rng.standard_normal((num_rows, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = rng.permutation(np.arange(1000 * document, 1000 * document + num_rows)).astype(np.uint64)
    return Part.of_document(document, ids, vectors, DIM)


def rows_by_place(part: Part, cells: list[CellRows]) -> dict[tuple[int, int], bytes]:
    """Return each row's bytes by its document and its number there."""
    places = part.places
    return {
        (int(places.documents[n]), int(places.rows[n])): cells[places.cells[n]].rows[places.offsets[n]].tobytes()
        for n in range(len(places))
    }


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.sets(st.integers(1, 6)), st.integers(1, 7))
def test_every_row_is_found_where_its_part_says(sizes: list[int], gone: set[int], cell_size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealed_parts, "CELL_SIZE", cell_size)
        made = [make(document, size) for document, size in enumerate(sizes, start=1)]
        expected: dict[tuple[int, int], bytes] = {}
        for part, rows in made:
            expected |= rows_by_place(part, rows.cut())
            assert len(part.cell_ids) == len(rows.cut())
        merged = Part.merged([part for part, _ in made], DIM)
        cells = CellRows.joined([rows for _, rows in made], DIM).cut()
        assert rows_by_place(merged, cells) == expected
        by_id = merged.by_id(CellRows.joined(cells, DIM))
        assert [row.tobytes() for row in by_id.rows] == [
            expected[int(d), int(r)] for d, r in zip(merged.places.documents, merged.places.rows, strict=True)
        ]
        touched = merged.touched(gone)
        left, changed = merged.without(gone, {cell: cells[cell] for cell in touched})
        kept = {place: row for place, row in expected.items() if place[0] not in gone}
        own = dict(zip(merged.cell_ids, cells, strict=True))
        for cell in touched:
            own.pop(merged.cell_ids[cell])
        own |= changed
        assert rows_by_place(left, [own[cell_id] for cell_id in left.cell_ids]) == kept
        assert left.index.ids().tolist() == sorted(left.places.ids.tolist())
        again = Part.from_bytes(left.to_bytes())
        assert again.to_bytes() == left.to_bytes()
        assert rows_by_place(again, [own[cell_id] for cell_id in again.cell_ids]) == kept


def test_a_cell_is_read_as_it_was_written_and_other_bytes_are_refused() -> None:
    _, rows = make(1, 5)
    again = CellRows.from_bytes(rows.to_bytes(), DIM)
    assert np.array_equal(again.rows, rows.rows)
    assert np.array_equal(again.scales, rows.scales)
    with pytest.raises(IntegrityError):
        CellRows.from_bytes(rows.to_bytes()[:-1], DIM)


def test_new_names_are_all_new() -> None:
    part, _ = make(1, 200)
    assert not set(part.renamed().cell_ids) & set(part.cell_ids)
    assert len(set(part.cell_ids)) == 4
    assert {name.group for name in part.cell_names(3)} == {part.group}
