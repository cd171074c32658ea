"""Sealing: the object format against an independent writing of it, known answers, and damage of every kind."""

from __future__ import annotations

import hmac
import json
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESGCMSIV
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import DecryptionError, InvalidInput
from holdfast.privacy import seal
from holdfast.privacy.keys import EpochKeys, SecretKey
from holdfast.privacy.seal import (
    BULK_SIZE,
    MAGIC,
    MAX_PLAINTEXT_SIZE,
    OVERHEAD,
    Algorithm,
    Kind,
    Place,
    Sealer,
    padded_size,
    require_gcm_siv,
    sealed_epoch,
    sealed_size,
)

ROOT_KEY = SecretKey(bytes(range(32)))
KEYS = EpochKeys("acme", "vs_1", 3, ROOT_KEY)
SEALER = Sealer(KEYS)
PLACE = Place(Kind.TEXT, b"0123456789abcdef", version=7, part=1, num_parts=3)
VECTORS = json.loads((Path(__file__).parent / "vectors" / "seal.json").read_text(encoding="utf-8"))


def prefixed(*parts: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def reference_hkdf(material: bytes, *labels: bytes) -> bytes:
    extracted = hmac.digest(bytes(32), material, "sha256")
    return hmac.digest(extracted, b"holdfast/v1" + prefixed(*labels) + b"\x01", "sha256")


def reference_expand(material: bytes, *labels: bytes) -> bytes:
    return hmac.digest(material, b"holdfast/v1" + prefixed(*labels) + b"\x01", "sha256")


def reference_seal(root: bytes, where: dict[str, Any], plaintext: bytes, salt: bytes, nonce: bytes) -> bytes:
    """The object format, written down a second time from its description."""
    content = struct.pack(">I", len(plaintext)) + plaintext
    size = max(256, len(content))
    if size > 256:  # Padmé, in its authors' words
        exponent = size.bit_length() - 1
        last_bits = exponent - exponent.bit_length()
        mask = (1 << last_bits) - 1
        size = (size + mask) & ~mask
    content += bytes(size - len(content))
    algorithm = 2 if size > 65536 else 1
    key = reference_expand(reference_hkdf(root, b"seal"), bytes([algorithm, where["kind"]]), salt)
    data = prefixed(b"HFS1", where["tenant"].encode(), where["collection"].encode(), struct.pack(">I", where["epoch"]))
    data += prefixed(bytes([algorithm, where["kind"]]), bytes.fromhex(where["id"]))
    data += struct.pack(">QII", where["version"], where["part"], where["num_parts"])
    cipher = (AESGCM if algorithm == 2 else AESGCMSIV)(key)
    header = b"HFS1" + struct.pack(">BBI", algorithm, where["kind"], where["epoch"]) + salt + nonce
    return header + cipher.encrypt(nonce, content, data)


def case(vector: dict[str, Any]) -> tuple[Sealer, Place]:
    where = vector["where"]
    keys = EpochKeys(where["tenant"], where["collection"], where["epoch"], SecretKey(bytes.fromhex(vector["root"])))
    place = Place(Kind(where["kind"]), bytes.fromhex(where["id"]), where["version"], where["part"], where["num_parts"])
    return Sealer(keys), place


def plaintext_of(vector: dict[str, Any]) -> bytes:
    return bytes.fromhex(vector["plaintext"]) * vector["repeated"]


class TestKnownAnswers:
    @pytest.mark.parametrize("vector", VECTORS["good"], ids=lambda vector: vector["why"])
    def test_good(self, vector: dict[str, Any]) -> None:
        sealer, place = case(vector)
        salt, nonce = bytes.fromhex(vector["salt"]), bytes.fromhex(vector["nonce"])
        plaintext = plaintext_of(vector)
        sealed = sealer.seal_from_parts_for_testing(plaintext, place, salt, nonce)
        assert sealed == reference_seal(bytes.fromhex(vector["root"]), vector["where"], plaintext, salt, nonce)
        if "sealed" in vector:
            assert sealed.hex() == vector["sealed"]
        assert hmac.digest(b"", sealed, "sha256").hex() == vector["fingerprint"]
        assert sealer.open(sealed, place) == plaintext

    @pytest.mark.parametrize("vector", VECTORS["bad"], ids=lambda vector: vector["why"])
    def test_bad(self, vector: dict[str, Any]) -> None:
        sealer, place = case(vector)
        with pytest.raises(DecryptionError):
            sealer.open(bytes.fromhex(vector["sealed"]), place)

    def test_each_kind_of_vector_is_there(self) -> None:
        assert len(VECTORS["good"]) >= 8
        assert len(VECTORS["bad"]) >= 15


class TestRoundTrip:
    @given(st.binary(max_size=2000), st.sampled_from(Kind), st.binary(max_size=40), st.integers(0, 2**64 - 1))
    def test_what_is_sealed_opens(self, plaintext: bytes, kind: Kind, object_id: bytes, version: int) -> None:
        place = Place(kind, object_id, version)
        sealed = SEALER.seal(plaintext, place)
        assert SEALER.open(sealed, place) == plaintext
        assert len(sealed) == sealed_size(len(plaintext))
        assert sealed_epoch(sealed) == 3

    @pytest.mark.parametrize("size", [0, 1, 252, 253, BULK_SIZE - 4, BULK_SIZE - 3, 10**6])
    def test_at_the_bounds_of_padding_and_algorithm(self, size: int) -> None:
        plaintext = bytes(size)
        sealed = SEALER.seal(plaintext, PLACE)
        assert SEALER.open(sealed, PLACE) == plaintext
        bulk = padded_size(size + 4) > BULK_SIZE
        assert sealed[4] == (Algorithm.AES_256_GCM if bulk else Algorithm.AES_256_GCM_SIV)
        assert bulk == (size > BULK_SIZE - 4)

    def test_any_bytes_like_object_opens(self) -> None:
        sealed = SEALER.seal(b"text", PLACE)
        assert SEALER.open(bytearray(sealed), PLACE) == SEALER.open(memoryview(sealed), PLACE) == b"text"

    def test_equal_plaintexts_give_unrelated_objects(self) -> None:
        sealed = {SEALER.seal(b"same", PLACE) for _ in range(50)}
        for part in (slice(10, 26), slice(26, 38), slice(38, 54), slice(-16, None)):
            assert len({one[part] for one in sealed}) == 50

    def test_a_sealer_is_shared_by_threads(self) -> None:
        def seal_and_open(number: int) -> bool:
            place = replace(PLACE, version=number)
            return SEALER.open(SEALER.seal(b"%d" % number * 999, place), place) == b"%d" % number * 999

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(seal_and_open, range(400)))

    @pytest.mark.parametrize(("size", "num_parts"), [(0, 1), (10, 1), (11, 2), (20, 2), (105, 11)])
    def test_parts(self, size: int, num_parts: int) -> None:
        plaintext = bytes(i % 251 for i in range(size))
        parts = SEALER.seal_parts(plaintext, Place(Kind.CELL, b"cell"), part_size=10)
        assert len(parts) == num_parts
        assert SEALER.open_parts(parts, Place(Kind.CELL, b"cell")) == plaintext

    def test_too_large_an_object_is_refused(self) -> None:
        class Huge(bytes):
            def __len__(self) -> int:
                return MAX_PLAINTEXT_SIZE + 1

        with pytest.raises(InvalidInput, match="seal_parts"):
            SEALER.seal(Huge(), PLACE)

    def test_the_installed_cryptography_has_gcm_siv(self, monkeypatch: pytest.MonkeyPatch) -> None:
        require_gcm_siv()

        def refuse(key: bytes) -> None:
            raise UnsupportedAlgorithm("as an old OpenSSL says")

        monkeypatch.setattr(seal, "AESGCMSIV", refuse)
        with pytest.raises(InvalidInput, match=r"OpenSSL 3\.2"):
            Sealer(KEYS)


