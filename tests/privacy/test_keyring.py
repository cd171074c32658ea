"""Opened keys are forgotten in time: a revoked key stops working, and one that is out of reach does not at once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from holdfast.errors import Conflict, DecryptionError, KeyUnavailable
from holdfast.privacy.key_providers import LocalKeyProvider
from holdfast.privacy.key_rotation import rewrap_tenant, start_root_rotation
from holdfast.privacy.keyring import LIFETIME_S, Keyring
from holdfast.privacy.keys import KeyProvider, SecretKey, TenantKeys
from tests.privacy.key_records import FileKeyRecords


class RevocableProvider(LocalKeyProvider):
    """A local key whose owner can withdraw it."""

    is_revoked = False
    num_calls = 0

    def unwrap(self, wrapped: bytes, associated_data: bytes) -> SecretKey:
        self.num_calls += 1
        if self.is_revoked:
            raise KeyUnavailable("revoked")
        return super().unwrap(wrapped, associated_data)


class World:
    """A keyring, its clock, its records and each tenant's own provider."""

    def __init__(self, folder: Path) -> None:
        self.now = 1000.0
        self.records = FileKeyRecords(folder)
        self.own: dict[str, RevocableProvider] = {}
        self.keyring = self.another()

    def another(self) -> Keyring:
        return Keyring(self.records, self.providers, lambda: self.now)

    def providers(self, tenant_id: str) -> Sequence[KeyProvider]:
        return [self.own.setdefault(tenant_id, RevocableProvider(SecretKey.generate()))]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_tenant_is_made_when_first_asked_for_and_stays(world: World) -> None:
    made = world.keyring.tenant("acme")
    assert world.records.load("acme") == made.record
    assert world.another().tenant("acme").roots == made.roots


def test_the_provider_is_asked_once_in_a_lifetime(world: World) -> None:
    world.keyring.tenant("acme")
    other = world.another()
    for _ in range(50):
        other.tenant("acme")
    assert world.own["acme"].num_calls == 1
    world.now += LIFETIME_S
    other.tenant("acme")
    assert world.own["acme"].num_calls == 2


def test_a_revoked_key_works_for_five_minutes_at_most(world: World) -> None:
    world.keyring.tenant("acme")
    world.own["acme"].is_revoked = True
    world.now += LIFETIME_S - 1
    assert world.keyring.tenant("acme")
    world.now += 1
    for _ in range(2):
        with pytest.raises(KeyUnavailable):
            world.keyring.tenant("acme")
    world.own["acme"].is_revoked = False
    assert world.keyring.tenant("acme")


def test_using_keys_does_not_prolong_them(world: World) -> None:
    world.keyring.tenant("acme")
    world.own["acme"].is_revoked = True
    for _ in range(99):
        world.now += LIFETIME_S / 100
        world.keyring.tenant("acme")
        world.keyring.change("acme", lambda keys: keys.with_collection(f"c{world.now}"))
    world.now += LIFETIME_S / 100
    with pytest.raises(KeyUnavailable):
        world.keyring.tenant("acme")


def test_keys_that_nobody_asks_for_are_forgotten_too(world: World) -> None:
    world.keyring.tenant("acme")
    world.now += LIFETIME_S
    world.keyring.tenant("other")
    assert list(world.keyring._open) == ["other"]


def test_what_was_forgotten_is_opened_anew(world: World) -> None:
    world.keyring.tenant("acme")
    world.own["acme"].is_revoked = True
    world.keyring.forget("acme")
    with pytest.raises(KeyUnavailable):
        world.keyring.tenant("acme")


def test_changes_are_stored_and_seen_by_others(world: World) -> None:
    other = world.another()
    other.tenant("acme")
    changed = world.keyring.change("acme", lambda keys: keys.with_collection("vs_1"))
    assert world.records.load("acme") == changed.record
    assert other.tenant("acme").epoch("vs_1").seal == changed.epoch("vs_1").seal
    assert world.keyring.change("acme", lambda keys: keys).record == changed.record


def test_a_change_that_lost_a_race_is_a_conflict_and_changes_nothing(world: World) -> None:
    def step(keys: TenantKeys) -> TenantKeys:
        world.another().change("acme", lambda keys: keys.with_collection("theirs"))
        return keys.with_collection("ours")

    world.keyring.tenant("acme")
    with pytest.raises(Conflict):
        world.keyring.change("acme", step)
    assert world.keyring.tenant("acme").record.epochs("theirs") == [1]
    assert world.keyring.tenant("acme").record.epochs("ours") == []


def test_rotated_roots_are_opened_by_the_provider(world: World) -> None:
    other = world.another()
    other.tenant("acme")
    world.keyring.change("acme", lambda keys: start_root_rotation(keys, world.own["acme"]))
    assert sorted(other.tenant("acme").roots) == [1, 2]
    world.keyring.change("acme", lambda keys: rewrap_tenant(keys, world.own["acme"]))
    assert sorted(other.tenant("acme").roots) == [1, 2]


def test_another_tenants_key_does_not_open(world: World) -> None:
    world.keyring.tenant("acme")
    world.keyring.tenant("rival")
    world.own["acme"], world.own["rival"] = world.own["rival"], world.own["acme"]
    with pytest.raises(KeyUnavailable):
        world.another().tenant("acme")
    world.own["acme"].key_id, world.own["rival"].key_id = world.own["rival"].key_id, world.own["acme"].key_id
    with pytest.raises(DecryptionError):
        world.another().tenant("acme")


def test_a_slow_provider_holds_up_its_own_tenant_only(world: World) -> None:
    world.keyring.tenant("slow")
    entered, released = threading.Event(), threading.Event()

    class SlowProvider(RevocableProvider):
        def unwrap(self, wrapped: bytes, associated_data: bytes) -> SecretKey:
            entered.set()
            assert released.wait(30)
            return super().unwrap(wrapped, associated_data)

    world.own["slow"].__class__ = SlowProvider
    world.now += LIFETIME_S
    waiting = threading.Thread(target=world.keyring.tenant, args=("slow",))
    waiting.start()
    assert entered.wait(30)
    assert world.keyring.tenant("quick")
    released.set()
    waiting.join(30)
    assert not waiting.is_alive()
