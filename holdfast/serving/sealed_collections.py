"""All sealed collections of the data directory, and what is needed to make and open them.

Without an operator's key nothing sealed can be made or opened, and everything plain works.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
import threading
from collections.abc import Callable
from functools import partial

from holdfast.errors import HoldfastError, InvalidInput, KeyUnavailable
from holdfast.privacy.key_rotation import (
    finish_epoch,
    finish_root_rotation,
    mark_signed,
    rewrap_collections,
    start_epoch,
    start_root_rotation,
)
from holdfast.privacy.keyring import Keyring
from holdfast.privacy.keys import KeyProvider, TenantKeys
from holdfast.retrieval.object_store import ObjectStore
from holdfast.retrieval.ranking_store import RankingStore
from holdfast.retrieval.store import delete_collection
from holdfast.serving import ranked_tables, sealed_tables
from holdfast.serving.database import Database
from holdfast.serving.ranked_collection import RankedCollection
from holdfast.serving.ranked_epoch import RankingStats
from holdfast.serving.ranked_rows import METRICS, row_width
from holdfast.serving.ranked_tables import RankingOptions
from holdfast.serving.sealed_collection import SealedCollection
from holdfast.serving.sealed_objects import SealedObjects
from holdfast.serving.sealed_tables import KeyTable, SealedRow
from holdfast.serving.untrusted_ranking import MakeTable, no_tables

log = logging.getLogger(__name__)

CACHE_BYTES = 128 * 2**20
"""opened text kept in memory, for each collection"""
ROWS_BYTES = 2**30
"""by default, of rows of an index kept in memory, for each collection"""
ROTATED_OBJECTS = 256
"""sealed again in one step of a rotation"""


class SealedCollections:
    """Opens sealed collections when they are first used.

    Args:
        database: of the data directory.
        keyring: opens tenants' keys; None where the operator gave no key.
        make_store: opens the store of their objects; called once, when it is first needed.
        dim: length of the vectors.
        rows_bytes: memory for the rows of each one's index; those of a larger one are fetched as searches need them.
        num_decoys: cells fetched with those.
        make_tables: opens the store that ranks; called once, when it is first needed.
    """

    def __init__(
        self,
        database: Database,
        keyring: Keyring | None,
        make_store: Callable[[], ObjectStore],
        *,
        dim: int,
        rows_bytes: int = ROWS_BYTES,
        num_decoys: int = 0,
        make_tables: Callable[[], MakeTable] = no_tables,
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._make_store = make_store
        self._dim = dim
        self._rows_bytes, self._num_decoys = rows_bytes, num_decoys
        self._store: ObjectStore | None = None
        self._collections: dict[int, SealedCollection] = {}
        self._lock = threading.RLock()
        self._make_tables = make_tables
        self._tables: MakeTable | None = None
        self._table_to_close: RankingStore | None = None
        """any table: all share a client"""
        self.ranking_stats = RankingStats()
        sealed_tables.create_tables(database)
        ranked_tables.create_table(database)

    @property
    def keyring(self) -> Keyring:
        """The opened keys. Raises KeyUnavailable where the operator gave none."""
        if self._keyring is None:
            raise KeyUnavailable(
                "sealing needs a key: make one with `holdfast keys create` and set key_file, or set key_provider"
            )
        return self._keyring

    def find(self, collection: int) -> SealedCollection | None:
        """Return a sealed collection, or None for a plain one."""
        with self._lock:
            if collection in self._collections:
                return self._collections[collection]
            row = sealed_tables.find_collection(self._database.read(), collection)
            if row is None:
                return None
            self._collections[collection] = self._open(row)
            return self._collections[collection]

    def key_id(self, tenant: str) -> str | None:
        """Return the public name of the operator's key that wraps a tenant's newest root; None before there is one."""
        record = KeyTable(self._database).load(tenant)
        return None if record is None else record.roots[-1].wrapped_by

    def prepare(
        self, tenant: str, mode: str, key_id: str | None = None, *, ranking: RankingOptions = RankingOptions()
    ) -> Callable[[sqlite3.Connection, int], None]:
        """Make keys and an empty manifest; return what notes the collection once its row is there.

        Args:
            ranking: options of the modes in which the store ranks.

        Raises:
            InvalidInput: `key_id` is given, and another key of the operator wraps the tenant's root, or the store
                cannot rank in this mode.
            KeyUnavailable: there is no key, or its provider does not answer.
            StoreUnavailable: the store does not answer.
        """
        own = self.keyring.tenant(tenant).record.roots[-1].wrapped_by
        if key_id is not None and key_id != own:
            message = f"your keys are wrapped by {own}, not by {key_id!r:.80}"
            raise InvalidInput(message, param="holdfast.encryption.key")
        prefix = f"c{secrets.token_hex(12)}"
        keyring = self.keyring
        if mode in METRICS:
            self._table(prefix, mode)
        keyring.change(tenant, lambda keys: keys.with_collection(prefix))
        anchor = self._objects(prefix, partial(self.keyring.tenant, tenant)).create()

        def insert(connection: sqlite3.Connection, collection: int) -> None:
            row = SealedRow(collection, tenant, prefix, mode, anchor, is_deleted=False)
            sealed_tables.insert_collection(connection, row)
            if mode in METRICS:
                ranked_tables.insert_options(connection, collection, ranking)

        return insert

    def delete(self, collection: int) -> None:
        """Delete a sealed collection: its keys first, so that whatever copies of its objects remain stay closed."""
        sealed = self.find(collection)
        assert sealed is not None
        row = sealed.row
        with sealed.changing(), sealed.committing():
            self.keyring.change(row.tenant, lambda keys: keys.without_collection(row.prefix))
            with self._database.write() as connection:
                connection.execute("DELETE FROM store_files WHERE store = ?", (collection,))
                connection.execute("DELETE FROM vector_stores WHERE position = ?", (collection,))
                delete_collection(connection, collection)
                sealed_tables.mark_deleted(connection, collection)
            sealed.unload()
        with self._lock:
            self._collections.pop(collection, None)
        self.delete_leftovers()

    def delete_leftovers(self) -> None:
        """Delete the objects of collections that are gone; what the store does not answer for is tried again later."""
        for row in sealed_tables.list_collections(self._database.read(), is_deleted=True):
            try:
                self._objects(row.prefix, _no_keys).delete_all()
                if row.mode in METRICS:
                    self._table(row.prefix, row.mode).drop()
            except HoldfastError as error:
                log.warning("objects of a deleted collection are still in the store: %s", error)
                continue
            with self._database.write() as connection:
                sealed_tables.forget_collection(connection, row.collection)

    def rotate(self, collection: int, progress: Callable[[int], None] = lambda num_left: None) -> int:
        """Seal everything of a collection again, under keys that nothing connects with the old; return the epoch.

        Searches, ingestion and deletion go on meanwhile. Called again after a crash, it goes on where it was.
        """
        sealed = self.find(collection)
        assert sealed is not None
        row = sealed.row
        self.keyring.change(row.tenant, lambda keys: start_epoch(keys, row.prefix))
        while (num_left := sealed.rotate_some(ROTATED_OBJECTS)) > 0:
            progress(num_left)
        sealed.finish_rotation(lambda: self.keyring.change(row.tenant, lambda keys: finish_epoch(keys, row.prefix)))
        return sealed.epochs()[0]

    def unfinished(self) -> list[int]:
        """Return the collections whose rotation was begun and is not finished."""
        table, found = KeyTable(self._database), []
        for row in sealed_tables.list_collections(self._database.read()):
            record = table.load(row.tenant)
            if record is not None and len(record.epochs(row.prefix)) > 1:
                found.append(row.collection)
        return found

    def tenants(self) -> list[str]:
        """Return the tenants that have keys."""
        return KeyTable(self._database).tenants()

    def rotate_root(self, tenant: str, provider: KeyProvider) -> int:
        """Replace a tenant's root by one that `provider` wraps; return its version.

        No object but the manifests changes. Called again after a crash, it goes on where it was.
        """
        self.keyring.change(tenant, lambda keys: start_root_rotation(keys, provider))
        while True:
            before = self.keyring.tenant(tenant).record.revision
            if self.keyring.change(tenant, rewrap_collections).record.revision == before:
                break
        for row in sealed_tables.list_collections(self._database.read()):
            if row.tenant == tenant and (sealed := self.find(row.collection)) is not None:
                sealed.sign_again()
        for collection_id in self.keyring.tenant(tenant).record.unsigned:
            self.keyring.change(tenant, partial(mark_signed, collection_id=collection_id))
        return self.keyring.change(tenant, finish_root_rotation).root_version

    def close(self) -> None:
        """Let the store go."""
        with self._lock:
            if self._store is not None:
                self._store.close()
            if self._table_to_close is not None:
                self._table_to_close.close()

    def _open(self, row: SealedRow) -> SealedCollection:
        keys = partial(self.keyring.tenant, row.tenant)
        objects = self._objects(row.prefix, keys)
        if row.mode in METRICS:
            return RankedCollection(
                row,
                objects,
                self._database,
                dim=self._dim,
                cache_bytes=CACHE_BYTES,
                open_store=partial(self._table, row.prefix, row.mode),
                options=ranked_tables.find_options(self._database.read(), row.collection),
                stats=self.ranking_stats,
            )
        return SealedCollection(
            row,
            objects,
            self._database,
            dim=self._dim,
            cache_bytes=CACHE_BYTES,
            rows_bytes=self._rows_bytes,
            num_decoys=self._num_decoys,
        )

    def _table(self, prefix: str, mode: str) -> RankingStore:
        with self._lock:
            if self._tables is None:
                self._tables = self._make_tables()
            self._table_to_close = self._tables(prefix, METRICS[mode], row_width(mode, self._dim))
            return self._table_to_close

    def _objects(self, prefix: str, keys: Callable[[], TenantKeys]) -> SealedObjects:
        with self._lock:
            if self._store is None:
                self._store = self._make_store()
        return SealedObjects(self._store, prefix, prefix, keys, self._database.now)


def _no_keys() -> TenantKeys:
    raise KeyUnavailable("the keys of this collection are gone")
