"""One suite that every object store passes."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import Conflict, InvalidInput, StorageError, StoreUnavailable
from holdfast.retrieval.object_store import ObjectStore, check_key, list_all
from holdfast.retrieval.store_filesystem import FilesystemStore
from holdfast.retrieval.store_s3 import S3Store
from tests.untrusted_stores import OBJECT_STORES, MakeObjectStore

BINARY = bytes(range(256)) * 3


@pytest.fixture(params=OBJECT_STORES)
def store(request: pytest.FixtureRequest, object_stores: MakeObjectStore) -> ObjectStore:
    return object_stores(request.param)


def test_what_was_put_is_what_is_got(store: ObjectStore) -> None:
    objects = {"a/one": BINARY, "a/two": b"", "b": b"x" * 300_000}
    assert store.put_objects(objects) == set()
    assert store.get_objects([*objects, "missing"]) == objects
    assert store.get_objects([]) == {}
    store.put_objects({"a/one": b"other"})
    assert store.get_objects(["a/one"]) == {"a/one": b"other"}


def test_if_absent_leaves_what_is_there(store: ObjectStore) -> None:
    store.put_objects({"a": b"1"})
    assert store.put_objects({"a": b"2", "b": b"2"}, if_absent=True) == {"a"}
    assert store.get_objects(["a", "b"]) == {"a": b"1", "b": b"2"}


def test_deleting_is_idempotent(store: ObjectStore) -> None:
    store.put_objects({"a": b"1", "b": b"2"})
    store.delete(["a", "missing"])
    store.delete(["a"])
    store.delete([])
    assert store.get_objects(["a", "b"]) == {"b": b"2"}


def test_listings_ascend_by_page_within_a_prefix(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"cells/{number:02}" for number in range(11)]
    store.put_objects(dict.fromkeys([*reversed(names), "cells-x", "manifest"], b"1"))
    monkeypatch.setattr(f"{type(store).__module__}.LIST_SIZE", 4)
    page = store.list("cells/")
    assert page.keys == names[:4]
    assert page.cursor is not None
    assert store.list("cells/", page.cursor).keys == names[4:8]
    assert list_all(store, "cells/") == names
    assert list_all(store, "nothing") == []
    assert list_all(store, "") == sorted([*names, "cells-x", "manifest"])


def test_cas_changes_only_the_state_it_names(store: ObjectStore) -> None:
    first = store.cas("manifest", b"1", None)
    with pytest.raises(Conflict):
        store.cas("manifest", b"2", None)
    second = store.cas("manifest", b"2", first)
    with pytest.raises(Conflict):
        store.cas("manifest", b"3", first)
    tagged = store.get_tagged("manifest")
    assert tagged is not None
    assert (tagged.body, tagged.etag) == (b"2", second)
    store.delete(["manifest"])
    assert store.get_tagged("manifest") is None
    with pytest.raises(Conflict):
        store.cas("manifest", b"4", second)
    store.cas("manifest", b"4", None)


def test_of_many_writers_one_wins_each_round(store: ObjectStore) -> None:
    """No update is lost: the counter ends at the number of successes."""
    store.cas("counter", b"0", None)
    successes = []

    def count() -> None:
        for _ in range(8):
            tagged = store.get_tagged("counter")
            assert tagged is not None
            try:
                store.cas("counter", b"%d" % (int(tagged.body) + 1), tagged.etag)
            except Conflict:
                continue
            successes.append(1)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert successes
    assert store.get_objects(["counter"]) == {"counter": b"%d" % len(successes)}


def test_a_random_history_ends_like_a_dictionary(store: ObjectStore) -> None:
    rng = random.Random(5)
    expected: dict[str, bytes] = {}
    for _ in range(60):
        key = f"k/{rng.randrange(6)}"
        body = rng.randbytes(rng.randrange(40))
        match rng.randrange(4):
            case 0:
                store.put_objects({key: body})
                expected[key] = body
            case 1:
                assert store.put_objects({key: body}, if_absent=True) == ({key} if key in expected else set())
                expected.setdefault(key, body)
            case 2:
                store.delete([key])
                expected.pop(key, None)
            case _:
                tagged = store.get_tagged(key)
                assert (tagged.body if tagged else None) == expected.get(key)
    assert store.get_objects([f"k/{n}" for n in range(6)]) == expected
    assert list_all(store, "k/") == sorted(expected)


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", ".a", "a/.b", "A", "a b", "ä", "a" * 201])
def test_names_that_could_mean_something_else_are_refused(store: ObjectStore, key: str) -> None:
    with pytest.raises(InvalidInput):
        check_key(key)
    for call in (store.get_objects, store.delete):
        with pytest.raises(InvalidInput):
            call([key])
    with pytest.raises(InvalidInput):
        store.put_objects({key: b""})


class UnconditionalClient:
    """S3 as some services speak it: conditions are accepted and ignored."""

    def __init__(self, client: Any, ignored: str) -> None:
        self._client = client
        self._ignored = ignored
        self.exceptions = client.exceptions

    def put_object(self, **arguments: Any) -> Any:
        arguments.pop(self._ignored, None)
        return self._client.put_object(**arguments)

    def delete_objects(self, **arguments: Any) -> Any:
        return self._client.delete_objects(**arguments)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("ignored", ["IfMatch", "IfNoneMatch"])
def test_an_s3_that_ignores_conditions_is_refused(s3_client: Any, ignored: str) -> None:
    s3_client.create_bucket(Bucket="unconditional")
    with pytest.raises(InvalidInput, match="conditional writes"):
        S3Store(UnconditionalClient(s3_client, ignored), "unconditional")
    s3_client.delete_bucket(Bucket="unconditional")  # and nothing was left in it


def test_an_s3_that_is_not_there_is_said(s3_client: Any) -> None:
    with pytest.raises(StoreUnavailable, match="NoSuchBucket"):
        S3Store(s3_client, "no-such-bucket")
    store = make_s3_store_at("http://127.0.0.1:1")
    with pytest.raises(StoreUnavailable, match="does not answer"):
        store()


def make_s3_store_at(url: str) -> Callable[[], S3Store]:
    import boto3
    from botocore.config import Config

    keys = {"aws_access_key_id": "id", "aws_secret_access_key": "secret"}
    config = Config(retries={"max_attempts": 1}, connect_timeout=1)
    return lambda: S3Store(boto3.client("s3", endpoint_url=url, region_name="us-east-1", config=config, **keys), "b")


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FilesystemStore(tmp_path / "store")
    store.put_objects({"a": b"1"})

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(StorageError, match="No space left"):
            store.put_objects({"a": b"2"})
    assert store.get_objects(["a"]) == {"a": b"1"}
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["a"]


def test_what_a_crash_left_half_written_is_swept(tmp_path: Path) -> None:
    FilesystemStore(tmp_path).put_objects({"a/b": b"1"})
    (tmp_path / "a" / ".tmp-1").write_bytes(b"half")
    assert list_all(FilesystemStore(tmp_path), "") == ["a/b"]
    assert not (tmp_path / "a" / ".tmp-1").exists()
