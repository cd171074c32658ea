"""`kill -9` at random moments: what was reported as completed is there, whole, and nothing half-written is left.

The child stands in for the server: the real storage and ingestion over small text files, with fixed word vectors for
the embedding model, whose loading sixty times would be the whole test. In one round of four it reads each file in a
process of its own, as the server does; in the others in its own process, so that more kills hit a commit.
"""

from __future__ import annotations

import ast
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.serving.database import Cursor

NUM_KILLS = 60
MAX_LIFE_S = 0.5
HERE = Path(__file__).parent


class Journal:
    """What the killed children reported: texts of completed files by id, and ids being deleted."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._path = path
        self._size = 0
        self.texts: dict[str, tuple[str, str]] = {}
        self.doubtful: set[str] = set()
        self.deleted: set[str] = set()

    def read_on(self) -> list[str]:
        """Take in what is new; return the ids completed since."""
        new = []
        with self._path.open() as file:
            file.seek(self._size)
            lines = file.readlines()
            self._size = file.tell()
        for line in lines:
            kind, _, rest = line.rstrip("\n").partition(" ")
            if kind == "completed":
                file_id, name, text = rest.split(" ", 2)
                self.texts[file_id] = (name, ast.literal_eval(text))
                new.append(file_id)
            elif kind == "deleting":
                self.doubtful.add(rest)
            else:
                self.deleted.add(rest.split()[1])
        return [file_id for file_id in new if file_id not in self.doubtful]


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Callable[[int, float], None]]:
    """A function that lets a child work for some seconds, and kills it."""
    paths = (HERE / "crash_child.py", HERE / "conftest.py", tmp_path / "data", tmp_path / "journal")
    with subprocess.Popen(
        [sys.executable, *(str(path) for path in paths)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
    ) as process:

        def run(seed: int, life_s: float) -> None:
            assert process.stdin is not None
            assert process.stdout is not None
            print(seed, int(seed % 4 == 0), file=process.stdin, flush=True)
            pid = int(process.stdout.readline())
            time.sleep(life_s)
            os.kill(pid, signal.SIGKILL)
            assert process.stdout.readline() == "dead\n", "the child ended by itself: see its standard error"

        yield run
    assert process.returncode == 0


def test_killed_at_any_moment_nothing_committed_is_lost(
    tmp_path: Path, nursery: Callable[[int, float], None], open_storage: Any
) -> None:
    open_storage().close()
    journal = Journal(tmp_path / "journal")
    rng = random.Random(7)
    for seed in range(NUM_KILLS):
        nursery(seed, rng.uniform(0.02, MAX_LIFE_S))
        new = journal.read_on()
        kept = sorted(journal.texts.keys() - journal.doubtful)
        storage = open_storage()
        for file_id in {*new, *rng.sample(kept, min(5, len(kept)))}:
            _assert_searchable(storage, file_id, *journal.texts[file_id])
        assert storage.collections.verify() == []
        storage.close()
    assert len(kept) >= NUM_KILLS // 3, "too little was ingested for the kills to mean anything"
    storage = open_storage()
    storage.ingestion.run_until_idle()
    for file_id in kept:
        _assert_searchable(storage, file_id, *journal.texts[file_id])
    _assert_deleted_is_gone(storage, journal)
    assert storage.collections.get("default", "vs_default").file_counts.in_progress == 0
    given_up = storage.collections.list_files("default", "vs_default", Cursor(limit=NUM_KILLS), status="failed").items
    assert all("stopped 3 times" in str(file.error_message) for file in given_up)  # the kills met it each time
    assert storage.collections.verify() == []
    assert not list((storage.data_dir / "uploads").iterdir())


def _assert_searchable(storage: Any, file_id: str, name: str, text: str) -> None:
    assert storage.collections.get_file("default", "vs_default", file_id).status == "completed"
    assert storage.collections.file_text("default", "vs_default", file_id) == text
    found = storage.search(f"word{name} word{name} secret", k=1, filters={"type": "eq", "key": "name", "value": name})
    assert [source.file_id for source in found] == [file_id]
    assert found[0].text == text[found[0].start : found[0].end]


def _assert_deleted_is_gone(storage: Any, journal: Journal) -> None:
    assert journal.deleted, "no child lived to finish a deletion"
    content = b"".join(path.read_bytes() for path in storage.data_dir.rglob("*") if path.is_file())
    assert [name for name in journal.deleted if f"word{name} ".encode() in content] == []
