"""A sealed vector store over a store that fails or lies: a right answer or an error, never a wrong answer.

Each fault is tried with many seeds, over the store that fails soonest and, with fewer, over every kind of store. What a
fault breaks is said; once the store is honest again, what was reported as done is there.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import Conflict, HoldfastError, StorageError, StoreUnavailable
from holdfast.retrieval.object_store import Listing, ObjectStore, TaggedObject
from holdfast.serving import ingestion, sealed_collections, sealed_index
from holdfast.serving.collection import NewFile
from tests.serving import sealing
from tests.serving.conftest import STORE, TENANT, Storage
from tests.serving.sealing import sealed_storage
from tests.untrusted_stores import OBJECT_STORES, MakeObjectStore

NUM_SEEDS = 20


class MemoryStore:
    """An `ObjectStore` in memory: the fastest there is, and honest."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._num_changes = 0
        self._tags: dict[str, str] = {}

    def put_objects(self, objects: Mapping[str, bytes], *, if_absent: bool = False) -> set[str]:
        existing = objects.keys() & self.objects.keys() if if_absent else set[str]()
        for key in objects.keys() - existing:
            self._set(key, objects[key])
        return existing

    def get_objects(self, keys: Sequence[str]) -> dict[str, bytes]:
        return {key: self.objects[key] for key in keys if key in self.objects}

    def get_tagged(self, key: str) -> TaggedObject | None:
        return TaggedObject(self.objects[key], self._tags[key]) if key in self.objects else None

    def cas(self, key: str, body: bytes, etag: str | None) -> str:
        if self._tags.get(key) != etag:
            raise Conflict(f"{key} was changed by another writer")
        self._set(key, body)
        return self._tags[key]

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.objects.pop(key, None)
            self._tags.pop(key, None)

    def list(self, prefix: str, cursor: str | None = None) -> Listing:
        return Listing(sorted(key for key in self.objects if key.startswith(prefix)), None)

    def close(self) -> None:
        pass

    def _set(self, key: str, body: bytes) -> None:
        self._num_changes += 1
        self.objects[key] = body
        self._tags[key] = str(self._num_changes)


