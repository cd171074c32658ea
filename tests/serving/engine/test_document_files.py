"""The disk tier: what was written comes back; anything else is noticed; a kill leaves nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from holdfast.serving.engine.document_files import ALIGNMENT, DocumentFiles, Seal

TENSOR = torch.arange(2 * 2 * 3 * 5 * 4, dtype=torch.float32).reshape(2, 2, 3, 5, 4)
BUDGET = 10**7


def written(folder: Path, key: str = "a", seal: Seal | None = None) -> Path:
    files = DocumentFiles(folder, BUDGET, seal)
    files.write(key, "file", TENSOR)
    [path] = folder.glob(f"*/{key}.safetensors")
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_was_written_comes_back_mapped(tmp_path: Path, dtype: torch.dtype) -> None:
    DocumentFiles(tmp_path, BUDGET).write("a", "file", TENSOR.to(dtype))
    read = DocumentFiles(tmp_path, BUDGET).read("a")
    assert read is not None
    assert read.dtype == dtype
    assert torch.equal(read, TENSOR.to(dtype))
    assert read.data_ptr() % ALIGNMENT == 0


def test_the_files_are_safetensors_and_private(tmp_path: Path) -> None:
    path = written(tmp_path)
    with safe_open(path, framework="pt") as opened:
        assert torch.equal(opened.get_tensor("kv"), TENSOR)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert "file" not in path.parent.name


@pytest.mark.parametrize("place", [0, 7, 8, 40, 200, -1])
def test_every_kind_of_damage_is_noticed_and_removed(tmp_path: Path, place: int) -> None:
    path = written(tmp_path)
    content = bytearray(path.read_bytes())
    content[place] ^= 0x41
    path.write_bytes(content)
    files = DocumentFiles(tmp_path, BUDGET)
    assert files.read("a") is None
    assert not path.exists()
    assert not files.has("a")


@pytest.mark.parametrize("keep", [0, 5, 8, 100, -1])
def test_a_truncated_file_is_noticed(tmp_path: Path, keep: int) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    assert DocumentFiles(tmp_path, BUDGET).read("a") is None


@pytest.mark.parametrize("content", [b"not ours", b"\x02\0\0\0\0\0\0\0{}", b"\x02\0\0\0\0\0\0\0[]", b"\xff" * 64])
def test_a_foreign_file_is_noticed(tmp_path: Path, content: bytes) -> None:
    written(tmp_path).write_bytes(content)
    assert DocumentFiles(tmp_path, BUDGET).read("a") is None


def test_a_file_under_anothers_name_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.rename(path.with_name("b.safetensors"))
    assert DocumentFiles(tmp_path, BUDGET).read("b") is None


def test_the_least_recently_used_goes_when_the_budget_is_exceeded(tmp_path: Path) -> None:
    size = written(tmp_path).stat().st_size
    files = DocumentFiles(tmp_path, 2 * size)
    files.write("b", "file", TENSOR)
    assert files.read("a") is not None
    files.write("c", "file", TENSOR)
    assert [files.has(key) for key in "abc"] == [True, False, True]
    assert files.num_bytes == 2 * size == sum(path.stat().st_size for path in tmp_path.glob("*/*"))
    assert files.num_evictions == 1


def test_a_full_disk_is_counted_and_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = DocumentFiles(tmp_path, BUDGET)

    def refuse(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    files.write("a", "file", TENSOR)
    assert files.num_failed_writes == 1
    assert not files.has("a")
    assert list(tmp_path.glob("*/*")) == []


def test_sealed_files_show_nothing_and_foreign_seals_are_refused(tmp_path: Path) -> None:
    def flip(content: bytes) -> bytes:
        return bytes(byte ^ 0x5A for byte in content)

    path = written(tmp_path, seal=Seal(flip, flip))
    assert TENSOR.numpy().tobytes() not in path.read_bytes()
    read = DocumentFiles(tmp_path, BUDGET, Seal(flip, flip)).read("a")
    assert read is not None
    assert torch.equal(read, TENSOR)

    def refuse(content: bytes) -> bytes:
        raise ValueError("not sealed by us")

    assert DocumentFiles(tmp_path, BUDGET, Seal(flip, refuse)).read("a") is None


WRITER = """
import sys, torch
from pathlib import Path
from holdfast.serving.engine.document_files import DocumentFiles
files = DocumentFiles(Path(sys.argv[1]), 10**9)
print("ready", flush=True)
for number in range(10**6):
    files.write(f"{number % 50:04d}", f"file{number % 7}", torch.full((4, 2, 2, 256, 32), float(number % 50)))
"""


def test_after_kill_9_everything_that_is_there_is_whole(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    files = DocumentFiles(tmp_path, 10**9)
    keys = [path.stem for path in tmp_path.glob("*/*")]
    assert len(keys) > 3
    for key in keys:
        tensor = files.read(key)
        assert tensor is not None
        assert torch.equal(tensor, torch.full_like(tensor, float(key)))
    assert not list(tmp_path.glob("*/*.tmp"))
