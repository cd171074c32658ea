"""Authenticated encryption of everything that leaves for a store: texts, vectors, metadata, cells, manifests.

    magic "HFS1" | algorithm (1) | kind (1) | epoch (uint32) | salt (16) | nonce (12) | ciphertext and tag (16)

Big-endian. Each object has a key of its own: HKDF-Expand-SHA256 of the epoch's seal key, with algorithm, kind and the
object's random salt as labels. The associated data says where the object belongs: tenant, collection, epoch, kind, id,
version, part and number of parts; so an object opens in its own place and nowhere else, and cannot be cut short. That
it is the newest version of its place, no object can say of itself: that is what `manifest.py` is for.

Before sealing, the plaintext gets its length in front and zeros behind, up to a size of which there are few:
at least 256 bytes, then Padmé (at most 12 % more). The store learns kind, epoch and that size.

    sealer = Sealer(keys.epoch("vs_1"))
    sealed = sealer.seal(text, Place(Kind.TEXT, row_id, version))
    text = sealer.open(sealed, Place(Kind.TEXT, row_id, version))

Source: AES-256-GCM-SIV (RFC 8452), which survives a repeated nonce; AES-256-GCM (NIST SP 800-38D), six to nine times as
fast, for objects larger than 64 KiB; Padmé: Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and
Communication with PURBs" (arXiv 1806.03160), section 4.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESGCMSIV

from holdfast.errors import DecryptionError, InvalidInput
from holdfast.privacy.keys import DOMAIN, NONCE_SIZE, EpochKeys, length_prefixed

MAGIC = b"HFS1"
SALT_SIZE = 16
TAG_SIZE = 16
MIN_PADDED_SIZE = 256
BULK_SIZE = 64 * 2**10
"""padded plaintexts larger than this are sealed by AES-GCM"""
MAX_PART_SIZE = 16 * 2**20
"""`seal_parts` cuts there"""
MAX_PLAINTEXT_SIZE = 2**30

_HEADER = struct.Struct(f">4sBBI{SALT_SIZE}s{NONCE_SIZE}s")
_LENGTH = struct.Struct(">I")
_PLACE = struct.Struct(">QII")
OVERHEAD = _HEADER.size + TAG_SIZE
"""bytes of an object beyond its padded plaintext"""


class Algorithm(IntEnum):
    """What sealed an object."""

    AES_256_GCM_SIV = 1
    AES_256_GCM = 2


_CIPHERS: dict[int, type[AESGCM] | type[AESGCMSIV]] = {
    Algorithm.AES_256_GCM_SIV: AESGCMSIV,
    Algorithm.AES_256_GCM: AESGCM,
}


class Kind(IntEnum):
    """What an object is. The numbers are stored: new kinds get new numbers, and none is used again."""

    TEXT = 1
    """text of a passage"""
    VECTOR = 2
    """exact vector of a passage: see `vector_bytes.py`"""
    METADATA = 3
    """file name, page, attributes"""
    ROW = 4
    """text, vector and metadata of a passage in one object"""
    CELL = 5
    """rows of one cell of an encrypted index"""
    CENTROIDS = 6
    DELTA = 7
    """rows that are not in a cell yet"""
    LISTING = 8
    """one cell of an inventory: see `manifest.py`"""
    MANIFEST = 9
    CENTRE = 10
    """secret mean and other parameters of a comparison encoding"""
    UPLOAD = 11
    """a part of an uploaded file"""
    RESPONSE = 12
    """a stored answer, or an item of its input"""
    CODES = 13
    """codes of rows, with where the rows lie"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an object belongs. What is opened as another place does not open."""

    kind: Kind
    id: bytes
    """unique within the kind, such as an opaque row id"""
    version: int = 0
    """counts up whenever the content of the place changes"""
    part: int = 0
    num_parts: int = 1