class FaultyStore:
    """Passes calls on, each through `fault(call, do)` once one is set."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner
        self.fault: Callable[[str, Callable[[], Any]], Any] = lambda call, do: do()

    def put_objects(self, objects: Mapping[str, bytes], *, if_absent: bool = False) -> set[str]:
        result: set[str] = self.fault("put", lambda: self.inner.put_objects(objects, if_absent=if_absent))
        return result

    def get_objects(self, keys: Sequence[str]) -> dict[str, bytes]:
        result: dict[str, bytes] = self.fault("get", lambda: self.inner.get_objects(keys))
        return result

    def get_tagged(self, key: str) -> TaggedObject | None:
        result: TaggedObject | None = self.fault("get_tagged", lambda: self.inner.get_tagged(key))
        return result

    def cas(self, key: str, body: bytes, etag: str | None) -> str:
        result: str = self.fault("cas", lambda: self.inner.cas(key, body, etag))
        return result

    def delete(self, keys: Sequence[str]) -> None:
        self.fault("delete", lambda: self.inner.delete(keys))

    def list(self, prefix: str, cursor: str | None = None) -> Listing:
        result: Listing = self.fault("list", lambda: self.inner.list(prefix, cursor))
        return result

    def close(self) -> None:
        self.inner.close()


Fault = Callable[[FaultyStore, random.Random], None]


def unavailable_at(call: str) -> Fault:
    """The n-th call of a kind fails without having done anything."""
    return _failing(call, lambda do: None)


def answer_lost_at(call: str) -> Fault:
    """The n-th call of a kind is done, and its answer never comes."""
    return _failing(call, lambda do: do())


def _failing(call: str, first: Callable[[Callable[[], Any]], Any]) -> Fault:
    def set_fault(store: FaultyStore, rng: random.Random) -> None:
        left = rng.randrange(3)

        def fault(name: str, do: Callable[[], Any]) -> Any:
            nonlocal left
            if name == call:
                left -= 1
                if left < 0:
                    first(do)
                    raise StoreUnavailable("injected")
            return do()

        store.fault = fault

    return set_fault


def disk_full(store: FaultyStore, rng: random.Random) -> None:
    def fault(name: str, do: Callable[[], Any]) -> Any:
        if name in ("put", "cas"):
            raise StorageError("no space left")
        return do()

    store.fault = fault


def reads(change: Callable[[dict[str, bytes], random.Random], dict[str, bytes]]) -> Fault:
    """The store answers reads with something else."""

    def set_fault(store: FaultyStore, rng: random.Random) -> None:
        def fault(name: str, do: Callable[[], Any]) -> Any:
            result = do()
            if name == "get" and result:
                return change(dict(result), rng)
            if name == "get_tagged" and result is not None:
                [body] = change({"manifest": result.body}, rng).values() or [b""]
                return TaggedObject(body, result.etag)
            return result

        store.fault = fault

    return set_fault


def flipped(body: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(body))
    return body[:place] + bytes([body[place] ^ (1 << rng.randrange(8))]) + body[place + 1 :]


def one_of(change: Callable[[bytes, random.Random], bytes]) -> Callable[..., dict[str, bytes]]:
    def changed(found: dict[str, bytes], rng: random.Random) -> dict[str, bytes]:
        key = rng.choice(sorted(found))
        return {**found, key: change(found[key], rng)}

    return changed


def dropped(found: dict[str, bytes], rng: random.Random) -> dict[str, bytes]:
    found.pop(rng.choice(sorted(found)))
    return found


def swapped(found: dict[str, bytes], rng: random.Random) -> dict[str, bytes]:
    keys = sorted(found)
    return dict(zip(keys, [found[key] for key in keys[1:] + keys[:1]], strict=True))


WRITING: dict[str, Fault] = {
    **{f"unavailable at {call}": unavailable_at(call) for call in ("put", "cas", "delete", "list", "get")},
    **{f"answer lost at {call}": answer_lost_at(call) for call in ("put", "cas", "delete")},
    "disk full": disk_full,
}
READING: dict[str, Fault] = {
    "unavailable at get": unavailable_at("get"),
    "unavailable at get_tagged": unavailable_at("get_tagged"),
    "bit flipped": reads(one_of(flipped)),
    "cut short": reads(one_of(lambda body, rng: body[: rng.randrange(len(body))])),
    "emptied": reads(one_of(lambda body, rng: b"")),
    "extended": reads(one_of(lambda body, rng: body + rng.randbytes(5))),
    "zeroed": reads(one_of(lambda body, rng: bytes(len(body)))),
    "random bytes": reads(one_of(lambda body, rng: rng.randbytes(len(body)))),
    "dropped": reads(dropped),
    "two swapped": reads(swapped),
    "all dropped": reads(lambda found, rng: {}),
}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: thousands of commits would wait for the disk, which is not at fault."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingestion, "read_document_in_child", ingestion.read_document_in_child)
    monkeypatch.setattr(sealed_index, "MAX_PARTS", 2)
    sealing.read_here()


def text_of(number: int) -> str:
    return f"The secret of number{number} is told in this very sentence."


def assert_right(storage: Storage, done: dict[int, str], removed: set[int]) -> None:
    """Everything that was reported is found, in its own words, and nothing that was removed."""
    for number in done:
        [best] = storage.search(f"secret number{number}", k=1)
        assert best.text == text_of(number)
    texts = {source.text for source in storage.search("secret", k=50)}
    assert not texts & {text_of(number) for number in removed}
    assert texts == {text_of(number) for number in done}


def fill(storage: Storage, numbers: Sequence[int]) -> dict[int, str]:
    return {number: storage.ingest(f"{number}.txt", text_of(number)).file_id for number in numbers}


@pytest.mark.parametrize("name", WRITING)
def test_a_write_that_fails_leaves_all_or_nothing(name: str, folder: Path) -> None:
    for seed in range(NUM_SEEDS):
        rng = random.Random(seed)
        store = FaultyStore(MemoryStore())
        with sealed_storage(folder / f"{seed}", store=store) as storage:
            done, removed = fill(storage, range(3)), set[int]()
            WRITING[name](store, rng)
            for number in range(3, 6):
                try:
                    if rng.random() < 0.4 and done:
                        gone = rng.choice(sorted(done))
                        removed.add(gone)
                        storage.files.delete(TENANT, done.pop(gone))
                    else:
                        file = storage.ingest(f"{number}.txt", text_of(number))
                        assert file.status == "completed"
                        done[number] = file.file_id
                except StorageError:
                    pass
            store.fault = lambda call, do: do()
            storage.ingestion.run_until_idle()
            settle(storage, done, removed)
            assert_right(storage, done, removed)
        with sealed_storage(folder / f"{seed}", store=store) as storage:
            assert_right(storage, done, removed)
            assert storage.collections.verify() == []


def settle(storage: Storage, done: dict[int, str], removed: set[int]) -> None:
    """Bring the books in line with the database: what was interrupted is either there or not."""
    rows = storage.database.read().execute(
        "SELECT f.id, f.filename, s.status FROM files f JOIN store_files s ON s.file = f.position"
    )
    present = {int(row["filename"].partition(".")[0]): row for row in rows.fetchall()}
    for number, row in present.items():
        assert row["status"] == "completed"
        done[number] = row["id"]
        removed.discard(number)
    assert done.keys() == present.keys()


@pytest.mark.parametrize("name", READING)
@pytest.mark.parametrize("kind", ["memory", *OBJECT_STORES])
def test_a_store_that_lies_is_caught(name: str, kind: str, folder: Path, object_stores: MakeObjectStore) -> None:
    store = FaultyStore(MemoryStore() if kind == "memory" else object_stores(kind))
    with sealed_storage(folder / "data", store=store) as storage:
        done = fill(storage, range(5))
    num_caught = 0
    for seed in range(NUM_SEEDS if kind == "memory" else 3):
        rng = random.Random(seed)
        with sealed_storage(folder / "data", store=store) as storage:
            if seed % 2:
                storage.search("anything")  # the index is open, the texts are not
            READING[name](store, rng)
            try:
                assert_right(storage, done, set())
            except HoldfastError:
                num_caught += 1
            store.fault = lambda call, do: do()
            assert_right(storage, done, set())
    assert num_caught > 0


@pytest.mark.parametrize("what", ["everything", "the manifest", "the objects"])
def test_going_back_in_time_is_caught(what: str, folder: Path) -> None:
    for seed in range(NUM_SEEDS):
        rng = random.Random(seed)
        memory = MemoryStore()
        with sealed_storage(folder / f"{seed}", store=memory) as storage:
            done = fill(storage, range(2))
            old = dict(memory.objects)
            if rng.random() < 0.5:
                storage.files.delete(TENANT, done.pop(0))
            done |= fill(storage, range(2, 2 + rng.randrange(1, 3)))
            new = dict(memory.objects)
        for key in list(memory.objects):
            is_manifest = key.endswith("/manifest")
            if what == "everything" or (what == "the manifest") == is_manifest:
                memory.delete([key])
                if key in old:
                    memory.put_objects({key: old[key]})
        if what != "the manifest":
            memory.put_objects({key: body for key, body in old.items() if not key.endswith("/manifest")})
        with sealed_storage(folder / f"{seed}", store=memory) as storage:
            try:
                assert_right(storage, done, set())
            except HoldfastError:
                continue
            assert memory.objects == new, "a wrong state was taken for the right one"


def test_a_collection_of_another_tenant_opens_nothing(folder: Path) -> None:
    """Every object of one collection is put in the place of another's."""
    first, second = MemoryStore(), MemoryStore()
    with sealed_storage(folder / "a", store=first) as storage:
        fill(storage, range(3))
    with sealed_storage(folder / "b", store=second) as storage:
        fill(storage, range(3))
    for own, foreign in zip(sorted(second.objects), sorted(first.objects), strict=False):
        second.put_objects({own: first.objects[foreign]})
    with sealed_storage(folder / "b", store=second) as storage, pytest.raises(HoldfastError):
        storage.search("secret")


