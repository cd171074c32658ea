"""The data directory's one SQLite database: schema, connections and transactions.

WAL journal, `synchronous=FULL`, `secure_delete=ON`: a commit survives `kill -9` and power loss, and deleted text is
overwritten. One process owns the directory (an advisory lock on `lock`); inside it one connection writes, each thread
reads through its own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a listing."""

    items: list[T]
    has_more: bool


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page begins and how it is ordered, as OpenAI's listings have it."""

    after: str | None = None
    before: str | None = None
    limit: int = 20
    order: Literal["asc", "desc"] = "desc"


class Database:
    """Open the data directory; raise Conflict, naming the other process, if it is in use."""

    def __init__(self, data_dir: Path) -> None:
        raise NotImplementedError

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One serialised transaction: committed at the end, rolled back on an exception."""
        raise NotImplementedError

    def read(self) -> sqlite3.Connection:
        """This thread's reading connection (rows by name)."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError
