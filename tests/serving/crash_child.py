"""A process for `test_crash.py` to kill: forks ingesting children on request, so that each starts in no time.

Reads one line per child from standard input, `SEED IS_PARSING_APART`, and answers with the child's process id, then,
once it is dead, with `dead`. A child works on the data directory for ever and notes on the journal what it is about to
delete, and what is completed or deleted.
"""

from __future__ import annotations

import importlib.util
import os
import random
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from holdfast.retrieval import stored_index
from holdfast.retrieval.documents import Document, read_document
from holdfast.retrieval.index import BinaryIndex
from holdfast.serving import ingestion
from holdfast.serving.collection import Collections, NewFile
from holdfast.serving.database import Database
from holdfast.serving.files import Files
from holdfast.serving.parse_process import ParseLimits

WORDS = ("storm", "harbour", "lantern", "meadow", "granite")


def main(conftest: str, data_dir: str, journal: str) -> None:
    fixtures = _load(Path(conftest))
    BinaryIndex(2).add(np.zeros(1, dtype=np.uint64), np.array([[1, 0]], dtype=np.float32))  # loads the compiled kernels
    for line in sys.stdin:
        seed, is_parsing_apart = line.split()
        pid = os.fork()
        if pid == 0:
            try:
                _ingest_for_ever(fixtures, Path(data_dir), Path(journal), int(seed), is_parsing_apart == "1")
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)  # it does not end by itself unless something is wrong
        _say(str(pid))
        _, status = os.waitpid(pid, 0)
        _say("dead" if os.WIFSIGNALED(status) else "failed")


def _ingest_for_ever(fixtures: ModuleType, data_dir: Path, journal: Path, seed: int, is_parsing_apart: bool) -> None:
    stored_index.MIN_UNSAVED = 4  # segments are written all the time
    if not is_parsing_apart:
        # a process for each file would leave no time to commit
        ingestion.read_document_in_child = _read_here  # type: ignore[attr-defined, assignment]
    storage = _open(fixtures, data_dir)
    rng = random.Random(seed)
    with journal.open("a", buffering=1) as notes:
        storage.ingestion.run_until_idle()
        for number in range(10**9):
            _ingest_one(storage, notes, rng, f"{seed}x{number}")


def _ingest_one(storage: Any, notes: Any, rng: random.Random, name: str) -> None:
    words = " ".join(rng.choice(WORDS) for _ in range(rng.randrange(4, 600)))
    text = f"# Word{name}\n\nThe secret of word{name} is told once. {words}."
    path = storage.files.upload_path()
    path.write_text(text)
    file = storage.files.create("default", f"{name}.txt", "assistants", path)
    storage.collections.attach("default", "vs_default", [NewFile(file.id, {"name": name})])
    storage.ingestion.run_until_idle()
    stored = storage.collections.get_file("default", "vs_default", file.id)
    assert stored.status == "completed", stored
    notes.write(f"completed {file.id} {name} {text!r}\n")
    if rng.random() < 0.3:
        notes.write(f"deleting {file.id}\n")
        storage.files.delete("default", file.id)
        notes.write(f"deleted {file.id} {name}\n")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _read_here(path: Path, filename: str, limits: ParseLimits) -> Document:
    return read_document(path.read_bytes(), filename)


def _open(fixtures: ModuleType, data_dir: Path) -> Any:
    database = Database(data_dir)
    files = Files(database, data_dir)
    embedder = fixtures.HashEmbedder()
    collections = Collections(database, files, embedder, data_dir)
    worker = ingestion.Ingestion(collections, ParseLimits())
    return fixtures.Storage(data_dir, database, files, collections, worker, embedder)


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("storage_fixtures", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main(*sys.argv[1:])
