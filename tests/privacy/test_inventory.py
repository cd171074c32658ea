"""The inventory of a cell: each way a store can deviate from it has its name."""

from __future__ import annotations

import struct
from collections.abc import Callable
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import IntegrityError, InvalidInput, TamperError
from holdfast.privacy.inventory import Cell
from holdfast.privacy.keys import EpochKeys, SecretKey
from holdfast.privacy.merkle import leaf_hash, merkle_root
from holdfast.privacy.seal import Kind, Place, Sealer

A, B, C, GONE = (bytes([letter]) * 16 for letter in b"ABCG")
BLOBS = {A: b"blob of A" * 9, B: b"blob of B" * 9, C: b"blob of C" * 9}
OLD = b"what A was before"
DELETED = b"what is deleted"


def make_cell() -> Cell:
    cell = Cell(2)
    cell.put(A, 1, OLD)
    cell.put(GONE, 1, DELETED)
    for row_id, blob in BLOBS.items():
        cell.put(row_id, 2, blob)
    cell.remove(GONE)
    return cell


def test_the_root_is_the_merkle_root_of_the_rows_in_order() -> None:
    leaves = [
        row_id + struct.pack(">QQ", 2, len(BLOBS[row_id])) + sha256(BLOBS[row_id]).digest() for row_id in (A, B, C)
    ]
    assert make_cell().root() == merkle_root(map(leaf_hash, leaves))


def test_what_is_as_written_passes() -> None:
    cell = make_cell()
    rows = list(BLOBS.items())
    cell.check_all(rows)
    cell.check_all(rows[::-1])
    for row_id, blob in rows:
        cell.check(row_id, blob)
    Cell(1).check_all([])


SEALED_BEFORE = Sealer(EpochKeys("t", "c", 1, SecretKey(bytes(32)))).seal(b"text", Place(Kind.TEXT, A))


@pytest.mark.parametrize(
    ("row_id", "blob", "code"),
    [
        (A, BLOBS[B], "swapped"),
        (A, OLD, "replayed"),
        (A, DELETED, "replayed"),
        (B, OLD, "replayed"),
        (A, SEALED_BEFORE, "replayed"),
        (GONE, DELETED, "replayed"),
        (A, BLOBS[A][:-1], "truncated"),
        (A, b"", "truncated"),
        (A, BLOBS[A] + b"x", "altered"),
        (A, BLOBS[A][:-1] + b"x", "altered"),
        (GONE, b"new", "unlisted"),
        (bytes(16), BLOBS[A], "unlisted"),
        (b"", BLOBS[A], "unlisted"),
    ],
)
def test_each_deviation_of_a_row_has_its_name(row_id: bytes, blob: bytes, code: str) -> None:
    with pytest.raises(TamperError) as error:
        make_cell().check(row_id, blob)
    assert error.value.code == code


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda rows: rows[1:], "omitted"),
        (lambda rows: [], "omitted"),
        (lambda rows: [*rows, rows[0]], "repeated"),
        (lambda rows: [*rows, (GONE, DELETED)], "replayed"),
        (lambda rows: [*rows, (bytes(16), b"forged")], "unlisted"),
        (lambda rows: [(A, rows[1][1]), (B, rows[0][1]), rows[2]], "swapped"),
        (lambda rows: [(A, rows[0][1]), (A, rows[0][1]), rows[2]], "repeated"),
    ],
)
def test_each_deviation_of_a_cell_has_its_name(
    change: Callable[[list[tuple[bytes, bytes]]], list[tuple[bytes, bytes]]], code: str
) -> None:
    with pytest.raises(TamperError) as error:
        make_cell().check_all(change(list(BLOBS.items())))
    assert error.value.code == code


def test_rows_of_another_cell_are_named_where_it_is_given() -> None:
    cell, other = make_cell(), Cell(2)
    other.put(bytes(16), 1, b"a row of another cell, longer than those here" * 9)
    blob = b"a row of another cell, longer than those here" * 9
    for others, code in (((), "altered"), ((cell, other), "swapped")):
        with pytest.raises(TamperError) as error:
            cell.check(A, blob, others)
        assert error.value.code == code
        with pytest.raises(TamperError) as error:
            cell.check_all([(A, blob)], others)
        assert error.value.code == code


def test_what_is_written_again_is_not_a_replay() -> None:
    cell = make_cell()
    cell.put(A, 3, OLD)
    cell.check(A, OLD)
    with pytest.raises(TamperError) as error:
        cell.check(A, BLOBS[A])
    assert error.value.code == "replayed"


def test_ids_versions_and_removal() -> None:
    cell = make_cell()
    assert len(cell) == 3
    assert cell.row_ids == [A, B, C]
    assert A in cell
    assert GONE not in cell
    assert cell.version(A) == 2
    cell.remove(bytes(16))
    assert len(cell) == 3


def test_row_ids_have_one_length() -> None:
    with pytest.raises(InvalidInput, match="16 bytes"):
        Cell(1).put(b"short", 1, b"")


@given(st.dictionaries(st.binary(min_size=16, max_size=16), st.binary(max_size=20), max_size=5), st.data())
def test_bytes_and_back(rows: dict[bytes, bytes], data: st.DataObject) -> None:
    cell = Cell(5)
    for row_id, blob in rows.items():
        cell.put(row_id, 1, blob)
    for row_id in data.draw(st.sets(st.sampled_from(sorted(rows)) if rows else st.nothing())):
        cell.remove(row_id)
    read = Cell.from_bytes(5, cell.to_bytes())
    assert (read.root(), read.row_ids, read.to_bytes()) == (cell.root(), cell.row_ids, cell.to_bytes())
    with pytest.raises(IntegrityError):
        Cell.from_bytes(5, cell.to_bytes()[: data.draw(st.integers(0, len(cell.to_bytes()) - 1))])


def test_equal_inventories_have_equal_bytes_whatever_their_history() -> None:
    one, other = Cell(1), Cell(1)
    for row_id in (A, B, C):
        one.put(row_id, 1, BLOBS[row_id])
    for row_id in (C, A, B):
        other.put(row_id, 1, BLOBS[row_id])
    assert one.to_bytes() == other.to_bytes()
