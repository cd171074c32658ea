"""Key material: what it is derived from, how it is wrapped, and that it never prints.

    key encryption key      stays with its provider (`key_providers.py` and its neighbours)
    └── tenant root         random; wrapped by the provider
        ├── manifest key    derived; signs the manifests of all collections of the tenant
        └── collection root random, one per epoch; wrapped by the tenant root
            └── derived     seal, vectors, rows, tokens of one filter field

A `KeyRecord` is all wrapped keys of one tenant: plain data without secrets, which the caller stores as a whole, one
revision replacing another by compare-and-swap. It belongs on the trusted side: whoever destroys a wrapped root has
destroyed all that was sealed under it, and whoever kept a copy has not. `TenantKeys` is a record with its roots
opened; every change returns new `TenantKeys`, whose record the caller stores before relying on it:

    keys = make_tenant("acme", providers)          # providers: the last wraps, all unwrap
    keys = keys.with_collection("vs_1")            # then store keys.record
    keys = open_tenant(record, providers)
    keys.epoch("vs_1")                             # EpochKeys, given to `seal.Sealer` and the encodings

How each level is rotated: `key_rotation.py`. Derivation is HKDF-SHA256 (RFC 5869) with length-prefixed labels; wrapping
is AES-256-GCM-SIV (RFC 8452), with what the key is for as associated data.
"""

from __future__ import annotations

import base64
import hmac
import secrets
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NoReturn, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from holdfast.errors import Conflict, DecryptionError, InvalidInput, KeyUnavailable, NotFound

KEY_SIZE = 32
NONCE_SIZE = 12
DOMAIN = b"holdfast/v1"
"""in front of every label"""
_U64 = struct.Struct(">Q")


def length_prefixed(*parts: bytes | str) -> bytes:
    """Return each part after its length as a big-endian uint32, so that no two lists of parts give the same bytes."""
    encoded = [part.encode() if isinstance(part, str) else part for part in parts]
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


class SecretKey:
    """32 secret bytes. It cannot be printed, formatted, pickled or copied, and compares in constant time."""

    __slots__ = ("_material",)

    def __init__(self, material: bytes) -> None:
        size, self._material = len(material), bytes(material)
        if size != KEY_SIZE:
            self._material = material = b""  # a traceback may show what a frame holds
            raise InvalidInput(f"a key is {KEY_SIZE} bytes, not {size}", param="key")

    @classmethod
    def generate(cls) -> SecretKey:
        """Return a key from the operating system's generator."""
        return cls(secrets.token_bytes(KEY_SIZE))

    @property
    def key_id(self) -> str:
        """Its public name: 16 hexadecimal digits that tell keys apart and reveal nothing else."""
        return self.derive("key id").reveal()[:8].hex()

    def derive(self, *labels: bytes | str) -> SecretKey:
        """Return the key for one purpose; the labels `("a", "b")` and `("ab",)` give unrelated keys. Cost: 5 us."""
        info = DOMAIN + length_prefixed(*labels)
        return SecretKey(HKDF(SHA256(), KEY_SIZE, None, info).derive(self._material))

    def keyed_hash(self) -> Callable[[bytes], bytes]:
        """Return HMAC-SHA256 under this key, set up once for many calls. Cost: 1 us a call, safe between threads."""
        prepared = HMAC(self._material, SHA256())

        def digest(data: bytes) -> bytes:
            state = prepared.copy()
            state.update(data)
            return state.finalize()

        return digest

    def reveal(self) -> bytes:
        """Return the bytes, for the constructor of a cipher: pass them on at once, and bind them to no name."""
        return self._material

    def __repr__(self) -> str:
        return "SecretKey(hidden)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretKey) and hmac.compare_digest(self._material, other._material)

    __hash__ = None  # type: ignore[assignment]

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a SecretKey cannot be copied or pickled")


class KeyProvider(Protocol):
    """Whoever holds a key encryption key. Called with the tenant's lock held, once per tenant root that is opened."""

    @property
    def key_id(self) -> str:
        """Public name of the key encryption key; stored beside what it wraps."""

    def wrap(self, key: SecretKey, associated_data: bytes) -> bytes:
        """Encrypt a key. Raises KeyUnavailable."""

    def unwrap(self, wrapped: bytes, associated_data: bytes) -> SecretKey:
        """Decrypt what `wrap` gave. Raises DecryptionError for other bytes or data, KeyUnavailable for no answer."""


def wrap_key(wrapping_key: SecretKey, key: SecretKey, associated_data: bytes) -> bytes:
    """Return nonce, ciphertext and tag: 60 bytes."""
    nonce = secrets.token_bytes(NONCE_SIZE)
    cipher = AESGCMSIV(wrapping_key.derive("wrap").reveal())
    return nonce + cipher.encrypt(nonce, key.reveal(), associated_data)


