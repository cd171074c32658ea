"""Vector stores that another store ranks: they find what the gateway would, and notice rows that are left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from holdfast.errors import InvalidInput, TamperError
from holdfast.privacy import distance
from holdfast.privacy.leakage_residue import ResidueScanner
from holdfast.retrieval.ranking_store import Hits, Metric, RankingStore
from holdfast.retrieval.store_milvus import MilvusStore
from holdfast.retrieval.store_postgres import PgvectorStore, open_postgres
from holdfast.retrieval.store_qdrant import QdrantStore
from holdfast.retrieval.store_sqlite import SqliteFile, SqliteRankingStore
from holdfast.serving import ingestion, ranked_collection
from holdfast.serving.database import Cursor
from holdfast.serving.ranked_collection import RankedCollection
from holdfast.serving.ranked_rows import METRICS
from holdfast.serving.ranked_tables import RankingOptions
from holdfast.serving.untrusted_ranking import MakeTable
from tests.serving import sealing
from tests.serving.conftest import STORE, TENANT, Storage
from tests.serving.sealing import files_below, forms, open_sealed, residue

OTHERS = (("pgvector", "asym"), ("pgvector", "codes"), ("milvus", "asym"), ("qdrant", "sap"))
CANARY = "zanzibarite"
NUM_FILES = 40


class Recorder:
    """Passes on to real tables, remembers what they were given, and lies when it is told to."""

    def __init__(self, make: MakeTable) -> None:
        self.make = make
        self.given: list[bytes] = []
        self.tokens: list[Sequence[str] | None] = []
        self.dropped: set[bytes] = set()
        self.cut = self.is_swapping = False
        self.num_scans = 0

    def __call__(self, name: str, metric: Metric, dim: int) -> RankingStore:
        return _Recorded(self, self.make(name, metric, dim))  # type: ignore[return-value]


class _Recorded:
    def __init__(self, recorder: Recorder, inner: RankingStore) -> None:
        self.recorder, self.inner = recorder, inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def upsert_rows(self, rows: Sequence[Any]) -> None:
        for row in rows:
            self.recorder.given += [row.id, row.vector.tobytes(), row.sealed, row.token.encode()]
        self.inner.upsert_rows(rows)

    def scan_topk(
        self, queries: Mapping[int, NDArray[Any]], k: int, *, tokens: Sequence[str] | None = None
    ) -> dict[int, Hits]:
        recorder = self.recorder
        recorder.num_scans += 1
        recorder.given += [query.tobytes() for query in queries.values()]
        recorder.tokens.append(tokens)
        # a store that drops rows fills up with the next best, so that the number of rows is right
        answer = self.inner.scan_topk(queries, k + len(recorder.dropped), tokens=tokens)
        found = {cell: [h for h in hits if h.id not in recorder.dropped][:k] for cell, hits in answer.items()}
        if recorder.cut:
            found = {cell: hits[:-1] for cell, hits in found.items()}
        if recorder.is_swapping:
            for hits in found.values():
                if len(hits) > 1:
                    first, second, *rest = hits
                    hits[:] = [type(first)(first.id, first.score, second.sealed), second, *rest]
        return found


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read in this process, and few rows are enough for a mean, since Qdrant's stand-in is slow."""
    monkeypatch.setattr(ingestion, "read_document_in_child", ingestion.read_document_in_child)
    sealing.read_here()
    monkeypatch.setattr(distance, "MIN_CENTRE_ROWS", NUM_FILES)
    monkeypatch.setattr(ranked_collection, "NUM_CANARIES", 24)


def sqlite_tables(path: Path) -> MakeTable:
    return lambda name, metric, dim: SqliteRankingStore(SqliteFile(path), name, metric=metric, dim=dim)


def make_tables(kind: str, path: Path, request: pytest.FixtureRequest) -> MakeTable:
    if kind == "sqlite":
        return sqlite_tables(path)
    if kind == "pgvector":
        database = open_postgres(request.getfixturevalue("postgres_dsn"))
        request.addfinalizer(database.close)
        return lambda name, metric, dim: PgvectorStore(database, name, metric=metric, dim=dim)
    if kind == "milvus":
        client = request.getfixturevalue("milvus_client")
        return lambda name, metric, dim: MilvusStore(client, name, metric=metric, dim=dim)
    from qdrant_client import QdrantClient

    local = QdrantClient(path=str(path))
    request.addfinalizer(local.close)
    return lambda name, metric, dim: QdrantStore(local, name, metric=metric, dim=dim)


def open_ranked(folder: Path, tables: MakeTable, mode: str = "asym", **options: Any) -> Storage:
    return open_sealed(folder / "data", mode=mode, make_tables=lambda: tables, **options)


