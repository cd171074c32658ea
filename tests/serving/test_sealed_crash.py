"""`kill -9` of a process that ingests into a sealed store, deletes and rotates: nothing is lost or half-written."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from holdfast.retrieval.object_store import list_all
from holdfast.serving import ingestion, sealed_collections, sealed_index
from tests.serving import sealed_crash_child
from tests.serving.conftest import STORE, TENANT, Storage
from tests.serving.sealing import sealed_storage

NUM_KILLS = 12
"""of each kind of store"""
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((ingestion, "read_document_in_child"), (sealed_index, "MAX_PARTS")):
        monkeypatch.setattr(module, name, getattr(module, name))
    monkeypatch.setattr(sealed_collections, "ROTATED_OBJECTS", sealed_collections.ROTATED_OBJECTS)
    sealed_crash_child.set_limits()


class Journal:
    """What the children said they did."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._path = path

    def lines(self) -> list[list[str]]:
        return [line.split() for line in self._path.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def kept(self) -> dict[str, str]:
        """File ids of what is there for certain, by name."""
        doubtful = {line[1] for line in self.lines() if line[0] == "deleting"}
        return {line[1]: line[2] for line in self.lines() if line[0] == "completed" and line[1] not in doubtful}

    def count(self, what: str) -> int:
        return sum(line[0] == what for line in self.lines())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["filesystem", "sqlite"])
def test_killed_at_any_moment_nothing_is_lost_or_half_written(kind: str, tmp_path: Path) -> None:
    store = sealed_crash_child.make_store(kind, tmp_path)
    with sealed_storage(tmp_path / "data", store=store):
        pass
    store.close()
    journal = Journal(tmp_path / "journal")
    rng = random.Random(3)
    command = [sys.executable, "-m", "tests.serving.sealed_crash_child", kind, str(tmp_path)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for seed in range(NUM_KILLS):
            num_before = len(journal.lines())
            print(seed, file=process.stdin, flush=True)
            pid = int(process.stdout.readline())
            wanted = num_before + rng.randrange(1, 12)
            until = time.monotonic() + 20
            while len(journal.lines()) < wanted and time.monotonic() < until:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.03))
            os.kill(pid, signal.SIGKILL)
            assert process.stdout.readline() == "dead\n", "the child ended by itself: see its standard error"
            assert_whole(kind, tmp_path, journal, rng)
        process.stdin.close()
    assert process.returncode == 0
    assert len(journal.kept()) > NUM_KILLS // 2, "too little was ingested for the kills to mean anything"
    assert journal.count("rotating") > journal.count("rotated") > 0
    assert journal.count("deleted") > 0


def assert_whole(kind: str, folder: Path, journal: Journal, rng: random.Random) -> None:
    store = sealed_crash_child.make_store(kind, folder)
    with sealed_storage(folder / "data", store=store) as storage:
        assert storage.collections.verify() == []
        kept = journal.kept()
        for name in rng.sample(sorted(kept), min(4, len(kept))):
            assert_searchable(storage, name, kept[name])
        sealed = storage.collections.sealed.find(1)
        assert sealed is not None
        assert sealed._objects.sweep_all() == 0, "loading left something that nothing lists"
        num_listed = sum(len(cell) for cell in sealed._objects._cells.values())
        assert sum("/objects/" in key for key in list_all(store, "")) == num_listed
    store.close()


def assert_searchable(storage: Storage, name: str, file_id: str) -> None:
    assert f"word{name} is told" in storage.collections.file_text(TENANT, STORE, file_id)
    found = storage.search(f"word{name} word{name} secret", k=3)
    assert file_id in {source.file_id for source in found}
