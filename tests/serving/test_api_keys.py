"""API keys."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from holdfast.errors import InvalidInput, NotFound, Unauthenticated
from holdfast.serving.api_keys import FILENAME, ApiKeys


@pytest.fixture
def keys(tmp_path: Path) -> ApiKeys:
    return ApiKeys(tmp_path / "data")


def test_without_keys_everyone_is_the_default_tenant(keys: ApiKeys) -> None:
    assert keys.is_open()
    assert keys.tenant_of(None) == "default"
    assert keys.tenant_of("Bearer anything") == "default"


def test_a_key_lets_its_tenant_in_and_nobody_else(keys: ApiKeys) -> None:
    _, alice = keys.create("alice")
    _, bob = keys.create("bob")
    assert keys.tenant_of(f"Bearer {alice}") == "alice"
    assert keys.tenant_of(f"bearer  {bob}") == "bob"
    swapped = f"{alice[:-43]}{bob[-43:]}"
    for header in (None, "", "Bearer", "Bearer ", f"Basic {alice}", alice, f"Bearer {alice}x", f"Bearer {swapped}"):
        with pytest.raises(Unauthenticated):
            keys.tenant_of(header)


def test_a_revoked_key_is_refused_and_the_server_stays_closed(keys: ApiKeys) -> None:
    key, text = keys.create()
    revoked = keys.revoke(key.id)
    assert revoked.revoked_at is not None
    assert keys.revoke(key.id) == revoked
    assert not keys.is_open()
    for header in (None, f"Bearer {text}"):
        with pytest.raises(Unauthenticated):
            keys.tenant_of(header)


def test_the_secret_is_nowhere_in_the_data_directory(keys: ApiKeys, tmp_path: Path) -> None:
    _, text = keys.create("alice", name="laptop")
    path = tmp_path / "data" / FILENAME
    assert text.rpartition("_")[2].encode() not in path.read_bytes()
    assert text not in repr(keys.list())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_another_process_sees_a_new_key_at_once(keys: ApiKeys, tmp_path: Path) -> None:
    other = ApiKeys(tmp_path / "data")
    key, text = keys.create("alice", name="laptop")
    assert other.list() == [key]
    assert other.tenant_of(f"Bearer {text}") == "alice"
    other.close()


def test_faulty_names_are_refused(keys: ApiKeys) -> None:
    for tenant in ("", "a b", "../x", "x" * 65):
        with pytest.raises(InvalidInput):
            keys.create(tenant)
    with pytest.raises(NotFound):
        keys.revoke("0" * 16)