def test_ten_thousand_mutations_are_detected_or_harmless(folder: Path) -> None:
    """Single changes of single stored bytes, objects swapped, dropped and doubled."""
    memory = MemoryStore()
    with sealed_storage(folder / "data", store=memory) as storage:
        fill(storage, range(4))
        sealed = storage.collections.sealed.find(1)
        assert sealed is not None
        storage.search("secret")
        objects = sealed._objects
        honest = dict(memory.objects)
        keys = [key for key in sorted(honest) if "/objects/" in key]
        rng = random.Random(0)
        for _ in range(10_000):
            key = rng.choice(keys)
            kind = rng.randrange(4)
            other = rng.choice(keys)
            body = [flipped(honest[key], rng), honest[other], honest[key][:-1], honest[key]][kind]
            memory.objects[key] = body
            faults = objects.verify()
            assert bool(faults) == (body != honest[key])
            memory.objects[key] = honest[key]
        assert objects.verify() == []


def stop_after(num_calls: int, *, is_done: bool) -> Callable[[str, Callable[[], Any]], Any]:
    """Return a fault of every call after so many; with `is_done` they are done all the same."""
    left = num_calls

    def fault(call: str, do: Callable[[], Any]) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            if is_done:
                do()
            raise StoreUnavailable("stopped")
        return do()

    return fault


