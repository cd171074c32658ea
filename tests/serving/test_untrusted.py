"""Settings name keys and a store; what is wrong with them is said at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from holdfast.errors import InvalidInput, KeyUnavailable
from holdfast.privacy.key_provider_kms import make_kms_client
from holdfast.privacy.key_providers import add_key_to_file
from holdfast.privacy.key_rotation import rewrap_tenant
from holdfast.retrieval.store_filesystem import FilesystemStore
from holdfast.retrieval.store_sqlite import SqliteStore
from holdfast.serving.config import Settings
from holdfast.serving.database import Database
from holdfast.serving.untrusted import make_key_providers, make_keyring, make_object_store


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "data")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def kms() -> Iterator[str]:
    """The address of a new key of a KMS server."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        client: Any = make_kms_client("eu-central-1", f"http://{host}:{port}")
        key = client.create_key()["KeyMetadata"]["KeyId"]
        yield f"aws-kms://eu-central-1/{key}?endpoint=http://{host}:{port}"
    server.stop()


def test_without_a_key_there_is_no_keyring(database: Database) -> None:
    assert make_keyring(Settings(), database) is None


def test_a_key_file_is_looked_at_at_once(database: Database, tmp_path: Path) -> None:
    with pytest.raises(KeyUnavailable):
        make_keyring(Settings(key_file=tmp_path / "none"), database)
    add_key_to_file(tmp_path / "keys")
    keyring = make_keyring(Settings(key_file=tmp_path / "keys"), database)
    assert keyring is not None
    assert keyring.tenant("acme").record.roots[0].wrapped_by.startswith("local:")


def test_a_key_in_a_kms_takes_over_from_a_file(database: Database, tmp_path: Path, kms: str) -> None:
    """The file opens what it wrapped; what is new, the KMS wraps; and once all is wrapped by it, the file can go."""
    add_key_to_file(tmp_path / "keys")
    before = make_keyring(Settings(key_file=tmp_path / "keys"), database)
    assert before is not None
    root = before.tenant("acme").roots[1]
    both = Settings(key_file=tmp_path / "keys", key_provider=kms)
    keyring = make_keyring(both, database)
    assert keyring is not None
    assert keyring.tenant("acme").roots[1] == root
    assert keyring.tenant("new").record.roots[0].wrapped_by.startswith("aws-kms:")
    newest = make_key_providers(both)[-1]
    keyring.change("acme", lambda keys: rewrap_tenant(keys, newest))
    alone = make_keyring(Settings(key_provider=kms), database)
    assert alone is not None
    assert alone.tenant("acme").roots[1] == root


@pytest.mark.parametrize(
    ("address", "fault"),
    [("paper:drawer", "not by 'paper'"), ("aws-kms://", "name region"), ("vault:http://x/y", "name mount")],
)
def test_what_is_no_key_provider_is_refused(database: Database, address: str, fault: str) -> None:
    with pytest.raises(InvalidInput, match=fault):
        make_keyring(Settings(key_provider=address), database)


def test_secrets_of_settings_are_not_shown() -> None:
    assert "tr0ub4dor" not in repr(Settings(key_provider="value:", key_secret="tr0ub4dor"))


def test_a_store_is_a_folder_unless_it_is_named(tmp_path: Path) -> None:
    assert isinstance(make_object_store(Settings(data_dir=tmp_path)), FilesystemStore)
    assert isinstance(make_object_store(Settings(object_store=f"file://{tmp_path / 'objects'}")), FilesystemStore)
    with_file = make_object_store(Settings(object_store=f"sqlite:{tmp_path / 'objects.sqlite3'}"))
    assert isinstance(with_file, SqliteStore)
    with_file.close()
    with pytest.raises(InvalidInput, match="no store of kind 'ftp'"):
        make_object_store(Settings(object_store="ftp://host/path"))
