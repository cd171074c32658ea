"""The memory tier: budget, sharing, single flight, deletion, and names that tell nothing."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from holdfast.serving.engine.document_cache import CacheKeys, DocumentCache, read_secret, token_digest
from holdfast.serving.engine.document_files import DocumentFiles

SHAPE = (2, 2, 1, 8, 4)
NUM_BYTES = 2 * 2 * 8 * 4 * 4


def filled(value: float) -> Callable[[], torch.Tensor]:
    return lambda: torch.full(SHAPE, value)


def refuse() -> torch.Tensor:
    raise AssertionError("computed although it is cached")


def test_a_document_is_computed_once_and_shared_not_copied() -> None:
    cache = DocumentCache(10 * NUM_BYTES)
    first, why = cache.get("a", "file", filled(1.0))
    second, where = cache.get("a", "file", refuse)
    assert (why, where) == ("new", "memory")
    assert second is first
    assert second.layer(1)[0].data_ptr() == first.layer(1)[0].data_ptr()
    assert first.num_tokens == 8
    assert cache.stats.num_bytes == first.num_bytes == NUM_BYTES


def test_the_least_recently_used_goes_first_and_the_miss_says_so() -> None:
    cache = DocumentCache(2 * NUM_BYTES)
    for key in ("a", "b"):
        cache.get(key, "file", filled(1.0))
    cache.get("a", "file", refuse)
    cache.get("c", "file", filled(1.0))
    gc.collect()
    assert [cache.has(key) for key in "abc"] == [True, False, True]
    assert cache.stats.num_evictions == 1
    assert cache.stats.num_bytes == 2 * NUM_BYTES
    assert cache.get("b", "file", filled(2.0))[1] == "evicted"
    assert cache.get("b", "file", refuse)[1] == "memory"


def test_what_tells_of_a_sealed_text_never_lies_on_disk(tmp_path: Path) -> None:
    cache = DocumentCache(10 * NUM_BYTES, DocumentFiles(tmp_path, 10 * NUM_BYTES))
    before = sorted(tmp_path.iterdir())
    cache.get("a", "file", filled(1.0), is_kept_on_disk=False)
    assert sorted(tmp_path.iterdir()) == before
    assert cache.get("a", "file", refuse, is_kept_on_disk=False)[1] == "memory"
    cache.get("b", "file", filled(1.0))
    assert len(sorted(tmp_path.iterdir())) > len(before)


def test_what_is_still_read_is_found_after_its_eviction() -> None:
    cache = DocumentCache(0)
    kv, _ = cache.get("a", "file", filled(1.0))
    assert cache.stats.num_bytes == 0
    assert cache.get("a", "file", refuse)[0] is kv
    del kv
    gc.collect()
    assert cache.get("a", "file", filled(2.0))[1] == "evicted"


def test_thirty_two_askers_cause_one_computation() -> None:
    cache = DocumentCache(10 * NUM_BYTES)
    num_computed = 0
    barrier = threading.Barrier(32)
    got = []

    def compute() -> torch.Tensor:
        nonlocal num_computed
        num_computed += 1
        time.sleep(0.2)
        return torch.ones(SHAPE)

    def ask() -> None:
        barrier.wait()
        got.append(cache.get("a", "file", compute)[0])

    threads = [threading.Thread(target=ask) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert num_computed == 1
    assert len(got) == 32
    assert len({kv.tensor.data_ptr() for kv in got}) == 1


def test_a_failed_computation_fails_its_askers_and_is_tried_again() -> None:
    cache = DocumentCache(10 * NUM_BYTES)

    def fail() -> torch.Tensor:
        raise MemoryError

    with pytest.raises(MemoryError):
        cache.get("a", "file", fail)
    assert cache.get("a", "file", filled(1.0))[1] == "new"


def test_deleting_a_file_deletes_its_kv_in_every_tier(tmp_path: Path) -> None:
    cache = DocumentCache(10 * NUM_BYTES, DocumentFiles(tmp_path, 10**6))
    held, _ = cache.get("a", "gone", filled(1.0))
    cache.get("b", "kept", filled(2.0))
    cache.forget("gone")
    assert not cache.has("a")
    assert cache.has("b")
    assert [path.stem for path in tmp_path.glob("*/*")] == ["b"]
    assert held.num_tokens == 8


def test_what_is_computed_for_a_file_deleted_meanwhile_is_not_kept(tmp_path: Path) -> None:
    cache = DocumentCache(10 * NUM_BYTES, DocumentFiles(tmp_path, 10**6))

    def compute() -> torch.Tensor:
        cache.forget("gone")
        return torch.ones(SHAPE)

    kv, _ = cache.get("a", "gone", compute)
    assert kv.num_tokens == 8
    assert not cache.has("a")
    assert list(tmp_path.glob("*/*")) == []


def test_the_disk_answers_after_a_restart_and_after_eviction(tmp_path: Path) -> None:
    written, _ = DocumentCache(10 * NUM_BYTES, DocumentFiles(tmp_path, 10**6)).get("a", "file", filled(3.0))
    cache = DocumentCache(NUM_BYTES, DocumentFiles(tmp_path, 10**6))
    read, where = cache.get("a", "file", refuse)
    assert where == "disk"
    assert torch.equal(read.tensor, written.tensor)
    cache.get("b", "file", filled(1.0))
    del read
    gc.collect()
    assert cache.get("a", "file", refuse)[1] == "disk"


def test_a_damaged_file_is_computed_again_and_named(tmp_path: Path) -> None:
    DocumentCache(0, DocumentFiles(tmp_path, 10**6)).get("a", "file", filled(3.0))
    [path] = tmp_path.glob("*/*")
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    gc.collect()
    cache = DocumentCache(10 * NUM_BYTES, DocumentFiles(tmp_path, 10**6))
    kv, why = cache.get("a", "file", filled(3.0))
    assert why == "damaged"
    assert torch.equal(kv.tensor, torch.full(SHAPE, 3.0))
    cache.clear()
    del kv
    gc.collect()
    assert cache.get("a", "file", refuse)[1] == "disk"


@pytest.mark.parametrize(
    "other",
    [
        (b"other", "tenant", "m", [1], [2]),
        (b"secret", "other", "m", [1], [2]),
        (b"secret", "tenant", "other", [1], [2]),
        (b"secret", "tenant", "m", [1, 1], [2]),
        (b"secret", "tenant", "m", [1], [2, 2]),
    ],
)
def test_a_name_depends_on_all_that_decides_the_bits_and_on_the_secret(
    other: tuple[bytes, str, str, list[int], list[int]],
) -> None:
    secret, tenant, model, prefix, tokens = other
    name = CacheKeys(b"secret", {"model": "m"}).key("tenant", [1], [2])
    assert name == CacheKeys(b"secret", {"model": "m"}).key("tenant", [1], [2])
    assert CacheKeys(secret, {"model": model}).key(tenant, prefix, tokens) != name
    assert len(name) == 64


def test_token_ids_do_not_run_into_one_another() -> None:
    assert len({token_digest(ids) for ids in ([], [1], [1, 0], [0, 1], [256], [1, 1])}) == 6


def test_what_was_written_for_files_deleted_meanwhile_is_swept(tmp_path: Path) -> None:
    first = DocumentCache(10 * NUM_BYTES, DocumentFiles(tmp_path, 10**6))
    first.get("a", "gone", filled(1.0))
    first.get("b", "kept", filled(1.0))
    second = DocumentCache(10 * NUM_BYTES, DocumentFiles(tmp_path, 10**6))
    second.keep_only({"kept", "other"})
    assert (second.has("a"), second.has("b")) == (False, True)
    assert [path.stem for path in tmp_path.glob("*/*")] == ["b"]


def test_the_secret_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "key"
    secret = read_secret(path)
    assert len(secret) == 32
    assert read_secret(path) == secret
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(secret[:5])
    assert len(read_secret(path)) == 32
    assert [found.name for found in tmp_path.iterdir()] == ["key"]