class Sealer:
    """Seals and opens objects of one epoch of one collection. Safe to share between threads.

    Reveals: kind, epoch, and the padded size. Equal plaintexts give unrelated objects.
    Cost: 12 us, and 3 us a kilobyte by GCM-SIV; `python -m benchmarks sealing` measures.
    """

    def __init__(self, keys: EpochKeys) -> None:
        require_gcm_siv()
        self.epoch = keys.epoch
        self._hash = keys.seal.keyed_hash()
        self._context = length_prefixed(MAGIC, keys.tenant_id, keys.collection_id, keys.epoch.to_bytes(4, "big"))

    def seal(self, plaintext: bytes, place: Place) -> bytes:
        """Return `plaintext` as an object that opens at `place` only."""
        return self.seal_from_parts_for_testing(
            plaintext, place, secrets.token_bytes(SALT_SIZE), secrets.token_bytes(NONCE_SIZE)
        )

    def seal_from_parts_for_testing(self, plaintext: bytes, place: Place, salt: bytes, nonce: bytes) -> bytes:
        """`seal`, with the two random values given.

        Requires: a pair of salt and nonce that was never used before; `seal` draws one.
        """
        padded = _pad(plaintext)
        algorithm = Algorithm.AES_256_GCM if len(padded) > BULK_SIZE else Algorithm.AES_256_GCM_SIV
        header = _HEADER.pack(MAGIC, algorithm, place.kind, self.epoch, salt, nonce)
        cipher = self._cipher(algorithm, place.kind, salt)
        return header + cipher.encrypt(nonce, padded, self._associated_data(algorithm, place))

    def open(self, sealed: bytes, place: Place) -> bytes:
        """Return the plaintext.

        Raises: DecryptionError, always the same, whatever failed.
        """
        try:
            magic, number, kind, epoch, salt, nonce = _HEADER.unpack_from(sealed)
            if (magic, kind, epoch) != (MAGIC, place.kind, self.epoch):
                raise DecryptionError
            algorithm = Algorithm(number)
            cipher = self._cipher(algorithm, place.kind, salt)
            body = memoryview(sealed)[_HEADER.size :]
            return _unpad(cipher.decrypt(nonce, body, self._associated_data(algorithm, place)))
        except (InvalidTag, ValueError, struct.error):
            raise DecryptionError from None

    def seal_parts(self, plaintext: bytes, place: Place, part_size: int = MAX_PART_SIZE) -> list[bytes]:
        """Return `plaintext` as one object for each `part_size` bytes of it, at least one."""
        starts = range(0, max(len(plaintext), 1), part_size)
        return [
            self.seal(plaintext[start : start + part_size], replace(place, part=part, num_parts=len(starts)))
            for part, start in enumerate(starts)
        ]

    def open_parts(self, parts: Sequence[bytes], place: Place) -> bytes:
        """Return what `seal_parts` was given. Raises DecryptionError, also when parts are missing or out of order."""
        if not parts:
            raise DecryptionError
        places = [replace(place, part=part, num_parts=len(parts)) for part in range(len(parts))]
        return b"".join(map(self.open, parts, places))

    def _cipher(self, algorithm: Algorithm, kind: int, salt: bytes) -> AESGCM | AESGCMSIV:
        info = DOMAIN + length_prefixed(bytes((algorithm, kind)), salt)
        return _CIPHERS[algorithm](self._hash(info + b"\x01"))  # HKDF-Expand to one block

    def _associated_data(self, algorithm: Algorithm, place: Place) -> bytes:
        place_bytes = _PLACE.pack(place.version, place.part, place.num_parts)
        return self._context + length_prefixed(bytes((algorithm, place.kind)), place.id) + place_bytes


def sealed_size(plaintext_size: int) -> int:
    """Return how many bytes `seal` makes of so many."""
    return OVERHEAD + padded_size(_LENGTH.size + plaintext_size)


def padded_size(size: int) -> int:
    """Round a size up as Padmé does, to a number whose mantissa is no longer than its exponent; at least 256."""
    if size <= MIN_PADDED_SIZE:
        return MIN_PADDED_SIZE
    exponent = size.bit_length() - 1
    num_zero_bits = exponent - exponent.bit_length()
    return -(-size >> num_zero_bits) << num_zero_bits


def sealed_epoch(sealed: bytes) -> int:
    """Return the epoch an object claims, so that its keys can be found. Raises DecryptionError for other bytes."""
    if len(sealed) < OVERHEAD or sealed[: len(MAGIC)] != MAGIC:
        raise DecryptionError
    return int(_HEADER.unpack_from(sealed)[3])


def require_gcm_siv() -> None:
    """Raise InvalidInput when the installed `cryptography` has no AES-GCM-SIV, which needs OpenSSL 3.2 or newer."""
    try:
        AESGCMSIV(bytes(32))
    except UnsupportedAlgorithm as error:
        message = "sealing needs AES-GCM-SIV: install cryptography's own wheel (OpenSSL 3.2 or newer)"
        raise InvalidInput(message) from error


def _pad(plaintext: bytes) -> bytes:
    if len(plaintext) > MAX_PLAINTEXT_SIZE:
        raise InvalidInput(f"an object holds at most {MAX_PLAINTEXT_SIZE} bytes, not {len(plaintext)}: use seal_parts")
    size = _LENGTH.size + len(plaintext)
    return b"".join((_LENGTH.pack(len(plaintext)), plaintext, bytes(padded_size(size) - size)))


def _unpad(padded: bytes) -> bytes:
    [length] = _LENGTH.unpack_from(padded)
    if padded_size(_LENGTH.size + length) != len(padded):
        raise DecryptionError
    return padded[_LENGTH.size : _LENGTH.size + length]
