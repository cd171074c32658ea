"""Key material: derivation, wrapping, the record, and that nothing prints."""

from __future__ import annotations

import base64
import copy
import hmac
import io
import json
import logging
import pickle
import traceback
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import Conflict, DecryptionError, HoldfastError, InvalidInput, KeyUnavailable, NotFound
from holdfast.privacy.key_providers import LocalKeyProvider, parse_key_providers
from holdfast.privacy.keys import (
    EpochKeys,
    KeyRecord,
    SecretKey,
    length_prefixed,
    make_tenant,
    open_tenant,
    unwrap_key,
    wrap_key,
)
from holdfast.privacy.seal import Kind, Place, Sealer

CANARY = bytes(range(200, 232))
VECTORS = json.loads((Path(__file__).parent / "vectors" / "keys.json").read_text(encoding="utf-8"))
PROVIDER = LocalKeyProvider(SecretKey(bytes(range(32))))


def hkdf(material: bytes, info: bytes) -> bytes:
    """RFC 5869 without salt, for one block of output, from the standard library."""
    extracted = hmac.digest(bytes(32), material, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def forms(secret: bytes) -> list[str]:
    """How 32 bytes may show up in a text."""
    return [secret.hex(), repr(secret)[2:-1], base64.b64encode(secret).decode()[:-2], str(list(secret))[1:-1]]


def assert_hidden(text: str, secret: bytes = CANARY) -> None:
    for form in forms(secret):
        assert form not in text


class TestDerivation:
    @pytest.mark.parametrize("vector", VECTORS["derive"], ids=lambda vector: vector["why"])
    def test_known_answers(self, vector: dict[str, Any]) -> None:
        key = SecretKey(bytes.fromhex(vector["key"]))
        labels = [bytes.fromhex(label) for label in vector["labels"]]
        assert key.derive(*labels).reveal().hex() == vector["derived"]

    @given(st.binary(min_size=32, max_size=32), st.lists(st.binary(max_size=20), max_size=4))
    def test_it_is_hkdf_with_length_prefixed_labels(self, material: bytes, labels: list[bytes]) -> None:
        expected = hkdf(material, b"holdfast/v1" + length_prefixed(*labels))
        assert SecretKey(material).derive(*labels).reveal() == expected

    @given(st.binary(min_size=32, max_size=32), st.lists(st.binary(max_size=80), max_size=5))
    def test_a_keyed_hash_is_hmac_however_often_it_is_called(self, material: bytes, messages: list[bytes]) -> None:
        keyed_hash = SecretKey(material).keyed_hash()
        for message in messages:
            assert keyed_hash(message) == hmac.digest(material, message, "sha256")

    @given(st.lists(st.text(max_size=5), max_size=4), st.lists(st.text(max_size=5), max_size=4))
    def test_no_two_lists_of_parts_are_one_string_of_bytes(self, left: list[str], right: list[str]) -> None:
        assert (length_prefixed(*left) == length_prefixed(*right)) == (left == right)

    def test_every_purpose_tenant_collection_and_epoch_has_keys_of_its_own(self) -> None:
        found = []
        for tenant_id in ("a", "b"):
            keys = make_tenant(tenant_id, [PROVIDER]).with_collection("x").with_collection("y").with_epoch("y", 2)
            found.append(keys.manifest_key())
            for epoch in (keys.epoch("x"), keys.epoch("y", 1), keys.epoch("y", 2)):
                found += [epoch.seal, epoch.vectors, epoch.rows, epoch.tokens("page"), epoch.tokens("author")]
        assert len({key.reveal() for key in found}) == len(found) == 32

    @pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
    def test_a_key_is_32_bytes(self, size: int) -> None:
        with pytest.raises(InvalidInput, match="32 bytes"):
            SecretKey(bytes(size))

    def test_generated_keys_differ(self) -> None:
        assert len({SecretKey.generate().reveal() for _ in range(100)}) == 100

    def test_a_key_id_tells_keys_apart_and_is_no_part_of_them(self) -> None:
        key = SecretKey(CANARY)
        assert key.key_id == SecretKey(CANARY).key_id != SecretKey.generate().key_id
        assert_hidden(key.key_id)
        assert key.key_id not in sha256(CANARY).hexdigest()


class TestWrapping:
    def test_known_answer(self) -> None:
        for vector in VECTORS["wrap"]:
            wrapping = SecretKey(bytes.fromhex(vector["wrapping_key"]))
            data = bytes.fromhex(vector["associated_data"])
            wrapped = bytes.fromhex(vector["wrapped"])
            if vector["key"] is None:
                with pytest.raises(DecryptionError):
                    unwrap_key(wrapping, wrapped, data)
            else:
                assert unwrap_key(wrapping, wrapped, data) == SecretKey(bytes.fromhex(vector["key"]))
        assert {vector["key"] is None for vector in VECTORS["wrap"]} == {True, False}

    def test_every_flipped_bit_and_every_cut_raises_the_one_error(self) -> None:
        wrapping, key = SecretKey.generate(), SecretKey.generate()
        wrapped = wrap_key(wrapping, key, b"what for")
        assert unwrap_key(wrapping, wrapped, b"what for") == key
        messages = set()
        damaged = [
            bytes(a ^ (1 << bit if i == place else 0) for i, a in enumerate(wrapped))
            for place in range(len(wrapped))
            for bit in range(8)
        ]
        damaged += [wrapped[:size] for size in range(len(wrapped))] + [wrapped + b"\0"]
        for data in damaged:
            with pytest.raises(DecryptionError) as error:
                unwrap_key(wrapping, data, b"what for")
            messages.add(str(error.value))
        for other_key, other_data in ((SecretKey.generate(), b"what for"), (wrapping, b"something else")):
            with pytest.raises(DecryptionError) as error:
                unwrap_key(other_key, wrapped, other_data)
            messages.add(str(error.value))
        assert len(messages) == 1

    def test_the_same_key_is_wrapped_differently_each_time(self) -> None:
        wrapping, key = SecretKey.generate(), SecretKey.generate()
        assert wrap_key(wrapping, key, b"") != wrap_key(wrapping, key, b"")


class TestTenant:
    def test_a_record_survives_json_and_opens_the_same_keys(self) -> None:
        keys = make_tenant("acme", [PROVIDER]).with_collection("b").with_collection("a")
        record = KeyRecord.from_dict(json.loads(json.dumps(keys.record.to_dict())))
        assert record == keys.record
        assert record.revision == 3
        opened = open_tenant(record, [PROVIDER])
        assert opened.manifest_key() == keys.manifest_key()
        for name in ("a", "b"):
            assert opened.epoch(name).seal == keys.epoch(name).seal

    def test_nothing_in_a_record_is_secret(self) -> None:
        keys = make_tenant("acme", [PROVIDER]).with_collection("a")
        text = json.dumps(keys.record.to_dict())
        for secret in (keys.roots[1], keys.epoch("a").seal, keys.epoch("a")._root):
            assert_hidden(text, secret.reveal())

    def test_another_tenants_root_does_not_open(self) -> None:
        ours = make_tenant("acme", [PROVIDER]).record
        theirs = make_tenant("rival", [PROVIDER]).record
        stolen = KeyRecord(ours.tenant_id, 1, theirs.roots)
        with pytest.raises(DecryptionError):
            open_tenant(stolen, [PROVIDER])

    def test_a_root_does_not_pass_for_another_collection_epoch_or_version(self) -> None:
        keys = make_tenant("acme", [PROVIDER]).with_collection("a").with_collection("b").with_epoch("b", 2)
        a, b1, b2 = keys.record.collections
        for moved in ((b1.wrapped, a), (b2.wrapped, b1), (a.wrapped, b2)):
            wrapped, place = moved
            forged = type(place)(place.collection_id, place.epoch, place.wrapped_by, wrapped)
            others = [root for root in keys.record.collections if root != place]
            with pytest.raises(DecryptionError):
                keys.changed(collections=[*others, forged]).epoch(place.collection_id, place.epoch)

    def test_without_the_provider_nothing_opens(self) -> None:
        keys = make_tenant("acme", [PROVIDER])
        with pytest.raises(KeyUnavailable, match=PROVIDER.key_id):
            open_tenant(keys.record, [LocalKeyProvider(SecretKey.generate())])

    def test_shredding_a_collection_leaves_the_others(self) -> None:
        keys = make_tenant("acme", [PROVIDER]).with_collection("a").with_collection("b")
        sealed = Sealer(keys.epoch("a")).seal(b"text", Place(Kind.TEXT, b"1"))
        shredded = open_tenant(keys.without_collection("a").record, [PROVIDER])
        with pytest.raises(NotFound):
            shredded.epoch("a")
        assert shredded.epoch("b").seal == keys.epoch("b").seal
        again = shredded.with_collection("a")
        with pytest.raises(DecryptionError):
            Sealer(again.epoch("a")).open(sealed, Place(Kind.TEXT, b"1"))

    def test_a_collection_gets_keys_once(self) -> None:
        keys = make_tenant("acme", [PROVIDER]).with_collection("a")
        with pytest.raises(Conflict, match="a has keys"):
            keys.with_collection("a")

    @pytest.mark.parametrize("epoch", [None, 1, 7])
    def test_unknown_collections_and_epochs_are_not_found(self, epoch: int | None) -> None:
        with pytest.raises(NotFound):
            make_tenant("acme", [PROVIDER]).epoch("nowhere", epoch)

    def test_the_key_of_a_root_that_is_gone_is_unavailable(self) -> None:
        with pytest.raises(KeyUnavailable, match="9"):
            make_tenant("acme", [PROVIDER]).manifest_key(9)


class TestKeysNeverPrint:
    OBJECTS: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("key", lambda: SecretKey(CANARY)),
        ("derived", lambda: SecretKey(CANARY).derive("x")),
        ("provider", lambda: LocalKeyProvider(SecretKey(CANARY))),
        ("providers", lambda: parse_key_providers(CANARY.hex())),
        ("epoch", lambda: EpochKeys("t", "c", 1, SecretKey(CANARY))),
        ("sealer", lambda: Sealer(EpochKeys("t", "c", 1, SecretKey(CANARY)))),
        (
            "tenant",
            lambda: type(make_tenant("t", [PROVIDER]))(make_tenant("t", [PROVIDER]).record, {1: SecretKey(CANARY)}),
        ),
    )

    @pytest.mark.parametrize("make", [make for _, make in OBJECTS], ids=[name for name, _ in OBJECTS])
    def test_in_no_rendering(self, make: Callable[[], Any]) -> None:
        thing = make()
        stream = io.StringIO()
        logger = logging.getLogger("canary")
        logger.addHandler(logging.StreamHandler(stream))
        logger.error("%s %r", thing, thing)
        shown = [str(thing), repr(thing), f"{thing}", f"{thing!r:>400}", str([thing]), stream.getvalue()]
        shown.append(str(getattr(thing, "__dict__", "")))
        assert all(shown[:3])
        assert_hidden("\n".join(shown))

    def test_a_key_cannot_be_pickled_copied_hashed_or_dumped(self) -> None:
        key = SecretKey(CANARY)
        for act in (pickle.dumps, copy.copy, copy.deepcopy, json.dumps, hash, bytes, vars):
            with pytest.raises(TypeError) as error:
                act(key)  # type: ignore[operator]
            assert_hidden(str(error.value))

    def test_comparison_is_with_keys_only(self) -> None:
        assert SecretKey(CANARY) == SecretKey(CANARY) != SecretKey.generate()
        assert SecretKey(CANARY) != CANARY

    def failures(self) -> list[Callable[[], object]]:
        key = SecretKey(CANARY)
        provider = LocalKeyProvider(key)
        epoch = EpochKeys("t", "c", 1, key)
        record = make_tenant("t", [provider]).record
        return [
            lambda: SecretKey(CANARY + b"x"),
            lambda: parse_key_providers(CANARY.hex() + "\n" + CANARY.hex() + "0"),
            lambda: parse_key_providers("# " + CANARY.hex()),
            lambda: parse_key_providers(CANARY.hex()[:-1] + "z"),
            lambda: provider.unwrap(bytes(60), b""),
            lambda: unwrap_key(key, wrap_key(key, key, b""), b"other"),
            lambda: open_tenant(KeyRecord("other", 1, record.roots), [provider]),
            lambda: Sealer(epoch).open(bytes(300), Place(Kind.TEXT, b"")),
            lambda: Sealer(epoch).open(Sealer(epoch).seal(b"x", Place(Kind.TEXT, b"")), Place(Kind.TEXT, b"y")),
            lambda: key.derive(3),  # type: ignore[arg-type]
            lambda: make_tenant("t", [provider]).epoch("none"),
        ]

    @pytest.mark.parametrize("number", range(11))
    def test_in_no_traceback_even_with_the_frames_locals(self, number: int) -> None:
        failure = self.failures()[number]
        try:
            failure()
        except (HoldfastError, TypeError, AttributeError) as error:
            # the frame of this test holds the canary by design; those of the package must not
            shown = traceback.TracebackException.from_exception(error, capture_locals=True)
        else:
            pytest.fail("nothing failed")
        frames = [frame for frame in shown.stack if "/holdfast/privacy/" in frame.filename]
        assert frames
        assert_hidden(repr([frame.locals for frame in frames]) + str(shown))
        assert CANARY.hex()[:-2] not in repr([frame.locals for frame in frames])
