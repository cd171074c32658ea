"""Merkle tree hashes, against the definition of RFC 6962 and the published example of Certificate Transparency."""

from __future__ import annotations

from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from holdfast.privacy.merkle import EMPTY_ROOT, leaf_hash, merkle_root

LEAVES = [bytes.fromhex(leaf) for leaf in [
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
]]  # fmt: skip
ROOTS = {
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}


def reference(entries: list[bytes]) -> bytes:
    """Section 2.1, as it is written there."""
    if not entries:
        return sha256(b"").digest()
    if len(entries) == 1:
        return sha256(b"\x00" + entries[0]).digest()
    split = 1
    while split * 2 < len(entries):
        split *= 2
    return sha256(b"\x01" + reference(entries[:split]) + reference(entries[split:])).digest()


def test_the_published_example() -> None:
    for size, root in ROOTS.items():
        assert merkle_root(map(leaf_hash, LEAVES[:size])).hex() == root


@given(st.lists(st.binary(max_size=4), max_size=70))
def test_it_is_the_tree_of_the_rfc(entries: list[bytes]) -> None:
    assert merkle_root(map(leaf_hash, entries)) == reference(entries)


def test_nothing_has_a_root() -> None:
    assert merkle_root([]) == EMPTY_ROOT


@given(st.lists(st.binary(max_size=3), max_size=9), st.lists(st.binary(max_size=3), max_size=9))
def test_different_lists_have_different_roots(left: list[bytes], right: list[bytes]) -> None:
    assert (merkle_root(map(leaf_hash, left)) == merkle_root(map(leaf_hash, right))) == (left == right)


def test_a_pair_of_digests_does_not_pass_for_a_leaf() -> None:
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert merkle_root([left, right]) != leaf_hash(left + right)
