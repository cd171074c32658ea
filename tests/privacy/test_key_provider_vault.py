"""A key in Vault's transit engine, as a small server of this file answers by the same rules.

Neither Vault nor OpenBao runs in these tests. The server below follows the documented API: routes, fields, statuses,
error texts, key versions, associated data. It proves the client against that description, not against the product.
"""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from holdfast.errors import DecryptionError, KeyUnavailable
from holdfast.privacy.key_provider_vault import VaultKeyProvider, make_vault_client
from holdfast.privacy.key_rotation import rewrap_tenant
from holdfast.privacy.keys import SecretKey, make_tenant, open_tenant
from tests.privacy.provider_contract import DATA, ProviderContract

TOKEN = "hvs.canary-token"


class Refusal(Exception):
    """A status and the text that goes with it."""


class TransitEngine:
    """Named keys with versions, as the transit engine holds them."""

    def __init__(self) -> None:
        self.keys = {"kek": [os.urandom(32)], "other": [os.urandom(32)]}
        self.min_decryption_version = 1
        self.is_sealed = False

    def answer(self, path: str, token: str, fields: dict[str, Any]) -> dict[str, str]:
        if self.is_sealed:
            raise Refusal(503, "Vault is sealed")
        if token != f"Bearer {TOKEN}":
            raise Refusal(403, "permission denied")
        _, version, mount, action, name = path.split("/")
        if (version, mount) != ("v1", "transit"):
            raise Refusal(404, "no handler for route")
        if name not in self.keys:
            raise Refusal(400, "encryption key not found")
        data = base64.b64decode(fields.get("associated_data", ""))
        return {"encrypt": self.encrypt, "decrypt": self.decrypt}[action](self.keys[name], fields, data)

    def encrypt(self, versions: list[bytes], fields: dict[str, Any], data: bytes) -> dict[str, str]:
        nonce = os.urandom(12)
        sealed = nonce + AESGCM(versions[-1]).encrypt(nonce, base64.b64decode(fields["plaintext"]), data)
        return {"ciphertext": f"vault:v{len(versions)}:{base64.b64encode(sealed).decode()}"}

    def decrypt(self, versions: list[bytes], fields: dict[str, Any], data: bytes) -> dict[str, str]:
        try:
            vault, version, text = fields["ciphertext"].split(":")
            sealed = base64.b64decode(text, validate=True)
            number = int(version[1:])
        except ValueError:
            raise Refusal(400, "invalid ciphertext: no prefix") from None
        if vault != "vault" or not self.min_decryption_version <= number <= len(versions):
            raise Refusal(400, "ciphertext or signature version is disallowed by policy (too old)")
        try:
            plaintext = AESGCM(versions[number - 1]).decrypt(sealed[:12], sealed[12:], data)
        except (InvalidTag, ValueError):
            raise Refusal(400, "cipher: message authentication failed") from None
        return {"plaintext": base64.b64encode(plaintext).decode()}


@pytest.fixture
def engine() -> TransitEngine:
    return TransitEngine()


@pytest.fixture
def address(engine: TransitEngine) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            fields = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                status, body = 200, {"data": engine.answer(self.path, self.headers["Authorization"], fields)}
            except Refusal as refusal:
                status, body = refusal.args[0], {"errors": [refusal.args[1]]}  # type: ignore[dict-item]
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class TestTransit(ProviderContract):
    @pytest.fixture
    def provider(self, address: str) -> Iterator[VaultKeyProvider]:
        with make_vault_client(address, TOKEN) as client:
            yield VaultKeyProvider(client, "kek")

    @pytest.fixture
    def another(self, address: str) -> Iterator[VaultKeyProvider]:
        with make_vault_client(address, TOKEN, namespace="team") as client:
            yield VaultKeyProvider(client, "other")

    def test_a_key_rotated_in_the_service_opens_old_roots_until_they_are_rewrapped(
        self, provider: VaultKeyProvider, engine: TransitEngine
    ) -> None:
        before = make_tenant("acme", [provider])
        engine.keys["kek"].append(os.urandom(32))
        assert open_tenant(before.record, [provider]).roots == before.roots
        after = rewrap_tenant(before, provider)
        engine.min_decryption_version = 2
        assert open_tenant(after.record, [provider]).roots == before.roots
        with pytest.raises(DecryptionError):
            open_tenant(before.record, [provider])

    def test_what_is_no_key_does_not_unwrap(self, provider: VaultKeyProvider, engine: TransitEngine) -> None:
        fields = {"plaintext": base64.b64encode(b"sixteen bytes...")}
        wrapped = engine.encrypt(engine.keys["kek"], fields, DATA)["ciphertext"]
        with pytest.raises(DecryptionError):
            provider.unwrap(wrapped.encode(), DATA)

    def test_a_service_that_is_sealed_is_unavailable(self, provider: VaultKeyProvider, engine: TransitEngine) -> None:
        wrapped = provider.wrap(SecretKey.generate(), DATA)
        engine.is_sealed = True
        with pytest.raises(KeyUnavailable, match="vault:transit/kek: the service says 503"):
            provider.unwrap(wrapped, DATA)
        with pytest.raises(KeyUnavailable):
            provider.wrap(SecretKey.generate(), DATA)


@pytest.mark.parametrize(
    ("token", "key_name", "mount"), [("wrong", "kek", "transit"), (TOKEN, "none", "transit"), (TOKEN, "kek", "no")]
)
def test_what_the_service_refuses_is_unavailable(address: str, token: str, key_name: str, mount: str) -> None:
    with make_vault_client(address, token) as client:
        provider = VaultKeyProvider(client, key_name, mount)
        for act in (lambda: provider.wrap(SecretKey.generate(), DATA), lambda: provider.unwrap(b"vault:v1:", DATA)):
            with pytest.raises(KeyUnavailable):
                act()


def test_no_answer_is_unavailable() -> None:
    with make_vault_client("http://127.0.0.1:9", TOKEN) as client, pytest.raises(KeyUnavailable, match="no answer"):
        VaultKeyProvider(client, "kek").wrap(SecretKey.generate(), DATA)


def test_the_token_does_not_print(address: str) -> None:
    with make_vault_client(address, TOKEN) as client:
        assert TOKEN not in repr(client) + repr(client.headers) + repr(VaultKeyProvider(client, "kek"))
