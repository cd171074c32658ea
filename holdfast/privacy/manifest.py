"""The signed sequence of what a store must hold: one manifest after another, each naming the one before it.

    magic "HFM1" | signature algorithm (1) | tenant root version (uint32) | epoch (uint32) | sequence (uint64)
    | digest of the previous manifest (32) | Merkle root over the cells (32) | sealed body | signature

The body lists the cells with the roots of their rows (`inventory.py`) and is sealed under the epoch; the signature is
made with a key of the tenant root over all that precedes. HMAC-SHA256 is for those who share the key; Ed25519 (RFC
8032) lets others verify the sequence who may neither write nor read (`verify_with_public_key`).

A manifest shows a store that swaps, alters, drops or invents rows. It cannot show by itself that it is the newest one:
for that the reader keeps the `Anchor` of the last manifest it saw, durably, and `open_manifest` refuses what is older
(`rolled_back`) or of another history (`forked`). A reader without an anchor accepts any genuine manifest.

Writing is compare-and-swap, by the caller: the manifest made by `successor` is stored in place of the one it was made
from or, when that is no longer there, not at all; then everything is read and done anew.
"""

from __future__ import annotations

import hmac
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from holdfast.errors import DecryptionError, TamperError
from holdfast.privacy.inventory import Cell
from holdfast.privacy.keys import SecretKey, TenantKeys, length_prefixed
from holdfast.privacy.merkle import DIGEST_SIZE, leaf_hash, merkle_root
from holdfast.privacy.seal import Kind, Place, Sealer

MAGIC = b"HFM1"
_HEADER = struct.Struct(f">4sBIIQ{DIGEST_SIZE}s{DIGEST_SIZE}s")
_CELL = struct.Struct(f">IQQ{DIGEST_SIZE}s")


class Signature(IntEnum):
    """What signs a manifest."""

    HMAC_SHA256 = 1
    ED25519 = 2


_SIGNATURE_SIZE: dict[int, int] = {Signature.HMAC_SHA256: 32, Signature.ED25519: 64}


@dataclass(frozen=True, slots=True)
class Anchor:
    """What a reader keeps of the last manifest it saw: enough to refuse an older or another one."""

    sequence: int
    digest: bytes
    """SHA-256 of the manifest as stored"""


GENESIS = Anchor(0, bytes(DIGEST_SIZE))
"""what the first manifest follows"""


@dataclass(frozen=True, slots=True)
class CellRoot:
    """What a manifest says of one cell."""

    epoch: int
    """under which its rows are sealed"""
    num_rows: int
    listed_at: int
    """sequence of the manifest with which the cell last changed; version of its stored listing"""
    root: bytes

    def leaf(self, name: str) -> bytes:
        """Return the leaf of the cell in the tree over all cells."""
        return leaf_hash(length_prefixed(name) + _CELL.pack(self.epoch, self.num_rows, self.listed_at, self.root))


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a collection holds at one point of its history."""

    collection_id: str
    epoch: int
    """under which the manifest itself is sealed"""
    sequence: int
    previous: bytes
    """digest of the manifest before it"""
    cells: Mapping[str, CellRoot]
    writer_id: str
    time_s: int
    """seconds since 1970, by the writer's clock; nothing is decided by it"""
    settings_digest: str = ""
    """fingerprint of the collection's settings, whatever the caller makes of them"""
    cursor: str = ""
    """how far an epoch rotation has come, in the caller's terms"""

    @property
    def num_rows(self) -> int:
        """Rows in all cells."""
        return sum(cell.num_rows for cell in self.cells.values())

    def root(self) -> bytes:
        """Return the Merkle root over the cells, in the order of their names."""
        return merkle_root(self.cells[name].leaf(name) for name in sorted(self.cells))

    def successor(self, anchor: Anchor, changed: Mapping[str, Cell | None], *, writer_id: str, time_s: int) -> Manifest:
        """Return the manifest after this one.

        Args:
            anchor: of this manifest, as `open_manifest` returned it.
            changed: cells that changed, as they are now; None for a cell that is gone.
            writer_id: who writes.
            time_s: now.
        """
        assert anchor.sequence == self.sequence
        cells = {name: root for name, root in self.cells.items() if name not in changed}
        for name, cell in changed.items():
            if cell is not None:
                cells[name] = CellRoot(cell.epoch, len(cell), self.sequence + 1, cell.root())
        return replace(
            self,
            sequence=self.sequence + 1,
            previous=anchor.digest,
            cells=cells,
            writer_id=writer_id,
            time_s=time_s,
        )

    def check_listing(self, name: str, data: bytes) -> Cell:
        """Return the inventory of a cell from its opened listing. Raises TamperError unless it is the newest."""
        expected = self.cells[name]
        cell = Cell.from_bytes(expected.epoch, data)
        if (len(cell), cell.root()) != (expected.num_rows, expected.root):
            raise TamperError(f"the listing of cell {name} is not the one the manifest signs", code="replayed")
        return cell


