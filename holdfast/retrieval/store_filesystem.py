"""Objects as files below one folder: written beside their name, made durable, then given it.

For one machine: a lock file makes `cas` atomic between processes, and hard links make `if_absent` so.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from holdfast.errors import Conflict, StorageError
from holdfast.retrieval.object_store import LIST_SIZE, Listing, TaggedObject, check_key, content_tag

TEMPORARY = ".tmp-"
LOCK = ".lock"


class FilesystemStore:
    """An `ObjectStore` in `folder`, which is made where it is missing, for its owner only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with _disk_errors():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in folder.rglob(f"{TEMPORARY}*"):  # what a crash left
                path.unlink(missing_ok=True)

    def put_objects(self, objects: Mapping[str, bytes], *, if_absent: bool = False) -> set[str]:
        existing: set[str] = set()
        folders: set[Path] = set()
        with _disk_errors():
            for key, body in objects.items():
                path = self._path(key)
                temporary = self._write_beside(path, body)
                try:
                    if not if_absent:
                        temporary.replace(path)
                    else:
                        try:
                            os.link(temporary, path)
                        except FileExistsError:
                            existing.add(key)
                finally:
                    temporary.unlink(missing_ok=True)
                folders.add(path.parent)
            for folder in sorted(folders):
                _sync_folder(folder)
        return existing

    def get_objects(self, keys: Sequence[str]) -> dict[str, bytes]:
        found = {}
        with _disk_errors():
            for key in keys:
                try:
                    found[key] = self._path(key).read_bytes()
                except FileNotFoundError:
                    continue
        return found

    def get_tagged(self, key: str) -> TaggedObject | None:
        body = self.get_objects([key]).get(key)
        return None if body is None else TaggedObject(body, content_tag(body))

    def cas(self, key: str, body: bytes, etag: str | None) -> str:
        check_key(key)
        with _disk_errors(), (self._folder / LOCK).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            current = self.get_tagged(key)
            if (None if current is None else current.etag) != etag:
                raise Conflict(f"{key} was changed by another writer")
            self.put_objects({key: body})
        return content_tag(body)

    def delete(self, keys: Sequence[str]) -> None:
        folders = set()
        with _disk_errors():
            for key in keys:
                path = self._path(key)
                if path.exists():
                    path.unlink(missing_ok=True)
                    folders.add(path.parent)
            for folder in sorted(folders):
                _sync_folder(folder)

    def list(self, prefix: str, cursor: str | None = None) -> Listing:
        with _disk_errors():
            keys = sorted(
                key
                for path in self._folder.rglob("*")
                if not path.name.startswith(".") and path.is_file()
                if (key := path.relative_to(self._folder).as_posix()).startswith(prefix)
                and (cursor is None or key > cursor)
            )
        return Listing(keys[:LIST_SIZE], keys[LIST_SIZE - 1] if len(keys) > LIST_SIZE else None)

    def close(self) -> None:
        pass

    def _path(self, key: str) -> Path:
        return self._folder / check_key(key)

    def _write_beside(self, path: Path, body: bytes) -> Path:
        """Return a durable file with `body` in the folder of `path`."""
        if not path.parent.is_dir():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sync_folder(path.parent.parent)
        temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
        try:
            with temporary.open("xb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"the folder of objects: {error.strerror or type(error).__name__}") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
