"""Key encryption keys held by this process: from a file that its owner alone can read, or from a value handed in.

Both hold one key a line, as 64 hexadecimal digits; blank lines and lines that begin with # are left out. The last line
wraps, all unwrap: a new key is added below the old one, everything is rewrapped, and the old line is removed.

Whoever can read the file or the value can open everything. Where that is too much trust, the key stays with a device or
a service: `key_provider_pkcs11.py`, `key_provider_kms.py`, `key_provider_vault.py`.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from holdfast.errors import InvalidInput, KeyUnavailable, StorageError
from holdfast.privacy.keys import KEY_SIZE, SecretKey, unwrap_key, wrap_key


class LocalKeyProvider:
    """One key encryption key in memory."""

    def __init__(self, key: SecretKey) -> None:
        self._key = key
        self.key_id = f"local:{key.key_id}"

    def wrap(self, key: SecretKey, associated_data: bytes) -> bytes:
        """Encrypt a key by AES-256-GCM-SIV."""
        return wrap_key(self._key, key, associated_data)

    def unwrap(self, wrapped: bytes, associated_data: bytes) -> SecretKey:
        """Decrypt what `wrap` gave. Raises DecryptionError, whatever failed."""
        return unwrap_key(self._key, wrapped, associated_data)

    def __repr__(self) -> str:
        return f"LocalKeyProvider({self.key_id!r})"


def parse_key_providers(text: str) -> list[LocalKeyProvider]:
    """Return a provider for each key of a text, such as a key file. Raises InvalidInput, which quotes nothing."""
    providers, wrong_lines = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                providers.append(LocalKeyProvider(SecretKey(bytes.fromhex(line.strip()))))
            except (ValueError, InvalidInput):
                wrong_lines.append(number)
    text = line = ""  # a traceback may show what a frame holds
    if wrong_lines:
        raise InvalidInput(f"line {wrong_lines[0]} is not a key of {2 * KEY_SIZE} hexadecimal digits", param="key")
    if not providers:
        raise InvalidInput(f"there is no key: a key is one line of {2 * KEY_SIZE} hexadecimal digits", param="key")
    return providers


def read_key_file(path: Path) -> list[LocalKeyProvider]:
    """Return a provider for each key of a file.

    Raises:
        KeyUnavailable: there is no such file, or it cannot be read.
        InvalidInput: others than its owner may read or write it, it is not a file, or it holds no keys.
    """
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise InvalidInput(f"{path} is not a file", param="key_file")
            if about.st_mode & 0o077:
                mode = stat.S_IMODE(about.st_mode)
                raise InvalidInput(f"{path} has mode {mode:04o}, so others can read it: chmod 600 it", param="key_file")
            if about.st_uid not in (os.geteuid(), 0):
                raise InvalidInput(f"{path} belongs to user {about.st_uid}: chown it", param="key_file")
            return parse_key_providers(file.read().decode("ascii", "replace"))
    except OSError as error:
        raise KeyUnavailable(f"cannot read the key file {path}: {error.strerror or error}") from error


def add_key_to_file(path: Path) -> LocalKeyProvider:
    """Append a new key to a key file, made with mode 0600 where there is none, and return its provider.

    The file is durable before this returns. Raises StorageError; the file is then as it was.
    """
    before = path.read_bytes() if path.exists() and read_key_file(path) else b""
    key = SecretKey.generate()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(before + f"{key.reveal().hex()}\n".encode())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StorageError(f"cannot write the key file {path}: {error.strerror or error}") from error
    return LocalKeyProvider(key)
