"""The queue and what becomes of files in it. Files are read in child processes here, as the server reads them."""

from __future__ import annotations

import resource
import threading
import time
from typing import Any

import pytest

from holdfast.errors import StorageError
from holdfast.retrieval.chunks import Chunking
from holdfast.serving import ingestion
from holdfast.serving.collection import NewFile
from holdfast.serving.database import Cursor
from holdfast.serving.ingestion import MAX_ATTEMPTS
from holdfast.serving.ingestion_queue import IngestionQueue
from holdfast.serving.parse_process import read_document_in_child


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were really read, in order."""
    names: list[str] = []

    def read(path: Any, name: str, limits: Any) -> Any:
        names.append(name)
        return read_document_in_child(path, name, limits)

    monkeypatch.setattr(ingestion, "read_document_in_child", read)
    return names


def statuses(storage: Any) -> dict[str, str]:
    page = storage.collections.list_files("default", "vs_default", Cursor(limit=100))
    return {file.filename: file.status for file in page.items}


def wait_until(condition: Any, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def test_known_bytes_are_neither_read_nor_embedded_again(storage: Any, parsed: list[str]) -> None:
    storage.ingest("a.txt", "The very same bytes.")
    storage.ingest("b.txt", "The very same bytes.")
    storage.collections.create("default", vector_store_id="vs_second")
    upload = storage.upload("c.txt", "The very same bytes.")
    storage.collections.attach("default", "vs_second", [NewFile(upload.id)])
    storage.ingestion.run_until_idle()
    assert storage.collections.get_file("default", "vs_second", upload.id).status == "completed"
    assert parsed == ["a.txt"]
    assert storage.embedder.num_encoded == 1
    storage.ingest("d.md", "The very same bytes.")  # another reader
    storage.ingest("e.txt", "The very same bytes.", chunking=Chunking(100, 0))
    assert parsed == ["a.txt", "d.md", "e.txt"]


def test_files_without_text_fail_with_a_code(storage: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert storage.ingest("broken.pdf", b"%PDF-1.7 and nothing else").error_code == "malformed"
    assert storage.ingest("empty.txt", b"").error_code == "empty"
    file = storage.ingest("program.exe", b"MZ\x90\x00\x03" * 100)
    assert (file.status, file.error_code) == ("failed", "unsupported_format")
    assert file.error_message
    assert f"{file.file_id} failed: unsupported_format" in caplog.text
    assert file.error_message not in caplog.text
    assert storage.search("anything") == []


def test_progress_names_each_finished_file(storage: Any) -> None:
    good, bad = storage.upload("a.txt", "A text."), storage.upload("b.pdf", b"no PDF")
    storage.collections.attach("default", "vs_default", [NewFile(good.id), NewFile(bad.id)])
    seen: list[tuple[str, str]] = []
    assert storage.ingestion.count_queued() == 2
    storage.ingestion.run_until_idle(lambda *event: seen.append(event))
    assert seen == [(good.id, "completed"), (bad.id, "failed")]
    assert storage.ingestion.count_queued() == 0


def test_workers_take_files_up_in_the_background_and_after_a_restart(open_storage: Any) -> None:
    storage = open_storage()
    storage.ingestion.start()
    first = storage.upload("a.txt", "Taken up at once.")
    storage.collections.attach("default", "vs_default", [NewFile(first.id)])
    storage.ingestion.wake()
    wait_until(lambda: statuses(storage) == {"a.txt": "completed"})
    storage.ingestion.stop()
    second = storage.upload("b.txt", "Taken up after the restart.")
    storage.collections.attach("default", "vs_default", [NewFile(second.id)])
    storage.close()
    storage = open_storage()
    storage.ingestion.start()
    wait_until(lambda: statuses(storage) == {"a.txt": "completed", "b.txt": "completed"})
    assert len(storage.search("taken up")) == 2


def test_a_file_that_kills_the_process_is_given_up(open_storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*args: object) -> None:
        raise SystemExit  # nothing after this runs, as if the process were gone

    storage = open_storage()
    monkeypatch.setattr(ingestion, "read_document_in_child", die)
    upload = storage.upload("a.txt", "Deadly.")
    storage.collections.attach("default", "vs_default", [NewFile(upload.id)])
    for _ in range(MAX_ATTEMPTS):
        with pytest.raises(SystemExit):
            storage.ingestion.run_until_idle()
        storage.database.close()
        storage = open_storage()
        assert statuses(storage) == {"a.txt": "in_progress"}
    storage.ingestion.run_until_idle()
    file = storage.collections.get_file("default", "vs_default", upload.id)
    assert (file.status, file.error_code) == ("failed", "server_error")
    assert f"{MAX_ATTEMPTS} times" in file.error_message


def test_an_unexpected_error_is_tried_again(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    num_calls = 0

    def fail_twice(*args: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        if num_calls < MAX_ATTEMPTS:
            raise RuntimeError("a passing fault")
        return read_document_in_child(*args)

    monkeypatch.setattr(ingestion, "read_document_in_child", fail_twice)
    assert storage.ingest("a.txt", "Third time lucky.").status == "completed"
    num_calls = -100
    file = storage.ingest("b.txt", "Never lucky.")
    assert (file.status, file.error_code) == ("failed", "server_error")
    assert "RuntimeError" in file.error_message
    assert num_calls == -100 + MAX_ATTEMPTS


def test_cancelling_abandons_the_file_being_embedded(storage: Any) -> None:
    text = "\n\n".join(" ".join(["word"] * 150) + f" {number}." for number in range(50))
    uploads = [storage.upload(f"{number}.txt", f"{number} {text}") for number in range(2)]
    _, batch = storage.collections.attach("default", "vs_default", [NewFile(file.id) for file in uploads], batch=True)
    encode, is_embedding, may_go_on = storage.embedder.encode, threading.Event(), threading.Event()

    def slow_encode(texts: Any, *, progress: Any = None) -> Any:
        def note(num_new: int) -> None:
            is_embedding.set()
            may_go_on.wait(20)
            progress(num_new)

        return encode(texts, progress=note)

    storage.embedder.encode = slow_encode
    storage.ingestion.start()
    assert is_embedding.wait(20)
    [activity] = storage.ingestion.activities()
    assert (activity.filename, activity.num_embedded) == ("0.txt", 0)
    assert activity.num_passages >= 50
    storage.collections.cancel_batch("default", "vs_default", batch.id)
    may_go_on.set()
    wait_until(lambda: not storage.ingestion.activities())
    assert statuses(storage) == {"0.txt": "cancelled", "1.txt": "cancelled"}
    assert storage.embedder.num_encoded == 1
    assert storage.collections.verify() == []


def test_stopping_abandons_the_file_and_does_not_count_the_attempt(storage: Any) -> None:
    encode, is_embedding = storage.embedder.encode, threading.Event()

    def slow_encode(texts: Any, *, progress: Any = None) -> Any:
        is_embedding.set()
        time.sleep(0.2)
        return encode(texts, progress=progress)

    storage.embedder.encode = slow_encode
    upload = storage.upload("a.txt", "Abandoned, then finished.")
    storage.collections.attach("default", "vs_default", [NewFile(upload.id)])
    for _ in range(MAX_ATTEMPTS + 1):
        is_embedding.clear()
        storage.ingestion.start()
        assert is_embedding.wait(20)
        storage.ingestion.stop()
        assert statuses(storage) == {"a.txt": "in_progress"}
    storage.ingestion.run_until_idle()
    assert statuses(storage) == {"a.txt": "completed"}


def test_detaching_a_file_in_the_queue_takes_it_out(storage: Any) -> None:
    upload = storage.upload("a.txt", "Not wanted any more.")
    storage.collections.attach("default", "vs_default", [NewFile(upload.id)])
    storage.collections.detach("default", "vs_default", upload.id)
    storage.ingestion.run_until_idle()
    assert statuses(storage) == {}
    assert storage.search("wanted") == []


def test_two_workers_never_take_the_same_file(storage: Any) -> None:
    uploads = [storage.upload(f"{number}.txt", f"Number {number}.") for number in range(3)]
    storage.collections.attach("default", "vs_default", [NewFile(upload.id) for upload in uploads])
    queue = IngestionQueue(storage.database, "hash@0")
    jobs = [job for _ in range(4) if (job := queue.take()) is not None]
    assert [job.file_id for job in jobs] == [upload.id for upload in uploads]
    queue.release(jobs[1])
    again = queue.take()
    assert again is not None
    assert (again.file_id, again.num_attempts) == (uploads[1].id, 2)


@pytest.mark.usefixtures("read_here")
def test_what_has_expired_is_deleted_although_files_wait(open_storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    storage = open_storage(clock=lambda: now[0])
    path = storage.files.upload_path()
    path.write_bytes(b"Not for long.")
    storage.files.create("default", "old.txt", "assistants", path, expires_after_s=60)
    waiting = [storage.upload(f"{number}.txt", f"Text {number}.") for number in range(3)]
    storage.collections.attach("default", "vs_default", [NewFile(file.id) for file in waiting])
    now[0] += 60
    left: list[int] = []
    take = storage.ingestion._queue.take

    def count_and_take() -> Any:
        left.append(storage.database.read().execute("SELECT COUNT(*) FROM files").fetchone()[0])
        return take()

    monkeypatch.setattr(storage.ingestion._queue, "take", count_and_take)
    storage.ingestion.start()
    wait_until(lambda: len(left) == 4)
    storage.ingestion.stop()
    assert left == [4, 3, 3, 3]


@pytest.mark.usefixtures("read_here")
def test_a_full_disk_stops_ingestion_and_loses_nothing(storage: Any) -> None:
    before = storage.ingest("a.txt", "Here before the disk was full.")
    text = "\n\n".join(" ".join(["word"] * 150) + f" {number}." for number in range(400))
    upload = storage.upload("big.txt", text)
    storage.collections.attach("default", "vs_default", [NewFile(upload.id)])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, limits[1]))  # writes beyond it fail as on a full disk
    try:
        with pytest.raises(StorageError):
            storage.ingestion.run_until_idle()
        assert statuses(storage) == {"a.txt": "completed", "big.txt": "in_progress"}
        assert [source.file_id for source in storage.search("disk full")] == [before.file_id]
        storage.ingestion.start()
        wait_until(lambda: storage.ingestion.stall)
        storage.ingestion.stop()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert storage.collections.verify() == []
    storage.ingestion.run_until_idle()
    assert statuses(storage) == {"a.txt": "completed", "big.txt": "completed"}
    assert storage.collections.verify() == []
