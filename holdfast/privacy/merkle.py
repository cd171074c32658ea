"""Merkle tree hashes as Certificate Transparency defines them: one digest for a list, whose order and length it fixes.

A leaf is hashed with a zero byte in front and a pair of digests with a one, so that neither passes for the other.

Source: RFC 6962, section 2.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

DIGEST_SIZE = 32
EMPTY_ROOT = sha256().digest()


def leaf_hash(data: bytes) -> bytes:
    """Return the digest of one entry of the list."""
    return sha256(b"\x00" + data).digest()


def merkle_root(leaves: Iterable[bytes]) -> bytes:
    """Return the digest of a list of `leaf_hash`es. Cost: one SHA-256 for each leaf.

    Level by level, an odd digest at the end moving up as it is: that gives the tree of the RFC, which splits each list
    at the largest power of two below its length.
    """
    level = list(leaves)
    if not level:
        return EMPTY_ROOT
    while len(level) > 1:
        pairs = [sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(pairs) * 2 :]
    return level[0]
