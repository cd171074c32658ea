"""Streamed multipart bodies."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from fastapi import HTTPException, Request
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import InvalidInput, StorageError
from holdfast.serving.api.uploads import Upload, clean_filename, receive_upload


def make_body(data: bytes) -> bytes:
    """Return a form of one field and one file, as clients write it."""
    return (
        b'--edge\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nassistants\r\n'
        b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a \xc3\xa4.txt"\r\n'
        b"Content-Type: text/plain\r\n\r\n" + data + b"\r\n--edge--\r\n"
    )


def receive(
    chunks: Sequence[bytes], path: Path, max_file_bytes: int = 10_000_000, boundary: bytes = b"edge"
) -> Upload:
    """Feed `chunks` through a request, as a server would."""
    messages = iter([{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks])

    async def next_message() -> dict[str, object]:
        return next(messages, {"type": "http.request", "body": b"", "more_body": False})

    headers = [(b"content-type", b"multipart/form-data; boundary=" + boundary)]
    request = Request({"type": "http", "method": "POST", "headers": headers}, next_message)
    with path.open("wb") as file:
        return asyncio.run(receive_upload(request, file, max_file_bytes))


@given(data=st.binary(max_size=300), cuts=st.lists(st.integers(0, 400), max_size=8))
def test_the_file_arrives_whole_however_its_body_is_cut(tmp_path: Path, data: bytes, cuts: list[int]) -> None:
    body = make_body(data)
    edges = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    chunks = [body[first:last] for first, last in pairwise(edges)]
    if b"\r\n--edge" in data:
        return
    upload = receive(chunks, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == data
    assert upload == Upload("a ä.txt", len(data), {"purpose": "assistants"})


def test_a_large_file_is_written_piece_by_piece(tmp_path: Path) -> None:
    data = bytes(range(256)) * 20_000
    body = make_body(data)
    upload = receive([body[start : start + 65_536] for start in range(0, len(body), 65_536)], tmp_path / "file")
    assert upload.num_bytes == len(data)
    assert (tmp_path / "file").read_bytes() == data


def test_limits_hold_for_the_file_and_for_the_fields(tmp_path: Path) -> None:
    receive([make_body(b"x" * 100)], tmp_path / "file", 100)
    with pytest.raises(HTTPException) as caught:
        receive([make_body(b"x" * 101)], tmp_path / "file", 100)
    assert caught.value.status_code == 413
    empty = b'--edge\r\nContent-Disposition: form-data; name="%d"\r\n\r\n\r\n'
    with pytest.raises(HTTPException) as caught:
        receive([b"".join(empty % row for row in range(17)) + make_body(b"x")], tmp_path / "file")
    assert caught.value.status_code == 413
    with pytest.raises(HTTPException) as caught:
        receive([make_body(b"x").replace(b"assistants", b"a" * 70_000)], tmp_path / "file")
    assert caught.value.status_code == 413


def test_a_boundary_too_long_to_be_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="malformed"):
        receive([make_body(b"x")], tmp_path / "file", boundary=b"e" * 300)


def test_a_full_disk_is_said_plainly() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(StorageError, match="disk is full"):
        receive([make_body(b"x" * 100_000)], Path("/dev/full"))


@pytest.mark.parametrize("cut", [10, 60, 200])
def test_a_body_that_ends_early_is_refused(tmp_path: Path, cut: int) -> None:
    with pytest.raises(InvalidInput):
        receive([make_body(b"x" * 300)[:cut]], tmp_path / "file")


def test_filenames_are_made_safe_to_show() -> None:
    assert clean_filename("a/b\\c\x1b[31m.txt") == "c[31m.txt"
    for name in ("", "/", "..\\", "\n", "x" * 256):
        with pytest.raises(InvalidInput):
            clean_filename(name)
