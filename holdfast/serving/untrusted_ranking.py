"""From settings to the store that ranks encoded rows: which there are, and a table of one for each collection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

from holdfast.errors import InvalidInput
from holdfast.retrieval.ranking_store import Metric, RankingStore
from holdfast.serving.config import Settings

FILE = "ranked.sqlite3"
"""of the data directory, where no store is named"""
MakeTable = Callable[[str, Metric, int], RankingStore]
"""name, metric, numbers or bits of a row -> the collection's table, made where it is missing"""


def no_tables() -> MakeTable:
    """Refuse: there is no store that ranks."""
    raise InvalidInput("no store that ranks is set up: set ranking_store, or choose the mode `sealed`", param="mode")


def _open_sqlite(address: str) -> MakeTable:
    from holdfast.retrieval.store_sqlite import SqliteFile, SqliteRankingStore

    file = SqliteFile(Path(address.removeprefix("sqlite:")))
    return lambda name, metric, dim: SqliteRankingStore(file, name, metric=metric, dim=dim)


def _open_postgres(address: str) -> MakeTable:
    from holdfast.retrieval.store_postgres import PgvectorStore, open_postgres

    database = open_postgres(address)
    return lambda name, metric, dim: PgvectorStore(database, name, metric=metric, dim=dim)


def _open_milvus(address: str) -> MakeTable:
    from holdfast.retrieval.store_milvus import MilvusStore, open_milvus

    uri, options = _without_query(address.removeprefix("milvus:"))
    client = open_milvus(uri, options.get("token"))
    return lambda name, metric, dim: MilvusStore(client, name, metric=metric, dim=dim)


def _open_qdrant(address: str) -> MakeTable:
    from holdfast.retrieval.store_qdrant import QdrantStore, open_qdrant

    url, options = _without_query(address.removeprefix("qdrant:"))
    client: Any = open_qdrant(url, options.get("api_key"))
    return lambda name, metric, dim: QdrantStore(client, name, metric=metric, dim=dim)


RANKING_STORES: Mapping[str, Callable[[str], MakeTable]] = {
    "sqlite": _open_sqlite,
    "postgresql": _open_postgres,
    "milvus": _open_milvus,
    "qdrant": _open_qdrant,
}


def make_ranking_tables(settings: Settings) -> MakeTable:
    """Return what opens a collection's table in the store that `settings` name.

    Raises:
        InvalidInput: the store cannot rank, there is no such kind, or its client is not installed.
        StoreUnavailable: it does not answer.
    """
    address = settings.ranking_store or settings.object_store or f"sqlite:{settings.data_dir / FILE}"
    kind = urlsplit(address).scheme
    if kind not in RANKING_STORES:
        known = ", ".join(sorted(RANKING_STORES))
        message = f"a store of kind {kind or 'folder'!r} does not rank; set ranking_store to one of {known}"
        raise InvalidInput(message, param="ranking_store")
    try:
        return RANKING_STORES[kind](address)
    except ImportError as error:
        extra = {"postgresql": "postgres"}.get(kind, kind)
        raise InvalidInput(
            f"the client of this store is not installed: pip install 'holdfast[{extra}]'", param="ranking_store"
        ) from error


def _without_query(address: str) -> tuple[str, dict[str, str]]:
    """Return an address without its query, and the query's fields."""
    parts = urlsplit(address)
    fields = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    return urlunsplit(parts._replace(query="")), fields
