"""Background ingestion: read, split, embed, commit; one file at a time, each one transaction.

The queue is the rows with status `in_progress`, so it survives a crash: on start they are taken up again, at most
`MAX_ATTEMPTS` times each. Documents known by content are not parsed or embedded again. Nothing is locked while a file
is read or embedded. Between files, and when there is nothing to do, what has expired is deleted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from holdfast.errors import DOCUMENT_CODES, DocumentError, StorageError
from holdfast.retrieval.chunks import split_document
from holdfast.serving.collection import Collections
from holdfast.serving.files import SEALED
from holdfast.serving.ingestion_queue import IngestionQueue, Job
from holdfast.serving.parse_process import ParseLimits, read_document_in_child
from holdfast.serving.parsed_document import ParsedDocument

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
IDLE_S = 30.0
"""seconds between looks at the queue and at what has expired, when nobody wakes us"""
STALL_S = 15.0
"""seconds before the next try when the disk is full"""


@dataclass(frozen=True, slots=True)
class Activity:
    """A file being ingested now."""

    file_id: str
    filename: str
    num_embedded: int
    num_passages: int
    """0 until the file is read and split"""


class _AbandonedError(Exception):
    """The file is not wanted any more, or the server stops."""


class Ingestion:
    """Worker threads over the queue; `wake` after attaching files.

    Attributes:
        stall: why the queue does not move although files wait (a full disk), else None.
    """

    def __init__(
        self,
        collections: Collections,
        limits: ParseLimits,
        *,
        num_workers: int = 1,
        delete_expired: Callable[[], None] | None = None,
    ) -> None:
        """`delete_expired` is called now and then; by default it is the collections'."""
        self._collections = collections
        self._delete_expired = delete_expired or collections.delete_expired
        self._limits = limits
        self._num_workers = num_workers
        self._queue = IngestionQueue(collections.database, collections.embedder.model_id)
        self._activities: dict[int, Activity] = {}
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._woken = threading.Condition()
        self._num_wakes = 0
        self.stall: str | None = None

    def start(self) -> None:
        """Begin, or go on where a crash or the last stop left the queue. Starting twice does nothing."""
        if self._threads:
            return
        self._stopping.clear()
        for number in range(self._num_workers):
            thread = threading.Thread(target=self._work, name=f"ingestion-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def wake(self) -> None:
        """Look at the queue now."""
        with self._woken:
            self._num_wakes += 1
            self._woken.notify_all()

    def activities(self) -> list[Activity]:
        """Return the files being ingested now and how far each is."""
        return list(self._activities.values())

    def count_queued(self) -> int:
        """Return how many files wait or are being ingested, of all tenants."""
        return self._queue.count()

    def run_until_idle(self, progress: Callable[[str, str], None] | None = None) -> None:
        """Work the queue off in this thread; `progress(file_id, status)` after each file.

        Raises:
            StorageError: the disk is full; the file stays in the queue.
        """
        self._stopping.clear()
        while not self._stopping.is_set() and (job := self._queue.take()) is not None:
            self._ingest(job)
            status = self._queue.status(job)
            if progress is not None and status != "in_progress":
                progress(job.file_id, status)

    def stop(self, timeout_s: float = 10.0) -> None:
        """Finish or abandon the current file (it is taken up again on the next start)."""
        self._stopping.set()
        self.wake()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._threads.clear()

    def _work(self) -> None:
        next_sweep = 0.0
        while not self._stopping.is_set():
            num_wakes = self._num_wakes
            wait_s = IDLE_S
            try:
                job = self._queue.take()
                if job is not None:
                    self._ingest(job)
                if job is None or time.monotonic() >= next_sweep:
                    next_sweep = time.monotonic() + IDLE_S
                    self._delete_expired()
                self.stall = None
                if job is not None:
                    continue
            except StorageError as error:
                log.error("ingestion waits: %s", error)
                self.stall, wait_s = error.message, STALL_S
            except Exception:
                if self._stopping.is_set():
                    return  # `stop` did not wait for us, and the database is closed
                log.exception("ingestion met an error outside any file")
            with self._woken:
                self._woken.wait_for(lambda seen=num_wakes: self._num_wakes != seen, timeout=wait_s)  # type: ignore[misc]

    def _ingest(self, job: Job) -> None:
        """Bring one file to its end, or leave it in the queue. Raises StorageError only."""
        started = time.monotonic()
        self._activities[job.position] = Activity(job.file_id, job.filename, 0, 0)
        try:
            if job.num_attempts > MAX_ATTEMPTS:
                self._fail(job, "server_error", f"the server stopped {MAX_ATTEMPTS} times while reading this file")
            elif not self._collections.contents.complete(job):
                self._collections.contents.complete(job, self._parse(job))
                log.info("%s ingested in %.1f s", job.file_id, time.monotonic() - started)
        except DocumentError as error:
            self._fail(job, error.code, error.message)
        except (_AbandonedError, StorageError) as error:
            self._queue.uncount(job)
            if isinstance(error, StorageError):
                raise
        except Exception as error:
            if self._stopping.is_set():
                return
            log.exception("%s: attempt %d of %d failed", job.file_id, job.num_attempts, MAX_ATTEMPTS)
            if job.num_attempts >= MAX_ATTEMPTS:
                kind = type(error).__name__
                self._fail(job, "server_error", f"the server failed on this file ({kind}); its log says more")
        finally:
            self._activities.pop(job.position, None)
            self._queue.release(job)

    def _parse(self, job: Job) -> ParsedDocument:
        embedder = self._collections.embedder
        files, sha256 = self._collections.files, job.key.sha256
        if sha256.startswith(SEALED):
            document = read_document_in_child(files.read_blob(job.tenant, sha256), job.filename, self._limits)
        else:
            document = read_document_in_child(files.blob_path(job.tenant, sha256), job.filename, self._limits)
        passages = split_document(document, embedder.token_offsets, job.key.chunking)
        num_embedded = 0

        def note(num_new: int) -> None:
            nonlocal num_embedded
            num_embedded += num_new
            self._activities[job.position] = Activity(job.file_id, job.filename, num_embedded, len(passages))
            if self._stopping.is_set() or self._queue.status(job) != "in_progress":
                raise _AbandonedError

        note(0)
        texts = [document.text[passage.start : passage.end] for passage in passages]
        return ParsedDocument(document, passages, embedder.encode(texts, progress=note))

    def _fail(self, job: Job, code: str, message: str) -> None:
        log.warning("%s failed: %s", job.file_id, code)  # the message may quote the document
        if job.is_sealed:
            message = DOCUMENT_CODES.get(code, "the server failed on this file; its log says more")
        self._queue.fail(job, code, message)
