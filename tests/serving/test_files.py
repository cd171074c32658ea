from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import InvalidInput, NotFound, StorageError
from holdfast.serving.database import Cursor


def blobs(storage: Any) -> list[Path]:
    return [path for path in (storage.data_dir / "blobs").rglob("*") if path.is_file()]


def test_an_upload_comes_back_as_it_was(storage: Any) -> None:
    data = bytes(range(256)) * 1000
    record = storage.upload("späße.bin", data)
    assert storage.files.get("default", record.id) == record
    assert (record.filename, record.num_bytes, record.purpose) == ("späße.bin", 256_000, "assistants")
    assert record.id.startswith("file-")
    assert len(record.id) == 29
    assert storage.files.content_path("default", record.id).read_bytes() == data
    assert list((storage.data_dir / "uploads").iterdir()) == []


def test_bytes_are_durable_before_their_row_is_committed(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []

    def noted(step: str, function: Any) -> Any:
        return lambda *arguments: (steps.append(step), function(*arguments))[1]

    storage.upload("a.txt", b"makes the tenant's folder")
    monkeypatch.setattr(os, "fsync", noted("fsync", os.fsync))
    monkeypatch.setattr(Path, "rename", noted("rename", Path.rename))
    monkeypatch.setattr(storage.files, "_insert", noted("insert", storage.files._insert))
    storage.upload("b.txt", b"must not be lost")
    assert steps == ["fsync", "rename", "fsync", "insert"]


def test_the_same_bytes_are_kept_once_for_each_tenant(storage: Any) -> None:
    first = storage.upload("a.txt", b"same")
    second = storage.upload("b.txt", b"same")
    other = storage.upload("c.txt", b"same", tenant="other")
    assert len(blobs(storage)) == 2
    storage.files.delete("default", first.id)
    assert storage.files.content_path("default", second.id).read_bytes() == b"same"
    storage.files.delete("default", second.id)
    assert storage.files.content_path("other", other.id).read_bytes() == b"same"
    assert len(blobs(storage)) == 1


def test_bytes_uploaded_again_survive_the_deletion_of_the_first_upload(
    storage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = storage.upload("a.txt", b"same")
    deletion = threading.Thread(target=storage.files.delete, args=("default", first.id))
    insert = storage.files._insert

    def delete_and_insert(record: Any) -> None:
        deletion.start()
        deletion.join(0.5)  # the bytes are in place, their row is not yet: the deletion must wait
        insert(record)

    monkeypatch.setattr(storage.files, "_insert", delete_and_insert)
    second = storage.upload("b.txt", b"same")
    deletion.join()
    assert storage.files.content_path("default", second.id).read_bytes() == b"same"
    assert [record.id for record in storage.files.list("default", Cursor()).items] == [second.id]


def test_another_tenants_files_are_not_found(storage: Any) -> None:
    record = storage.upload("a.txt", b"mine")
    for call in (storage.files.get, storage.files.content_path, storage.files.delete):
        with pytest.raises(NotFound):
            call("other", record.id)
    assert storage.files.list("other", Cursor()).items == []
    with pytest.raises(InvalidInput):
        storage.files.list("other", Cursor(after=record.id))


def test_listing_is_by_creation_and_purpose(storage: Any) -> None:
    ids = [storage.upload(f"{number}.txt", str(number)).id for number in range(5)]
    page = storage.files.list("default", Cursor(limit=3))
    assert [record.id for record in page.items] == ids[:1:-1]
    assert page.has_more
    assert storage.files.list("default", Cursor(), purpose="vision").items == []
    assert len(storage.files.list("default", Cursor(), purpose="assistants").items) == 5


def test_an_expired_upload_is_not_found_and_then_deleted(open_storage: Any) -> None:
    now = [1000.0]
    storage = open_storage(clock=lambda: now[0])
    path = storage.files.upload_path()
    path.write_bytes(b"for an hour")
    record = storage.files.create("default", "a.txt", "assistants", path, expires_after_s=3600)
    assert record.expires_at == 4600
    now[0] = 4599.0
    assert storage.files.get("default", record.id) == record
    now[0] = 4600.0
    with pytest.raises(NotFound):
        storage.files.get("default", record.id)
    assert storage.files.list("default", Cursor()).items == []
    assert storage.files.delete_expired() == 1
    assert blobs(storage) == []


def test_what_a_crash_left_is_swept(storage: Any, open_storage: Any) -> None:
    kept = storage.upload("a.txt", b"kept")
    storage.files.upload_path().write_bytes(b"half an upload")
    (blobs(storage)[0].parent / ("0" * 64)).write_bytes(b"a blob whose row was never committed")
    storage.close()
    storage = open_storage()
    assert [path.read_bytes() for path in blobs(storage)] == [b"kept"]
    assert list((storage.data_dir / "uploads").iterdir()) == []
    assert storage.files.get("default", kept.id) == kept


@pytest.mark.parametrize("step", ["rename", "commit"])
def test_a_disk_that_fails_leaves_neither_bytes_nor_row(
    storage: Any, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if step == "rename":
        monkeypatch.setattr(Path, "rename", fail)
    else:
        monkeypatch.setattr(type(storage.files), "_insert", lambda *args: (_ for _ in ()).throw(StorageError("full")))
    with pytest.raises(StorageError):
        storage.upload("a.txt", b"too much")
    assert blobs(storage) == []
    assert list((storage.data_dir / "uploads").iterdir()) == []
    assert storage.files.list("default", Cursor()).items == []


def test_damaged_and_missing_blobs_are_reported(storage: Any) -> None:
    storage.upload("a.txt", b"good")
    storage.upload("b.txt", b"to be damaged")
    storage.upload("c.txt", b"to be lost")
    assert storage.files.verify() == []
    for path in blobs(storage):
        if path.read_bytes() == b"to be damaged":
            path.write_bytes(b"to be damageD")
        elif path.read_bytes() == b"to be lost":
            path.unlink()
    assert sorted(fault.split(": ")[1] for fault in storage.files.verify()) == [
        "No such file or directory",
        "not the bytes that were uploaded",
    ]
