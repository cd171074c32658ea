"""Every byte of a saved index is under a checksum, and nothing is read that was not written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import IntegrityError, StorageError
from holdfast.kernels.hadamard import make_rotation
from holdfast.kernels.packing import pack
from holdfast.retrieval.index import ROW_SEED, BinaryIndex
from holdfast.retrieval.index_file import ALIGNMENT, CHUNK_SIZE, read_index_file
from holdfast.retrieval.quantise_rotated import HadamardQuantiser
from holdfast.retrieval.rescore import encode_rows

NUM_ROWS = 700  # at 384 dimensions the rows take several chunks
SECTIONS = ("0/ids", "0/codes", "0/factors", "0/rows", "0/scales")


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    vectors = np.random.default_rng(0).standard_normal((NUM_ROWS, 384)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def saved(vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    index = BinaryIndex(384)
    index.add(np.arange(NUM_ROWS, dtype=np.uint64), vectors)
    path = tmp_path_factory.mktemp("index") / "index"
    index.save(path)
    return path.read_bytes()


def place_of(saved: bytes, name: str) -> tuple[int, int]:
    """First byte and size of a section in the file."""
    _, arrays = read_index_file(saved, "index")
    data = arrays[name]._data
    assert data is not None
    start = data.__array_interface__["data"][0] - np.frombuffer(saved, dtype=np.uint8).__array_interface__["data"][0]
    return start, len(data)


def test_sections_are_aligned_and_hold_what_was_written(saved: bytes, vectors: np.ndarray) -> None:
    about, arrays = read_index_file(saved, "index")
    quantiser = HadamardQuantiser(384)
    part = {"quantiser": quantiser.id, "calibration": None, "parameters": ["settings"]}
    assert about == {"quantiser": quantiser.id, "dim": 384, "parts": [part]}
    assert [place_of(saved, name)[0] % ALIGNMENT for name in SECTIONS] == [0] * 5
    rows, scales = encode_rows(vectors, make_rotation(384, ROW_SEED))
    assert np.array_equal(arrays["0/ids"].whole(), np.arange(NUM_ROWS))
    assert np.array_equal(arrays["0/codes"].whole(), pack(quantiser.encode(vectors).levels))
    assert np.array_equal(arrays["0/factors"].whole(), quantiser.encode(vectors).factors)
    assert np.array_equal(arrays["0/rows"].whole(), rows)
    assert np.array_equal(arrays["0/scales"].whole(), scales)
    assert arrays["0/settings"].whole().tolist() == [384, 1, 0]


@settings(max_examples=300)
@given(st.data())
def test_any_flipped_bit_is_found(saved: bytes, data: st.DataObject) -> None:
    place, bit = data.draw(st.integers(0, len(saved) - 1)), data.draw(st.integers(0, 7))
    damaged = bytearray(saved)
    damaged[place] ^= 1 << bit
    with pytest.raises(IntegrityError):
        BinaryIndex.from_bytes(bytes(damaged)).verify()


@pytest.mark.parametrize("place", range(160))
def test_any_damage_to_the_header_is_found_at_once(saved: bytes, place: int) -> None:
    damaged = bytearray(saved)
    damaged[place] ^= 255
    with pytest.raises(IntegrityError):
        BinaryIndex.from_bytes(bytes(damaged))


@settings(max_examples=100)
@given(st.data())
def test_a_file_of_another_length_is_refused_at_once(saved: bytes, tmp_path: Path, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, len(saved) - 1))
    (tmp_path / "index").write_bytes(saved[:length])
    with pytest.raises(IntegrityError):
        BinaryIndex.load(tmp_path / "index")
    with pytest.raises(IntegrityError):
        BinaryIndex.from_bytes(saved + saved[:length] + b"\0")


@pytest.mark.parametrize("name", SECTIONS)
def test_a_search_names_the_damaged_section(saved: bytes, vectors: np.ndarray, name: str) -> None:
    start, size = place_of(saved, name)
    damaged = bytearray(saved)
    for place in range(start, start + size, CHUNK_SIZE):
        damaged[place] ^= 1
    index = BinaryIndex.from_bytes(bytes(damaged))
    with pytest.raises(IntegrityError, match=f"section {name}"):
        index.search(vectors[:1], 1)


def test_a_search_reads_no_damage_outside_what_it_touches(saved: bytes, vectors: np.ndarray) -> None:
    start, _ = place_of(saved, "0/rows")
    damaged = bytearray(saved)
    damaged[start] ^= 1  # in the first chunk of rows, which holds row 0
    index = BinaryIndex.from_bytes(bytes(damaged))
    last = np.array([NUM_ROWS - 1], dtype=np.uint64)
    assert index.search(vectors[-1:], 1, allowed_ids=last).ids.tolist() == [[NUM_ROWS - 1]]
    with pytest.raises(IntegrityError, match="section 0/rows"):
        index.search(vectors[:1], 1, allowed_ids=np.array([0], dtype=np.uint64))
    with pytest.raises(IntegrityError, match="section 0/rows"):
        index.verify()


def test_verify_finds_damage_done_after_the_first_use(saved: bytes, vectors: np.ndarray) -> None:
    data = bytearray(saved)
    index = BinaryIndex.from_bytes(data)  # type: ignore[arg-type]  # bytes that can be changed under the index
    index.verify()
    data[place_of(saved, "0/scales")[0]] ^= 1
    index.search(vectors[:1], 1)
    with pytest.raises(IntegrityError, match="section 0/scales"):
        index.verify()


def test_a_full_disk_leaves_the_old_file(
    saved: bytes, vectors: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "index"
    path.write_bytes(saved)
    index = BinaryIndex(384)
    index.add(np.arange(5, dtype=np.uint64), vectors[:5])

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="No space left"):
        index.save(path)
    assert path.read_bytes() == saved
    assert list(tmp_path.iterdir()) == [path]


def test_an_open_index_outlives_the_file_it_was_read_from(saved: bytes, vectors: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "index"
    path.write_bytes(saved)
    index = BinaryIndex.load(path)
    BinaryIndex(384).save(path)
    assert index.search(vectors[:1], 1).ids.tolist() == [[0]]
    assert len(BinaryIndex.load(path)) == 0
