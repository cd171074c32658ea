"""Several gateways on one collection: each sees that the newest manifest descends from the last one it saw."""

from __future__ import annotations

import pytest

from holdfast.errors import Conflict, TamperError
from holdfast.privacy.key_providers import LocalKeyProvider
from holdfast.privacy.keys import SecretKey, TenantKeys, make_tenant
from holdfast.privacy.seal import Kind
from holdfast.serving import sealed_objects
from holdfast.serving.sealed_objects import ObjectName, SealedObjects
from tests.serving.test_sealed_faults import MemoryStore


@pytest.fixture
def keys() -> TenantKeys:
    return make_tenant("acme", [LocalKeyProvider(SecretKey(bytes(range(32))))]).with_collection("c1")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def gateway(store: MemoryStore, keys: TenantKeys) -> SealedObjects:
    return SealedObjects(store, "c1", "c1", lambda: keys, lambda: 0)


def name(number: int) -> ObjectName:
    return ObjectName(1, "d0", Kind.TEXT, number.to_bytes(16, "big"))


def test_a_gateway_far_behind_catches_up(store: MemoryStore, keys: TenantKeys) -> None:
    one, two = gateway(store, keys), gateway(store, keys)
    seen = two.load(one.create())
    for number in range(9):
        one.commit({name(number): b"%d" % number})
        if number == 4:
            seen = two.load(seen)
            assert seen.sequence == 6
    seen = two.load(seen)
    assert two.get([name(8)]) == {name(8): b"8"}
    two.commit({name(9): b"9"})
    with pytest.raises(Conflict):
        one.commit({name(10): b"10"})
    one.load(seen)
    one.commit({name(10): b"10"}, [name(0)])
    two.load(seen)
    assert name(0) not in two
    assert two.sweep_all() == 2  # what lost against the other, and the removed object, which is not swept yet
    assert two.verify() == []


def test_another_history_is_still_a_fork(store: MemoryStore, keys: TenantKeys) -> None:
    one = gateway(store, keys)
    first = one.create()
    other = MemoryStore()
    for key, body in store.objects.items():
        other.put_objects({key: body})
    elsewhere = gateway(other, keys)
    elsewhere.load(first)
    anchor = elsewhere.commit({name(99): b"elsewhere"})
    for number in range(4):
        one.commit({name(number): b"here"})
    for history in ({}, other.objects, {"c1/history/2": b""}, {"c1/history/2": store.objects["c1/history/3"]}):
        forged = MemoryStore()
        forged.put_objects({**store.objects, **{key: body for key, body in history.items() if "history" in key}})
        with pytest.raises(TamperError) as caught:
            gateway(forged, keys).load(anchor)
        assert caught.value.code == "forked"


def test_only_so_many_replaced_manifests_are_kept(
    store: MemoryStore, keys: TenantKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealed_objects, "HISTORY_LEN", 4)
    one = gateway(store, keys)
    anchors = [one.create(), *(one.commit({name(number): b""}) for number in range(9))]
    assert sorted(key for key in store.objects if "history" in key) == [f"c1/history/{n}" for n in (7, 8, 9)]
    assert one.sweep_all() == 0
    for anchor in anchors[-4:]:
        assert gateway(store, keys).load(anchor).sequence == 10
    with pytest.raises(TamperError, match="does not descend"):
        gateway(store, keys).load(anchors[4])
