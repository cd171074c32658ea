"""A key encryption key in a hardware security module, or in SoftHSM, through PKCS#11: it never leaves the device.

The key is an AES-256 secret key, made on the device as sensitive and not extractable. It wraps by CKM_AES_GCM, so that
what a wrapped key is for is authenticated as with every other provider.

Each call logs in, acts and logs out, one at a time in the whole process: PKCS#11 knows one login a process and token,
and a device that was unplugged or restarted is found again. Calls are rare, one for each tenant root that is opened.

Source: PKCS #11 Cryptographic Token Interface 3.0 (OASIS), AES-GCM in section 2.10 of the mechanisms.
"""

from __future__ import annotations

import secrets
import threading
from typing import TYPE_CHECKING, Any

from holdfast.errors import DecryptionError, InvalidInput, KeyUnavailable
from holdfast.privacy.keys import KEY_SIZE, NONCE_SIZE, SecretKey

if TYPE_CHECKING:
    import pkcs11

TAG_BITS = 128
_ONE_LOGIN = threading.Lock()


class Pkcs11KeyProvider:
    """One AES key of one token.

    Args:
        library: path of the device's PKCS#11 module, such as `/usr/lib/softhsm/libsofthsm2.so`.
        token_label: which token.
        pin: of the user.
        key_label: which key of the token.
    """

    def __init__(self, library: str, token_label: str, pin: str, key_label: str) -> None:
        self._library = library
        self._token_label = token_label
        self._pin = pin
        self._key_label = key_label
        self.key_id = f"pkcs11:{token_label}/{key_label}"

    def make_key(self) -> None:
        """Make the key on the device. Raises InvalidInput when there is one of that label, KeyUnavailable otherwise."""
        import pkcs11

        with _ONE_LOGIN:
            try:
                with self._token().open(user_pin=self._pin, rw=True) as session:
                    if list(session.get_objects({pkcs11.Attribute.LABEL: self._key_label})):
                        raise InvalidInput(f"{self.key_id} is there already", param="key_label")
                    session.generate_key(
                        pkcs11.KeyType.AES,
                        8 * KEY_SIZE,
                        label=self._key_label,
                        store=True,
                        template={pkcs11.Attribute.SENSITIVE: True, pkcs11.Attribute.EXTRACTABLE: False},
                    )
            except pkcs11.PKCS11Error as error:
                raise self._unavailable(error) from None

    def wrap(self, key: SecretKey, associated_data: bytes) -> bytes:
        """Encrypt a key on the device. Raises KeyUnavailable."""
        import pkcs11

        nonce = secrets.token_bytes(NONCE_SIZE)
        with _ONE_LOGIN:
            try:
                with self._token().open(user_pin=self._pin) as session:
                    return nonce + bytes(
                        self._find_key(session).encrypt(
                            key.reveal(),
                            mechanism=pkcs11.Mechanism.AES_GCM,
                            mechanism_param=pkcs11.GCMParams(nonce, associated_data, TAG_BITS),
                        )
                    )
            except pkcs11.PKCS11Error as error:
                raise self._unavailable(error) from None

    def unwrap(self, wrapped: bytes, associated_data: bytes) -> SecretKey:
        """Decrypt a key on the device. Raises DecryptionError or KeyUnavailable.

        Devices do not agree on how they say that a tag is wrong, and some say no more than that something failed. One
        that has just found the key and let us in is well, so what failed is the tag.
        """
        import pkcs11

        with _ONE_LOGIN:
            try:
                with self._token().open(user_pin=self._pin) as session:
                    unwrapped = self._decrypt(session, wrapped, associated_data)
            except pkcs11.PKCS11Error as error:
                raise self._unavailable(error) from None
        if unwrapped is None:
            raise DecryptionError
        return unwrapped

    def _decrypt(self, session: pkcs11.Session, wrapped: bytes, associated_data: bytes) -> SecretKey | None:
        import pkcs11

        parameters = pkcs11.GCMParams(wrapped[:NONCE_SIZE], associated_data, TAG_BITS)
        ciphertext = wrapped[NONCE_SIZE:]
        try:
            return SecretKey(
                self._find_key(session).decrypt(
                    ciphertext, mechanism=pkcs11.Mechanism.AES_GCM, mechanism_param=parameters
                )
            )
        except (pkcs11.NoSuchKey, pkcs11.MultipleObjectsReturned, pkcs11.DeviceError, pkcs11.DeviceRemoved):
            raise
        except (pkcs11.PKCS11Error, InvalidInput):
            return None

    def _token(self) -> pkcs11.Token:
        import pkcs11

        token: pkcs11.Token = pkcs11.lib(self._library).get_token(token_label=self._token_label)
        return token

    def _find_key(self, session: pkcs11.Session) -> Any:
        import pkcs11

        return session.get_key(object_class=pkcs11.ObjectClass.SECRET_KEY, label=self._key_label)

    def _unavailable(self, error: Exception) -> KeyUnavailable:
        return KeyUnavailable(f"{self.key_id}: {str(error) or type(error).__name__}")

    def __repr__(self) -> str:
        return f"Pkcs11KeyProvider({self.key_id!r})"
