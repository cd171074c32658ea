"""A key in SoftHSM, a software token behind the same interface as a hardware module."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from holdfast.errors import InvalidInput, KeyUnavailable
from holdfast.privacy.key_provider_pkcs11 import Pkcs11KeyProvider
from holdfast.privacy.keys import SecretKey
from tests.privacy.provider_contract import DATA, ProviderContract

LIBRARIES = [Path("/usr/lib") / name / "libsofthsm2.so" for name in ("softhsm", "x86_64-linux-gnu/softhsm")]
LIBRARIES += [Path("/usr/lib64/pkcs11/libsofthsm2.so"), Path("/opt/homebrew/lib/softhsm/libsofthsm2.so")]
LIBRARY = next((str(path) for path in LIBRARIES if path.exists()), "")
TOKEN, PIN = "holdfast-test", "pin-canary-5678"

pytestmark = [
    pytest.mark.skipif(not LIBRARY or not shutil.which("softhsm2-util"), reason="SoftHSM is not installed (softhsm2)"),
    pytest.mark.skipif(
        not importlib.util.find_spec("pkcs11"), reason="python-pkcs11 is not installed (holdfast[pkcs11])"
    ),
]


@pytest.fixture(scope="module", autouse=True)
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A token of its own: the module reads where tokens are from the environment, when it is first loaded."""
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder}/tokens\nlog.level = ERROR\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(folder / "softhsm2.conf"))
        command = ["softhsm2-util", "--init-token", "--free", "--label", TOKEN, "--so-pin", "1234567", "--pin", PIN]
        subprocess.run(command, check=True, capture_output=True)
        for name in ("kek", "other"):
            Pkcs11KeyProvider(LIBRARY, TOKEN, PIN, name).make_key()
        yield


class TestSoftHsm(ProviderContract):
    @pytest.fixture
    def provider(self) -> Pkcs11KeyProvider:
        return Pkcs11KeyProvider(LIBRARY, TOKEN, PIN, "kek")

    @pytest.fixture
    def another(self) -> Pkcs11KeyProvider:
        return Pkcs11KeyProvider(LIBRARY, TOKEN, PIN, "other")


def test_the_key_cannot_leave_the_device() -> None:
    import pkcs11

    with pkcs11.lib(LIBRARY).get_token(token_label=TOKEN).open(user_pin=PIN) as session:
        key = session.get_key(label="kek")
        assert key[pkcs11.Attribute.SENSITIVE]
        assert not key[pkcs11.Attribute.EXTRACTABLE]
        assert key.key_length == 256
        with pytest.raises(pkcs11.AttributeSensitive):
            key[pkcs11.Attribute.VALUE]


def test_a_key_is_made_once() -> None:
    with pytest.raises(InvalidInput, match="there already"):
        Pkcs11KeyProvider(LIBRARY, TOKEN, PIN, "kek").make_key()
    with pytest.raises(KeyUnavailable):
        Pkcs11KeyProvider(LIBRARY, "no such token", PIN, "kek").make_key()


@pytest.mark.parametrize(
    "provider",
    [
        Pkcs11KeyProvider("/nowhere.so", TOKEN, PIN, "kek"),
        Pkcs11KeyProvider(LIBRARY, "no such token", PIN, "kek"),
        Pkcs11KeyProvider(LIBRARY, TOKEN, PIN + "wrong", "kek"),
        Pkcs11KeyProvider(LIBRARY, TOKEN, PIN, "no such key"),
    ],
    ids=["library", "token", "pin", "key"],
)
def test_whatever_is_missing_the_key_is_unavailable_and_the_pin_stays_hidden(provider: Pkcs11KeyProvider) -> None:
    for act in (lambda: provider.wrap(SecretKey.generate(), DATA), lambda: provider.unwrap(bytes(60), DATA)):
        with pytest.raises(KeyUnavailable, match=provider.key_id) as error:
            act()
        assert PIN not in str(error.value) + repr(provider)


def test_threads_take_turns() -> None:
    provider = Pkcs11KeyProvider(LIBRARY, TOKEN, PIN, "kek")
    keys = [SecretKey.generate() for _ in range(16)]
    with ThreadPoolExecutor(8) as pool:
        wrapped = list(pool.map(lambda key: provider.wrap(key, DATA), keys))
        assert list(pool.map(lambda one: provider.unwrap(one, DATA), wrapped)) == keys