@dataclass(frozen=True, slots=True)
class Header:
    """What anyone can read of a manifest."""

    signature: Signature
    root_version: int
    epoch: int
    sequence: int
    previous: bytes
    root: bytes


def first_manifest(collection_id: str, epoch: int, *, writer_id: str, time_s: int) -> Manifest:
    """Return the first manifest of a collection that holds nothing."""
    return Manifest(collection_id, epoch, 1, GENESIS.digest, {}, writer_id, time_s)


def seal_manifest(
    manifest: Manifest, keys: TenantKeys, signature: Signature = Signature.HMAC_SHA256
) -> tuple[bytes, Anchor]:
    """Return the manifest as it is stored, and its anchor, to be kept once the store has accepted it.

    Reveals: how often the collection changed, its epoch, the tenant root's version, and the padded size of the cells.
    """
    root_version = keys.root_version
    header = _HEADER.pack(
        MAGIC, signature, root_version, manifest.epoch, manifest.sequence, manifest.previous, manifest.root()
    )
    body = {
        "cells": {name: [c.epoch, c.num_rows, c.listed_at, c.root.hex()] for name, c in manifest.cells.items()},
        "writer_id": manifest.writer_id,
        "time_s": manifest.time_s,
        "settings_digest": manifest.settings_digest,
        "cursor": manifest.cursor,
    }
    plaintext = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    sealer = Sealer(keys.epoch(manifest.collection_id, manifest.epoch))
    signed = header + sealer.seal(plaintext, Place(Kind.MANIFEST, b"", manifest.sequence))
    context = _context(keys.record.tenant_id, manifest.collection_id)
    data = signed + _sign(context + signed, signature, keys.manifest_key(root_version))
    return data, Anchor(manifest.sequence, sha256(data).digest())


def open_manifest(
    data: bytes,
    keys: TenantKeys,
    collection_id: str,
    anchor: Anchor | None = None,
    history: Callable[[int], bytes] | None = None,
) -> tuple[Manifest, Anchor]:
    """Return a stored manifest, verified, and the anchor to keep from now on.

    Args:
        data: as the store returned it.
        keys: of the tenant.
        collection_id: whose manifest it must be.
        anchor: of the last manifest seen; without it, rollback and forks cannot be noticed.
        history: returns the stored manifest of a sequence number; asked for those between `anchor` and this one.

    Raises: TamperError `forged`, `rolled_back` or `forked`.
    """
    header = read_header(data)
    if header.root_version < min(keys.roots):
        raise TamperError("the manifest is signed with a tenant root that was replaced", code="rolled_back")
    if header.root_version not in keys.roots:
        raise _forged()
    signed, signature = _split(data, header.signature)
    message = _context(keys.record.tenant_id, collection_id) + signed
    if not _verify(message, signature, header.signature, keys.manifest_key(header.root_version)):
        raise _forged()
    check_history(data, header, anchor, history)
    if header.epoch not in keys.record.epochs(collection_id):
        raise TamperError(f"the manifest is of epoch {header.epoch}, which is over", code="rolled_back")
    sealer = Sealer(keys.epoch(collection_id, header.epoch))
    try:
        plaintext = sealer.open(signed[_HEADER.size :], Place(Kind.MANIFEST, b"", header.sequence))
    except DecryptionError:
        raise _forged() from None
    body = json.loads(plaintext)
    body["cells"] = {
        name: CellRoot(epoch, num_rows, listed_at, bytes.fromhex(root))
        for name, (epoch, num_rows, listed_at, root) in body["cells"].items()
    }
    manifest = Manifest(collection_id, header.epoch, header.sequence, header.previous, **body)
    if manifest.root() != header.root:
        raise _forged()
    return manifest, Anchor(header.sequence, sha256(data).digest())


