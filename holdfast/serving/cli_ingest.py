"""Local files into a vector store, for the command line: find them, attach what is new, show the progress.

A file is known by its path (kept as the attribute `path`) and its content: unchanged files are left alone, changed
ones are replaced, and those that failed before are tried again. Files of kinds that nothing here reads are skipped
when a folder is named, and reported when they are named themselves.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from holdfast.errors import NotFound, StorageError
from holdfast.serving.api_keys import DEFAULT_TENANT
from holdfast.serving.cli_output import make_progress
from holdfast.serving.collection import NewFile, StoredFile
from holdfast.serving.database import Cursor
from holdfast.serving.ingestion import Activity
from holdfast.serving.service import Service

POLL_S = 0.1
ATTACH_SIZE = 500
READ_BYTES = 2**20
UNREADABLE = ("unsupported_format", "legacy_format")


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that gave no text."""

    path: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of the files."""

    vector_store_id: str
    num_new: int
    num_known: int
    num_skipped: int
    """of a kind that nothing here reads"""
    num_passages: int
    """of the new files"""
    failures: tuple[Failure, ...]

    @property
    def num_files(self) -> int:
        """how many were looked at"""
        return self.num_new + self.num_known + self.num_skipped + len(self.failures)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """Yield one line in all, and one for each failure."""
        if not self.num_files:
            yield f"{self.vector_store_id}: no files found"
            return
        parts = [f"{self.num_new} new ({self.num_passages} passages)", f"{self.num_known} known"]
        parts += [f"{self.num_skipped} skipped"] if self.num_skipped else []
        parts += [f"{len(self.failures)} failed"] if self.failures else []
        yield f"{self.vector_store_id}: files {', '.join(parts)}"
        for failure in self.failures:
            yield f"  {failure.path}: {failure.message} ({failure.code})"


def find_files(paths: Sequence[Path]) -> dict[Path, bool]:
    """Return the files at `paths`, absolute, sorted, and whether each was named itself.

    Folders are read recursively; hidden files and folders inside them are left out.
    """
    found: dict[Path, bool] = {}
    for root in (path.resolve() for path in paths):
        if root.is_file():
            found[root] = True
            continue
        for file in root.rglob("*"):
            if file.is_file() and not any(part.startswith(".") for part in file.relative_to(root).parts):
                found.setdefault(file, False)
    return dict(sorted(found.items()))


def ingest_files(service: Service, store_id: str, files: dict[Path, bool], console: Console) -> Summary:
    """Bring `files` into the store with progress bars on `console`; return when all are finished."""
    new, num_known = attach_files(service, store_id, list(files), console)
    service.ingestion.start()
    service.ingestion.wake()
    show_progress(service, store_id, console)
    return summarise(service, store_id, new, num_known, files)


def attach_files(
    service: Service, store_id: str, files: Sequence[Path], console: Console
) -> tuple[dict[str, Path], int]:
    """Queue the files that the store does not hold, and take out older versions of those that changed.

    Returns:
        The new files by file id, and how many were known.
    """
    ensure_store(service, store_id)
    stored: dict[str, list[StoredFile]] = {}
    for file in list_files(service, store_id):
        stored.setdefault(str(file.attributes.get("path")), []).append(file)
    new: dict[str, Path] = {}
    num_known = 0
    with make_progress(console) as progress:
        for path in progress.track(files, description="Looking for changes"):
            digest = service.files.content_hash(DEFAULT_TENANT, _read(path))
            if _is_known(service, stored.get(str(path), []), digest):
                num_known += 1
            else:
                new[_upload(service, path)] = path
    attachments = [NewFile(file_id, {"path": str(path)}) for file_id, path in new.items()]
    for first in range(0, len(attachments), ATTACH_SIZE):
        service.collections.attach(DEFAULT_TENANT, store_id, attachments[first : first + ATTACH_SIZE])
    return new, num_known


def show_progress(service: Service, store_id: str, console: Console) -> None:
    """Show a bar until the store has nothing in progress.

    Raises:
        StorageError: the disk is full, so that nothing goes on.
    """
    with make_progress(console) as progress:
        total = service.collections.get(DEFAULT_TENANT, store_id).file_counts.in_progress
        task = progress.add_task("Reading", total=total)
        while left := service.collections.get(DEFAULT_TENANT, store_id).file_counts.in_progress:
            if service.ingestion.stall:
                raise StorageError(service.ingestion.stall)
            description = ", ".join(_describe(activity) for activity in service.ingestion.activities())
            progress.update(task, completed=max(0, total - left), description=f"Reading {description}")
            time.sleep(POLL_S)


def summarise(
    service: Service, store_id: str, new: dict[str, Path], num_known: int, files: dict[Path, bool]
) -> Summary:
    """Return what became of the `new` files; drop those of a kind that nothing reads from the store again."""
    failures: list[Failure] = []
    num_skipped = num_passages = 0
    for file_id, path in new.items():
        stored = service.collections.get_file(DEFAULT_TENANT, store_id, file_id)
        num_passages += stored.num_passages
        if stored.status == "completed":
            continue
        if stored.error_code in UNREADABLE and not files[path]:
            num_skipped += 1
            service.files.delete(DEFAULT_TENANT, file_id)
        else:
            failures.append(Failure(str(path), stored.error_code or stored.status, stored.error_message or ""))
    num_new = len(new) - num_skipped - len(failures)
    return Summary(store_id, num_new, num_known, num_skipped, num_passages, tuple(failures))


def ensure_store(service: Service, store_id: str) -> None:
    """Create the vector store where it does not exist yet."""
    try:
        service.collections.get(DEFAULT_TENANT, store_id)
    except NotFound:
        name = store_id.removeprefix("vs_")
        service.collections.create(DEFAULT_TENANT, name=name, vector_store_id=store_id)


def list_files(service: Service, store_id: str) -> Iterator[StoredFile]:
    """Yield every file of a vector store, oldest first."""
    after: str | None = None
    while True:
        page = service.collections.list_files(DEFAULT_TENANT, store_id, Cursor(after=after, limit=100, order="asc"))
        yield from page.items
        if not page.has_more:
            return
        after = page.items[-1].file_id


def _is_known(service: Service, stored: Sequence[StoredFile], digest: str) -> bool:
    """Return whether one of the `stored` versions of a path is the present one; delete all others."""
    is_known = False
    for file in stored:
        is_same = service.files.get(DEFAULT_TENANT, file.file_id).sha256 == digest
        if is_same and file.status in ("completed", "in_progress") and not is_known:
            is_known = True
        else:
            service.files.delete(DEFAULT_TENANT, file.file_id)
    return is_known


def _describe(activity: Activity) -> str:
    done = f" ({activity.num_embedded} of {activity.num_passages} passages)" if activity.num_passages else ""
    return f"{activity.filename}{done}"


def _upload(service: Service, path: Path) -> str:
    copy = service.files.upload_path()
    with closing(service.files.open_upload(DEFAULT_TENANT, copy)) as writer:
        for data in _read(path):
            writer.write(data)
    return service.files.create(DEFAULT_TENANT, path.name, "assistants", copy, writer=writer).id


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(READ_BYTES):
            yield data
