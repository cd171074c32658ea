"""What the database keeps of ranked collections beside what it keeps of sealed ones: their noise and its account."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass

from holdfast.privacy.noise import Ledger
from holdfast.serving.database import Database

SCHEMA = """
CREATE TABLE IF NOT EXISTS ranked_collections (
    collection INTEGER PRIMARY KEY REFERENCES sealed_collections (collection) ON DELETE CASCADE,
    query_noise REAL,
    query_budget REAL NOT NULL,
    ledger TEXT NOT NULL
) STRICT;
"""
DEFAULT_BUDGET = 100.0
"""mu, for questions 0.1 apart: at a deviation of 0.05 and 16 cells, some 150 different questions"""


@dataclass(frozen=True, slots=True)
class RankingOptions:
    """What a ranked collection was made with, for life."""

    query_noise: float | None = None
    """deviation of each coordinate of the noise on questions; None: none"""
    query_budget: float = DEFAULT_BUDGET
    """mu that may be spent on the store in one epoch; when it is spent, the gateway ranks"""


def create_table(database: Database) -> None:
    """Make the table where it is missing."""
    with database.write() as connection:
        connection.execute(SCHEMA)


def insert_options(connection: sqlite3.Connection, collection: int, options: RankingOptions) -> None:
    """Note what a collection was made with."""
    connection.execute(
        "INSERT INTO ranked_collections VALUES (?, ?, ?, '[]')",
        (collection, options.query_noise, options.query_budget),
    )


def find_options(connection: sqlite3.Connection, collection: int) -> RankingOptions:
    """Return what a collection was made with."""
    row = connection.execute("SELECT * FROM ranked_collections WHERE collection = ?", (collection,)).fetchone()
    return RankingOptions(row["query_noise"], row["query_budget"])


def load_ledger(connection: sqlite3.Connection, collection: int) -> Ledger:
    """Return the account of a collection's noise."""
    row = connection.execute("SELECT * FROM ranked_collections WHERE collection = ?", (collection,)).fetchone()
    ledger = Ledger(row["query_budget"], when_spent="sealed")
    ledger.restore(json.loads(row["ledger"]))
    return ledger


def save_ledger(database: Database, collection: int, ledger: Ledger) -> None:
    """Keep the account; called before what was charged is sent."""
    with database.write() as connection:
        connection.execute(
            "UPDATE ranked_collections SET ledger = ? WHERE collection = ?", (json.dumps(ledger.to_dict()), collection)
        )