class TestDamage:
    @pytest.mark.parametrize("size", [0, 300])
    def test_every_flipped_bit_raises_the_one_error(self, size: int) -> None:
        sealed = SEALER.seal(bytes(size), PLACE)
        messages = set()
        for place in range(len(sealed)):
            for bit in range(8):
                damaged = bytearray(sealed)
                damaged[place] ^= 1 << bit
                with pytest.raises(DecryptionError) as error:
                    SEALER.open(bytes(damaged), PLACE)
                messages.add((str(error.value), error.value.code, error.value.__cause__))
        assert len(messages) == 1

    @given(st.data())
    def test_flipped_bits_of_bulk_objects_raise_it(self, data: st.DataObject) -> None:
        sealed = bytearray(BULK)
        for bit in data.draw(st.sets(st.integers(0, 8 * len(BULK) - 1), min_size=1, max_size=5)):
            sealed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DecryptionError):
            SEALER.open(bytes(sealed), PLACE)

    def test_every_cut_and_any_extension_raises_it(self) -> None:
        sealed = SEALER.seal(b"text", PLACE)
        for damaged in [sealed[:size] for size in range(len(sealed))] + [sealed + b"\0", b"\0" + sealed, sealed[1:]]:
            with pytest.raises(DecryptionError):
                SEALER.open(damaged, PLACE)

    @pytest.mark.parametrize(
        "change",
        [
            {"kind": Kind.VECTOR},
            {"id": b"another"},
            {"id": b""},
            {"version": 6},
            {"version": 8},
            {"part": 0},
            {"num_parts": 2},
        ],
        ids=str,
    )
    def test_no_object_opens_elsewhere(self, change: dict[str, Any]) -> None:
        sealed = SEALER.seal(b"text", PLACE)
        with pytest.raises(DecryptionError):
            SEALER.open(sealed, replace(PLACE, **change))

    @pytest.mark.parametrize(
        "keys",
        [
            EpochKeys("rival", "vs_1", 3, ROOT_KEY),
            EpochKeys("acme", "vs_2", 3, ROOT_KEY),
            EpochKeys("acme", "vs_1", 4, ROOT_KEY),
            EpochKeys("acmevs_1", "", 3, ROOT_KEY),
            EpochKeys("acme", "vs_1", 3, ROOT_KEY.derive("other")),
        ],
        ids=repr,
    )
    def test_no_object_opens_for_another_tenant_collection_epoch_or_key(self, keys: EpochKeys) -> None:
        sealed = SEALER.seal(b"text", PLACE)
        with pytest.raises(DecryptionError):
            Sealer(keys).open(sealed, PLACE)
        relabelled = sealed[:6] + struct.pack(">I", keys.epoch) + sealed[10:]
        with pytest.raises(DecryptionError):
            Sealer(keys).open(relabelled, PLACE)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda parts: parts[:-1],
            lambda parts: parts[1:],
            lambda parts: [*parts, parts[-1]],
            lambda parts: [parts[1], parts[0], *parts[2:]],
            lambda parts: [],
        ],
        ids=["last missing", "first missing", "one twice", "swapped", "none"],
    )
    def test_missing_and_reordered_parts_raise_it(self, damage: Callable[[list[bytes]], list[bytes]]) -> None:
        parts = SEALER.seal_parts(bytes(35), Place(Kind.CELL, b"cell"), part_size=10)
        with pytest.raises(DecryptionError):
            SEALER.open_parts(damage(parts), Place(Kind.CELL, b"cell"))

    @pytest.mark.parametrize("damaged", [b"", b"HFS1", bytes(OVERHEAD), b"HFS2" + bytes(300)])
    def test_what_is_no_object_has_no_epoch(self, damaged: bytes) -> None:
        with pytest.raises(DecryptionError):
            sealed_epoch(damaged)

    def test_a_padded_size_that_does_not_fit_its_length_is_refused(self) -> None:
        """Whoever holds the key could seal such a thing; the reader still refuses it."""
        key = reference_expand(KEYS.seal.reveal(), bytes([1, 1]), bytes(16))
        header = MAGIC + struct.pack(">BBI", 1, 1, 3) + bytes(28)
        for length in (0, 4, 253, 2**32 - 1):
            padded = struct.pack(">I", length) + bytes(508)
            data = SEALER._associated_data(Algorithm.AES_256_GCM_SIV, PLACE)
            sealed = header + AESGCMSIV(key).encrypt(bytes(12), padded, data)
            with pytest.raises(DecryptionError):
                SEALER.open(sealed, PLACE)


class TestPadding:
    @given(st.integers(0, 2**40))
    def test_it_costs_at_most_twelve_percent_and_never_cuts(self, size: int) -> None:
        padded = padded_size(size)
        assert padded >= max(size, 256)
        assert padded <= max(size * 1.12, 256)
        assert padded_size(padded) == padded

    @given(st.integers(256, 2**40))
    def test_it_leaves_few_sizes(self, size: int) -> None:
        exponent = size.bit_length() - 1
        padded = padded_size(size)
        assert padded % 2 ** (exponent - exponent.bit_length()) == 0

    @given(st.integers(0, 2**30), st.integers(0, 2**30))
    def test_it_keeps_the_order_of_sizes(self, one: int, other: int) -> None:
        small, large = sorted((one, other))
        assert padded_size(small) <= padded_size(large)

    def test_texts_of_a_passage_have_few_sizes(self) -> None:
        assert len({sealed_size(size) for size in range(4000)}) <= 65


BULK = SEALER.seal(bytes(BULK_SIZE + 1), PLACE)
