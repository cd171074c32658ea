"""What Holdfast asks of a store that it does not trust to keep objects: a name, some bytes, and one atomic update.

Names and bytes are all such a store sees; what they mean, and whether they are readable, is decided above. An adapter
(`store_*.py`) does I/O on a client that it is given, and says the same in the same case as every other: one suite of
tests holds them all to this page. Blocking; safe to call from several threads.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from holdfast.errors import InvalidInput

LIST_SIZE = 1000
"""names in one page of a listing"""
KEY = re.compile(r"[a-z0-9][a-z0-9_-]*(?:[/.][a-z0-9_-]+)*")
MAX_KEY_LEN = 200


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of names, ascending."""

    keys: list[str]
    cursor: str | None
    """what to ask for the next page with; None after the last"""


@dataclass(frozen=True, slots=True)
class TaggedObject:
    """An object and what `cas` must be told to replace just this state of it."""

    body: bytes
    etag: str


class ObjectStore(Protocol):
    """Objects by name.

    Raises:
        InvalidInput: a name that is not `KEY`.
        StoreUnavailable: the store does not answer, or answers with an error; nothing is known about what it did.
    """

    def put_objects(self, objects: Mapping[str, bytes], *, if_absent: bool = False) -> set[str]:
        """Store all objects durably, whole or not at all each.

        Returns:
            with `if_absent`, the names that were there already and are left as they were; else nothing.
        """
        ...

    def get_objects(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the bytes of those of `keys` that exist."""
        ...

    def get_tagged(self, key: str) -> TaggedObject | None:
        """Return one object with its tag, as of the last `cas` that succeeded; None if there is none."""
        ...

    def cas(self, key: str, body: bytes, etag: str | None) -> str:
        """Replace the object whose tag is `etag` (None: make one where there is none); return the new tag.

        Raises:
            Conflict: the object has another tag, exists already or exists no more; nothing was changed.
        """
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; names that are not there are passed over."""
        ...

    def list(self, prefix: str, cursor: str | None = None) -> Listing:
        """Return a page of the names that begin with `prefix`, those after `cursor` where one is given."""
        ...

    def close(self) -> None:
        """Let the client go."""
        ...


def check_key(key: str) -> str:
    """Return `key` if it may name an object in every store."""
    if not KEY.fullmatch(key) or len(key) > MAX_KEY_LEN:
        raise InvalidInput(f"not a name of an object: {key!r:.80}", param="key")
    return key


def content_tag(body: bytes) -> str:
    """Return the tag that stores without tags of their own give: equal for equal bytes."""
    return hashlib.sha256(body).hexdigest()


def list_all(store: ObjectStore, prefix: str) -> list[str]:
    """Return every name that begins with `prefix`."""
    keys: list[str] = []
    cursor = None
    while True:
        page = store.list(prefix, cursor)
        keys += page.keys
        cursor = page.cursor
        if cursor is None:
            return keys