def test_a_rotation_goes_on_wherever_it_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stopped before and after every single call of the store, each time in a fresh process's state."""
    monkeypatch.setattr(sealed_collections, "ROTATED_OBJECTS", 2)
    for is_done in (False, True):
        data_dir = folder / str(is_done)
        store = FaultyStore(MemoryStore())
        with sealed_storage(data_dir, store=store) as storage:
            done = fill(storage, range(5))
        num_stops = 0
        is_rotated = False
        while not is_rotated:
            fault = stop_after(num_stops % 7, is_done=is_done)
            with sealed_storage(data_dir, store=store) as storage:
                if num_stops % 3:
                    assert_right(storage, done, set())
                if num_stops < 60:
                    store.fault = fault
                try:
                    storage.collections.sealed.rotate(1)
                    is_rotated = True
                except StoreUnavailable:
                    num_stops += 1
                store.fault = lambda call, do: do()
                assert_right(storage, done, set())
        assert num_stops > 10
        with sealed_storage(data_dir, store=store) as storage:
            sealed = storage.collections.sealed.find(1)
            assert sealed is not None
            assert sealed.epochs() == [2]
            assert storage.collections.verify() == []
            record = storage.collections.sealed.keyring.tenant(TENANT).record
            assert record.epochs(sealed.row.prefix) == [2]


def test_a_second_writer_is_noticed(folder: Path) -> None:
    """Two processes with copies of one data directory share a store: one of them is told."""
    memory = MemoryStore()
    with sealed_storage(folder / "a", store=memory) as storage:
        fill(storage, range(2))
    shutil.copytree(folder / "a", folder / "b")
    with sealed_storage(folder / "a", store=memory) as one, sealed_storage(folder / "b", store=memory) as two:
        one.search("secret")
        two.search("secret")
        fill(one, [7])
        file = two.upload("9.txt", text_of(9))
        two.collections.attach(TENANT, STORE, [NewFile(file.id)])
        two.ingestion.run_until_idle()
        assert two.collections.get_file(TENANT, STORE, file.id).status == "failed"
        with pytest.raises(Conflict, match="another gateway"):
            two.search("secret")
        assert_right(one, dict.fromkeys([0, 1, 7], ""), set())
