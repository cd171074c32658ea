"""A key encryption key in AWS KMS, or in what speaks its protocol: it never leaves the service.

What a wrapped key is for goes with it as encryption context, as a digest: the service logs contexts in clear, and the
names of tenants and collections are none of its business. Whoever owns the key can disable it or revoke the permission
to use it, which locks the tenant out as soon as opened keys are forgotten.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from holdfast.errors import DecryptionError, InvalidInput, KeyUnavailable
from holdfast.privacy.keys import SecretKey

CONTEXT = "holdfast"
_NOT_OURS = {"InvalidCiphertextException", "IncorrectKeyException", "ValidationException"}


def make_kms_client(region: str, endpoint_url: str | None = None) -> Any:
    """Return a client that finds its credentials as every AWS client does; `endpoint_url` for other services."""
    import boto3

    return boto3.client("kms", region_name=region, endpoint_url=endpoint_url)


class KmsKeyProvider:
    """One symmetric key of the service.

    Args:
        client: see `make_kms_client`.
        key: its id or ARN; an alias could be pointed at another key, which does not open what this one wrapped.
    """

    def __init__(self, client: Any, key: str) -> None:
        if "alias/" in key:
            raise InvalidInput(f"name the key by its id or ARN, not by an alias: {key}", param="key")
        self._client = client
        self._key = key
        self.key_id = f"aws-kms:{key}"

    def wrap(self, key: SecretKey, associated_data: bytes) -> bytes:
        """Encrypt a key at the service. Raises KeyUnavailable."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer = self._client.encrypt(
                KeyId=self._key, Plaintext=key.reveal(), EncryptionContext=_context(associated_data)
            )
        except (BotoCoreError, ClientError) as error:
            raise KeyUnavailable(f"{self.key_id}: {error}") from None
        return bytes(answer["CiphertextBlob"])

    def unwrap(self, wrapped: bytes, associated_data: bytes) -> SecretKey:
        """Decrypt a key at the service. Raises DecryptionError or KeyUnavailable."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return SecretKey(
                self._client.decrypt(
                    KeyId=self._key, CiphertextBlob=wrapped, EncryptionContext=_context(associated_data)
                )["Plaintext"]
            )
        except ClientError as error:
            if error.response["Error"]["Code"] in _NOT_OURS:
                raise DecryptionError from None
            raise KeyUnavailable(f"{self.key_id}: {error}") from None
        except BotoCoreError as error:
            raise KeyUnavailable(f"{self.key_id}: {error}") from None
        except InvalidInput:
            raise DecryptionError from None

    def __repr__(self) -> str:
        return f"KmsKeyProvider({self.key_id!r})"


def _context(associated_data: bytes) -> dict[str, str]:
    return {CONTEXT: sha256(associated_data).hexdigest()}
