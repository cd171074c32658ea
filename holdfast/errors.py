"""The error tree. Every failure a user can meet is one of these; nothing here imports anything.

    HoldfastError                  message, stable `code`, optional `param`
    ├── InvalidInput               the caller's mistake; the sentence names argument, value and remedy
    │   ├── ShapeError             an array of the wrong shape or dtype
    │   └── ContextTooLong         the prompt cannot fit the model's context
    ├── DocumentError              a file gives no text; `code` says why (see DOCUMENT_CODES)
    ├── NotFound                   no such object, or it belongs to another tenant
    ├── Conflict                   the object is not in a state that allows this
    ├── Unauthenticated            no key, or not a known one
    ├── Overloaded                 a queue is full; carries `retry_after_s`
    ├── RequestTimeout             the work did not finish in the time allowed
    ├── IntegrityError             stored bytes are not the bytes that were written
    │   ├── DecryptionError        sealed bytes do not open: one message, whatever failed
    │   └── TamperError            the store does not hold what the manifest says; `code` says how (see TAMPER_CODES)
    ├── KeyUnavailable             the key provider is out of reach, refuses, or no longer has the key
    ├── StorageError               the disk is full or refuses to write
    │   └── StoreUnavailable       a remote store does not answer; what it did is not known
    └── EngineError                the language model, or the upstream that serves it, failed

HTTP statuses are assigned in one place, `serving/app.py`.
"""

from __future__ import annotations

DOCUMENT_CODES = {
    "unsupported_format": "no reader for this kind of file",
    "legacy_format": "an old binary format; convert it first",
    "encrypted": "password-protected",
    "malformed": "damaged, or not what its name says",
    "empty": "no bytes, or nothing but blanks",
    "no_text": "well-formed, but holds no text (a scan needs OCR first)",
    "too_large": "unpacks to more than the limits allow",
    "timeout": "took longer than the limit",
    "out_of_memory": "needed more memory than the limit",
    "crashed": "the reader died on it",
}

TAMPER_CODES = {
    "forged": "the manifest is not signed with this collection's key",
    "rolled_back": "a manifest older than one already seen",
    "forked": "a history that parts from one already seen",
    "omitted": "something the manifest lists is missing",
    "unlisted": "something the manifest does not list",
    "repeated": "the same row twice",
    "swapped": "the bytes of another row",
    "replayed": "bytes that were replaced or deleted since",
    "truncated": "shorter than what was written",
    "altered": "not the bytes that were written",
}


class HoldfastError(Exception):
    """Base of all errors. `code` is stable and machine-readable; `param` names the argument at fault."""

    code = "internal_error"

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.param = param


class InvalidInput(HoldfastError):
    """The caller's mistake; the message names the argument, its value and the remedy."""

    code = "invalid_value"


class ShapeError(InvalidInput):
    """An array has the wrong shape or dtype."""

    code = "invalid_shape"


class ContextTooLong(InvalidInput):
    """The prompt cannot fit the model's context."""

    code = "context_length_exceeded"


class DocumentError(HoldfastError):
    """A file gives no text; `code` is one of `DOCUMENT_CODES`."""

    code = "malformed"

    def __init__(self, message: str, *, code: str, param: str | None = None) -> None:
        assert code in DOCUMENT_CODES, code
        super().__init__(message, code=code, param=param)


class NotFound(HoldfastError):
    """No such object, or it belongs to another tenant: the two are not told apart."""

    code = "not_found"


class Conflict(HoldfastError):
    """The object is not in a state that allows this."""

    code = "conflict"


class Unauthenticated(HoldfastError):
    """No API key, or not a known one."""

    code = "invalid_api_key"


class Overloaded(HoldfastError):
    """A queue is full; try again after `retry_after_s` seconds."""

    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RequestTimeout(HoldfastError):
    """The work did not finish in the time allowed."""

    code = "timeout"


class IntegrityError(HoldfastError):
    """Stored bytes are not the bytes that were written."""

    code = "integrity_error"


class DecryptionError(IntegrityError):
    """Sealed bytes do not open. Key, place, nonce, tag, padding: which of them failed is never told."""

    code = "decryption_error"

    def __init__(self) -> None:
        super().__init__("sealed data does not open: it was altered, is not what was asked for, or its key is another")


class TamperError(IntegrityError):
    """The store does not hold what the manifest says; `code` is one of `TAMPER_CODES`."""

    def __init__(self, message: str, *, code: str) -> None:
        assert code in TAMPER_CODES, code
        super().__init__(message, code=code)


class KeyUnavailable(HoldfastError):
    """The key provider is out of reach, refuses, or no longer has the key."""

    code = "key_unavailable"


class StorageError(HoldfastError):
    """The disk is full or refuses to write; nothing was committed."""

    code = "storage_error"


class StoreUnavailable(StorageError):
    """A remote store does not answer, or answers with an error; trying again may help and does no harm."""

    code = "store_unavailable"


class EngineError(HoldfastError):
    """The language model, or the upstream that serves it, failed."""

    code = "engine_error"
