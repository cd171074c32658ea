"""A key encryption key in the transit engine of HashiCorp Vault or OpenBao: it never leaves the service.

The key is of type `aes256-gcm96`, which takes associated data. Rotated in the service, it keeps its name: what older
versions wrapped still opens until they are retired there, and is moved to the newest by `key_rotation.rewrap_tenant`.

Source: the HTTP API of the transit secrets engine, `POST /v1/transit/encrypt/:name` and `decrypt/:name`.
"""

from __future__ import annotations

import base64
from typing import Any

import httpx

from holdfast.errors import DecryptionError, InvalidInput, KeyUnavailable
from holdfast.privacy.keys import SecretKey

TIMEOUT_S = 10.0


def make_vault_client(address: str, token: str, namespace: str | None = None) -> httpx.Client:
    """Return a client of the service at `address`, such as `https://vault.internal:8200`."""
    # As a bearer token rather than as X-Vault-Token: httpx knows not to print this header.
    headers = {"Authorization": f"Bearer {token}", "X-Vault-Request": "true"}
    if namespace is not None:
        headers["X-Vault-Namespace"] = namespace
    return httpx.Client(base_url=address, headers=headers, timeout=TIMEOUT_S, trust_env=False)


class VaultKeyProvider:
    """One key of one transit engine.

    Args:
        client: see `make_vault_client`.
        key_name: which key.
        mount: path at which the engine is mounted.
    """

    def __init__(self, client: httpx.Client, key_name: str, mount: str = "transit") -> None:
        self._client = client
        self._key_name = key_name
        self._mount = mount
        self.key_id = f"vault:{mount}/{key_name}"

    def wrap(self, key: SecretKey, associated_data: bytes) -> bytes:
        """Encrypt a key at the service. Raises KeyUnavailable."""
        # Nothing secret is bound to a name here: a traceback may show what a frame holds.
        answer = self._post("encrypt", associated_data, key)
        if answer is None or answer.is_error:
            raise self._unavailable(answer)
        return str(answer.json()["data"]["ciphertext"]).encode()

    def unwrap(self, wrapped: bytes, associated_data: bytes) -> SecretKey:
        """Decrypt a key at the service. Raises DecryptionError or KeyUnavailable."""
        answer = self._post("decrypt", associated_data, wrapped.decode("ascii", "replace"))
        if answer is not None and answer.status_code == httpx.codes.BAD_REQUEST and "not found" not in answer.text:
            raise DecryptionError  # so says the service of a wrong ciphertext, version or associated data
        if answer is None or answer.is_error:
            raise self._unavailable(answer)
        try:
            return SecretKey(base64.b64decode(answer.json()["data"]["plaintext"], validate=True))
        except (ValueError, KeyError, InvalidInput):
            raise DecryptionError from None

    def _post(self, action: str, associated_data: bytes, subject: SecretKey | str) -> httpx.Response | None:
        """Return the answer, or None when there is none."""
        try:
            return self._client.post(
                f"/v1/{self._mount}/{action}/{self._key_name}",
                json={"associated_data": base64.b64encode(associated_data).decode(), **_field(subject)},
            )
        except httpx.HTTPError:
            return None

    def _unavailable(self, answer: httpx.Response | None) -> KeyUnavailable:
        said = "no answer" if answer is None else f"the service says {answer.status_code}"
        return KeyUnavailable(f"{self.key_id}: {said}")

    def __repr__(self) -> str:
        return f"VaultKeyProvider({self.key_id!r})"


def _field(subject: SecretKey | str) -> dict[str, Any]:
    if isinstance(subject, SecretKey):
        return {"plaintext": base64.b64encode(subject.reveal()).decode()}
    return {"ciphertext": subject}