def fill(storage: Storage, count: int = NUM_FILES, first: int = 0) -> list[str]:
    """Ingest short files, one passage each; return their ids."""
    rng = np.random.default_rng(first)
    words = [f"word{number}" for number in range(60)]
    ids = []
    for number in range(first, first + count):
        text = f"Report {number} on {CANARY}: " + " ".join(rng.choice(words, 12))
        attributes = {"number": float(number)}
        file = storage.upload(f"{number}.txt", text)
        storage.collections.attach(TENANT, STORE, [ingestion_file(file.id, attributes)])
        ids.append(file.id)
    storage.ingestion.run_until_idle()
    return ids


def ingestion_file(file_id: str, attributes: dict[str, Any]) -> Any:
    from holdfast.serving.collection import NewFile

    return NewFile(file_id, attributes)


def ranked(storage: Storage) -> RankedCollection:
    found = storage.collections.sealed.find(1)
    assert isinstance(found, RankedCollection)
    return found


def close(storage: Storage) -> None:
    storage.ingestion.stop()
    storage.database.close()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[tuple[Storage, Recorder]]:
    recorder = Recorder(sqlite_tables(tmp_path / "rows.sqlite3"))
    storage = open_ranked(tmp_path, recorder)
    yield storage, recorder
    close(storage)


FEW = {"type": "lt", "key": "number", "value": 5}