def unwrap_key(wrapping_key: SecretKey, wrapped: bytes, associated_data: bytes) -> SecretKey:
    """Return the key that `wrap_key` was given. Raises DecryptionError, whatever failed."""
    cipher = AESGCMSIV(wrapping_key.derive("wrap").reveal())
    try:
        return SecretKey(cipher.decrypt(wrapped[:NONCE_SIZE], wrapped[NONCE_SIZE:], associated_data))
    except (InvalidTag, InvalidInput, ValueError):
        raise DecryptionError from None


@dataclass(frozen=True, slots=True)
class TenantRoot:
    """A wrapped tenant root."""

    version: int
    """counts up from 1 with each rotation of the root"""
    wrapped_by: str
    """`key_id` of the provider"""
    wrapped: bytes

    def associated_data(self, tenant_id: str) -> bytes:
        return length_prefixed("tenant root", tenant_id, _U64.pack(self.version))


@dataclass(frozen=True, slots=True)
class CollectionRoot:
    """A wrapped collection root: the key of one epoch of one collection."""

    collection_id: str
    epoch: int
    """counts up from 1 with each rotation of the collection; never used again"""
    wrapped_by: int
    """`version` of the tenant root"""
    wrapped: bytes

    def associated_data(self, tenant_id: str) -> bytes:
        return length_prefixed(
            "collection root", tenant_id, _U64.pack(self.wrapped_by), self.collection_id, _U64.pack(self.epoch)
        )


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """All wrapped keys of one tenant, as plain data. Nothing in it is secret, and all of it is needed."""

    tenant_id: str
    revision: int
    """counts up with each change; the caller stores a record only in place of the one it was made from"""
    roots: tuple[TenantRoot, ...]
    """by version; two while one replaces the other"""
    collections: tuple[CollectionRoot, ...] = ()
    """by collection and epoch; two epochs of a collection while one replaces the other"""
    unsigned: tuple[str, ...] = ()
    """collections whose manifest is yet to be signed with the newest root"""

    def epochs(self, collection_id: str) -> list[int]:
        """Return the epochs of a collection, the newest last."""
        return [root.epoch for root in self.collections if root.collection_id == collection_id]

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON can hold it."""
        return {
            "tenant_id": self.tenant_id,
            "revision": self.revision,
            "roots": [[root.version, root.wrapped_by, _to_text(root.wrapped)] for root in self.roots],
            "collections": [
                [root.collection_id, root.epoch, root.wrapped_by, _to_text(root.wrapped)] for root in self.collections
            ],
            "unsigned": list(self.unsigned),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> KeyRecord:
        """Return the record that `to_dict` was called on."""
        return cls(
            tenant_id=data["tenant_id"],
            revision=data["revision"],
            roots=tuple(TenantRoot(version, by, _from_text(text)) for version, by, text in data["roots"]),
            collections=tuple(
                CollectionRoot(collection_id, epoch, by, _from_text(text))
                for collection_id, epoch, by, text in data["collections"]
            ),
            unsigned=tuple(data["unsigned"]),
        )


class EpochKeys:
    """The keys of one epoch of one collection. They are derived when first used."""

    def __init__(self, tenant_id: str, collection_id: str, epoch: int, root: SecretKey) -> None:
        self.tenant_id = tenant_id
        self.collection_id = collection_id
        self.epoch = epoch
        self._root = root

    @cached_property
    def seal(self) -> SecretKey:
        """Texts, vectors, metadata: see `seal.py`."""
        return self._root.derive("seal")

    @cached_property
    def vectors(self) -> SecretKey:
        """Everything secret about comparison encodings."""
        return self._root.derive("vectors")

    @cached_property
    def rows(self) -> SecretKey:
        """Opaque row ids."""
        return self._root.derive("rows")

    def tokens(self, field: str) -> SecretKey:
        """Equality tokens of one filter field."""
        return self._root.derive("tokens", field)

    def __repr__(self) -> str:
        return f"EpochKeys({self.tenant_id!r}, {self.collection_id!r}, epoch={self.epoch})"


@dataclass(frozen=True, slots=True)
class TenantKeys:
    """A record with its tenant roots opened. Changes return new keys; what counts is the record the caller stored."""

    record: KeyRecord
    roots: Mapping[int, SecretKey] = field(repr=False)
    """the opened tenant roots, by version"""

    @property
    def root_version(self) -> int:
        """Version of the newest tenant root, under which everything new is wrapped and signed."""
        return self.record.roots[-1].version

    def manifest_key(self, root_version: int | None = None) -> SecretKey:
        """Return the key that signs manifests, of the newest tenant root or of the version a manifest names."""
        root = self.roots.get(self.root_version if root_version is None else root_version)
        if root is None:
            raise KeyUnavailable(f"tenant root {root_version} of {self.record.tenant_id} is gone")
        return root.derive("manifest")

    def with_collection(self, collection_id: str) -> TenantKeys:
        """Return keys that have epoch 1 of a new collection. Raises Conflict when it is there already."""
        if self.record.epochs(collection_id):
            raise Conflict(f"collection {collection_id} has keys already")
        return self.with_epoch(collection_id, 1)

    def with_epoch(self, collection_id: str, epoch: int) -> TenantKeys:
        """Return keys with one more, freshly generated collection root."""
        version = self.root_version
        unwrapped = CollectionRoot(collection_id, epoch, version, b"")
        wrapped = wrap_key(self.roots[version], SecretKey.generate(), unwrapped.associated_data(self.record.tenant_id))
        collections = [*self.record.collections, replace(unwrapped, wrapped=wrapped)]
        return self.changed(collections=collections)

    def without_collection(self, collection_id: str) -> TenantKeys:
        """Return keys that can no longer open anything of a collection: crypto-shredding.

        It is as good as the destruction of the wrapped roots: old copies of the record have to go as well.
        """
        return self.changed(collections=[r for r in self.record.collections if r.collection_id != collection_id])

    def epoch(self, collection_id: str, epoch: int | None = None) -> EpochKeys:
        """Return the keys of an epoch, the newest unless said. Raises NotFound when it was shredded or never was."""
        epochs = self.record.epochs(collection_id)
        wanted = epochs[-1] if epochs and epoch is None else epoch
        if wanted not in epochs:
            raise NotFound(f"no keys of collection {collection_id}, epoch {wanted}")
        return EpochKeys(self.record.tenant_id, collection_id, wanted, self._open(collection_id, wanted))

    def changed(
        self,
        *,
        roots: Sequence[TenantRoot] | None = None,
        collections: Sequence[CollectionRoot] | None = None,
        unsigned: Sequence[str] | None = None,
        opened: Mapping[int, SecretKey] | None = None,
    ) -> TenantKeys:
        """Return keys whose record is the next revision of this one."""
        record = self.record
        collections = record.collections if collections is None else collections
        present = {root.collection_id for root in collections}
        unsigned = record.unsigned if unsigned is None else unsigned
        changed = KeyRecord(
            tenant_id=record.tenant_id,
            revision=record.revision + 1,
            roots=record.roots if roots is None else tuple(roots),
            collections=tuple(sorted(collections, key=lambda root: (root.collection_id, root.epoch))),
            unsigned=tuple(collection_id for collection_id in unsigned if collection_id in present),
        )
        return TenantKeys(changed, self.roots if opened is None else opened)

    def _open(self, collection_id: str, epoch: int) -> SecretKey:
        [root] = [r for r in self.record.collections if (r.collection_id, r.epoch) == (collection_id, epoch)]
        return unwrap_key(self.roots[root.wrapped_by], root.wrapped, root.associated_data(self.record.tenant_id))


def make_tenant(tenant_id: str, providers: Sequence[KeyProvider]) -> TenantKeys:
    """Return keys of a new tenant without collections; its root is wrapped by the last provider."""
    key = SecretKey.generate()
    root = wrap_root(tenant_id, 1, key, providers[-1])
    return TenantKeys(KeyRecord(tenant_id, 1, (root,)), {1: key})


def wrap_root(tenant_id: str, version: int, key: SecretKey, provider: KeyProvider) -> TenantRoot:
    """Return `key` as a tenant root wrapped by `provider`."""
    root = TenantRoot(version, provider.key_id, b"")
    return replace(root, wrapped=provider.wrap(key, root.associated_data(tenant_id)))


def open_tenant(record: KeyRecord, providers: Sequence[KeyProvider]) -> TenantKeys:
    """Return the keys of a stored record. Cost: one call of a provider per tenant root.

    Raises:
        KeyUnavailable: no provider has the key that wrapped a root, or it gives no answer.
        DecryptionError: the record was altered, or is another tenant's.
    """
    by_id = {provider.key_id: provider for provider in providers}
    opened = {}
    for root in record.roots:
        if root.wrapped_by not in by_id:
            raise KeyUnavailable(f"tenant {record.tenant_id} needs key {root.wrapped_by}, which no key provider has")
        opened[root.version] = by_id[root.wrapped_by].unwrap(root.wrapped, root.associated_data(record.tenant_id))
    return TenantKeys(record, opened)


def _to_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _from_text(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
