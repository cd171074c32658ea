"""What every key provider has to do, whatever holds its key."""

from __future__ import annotations

import traceback

import pytest

from holdfast.errors import DecryptionError
from holdfast.privacy.keys import KeyProvider, SecretKey, make_tenant, open_tenant

DATA = b"tenant root of acme"


class ProviderContract:
    """Subclasses give a `provider` fixture, and `another` with a key of its own."""

    def test_what_it_wraps_it_unwraps(self, provider: KeyProvider) -> None:
        key = SecretKey.generate()
        wrapped = provider.wrap(key, DATA)
        assert provider.unwrap(wrapped, DATA) == key
        assert key.reveal() not in wrapped

    def test_wrapping_twice_gives_unrelated_bytes(self, provider: KeyProvider) -> None:
        key = SecretKey.generate()
        assert provider.wrap(key, DATA)[-24:] != provider.wrap(key, DATA)[-24:]

    @pytest.mark.parametrize("data", [b"", b"tenant root of acmf", DATA + b"x"])
    def test_what_a_key_is_for_is_authenticated(self, provider: KeyProvider, data: bytes) -> None:
        wrapped = provider.wrap(SecretKey.generate(), DATA)
        with pytest.raises(DecryptionError):
            provider.unwrap(wrapped, data)

    def test_damaged_bytes_do_not_unwrap(self, provider: KeyProvider) -> None:
        wrapped = provider.wrap(SecretKey.generate(), DATA)
        for damaged in (wrapped[:-1], wrapped[:5], b"", wrapped[:-5] + bytes([wrapped[-5] ^ 1]) + wrapped[-4:]):
            with pytest.raises(DecryptionError) as error:
                provider.unwrap(damaged, DATA)
            assert str(error.value) == str(DecryptionError())

    def test_another_key_does_not_unwrap(self, provider: KeyProvider, another: KeyProvider) -> None:
        assert provider.key_id != another.key_id
        with pytest.raises(DecryptionError):
            another.unwrap(provider.wrap(SecretKey.generate(), DATA), DATA)

    def test_tenants_live_on_it(self, provider: KeyProvider, another: KeyProvider) -> None:
        keys = make_tenant("acme", [another, provider]).with_collection("vs_1")
        assert keys.record.roots[0].wrapped_by == provider.key_id
        assert open_tenant(keys.record, [another, provider]).epoch("vs_1").seal == keys.epoch("vs_1").seal

    def test_failures_show_no_key(self, provider: KeyProvider) -> None:
        key = SecretKey.generate()
        wrapped = provider.wrap(key, DATA)
        with pytest.raises(DecryptionError) as error:
            provider.unwrap(wrapped, b"other")
        shown = traceback.TracebackException.from_exception(error.value, capture_locals=True)
        text = "".join(shown.format()) + repr(provider) + str(provider)
        assert repr(key.reveal())[2:-1] not in text
        assert key.reveal().hex() not in text
