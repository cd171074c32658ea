"""A process for `test_sealed_crash.py` to kill: forks children that ingest into a sealed store, delete and rotate.

Reads one seed per line and answers with a child's process id, then, once it is dead, with `dead`.
"""

from __future__ import annotations

import os
import random
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.retrieval.index import BinaryIndex
from holdfast.retrieval.object_store import ObjectStore
from holdfast.retrieval.store_filesystem import FilesystemStore
from holdfast.retrieval.store_sqlite import SqliteFile, SqliteStore
from holdfast.serving import sealed_collections, sealed_index
from tests.serving.conftest import TENANT
from tests.serving.sealing import open_sealed, read_here


def make_store(kind: str, folder: Path) -> ObjectStore:
    if kind == "sqlite":
        return SqliteStore(SqliteFile(folder / "objects.sqlite3"))
    return FilesystemStore(folder / "objects")


def set_limits() -> None:
    """Merge and cut into steps all the time."""
    sealed_index.MAX_PARTS = 3
    sealed_collections.ROTATED_OBJECTS = 2
    read_here()


def main(kind: str, folder: Path) -> None:
    set_limits()
    index = BinaryIndex(2)
    index.add(np.zeros(1, dtype=np.uint64), np.array([[1, 0]], dtype=np.float32))
    index.search(np.array([[1, 0]], dtype=np.float32), 1)  # loads the compiled kernels
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                work(kind, folder, int(line))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)  # it does not end by itself unless something is wrong
        say(str(pid))
        _, status = os.waitpid(pid, 0)
        say("dead" if os.WIFSIGNALED(status) else "failed")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def work(kind: str, folder: Path, seed: int) -> None:
    storage: Any = open_sealed(folder / "data", store=make_store(kind, folder))
    rng = random.Random(seed)
    with (folder / "journal").open("a", buffering=1) as notes:
        storage.ingestion.run_until_idle()
        for number in range(10**9):
            name = f"{seed}x{number}"
            text = f"The secret of word{name} is told once. " + "storm harbour " * rng.randrange(300)
            notes.write(f"starting {name}\n")
            file = storage.ingest(f"{name}.txt", text)
            assert file.status == "completed", file
            notes.write(f"completed {name} {file.file_id}\n")
            if rng.random() < 0.3:
                notes.write(f"deleting {name}\n")
                storage.files.delete(TENANT, file.file_id)
                notes.write(f"deleted {name}\n")
            if rng.random() < 0.3:
                notes.write("rotating\n")
                storage.collections.sealed.rotate(1)
                notes.write("rotated\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