def check_history(
    data: bytes, header: Header, anchor: Anchor | None, history: Callable[[int], bytes] | None = None
) -> None:
    """Raise TamperError unless a genuine manifest is the one of `anchor` or descends from it.

    Going back from `data`, each manifest names the digest of the one before, so those between need no signature.
    """
    if anchor is None:
        return
    if header.sequence < anchor.sequence:
        message = f"the store returns manifest {header.sequence}, and {anchor.sequence} was seen already"
        raise TamperError(message, code="rolled_back")
    if header.sequence == anchor.sequence:
        digest = sha256(data).digest()
    else:
        digest = header.previous
        for sequence in range(header.sequence - 1, anchor.sequence, -1):
            between = history(sequence) if history is not None else b""
            if sha256(between).digest() != digest:
                raise _forked(anchor, sequence)
            digest = read_header(between).previous
    if digest != anchor.digest:
        raise _forked(anchor, header.sequence)


def read_header(data: bytes) -> Header:
    """Return what stands in clear at the front of a manifest, unverified. Raises TamperError `forged`."""
    try:
        magic, signature, root_version, epoch, sequence, previous, root = _HEADER.unpack_from(data)
        if magic != MAGIC:
            raise _forged()
        return Header(Signature(signature), root_version, epoch, sequence, previous, root)
    except (ValueError, struct.error):
        raise _forged() from None


def public_key(keys: TenantKeys, root_version: int | None = None) -> bytes:
    """Return the 32 bytes with which others verify manifests that are signed by Ed25519."""
    return _ed25519(keys.manifest_key(root_version)).public_key().public_bytes_raw()


def verify_with_public_key(data: bytes, tenant_id: str, collection_id: str, public_key: bytes) -> Header:
    """Return the header of a manifest that is signed by Ed25519; no secret is needed. Raises TamperError `forged`."""
    header = read_header(data)
    if header.signature is not Signature.ED25519:
        raise _forged()
    signed, signature = _split(data, header.signature)
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, _context(tenant_id, collection_id) + signed)
    except InvalidSignature:
        raise _forged() from None
    return header


def _context(tenant_id: str, collection_id: str) -> bytes:
    return length_prefixed("manifest", tenant_id, collection_id)


def _split(data: bytes, signature: Signature) -> tuple[bytes, bytes]:
    size = _SIGNATURE_SIZE[signature]
    return data[:-size], data[-size:]


def _sign(message: bytes, signature: Signature, key: SecretKey) -> bytes:
    if signature is Signature.ED25519:
        return _ed25519(key).sign(message)
    return hmac.digest(key.derive("hmac").reveal(), message, "sha256")


def _verify(message: bytes, given: bytes, signature: Signature, key: SecretKey) -> bool:
    # Ed25519 signatures are deterministic, so that signing again and comparing verifies: by those who hold the key.
    return hmac.compare_digest(given, _sign(message, signature, key))


def _ed25519(key: SecretKey) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(key.derive("ed25519").reveal())


def _forged() -> TamperError:
    return TamperError("the manifest is not signed with this collection's key, or was altered", code="forged")


def _forked(anchor: Anchor, sequence: int) -> TamperError:
    message = f"manifest {sequence} does not descend from manifest {anchor.sequence} as it was seen"
    return TamperError(message, code="forked")
