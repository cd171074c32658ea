"""Rotation of each level of keys, in steps that may be interrupted anywhere.

The state of a rotation is the `KeyRecord` itself. Each function takes opened keys and returns the next ones; the caller
stores their record in place of the old one (compare-and-swap on `revision`), then goes on. Whatever record was stored
last, everything can still be opened with it, and calling the same function again goes on where it stopped.

    key encryption key   rewrap_tenant           one step; the old provider is needed until it is stored
    tenant root          start_root_rotation     a second root, under which everything new is wrapped and signed
                         rewrap_collections      until it changes nothing; a limited number at a time
                         mark_signed             for each of `record.unsigned`, once its manifest is stored anew
                         finish_root_rotation    the old root is gone
    collection epoch     start_epoch             a second root; rows are opened with the old and sealed with the new,
                                                 under new ids and tokens, the cursor kept in the manifest
                         finish_epoch            once the manifest lists rows of the new epoch only: the old is gone

Nothing is derived from an old key: every root is fresh randomness. A key that is gone from the record is gone only when
older copies of the record are gone too, or cannot be opened any more because the key that wrapped them was destroyed.
"""

from __future__ import annotations

from dataclasses import replace

from holdfast.errors import Conflict
from holdfast.privacy.keys import KeyProvider, SecretKey, TenantKeys, unwrap_key, wrap_key, wrap_root

REWRAP_LIMIT = 1000


def rewrap_tenant(keys: TenantKeys, provider: KeyProvider) -> TenantKeys:
    """Return keys whose tenant roots are wrapped by `provider`, by its newest version where it has several."""
    record = keys.record
    roots = [wrap_root(record.tenant_id, root.version, keys.roots[root.version], provider) for root in record.roots]
    return keys.changed(roots=roots)


def start_root_rotation(keys: TenantKeys, provider: KeyProvider) -> TenantKeys:
    """Return keys that have a fresh tenant root beside the old; the same keys where a rotation is under way."""
    record = keys.record
    if len(record.roots) > 1:
        return keys
    version, key = keys.root_version + 1, SecretKey.generate()
    return keys.changed(
        roots=[*record.roots, wrap_root(record.tenant_id, version, key, provider)],
        unsigned=sorted({root.collection_id for root in record.collections}),
        opened={**keys.roots, version: key},
    )


def rewrap_collections(keys: TenantKeys, limit: int = REWRAP_LIMIT) -> TenantKeys:
    """Return keys with up to `limit` more collection roots under the newest tenant root; the same keys when all are."""
    tenant_id, newest = keys.record.tenant_id, keys.root_version
    collections = list(keys.record.collections)
    behind = [place for place, root in enumerate(collections) if root.wrapped_by != newest][:limit]
    if not behind:
        return keys
    for place in behind:
        old = collections[place]
        key = unwrap_key(keys.roots[old.wrapped_by], old.wrapped, old.associated_data(tenant_id))
        new = replace(old, wrapped_by=newest)
        collections[place] = replace(new, wrapped=wrap_key(keys.roots[newest], key, new.associated_data(tenant_id)))
    return keys.changed(collections=collections)


def mark_signed(keys: TenantKeys, collection_id: str) -> TenantKeys:
    """Return keys that know a collection's manifest to be signed with the newest tenant root, and stored."""
    if collection_id not in keys.record.unsigned:
        return keys
    return keys.changed(unsigned=[other for other in keys.record.unsigned if other != collection_id])


def finish_root_rotation(keys: TenantKeys) -> TenantKeys:
    """Return keys without the old tenant root; the same keys where there is none.

    Raises Conflict while something needs the old root.
    """
    record, newest = keys.record, keys.root_version
    if len(record.roots) == 1:
        return keys
    if any(root.wrapped_by != newest for root in record.collections):
        raise Conflict("collections are still wrapped by the old tenant root: rewrap them first")
    if record.unsigned:
        raise Conflict(f"the manifest of {record.unsigned[0]} is still signed with the old tenant root: sign it anew")
    return keys.changed(roots=record.roots[-1:], opened={newest: keys.roots[newest]})


def start_epoch(keys: TenantKeys, collection_id: str) -> TenantKeys:
    """Return keys with a fresh epoch of a collection; the same keys where a rotation of it is under way."""
    epochs = keys.record.epochs(collection_id)
    if len(epochs) > 1:
        return keys
    return keys.with_epoch(collection_id, keys.epoch(collection_id).epoch + 1)


def finish_epoch(keys: TenantKeys, collection_id: str) -> TenantKeys:
    """Return keys without all but the newest epoch of a collection; the same keys where there is one.

    Requires: nothing that is still needed is sealed under an older epoch.
    """
    newest = keys.epoch(collection_id).epoch
    kept = [root for root in keys.record.collections if root.collection_id != collection_id or root.epoch == newest]
    return keys if len(kept) == len(keys.record.collections) else keys.changed(collections=kept)
