"""Rotation of each level: what it replaces, what it keeps, and that a kill anywhere loses nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.errors import Conflict, DecryptionError, KeyUnavailable, NotFound, TamperError
from holdfast.privacy.key_providers import LocalKeyProvider
from holdfast.privacy.key_rotation import (
    finish_epoch,
    finish_root_rotation,
    mark_signed,
    rewrap_collections,
    rewrap_tenant,
    start_epoch,
    start_root_rotation,
)
from holdfast.privacy.keys import KeyRecord, SecretKey, TenantKeys, make_tenant, open_tenant
from holdfast.privacy.manifest import first_manifest, open_manifest, seal_manifest
from holdfast.privacy.seal import Kind, Place, Sealer
from tests.privacy.key_records import FileKeyRecords

OLD, NEW = (LocalKeyProvider(SecretKey(bytes([number]) * 32)) for number in (1, 2))
PLACE = Place(Kind.TEXT, b"row")
COLLECTIONS = ("a", "b", "c")


def tenant() -> TenantKeys:
    keys = make_tenant("acme", [OLD])
    for name in COLLECTIONS:
        keys = keys.with_collection(name)
    return keys


def stored(keys: TenantKeys) -> TenantKeys:
    """The keys as another process finds them."""
    return open_tenant(KeyRecord.from_dict(keys.record.to_dict()), [OLD, NEW])


def rotate_root(keys: TenantKeys, limit: int = 1000) -> TenantKeys:
    keys = start_root_rotation(keys, OLD)
    while (changed := rewrap_collections(keys, limit)) is not keys:
        keys = changed
    for name in keys.record.unsigned:
        keys = mark_signed(keys, name)
    return finish_root_rotation(keys)


class TestKeyEncryptionKey:
    def test_the_new_provider_opens_what_the_old_one_wrapped(self) -> None:
        before = tenant()
        after = rewrap_tenant(before, NEW)
        reopened = open_tenant(after.record, [NEW])
        assert reopened.roots == before.roots
        assert reopened.record.revision == before.record.revision + 1
        with pytest.raises(KeyUnavailable, match=NEW.key_id):
            open_tenant(after.record, [OLD])

    def test_it_may_come_in_the_middle_of_a_root_rotation(self) -> None:
        keys = rewrap_tenant(start_root_rotation(tenant(), OLD), NEW)
        reopened = open_tenant(keys.record, [NEW])
        assert len(reopened.roots) == 2
        assert rotate_root(reopened).record.roots[0].wrapped_by == NEW.key_id


class TestTenantRoot:
    def test_collections_keep_their_keys_and_the_old_root_opens_nothing(self) -> None:
        before = tenant()
        after = rotate_root(stored(before))
        assert [root.version for root in after.record.roots] == [2]
        for name in COLLECTIONS:
            assert stored(after).epoch(name).seal == before.epoch(name).seal
        assert after.manifest_key() != before.manifest_key()
        impostor = TenantKeys(after.record, {2: before.roots[1]})
        with pytest.raises(DecryptionError):
            impostor.epoch("a")

    def test_everything_opens_after_each_step_and_each_step_may_be_repeated(self) -> None:
        before = keys = tenant()
        steps: list[Callable[[TenantKeys], TenantKeys]] = [
            lambda keys: start_root_rotation(keys, OLD),
            *[lambda keys: rewrap_collections(keys, 1)] * 3,
            *[lambda keys, name=name: mark_signed(keys, name) for name in COLLECTIONS],  # type: ignore[misc]
            finish_root_rotation,
        ]
        for step in steps:
            keys = stored(step(stored(keys)))
            for name in COLLECTIONS:
                assert keys.epoch(name).seal == before.epoch(name).seal
        for step in [rewrap_collections, steps[4], finish_root_rotation]:
            assert step(keys) is keys
        assert start_root_rotation(start := start_root_rotation(keys, OLD), OLD) is start

    def test_collections_made_meanwhile_are_under_the_new_root_already(self) -> None:
        keys = start_root_rotation(tenant(), OLD).with_collection("late")
        assert "late" not in keys.record.unsigned
        assert rotate_root(keys).epoch("late").epoch == 1

    def test_it_does_not_finish_while_the_old_root_is_needed(self) -> None:
        keys = start_root_rotation(tenant(), OLD)
        with pytest.raises(Conflict, match="rewrap"):
            finish_root_rotation(keys)
        keys = rewrap_collections(keys)
        with pytest.raises(Conflict, match="manifest of a"):
            finish_root_rotation(keys)

    def test_a_deleted_collection_holds_nothing_up(self) -> None:
        keys = rewrap_collections(start_root_rotation(tenant(), OLD))
        for name in COLLECTIONS:
            keys = keys.without_collection(name)
        assert len(finish_root_rotation(keys).record.roots) == 1

    def test_manifests_open_until_the_end_and_then_only_if_signed_anew(self) -> None:
        keys = tenant()
        manifest = first_manifest("a", 1, writer_id="w", time_s=0)
        data, anchor = seal_manifest(manifest, keys)
        keys = rewrap_collections(start_root_rotation(keys, OLD))
        assert open_manifest(data, stored(keys), "a") == (manifest, anchor)
        successor = manifest.successor(anchor, {}, writer_id="w", time_s=1)
        again, _ = seal_manifest(successor, keys)
        for name in COLLECTIONS:
            keys = mark_signed(keys, name)
        keys = stored(finish_root_rotation(keys))
        assert open_manifest(again, keys, "a", anchor)[0] == successor
        with pytest.raises(TamperError) as error:
            open_manifest(data, keys, "a")
        assert error.value.code == "rolled_back"


class TestEpoch:
    def test_both_epochs_are_open_until_it_is_finished(self) -> None:
        keys = tenant()
        sealed = Sealer(keys.epoch("a")).seal(b"text", PLACE)
        keys = stored(start_epoch(keys, "a"))
        assert keys.record.epochs("a") == [1, 2]
        assert start_epoch(keys, "a") is keys
        text = Sealer(keys.epoch("a", 1)).open(sealed, PLACE)
        resealed = Sealer(keys.epoch("a")).seal(text, PLACE)
        keys = stored(finish_epoch(keys, "a"))
        assert finish_epoch(keys, "a") is keys
        assert keys.record.epochs("a") == [2]
        assert Sealer(keys.epoch("a")).open(resealed, PLACE) == b"text"
        with pytest.raises(NotFound):
            keys.epoch("a", 1)

    def test_nothing_of_the_new_epoch_is_derived_from_the_old(self) -> None:
        """With the old root known and the record rolled forward, no derived key of the new epoch can be had."""
        keys = start_epoch(tenant(), "a")
        old, new = keys.epoch("a", 1), keys.epoch("a", 2)
        reachable = {old._root.reveal()}
        for _ in range(2):
            labels = (("seal",), ("vectors",), ("rows",), ("tokens", "page"), ("wrap",), ("manifest",))
            reachable |= {SecretKey(one).derive(*label).reveal() for one in reachable for label in labels}
        for key in (new._root, new.seal, new.vectors, new.rows, new.tokens("page")):
            assert key.reveal() not in reachable

    def test_epochs_are_never_used_again(self) -> None:
        keys = tenant()
        for expected in range(2, 6):
            keys = finish_epoch(start_epoch(keys, "a"), "a")
            assert keys.record.epochs("a") == [expected]

    def test_other_collections_are_left_alone(self) -> None:
        before = tenant()
        after = finish_epoch(start_epoch(before, "b"), "b")
        others = [root for root in before.record.collections if root.collection_id != "b"]
        assert [root for root in after.record.collections if root.collection_id != "b"] == others

    def test_it_may_cross_a_root_rotation(self) -> None:
        before = start_epoch(tenant(), "a")
        after = stored(rotate_root(before, limit=1))
        for epoch in (1, 2):
            assert after.epoch("a", epoch).seal == before.epoch("a", epoch).seal


def test_a_lost_race_is_a_conflict(tmp_path: Path) -> None:
    records = FileKeyRecords(tmp_path)
    keys = make_tenant("acme", [OLD])
    records.replace(0, keys.record)
    records.replace(1, keys.with_collection("mine").record)
    for revision in (0, 1, 9):
        with pytest.raises(Conflict):
            records.replace(revision, keys.with_collection("theirs").record)


class Killed(BaseException):
    """Stands for the death of the process."""


def rotate_everything(records: FileKeyRecords, before_and_after_storing: Callable[[], None] = lambda: None) -> None:
    """Rotate all levels of `acme`, or go on where an earlier call was killed, from what is stored alone."""

    def load() -> TenantKeys:
        record = records.load("acme")
        assert record is not None
        return open_tenant(record, [OLD, NEW])

    def do(step: Callable[[TenantKeys], TenantKeys]) -> bool:
        keys = load()
        changed = step(keys)
        if changed is keys:
            return False
        before_and_after_storing()
        records.replace(keys.record.revision, changed.record)
        before_and_after_storing()
        return True

    if load().root_version == 1 or len(load().roots) == 2:
        do(lambda keys: start_root_rotation(keys, OLD))
        while do(lambda keys: rewrap_collections(keys, 1)):
            pass
        for name in load().record.unsigned:
            do(lambda keys, name=name: mark_signed(keys, name))  # type: ignore[misc]
        do(finish_root_rotation)
    for name in COLLECTIONS:
        if load().record.epochs(name) != [2]:
            do(lambda keys, name=name: start_epoch(keys, name))  # type: ignore[misc]
            do(lambda keys, name=name: finish_epoch(keys, name))  # type: ignore[misc]
    if load().record.roots[0].wrapped_by != NEW.key_id:
        do(lambda keys: rewrap_tenant(keys, NEW))


def assert_rotated(records: FileKeyRecords) -> None:
    record = records.load("acme")
    assert record is not None
    assert [(root.version, root.wrapped_by) for root in record.roots] == [(2, NEW.key_id)]
    assert [record.epochs(name) for name in COLLECTIONS] == [[2], [2], [2]]
    assert record.unsigned == ()


def assert_everything_opens(records: FileKeyRecords) -> None:
    record = records.load("acme")
    assert record is not None
    keys = open_tenant(record, [OLD, NEW])
    for root in record.collections:
        assert keys.epoch(root.collection_id, root.epoch).seal


def test_a_rotation_of_everything_goes_on_wherever_it_was_killed(tmp_path: Path) -> None:
    """Killed before and after each record is stored, in turn; the next run knows nothing but what is stored."""
    num_points = 0
    for deadline in range(1, 1000):
        records = FileKeyRecords(tmp_path / str(deadline))
        (tmp_path / str(deadline)).mkdir()
        records.replace(0, tenant().record)
        left = iter(range(deadline - 1))

        def count(left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise Killed

        try:
            rotate_everything(records, count)
        except Killed:
            num_points += 1
            assert_everything_opens(records)
            rotate_everything(records)
            assert_rotated(records)
        else:
            break
    assert_rotated(records)
    assert num_points == 30


def test_real_kills(tmp_path: Path) -> None:
    """Processes that die by SIGKILL, one after another, each some steps further than the last, until one survives."""
    root = Path(__file__).parents[2]
    records = FileKeyRecords(tmp_path)
    records.replace(0, tenant().record)
    script = """
import os, signal, sys
from pathlib import Path
from tests.privacy.key_records import FileKeyRecords
from tests.privacy.test_key_rotation import rotate_everything
left = iter(range(int(sys.argv[2])))
def die_when_used_up():
    if next(left, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
rotate_everything(FileKeyRecords(Path(sys.argv[1])), die_when_used_up)
"""
    returncodes = []
    for num_steps in (0, 3, 6, 9, 99):
        command = [sys.executable, "-c", script, str(tmp_path), str(num_steps)]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, env={"PYTHONPATH": str(root)})
        returncodes.append(done.returncode)
        assert_everything_opens(records)
    assert returncodes == [-signal.SIGKILL] * 4 + [0], done.stderr
    assert_rotated(records)
