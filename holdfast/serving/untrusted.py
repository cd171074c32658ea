"""From settings to the keys that seal and the store that is not trusted with more than sealed things."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from holdfast.errors import InvalidInput
from holdfast.privacy import key_provider_factory
from holdfast.privacy.key_providers import read_key_file
from holdfast.privacy.keyring import Keyring
from holdfast.privacy.keys import KeyProvider
from holdfast.retrieval.object_store import ObjectStore
from holdfast.serving.config import Settings
from holdfast.serving.database import Database
from holdfast.serving.sealed_tables import KeyTable, create_tables

FOLDER = "sealed"
"""of the data directory, where no other store is named"""


def make_keyring(settings: Settings, database: Database) -> Keyring | None:
    """Return the keys of all tenants, or None where the operator gave no key.

    Raises:
        KeyUnavailable: the key file cannot be read.
        InvalidInput: others can read it, it holds no key, or `key_provider` is no address of one.
    """
    if settings.key_file is None and settings.key_provider is None:
        return None
    remote = _make_remote_providers(settings)
    make_key_providers(settings, remote)  # say at once what is wrong with the file
    create_tables(database)
    return Keyring(KeyTable(database), lambda tenant: make_key_providers(settings, remote), time.monotonic)


def make_key_providers(settings: Settings, remote: Sequence[KeyProvider] | None = None) -> Sequence[KeyProvider]:
    """Return those who open the tenants' roots, the one who wraps new ones last; `remote`: where it is open already."""
    local = [] if settings.key_file is None else read_key_file(settings.key_file)
    return [*local, *(_make_remote_providers(settings) if remote is None else remote)]


def _make_remote_providers(settings: Settings) -> Sequence[KeyProvider]:
    if settings.key_provider is None:
        return []
    return key_provider_factory.make_key_providers(settings.key_provider, settings.key_secret or "")


def _make_filesystem(address: str) -> ObjectStore:
    from holdfast.retrieval.store_filesystem import FilesystemStore

    return FilesystemStore(Path(address.removeprefix("file://")))


def _make_sqlite(address: str) -> ObjectStore:
    from holdfast.retrieval.store_sqlite import SqliteFile, SqliteStore

    return SqliteStore(SqliteFile(Path(address.removeprefix("sqlite:"))))


def _make_s3(address: str) -> ObjectStore:
    from holdfast.retrieval.store_s3 import make_s3_store

    parts = urlsplit(address)
    [endpoint_url] = parse_qs(parts.query).get("endpoint", [None])
    return make_s3_store(parts.netloc, parts.path, endpoint_url=endpoint_url)


def _make_postgres(address: str) -> ObjectStore:
    from holdfast.retrieval.store_postgres import PostgresStore, open_postgres

    return PostgresStore(open_postgres(address))


OBJECT_STORES: dict[str, Callable[[str], ObjectStore]] = {
    "": _make_filesystem,
    "file": _make_filesystem,
    "sqlite": _make_sqlite,
    "s3": _make_s3,
    "postgresql": _make_postgres,
}


def make_object_store(settings: Settings) -> ObjectStore:
    """Return the store that `settings.object_store` names.

    Raises:
        InvalidInput: no such kind of store, or its client is not installed.
        StoreUnavailable: it does not answer.
    """
    address = settings.object_store or str(settings.data_dir / FOLDER)
    kind = urlsplit(address).scheme
    if kind not in OBJECT_STORES:
        known = ", ".join(sorted(filter(None, OBJECT_STORES)))
        raise InvalidInput(f"no store of kind {kind!r}; there are {known} and folders", param="object_store")
    try:
        return OBJECT_STORES[kind](address)
    except ImportError as error:
        extra = {"postgresql": "postgres"}.get(kind, kind)
        raise InvalidInput(
            f"the client of this store is not installed: pip install 'holdfast[{extra}]'", param="object_store"
        ) from error
