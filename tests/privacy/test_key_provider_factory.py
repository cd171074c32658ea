"""Addresses of key providers: each form, and what is said of wrong ones."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from holdfast.errors import InvalidInput, KeyUnavailable
from holdfast.privacy.key_provider_factory import KEY_PROVIDERS, make_key_providers
from holdfast.privacy.key_providers import add_key_to_file

FIRST, SECOND = "11" * 32, "22" * 32


@pytest.fixture(autouse=True)
def aws_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any, AWS clients ask the network for them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")


@pytest.mark.parametrize(
    ("address", "key_id"),
    [
        ("pkcs11:/usr/lib/softhsm.so?token=holdfast&key=kek", "pkcs11:holdfast/kek"),
        ("pkcs11:/usr/lib/soft%20hsm.so?token=a%26b&key=k%20k", "pkcs11:a&b/k k"),
        ("aws-kms://eu-central-1/1234-5678?endpoint=http://127.0.0.1:9", "aws-kms:1234-5678"),
        ("aws-kms://eu-central-1/arn:aws:kms:eu-central-1:1:key/12", "aws-kms:arn:aws:kms:eu-central-1:1:key/12"),
        ("vault:https://vault.internal:8200/transit/kek", "vault:transit/kek"),
        ("vault:https://vault.internal/team/a/transit/kek?namespace=team", "vault:team/a/transit/kek"),
        ("vault:http://127.0.0.1:8200/transit/kek", "vault:transit/kek"),
    ],
)
def test_each_form(address: str, key_id: str) -> None:
    [provider] = make_key_providers(address, "secret-canary")
    assert provider.key_id == key_id
    assert "canary" not in repr(provider)


def test_files_and_values_may_hold_several_keys(tmp_path: Path) -> None:
    made = [add_key_to_file(tmp_path / "keys").key_id for _ in range(2)]
    assert [provider.key_id for provider in make_key_providers(f"file:{tmp_path}/keys")] == made
    assert len(make_key_providers("value:", f"{FIRST}\n{SECOND}")) == 2


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("/etc/keys", "held by file, value"),
        ("gcp:key", "not by 'gcp'"),
        ("value:", "there is no key"),
        ("pkcs11:/lib.so?token=a", "key=..."),
        ("pkcs11:/lib.so", "token=...&key=..."),
        ("aws-kms://eu-central-1", "REGION/KEY"),
        ("aws-kms://eu-central-1/alias/mine", "alias"),
        ("vault:https://vault.internal/kek", "MOUNT/KEY"),
        ("vault:vault.internal/transit/kek", "MOUNT/KEY"),
        ("vault:http://vault.internal/transit/kek", "https only"),
    ],
)
def test_what_is_wrong_is_said(address: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said.replace("?", r"\?")):
        make_key_providers(address)


@pytest.mark.parametrize(
    ("address", "extra"), [("pkcs11:/lib.so?token=a&key=b", "pkcs11"), ("aws-kms://region/key", "kms")]
)
def test_a_client_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, address: str, extra: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match=rf"holdfast\[{extra}\]"):
        make_key_providers(address)


def test_a_missing_file_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(KeyUnavailable):
        make_key_providers(f"file:{tmp_path}/none")


def test_every_kind_is_tried_above() -> None:
    assert set(KEY_PROVIDERS) == {"file", "value", "pkcs11", "aws-kms", "vault"}
