"""Key providers from addresses: the one table of what may hold a key encryption key.

file:/etc/holdfast/keys
value:                                                          the keys are the secret
pkcs11:/usr/lib/softhsm/libsofthsm2.so?token=holdfast&key=kek   the secret is the PIN
aws-kms://eu-central-1/KEY-ID-OR-ARN?endpoint=http://...        credentials as every AWS client finds them
vault:https://vault.internal:8200/transit/kek?namespace=team    the secret is the token
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from holdfast.errors import InvalidInput
from holdfast.privacy.key_providers import parse_key_providers, read_key_file
from holdfast.privacy.keys import KeyProvider


def make_key_providers(address: str, secret: str = "") -> Sequence[KeyProvider]:
    """Return the providers at an address: several for a file or a value with several keys, the newest last.

    Args:
        address: one of the forms above.
        secret: PIN, token, or the keys themselves, handed in by the settings.

    Raises:
        InvalidInput: not such an address, the provider's client is not installed, or what a local key is refused for.
        KeyUnavailable: there is no such key file.
    """
    kind, _, rest = address.partition(":")
    if kind not in KEY_PROVIDERS:
        raise InvalidInput(f"keys are held by {', '.join(KEY_PROVIDERS)}, not by {kind!r}", param="key_provider")
    return KEY_PROVIDERS[kind](rest, secret)


def _make_file(rest: str, secret: str) -> Sequence[KeyProvider]:
    return read_key_file(Path(rest))


def _make_value(rest: str, secret: str) -> Sequence[KeyProvider]:
    return parse_key_providers(secret)


def _make_pkcs11(rest: str, secret: str) -> Sequence[KeyProvider]:
    from holdfast.privacy.key_provider_pkcs11 import Pkcs11KeyProvider

    library, options = _split(rest, "token", "key")
    _require("pkcs11", "pkcs11")
    return [Pkcs11KeyProvider(library, options["token"], secret, options["key"])]


def _make_kms(rest: str, secret: str) -> Sequence[KeyProvider]:
    from holdfast.privacy.key_provider_kms import KmsKeyProvider, make_kms_client

    place, options = _split(rest)
    region, _, key = place.removeprefix("//").partition("/")
    if not region or not key:
        raise InvalidInput(f"name region and key: aws-kms://REGION/KEY, not aws-kms:{place}", param="key_provider")
    _require("boto3", "kms")
    return [KmsKeyProvider(make_kms_client(region, options.get("endpoint")), key)]


def _make_vault(rest: str, secret: str) -> Sequence[KeyProvider]:
    from holdfast.privacy.key_provider_vault import VaultKeyProvider, make_vault_client

    address, options = _split(rest)
    parts = urlsplit(address)
    mount, _, key = parts.path.strip("/").rpartition("/")
    if not parts.netloc or not mount or not key:
        raise InvalidInput(
            f"name mount and key: vault:https://HOST/MOUNT/KEY, not vault:{address}", param="key_provider"
        )
    if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise InvalidInput(f"keys travel by https only: {address}", param="key_provider")
    client = make_vault_client(f"{parts.scheme}://{parts.netloc}", secret, options.get("namespace"))
    return [VaultKeyProvider(client, key, mount)]


KEY_PROVIDERS: dict[str, Callable[[str, str], Sequence[KeyProvider]]] = {
    "file": _make_file,
    "value": _make_value,
    "pkcs11": _make_pkcs11,
    "aws-kms": _make_kms,
    "vault": _make_vault,
}


def _require(package: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise InvalidInput(f"the client is not installed: pip install 'holdfast[{extra}]'", param="key_provider")


def _split(rest: str, *required: str) -> tuple[str, dict[str, str]]:
    place, _, query = rest.partition("?")
    options = dict(parse_qsl(query))
    missing = [name for name in required if name not in options]
    if missing:
        raise InvalidInput(f"{place} lacks ?{'=...&'.join(missing)}=...", param="key_provider")
    return unquote(place), options
