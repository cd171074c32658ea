"""What a store may compare for equality: opaque row ids, and tokens that stand for the values of filter fields.

Both are 16 bytes of HMAC-SHA256 under keys of the epoch: they change with every rotation, and mean nothing elsewhere.
"""

from __future__ import annotations

import struct
import unicodedata

from holdfast.errors import InvalidInput
from holdfast.privacy.keys import EpochKeys, length_prefixed

ID_SIZE = 16
_ROW = struct.Struct(">IQI")
_MAX_EXACT = 2**53


class RowNames:
    """Names the rows of one epoch of one collection.

    Reveals: nothing but which row it is; a new version, or a new epoch, has an unrelated name.
    """

    def __init__(self, keys: EpochKeys) -> None:
        self._hash = keys.rows.keyed_hash()
        self._epoch = keys.epoch

    def row_id(self, document_id: str, passage: int, version: int) -> bytes:
        """Return the 16-byte name of the `passage`-th passage of a document."""
        data = length_prefixed(document_id) + _ROW.pack(passage, version, self._epoch)
        return self._hash(data)[:ID_SIZE]


class FieldTokens:
    """Tokens of the values of one filter field.

    Reveals: which rows share a value of the field, and how many; in time also which queries filter by the same value.
    A field whose few values are guessable from their frequency should rather be filtered after opening.
    """

    def __init__(self, keys: EpochKeys, field: str) -> None:
        self._hash = keys.tokens(field).keyed_hash()

    def token(self, value: str | float | bool) -> bytes:
        """Return the 16-byte token; values that compare equal as OpenAI's filters do have equal tokens."""
        return self._hash(canonical_value(value))[:ID_SIZE]


def canonical_value(value: str | float | bool) -> bytes:
    """Return the same bytes for equal values, and others for values that differ: 1 equals 1.0, not "1" nor true."""
    if isinstance(value, bool):
        return b"b" + bytes([value])
    if isinstance(value, str):
        return b"s" + unicodedata.normalize("NFC", value).encode("utf-8", "surrogatepass")
    if isinstance(value, int) and abs(value) > _MAX_EXACT:
        raise InvalidInput(f"numbers beyond 2**53 cannot be filtered by: {value}", param="value")
    if value != value:
        raise InvalidInput("NaN equals nothing, itself included, and cannot be filtered by", param="value")
    return b"n" + struct.pack(">d", value + 0.0)  # -0.0 + 0.0 is 0.0