@pytest.mark.parametrize(("kind", "mode"), [*(("sqlite", mode) for mode in METRICS), *OTHERS])
def test_the_store_ranks_and_the_gateway_orders(
    kind: str, mode: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Ingest, search with filters, restart, delete, rotate: the same as where the gateway ranks all there is."""
    recorder = Recorder(make_tables(kind, tmp_path / "rows", request))
    storage = open_ranked(tmp_path, recorder, mode)
    ids = fill(storage, NUM_FILES - 1)
    here = {query: storage.search(query, k=5) for query in ("word1 word2", "word30 report", "39")}
    assert recorder.num_scans == 0
    ids += fill(storage, 1, NUM_FILES - 1)
    there = {query: storage.search(query, k=5) for query in here}
    assert recorder.num_scans == 2 * len(here)  # each beside a canary
    for query, found in here.items():
        assert there[query] == storage_rank(storage, query, 5)
        assert {s.file_id for s in found} & {s.file_id for s in there[query]}
    filtered = storage.search("word1", k=50, filters=FEW)
    assert {s.filename for s in filtered} == {f"{n}.txt" for n in range(5)}
    assert max(map(len, filter(None, recorder.tokens))) == 5
    text = storage.collections.file_text(TENANT, STORE, filtered[0].file_id)
    assert text[filtered[0].start : filtered[0].end] == filtered[0].text
    storage.files.delete(TENANT, ids[0])
    before = storage.search("word1 word2", k=50)
    assert ids[0] not in {s.file_id for s in before}
    close(storage)
    again = open_ranked(tmp_path, recorder, mode)
    assert again.search("word1 word2", k=50) == before
    epoch = again.collections.sealed.rotate(1)
    assert epoch == 2
    assert again.search("word1 word2", k=50) == before
    assert again.collections.verify() == []
    assert again.collections.sealed._tables is not None
    table = again.collections.sealed._table(ranked(again).row.prefix, mode)
    assert table.count() == NUM_FILES - 1 + 24
    again.collections.delete(TENANT, STORE)
    close(again)


def storage_rank(storage: Storage, query: str, k: int) -> list[Any]:
    """Return what the gateway finds when it ranks all vectors itself."""
    collection = ranked(storage)
    rankings, collection._rankings = collection._rankings, {}
    try:
        return storage.search(query, k=k)
    finally:
        collection._rankings, collection._vectors = rankings, None


def test_what_a_store_cannot_do_is_refused_when_the_vector_store_is_made(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    storage = open_ranked(tmp_path, make_tables("qdrant", tmp_path / "rows", request), "sap")
    with pytest.raises(InvalidInput, match="does not rank codes"):
        storage.collections.create(TENANT, mode="codes")
    assert storage.collections.list(TENANT, Cursor()).items[0].mode == "sap"
    close(storage)


def test_nothing_readable_is_given_to_the_store(opened: tuple[Storage, Recorder], tmp_path: Path) -> None:
    storage, recorder = opened
    fill(storage)
    storage.search(f"word1 {CANARY}", k=5)
    vectors = storage.embedder.encode([f"word1 {CANARY}", "Report 3"])
    scanner = ResidueScanner({"text": CANARY}, {"query": vectors[0], "report": vectors[1]})
    assert scanner.find_in(recorder.given) == []
    assert residue(list(forms(CANARY)), files_below(tmp_path)) == []


def test_a_store_that_leaves_out_a_canary_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fills up with other rows, so that their number is right."""
    monkeypatch.setattr(ranked_collection, "DEFAULT_CANDIDATES", 16)
    recorder = Recorder(sqlite_tables(tmp_path / "rows.sqlite3"))
    storage = open_ranked(tmp_path, recorder, "sap")
    fill(storage)
    [ranking] = ranked(storage)._rankings.values()
    assert storage.search("word1", k=3)
    recorder.dropped = set(ranking.rows.parameters.canaries.row_ids)
    with pytest.raises(TamperError, match="canaries are missing") as caught:
        storage.search("word1", k=3)
    assert caught.value.code == "omitted"
    assert storage.collections.sealed.ranking_stats.omissions == 1
    recorder.dropped = set()
    assert storage.search("word1", k=3)
    close(storage)


def test_a_store_that_returns_too_few_rows_is_noticed(opened: tuple[Storage, Recorder]) -> None:
    storage, recorder = opened
    fill(storage)
    recorder.cut = True
    with pytest.raises(TamperError, match="rows of a cell") as caught:
        storage.search("word1", k=3)
    assert caught.value.code == "omitted"


def test_a_store_that_swaps_rows_is_noticed(opened: tuple[Storage, Recorder]) -> None:
    storage, recorder = opened
    fill(storage)
    recorder.is_swapping = True
    with pytest.raises(TamperError, match="not what was stored") as caught:
        storage.search("word1", k=3)
    assert caught.value.code == "forged"


def test_a_store_that_lost_rows_is_noticed_when_it_is_loaded(opened: tuple[Storage, Recorder]) -> None:
    storage, _ = opened
    fill(storage)
    collection = ranked(storage)
    [ranking] = collection._rankings.values()
    number = next(iter(collection._documents))
    collection._store().delete_rows(ranking.rows.ids(number, 1))
    collection.unload()
    with pytest.raises(TamperError, match="1 of 64 rows are missing"):
        storage.search("word1", k=3)
    assert "missing" in storage.collections.verify()[0]


def test_a_row_that_was_deleted_and_comes_back_counts_for_nothing(opened: tuple[Storage, Recorder]) -> None:
    storage, _ = opened
    ids = fill(storage)
    collection = ranked(storage)
    [ranking] = collection._rankings.values()
    [vectors] = collection._load_vectors([next(iter(collection._documents.values()))]).values()
    file_id = next(s.file_id for s in storage.search("word1", k=99) if s.passage_id == int(vectors.ids[0]))
    storage.files.delete(TENANT, file_id)
    collection._store().upsert_rows(ranking.rows.rows(vectors))
    assert file_id in ids
    assert file_id not in {s.file_id for s in storage.search("word1", k=99)}
    collection.unload()
    assert len(storage.search("word1", k=99)) == NUM_FILES - 1
    assert collection._store().count() == NUM_FILES - 1 + 24


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_rotation_that_is_killed_goes_on(step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever call to the stores is its last, everything is found again, and the rotation ends."""
    monkeypatch.setattr("holdfast.serving.sealed_collections.ROTATED_OBJECTS", 9)
    recorder = Recorder(sqlite_tables(tmp_path / "rows.sqlite3"))
    storage = open_ranked(tmp_path, recorder, "sap")
    fill(storage)
    before = storage.search("word1 word2", k=50)
    calls = 0

    class Killed(BaseException):
        pass

    def counted(self: Any, *args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4 * step - 3:
            raise Killed
        return original(self, *args, **options)

    original = RankedCollection._upsert if step % 2 else RankedCollection._commit
    name = "_upsert" if step % 2 else "_commit"
    monkeypatch.setattr(RankedCollection, name, counted)
    with pytest.raises(Killed):
        storage.collections.sealed.rotate(1)
    close(storage)
    again = open_ranked(tmp_path, recorder, "sap")
    assert again.search("word1 word2", k=50) == before
    added = fill(again, 1, 90)
    assert added[0] in {s.file_id for s in again.search("word1 word2", k=99)}
    again.collections.sealed.rotate(1)
    again.files.delete(TENANT, added[0])
    assert again.search("word1 word2", k=50) == before
    assert again.collections.verify() == []
    close(again)


def test_noise_is_charged_and_then_the_gateway_ranks(tmp_path: Path) -> None:
    recorder = Recorder(sqlite_tables(tmp_path / "rows.sqlite3"))
    storage = open_ranked(tmp_path, recorder, ranking=RankingOptions(query_noise=0.05, query_budget=12.0))
    fill(storage)
    found = [storage.search(f"word{number}", k=3) for number in (1, 1, 2, 3, 4)]
    assert all(found)
    assert recorder.num_scans == 2 * 3  # mu is 8 a question: 1 (asked twice) and 2 fit into 12, and 3 does not
    close(storage)
    again = open_ranked(tmp_path, recorder)
    again.search("word5", k=3)
    assert recorder.num_scans == 2 * 3
    again.search("word2", k=3)
    assert recorder.num_scans == 2 * 4
    close(again)
