"""One suite that every ranking store passes: exact against the float64 reference, ties allowed."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from holdfast.errors import InvalidInput, ShapeError
from holdfast.retrieval.ranking_store import Hits, Metric, RankedRow, RankingStore, rank_rows
from holdfast.retrieval.store_postgres import PgvectorStore, open_postgres
from tests.untrusted_stores import RANKING_STORES, MakeRankingStore

DIM = 32
NUM_ROWS = 240
TOLERANCE = 1e-5

CASES = [
    (kind, metric)
    for kind in RANKING_STORES
    for metric in ("ip", "l2", "hamming")
    if (kind, metric) != ("qdrant", "hamming")  # refused, see below
]


def draw(rng: np.random.Generator, metric: Metric) -> NDArray[Any]:
    if metric == "hamming":
        return rng.integers(0, 256, DIM // 8, dtype=np.uint8)
    return rng.standard_normal(DIM, dtype=np.float32)


def make_rows(rng: np.random.Generator, metric: Metric, num_rows: int = NUM_ROWS) -> list[RankedRow]:
    return [
        RankedRow(rng.bytes(16), int(rng.integers(3)), draw(rng, metric), rng.bytes(40), f"t{rng.integers(5)}")
        for _ in range(num_rows)
    ]


def assert_same(found: dict[int, Hits], expected: dict[int, Hits]) -> None:
    """The same scores in the same order, and the same rows wherever float32 can tell the scores apart."""
    assert found.keys() == expected.keys()
    for cell, hits in expected.items():
        assert [hit.score for hit in found[cell]] == pytest.approx([hit.score for hit in hits], abs=TOLERANCE)
        for hit, other in zip(found[cell], hits, strict=True):
            if hit.id != other.id:
                ties = [one for one in hits if abs(one.score - hit.score) <= 2 * TOLERANCE]
                assert len(ties) > 1 or hit is found[cell][-1], "another row without a tie"
        sealed = {hit.id: hit.sealed for hit in hits}
        assert all(sealed.get(hit.id, hit.sealed) == hit.sealed for hit in found[cell])


@pytest.fixture(params=CASES, ids="-".join)
def store(request: pytest.FixtureRequest, ranking_stores: MakeRankingStore) -> RankingStore:
    kind, metric = request.param
    if (kind, metric) == ("milvus", "hamming") and importlib.metadata.version("milvus-lite").startswith("3."):
        pytest.skip("Milvus Lite 3 has no binary vectors; Milvus itself and Milvus Lite 2.5 do")
    return ranking_stores(kind, metric, DIM)


def test_the_best_rows_equal_the_reference(store: RankingStore, rng: np.random.Generator) -> None:
    rows = make_rows(rng, store.metric)
    store.upsert_rows(rows)
    assert store.count() == len(rows)
    assert store.list_ids() == sorted(row.id for row in rows)
    for k in (1, 7, 300):
        queries = {cell: draw(rng, store.metric) for cell in (0, 1, 2, 9)}
        assert_same(store.scan_topk(queries, k), rank_rows(rows, queries, k, store.metric))
    queries = {1: draw(rng, store.metric)}
    for tokens in (["t1"], ["t0", "t4"], ["unknown"], []):
        found = store.scan_topk(queries, 20, tokens=tokens)
        assert_same(found, rank_rows(rows, queries, 20, store.metric, tokens=tokens))


def test_equal_rows_go_by_id(store: RankingStore, rng: np.random.Generator) -> None:
    vector = draw(rng, store.metric)
    rows = [RankedRow(rng.bytes(16), 0, vector, b"x", "t") for _ in range(9)]
    store.upsert_rows(rows)
    hits = store.scan_topk({0: vector}, 9)[0]
    assert [hit.id for hit in hits] == sorted(row.id for row in rows)


def test_upserting_replaces_and_deleting_is_idempotent(store: RankingStore, rng: np.random.Generator) -> None:
    rows = make_rows(rng, store.metric, 12)
    store.upsert_rows(rows)
    changed = [RankedRow(row.id, 2, draw(rng, store.metric), b"new", "other") for row in rows[:4]]
    store.upsert_rows(changed)
    store.upsert_rows(changed)  # delivered twice
    gone = [row.id for row in rows[8:]]
    store.delete_rows([*gone, bytes(16)])
    store.delete_rows(gone)
    store.delete_rows([])
    left = changed + rows[4:8]
    assert store.count() == len(left)
    assert store.list_ids() == sorted(row.id for row in left)
    queries = {cell: draw(rng, store.metric) for cell in range(3)}
    assert_same(store.scan_topk(queries, 12), rank_rows(left, queries, 12, store.metric))


def test_sealed_bytes_come_back_as_they_were(store: RankingStore, rng: np.random.Generator) -> None:
    sealed = bytes(range(256)) * 8
    vector = draw(rng, store.metric)
    store.upsert_rows([RankedRow(bytes(range(16)), 5, vector, sealed, "t")])
    [hit] = store.scan_topk({5: vector}, 1)[5]
    assert (hit.id, hit.sealed) == (bytes(range(16)), sealed)


def test_faulty_rows_and_queries_are_refused(store: RankingStore, rng: np.random.Generator) -> None:
    vector = draw(rng, store.metric)
    with pytest.raises(ShapeError):
        store.upsert_rows([RankedRow(bytes(16), 0, vector[:-1], b"", "t")])
    with pytest.raises(ShapeError):
        store.scan_topk({0: vector[:-1]}, 1)
    with pytest.raises(InvalidInput):
        store.upsert_rows([RankedRow(bytes(15), 0, vector, b"", "t")])
    if store.metric != "hamming":
        with pytest.raises(InvalidInput):
            store.upsert_rows([RankedRow(bytes(16), 0, vector * np.float32("nan"), b"", "t")])
    assert store.count() == 0


def test_qdrant_refuses_codes(ranking_stores: MakeRankingStore) -> None:
    with pytest.raises(InvalidInput, match="does not rank codes"):
        ranking_stores("qdrant", "hamming", DIM)


def test_a_table_with_an_approximate_index_is_refused(
    ranking_stores: MakeRankingStore, postgres_dsn: str, rng: np.random.Generator
) -> None:
    database = open_postgres(postgres_dsn)
    PgvectorStore(database, "indexed", metric="ip", dim=DIM).upsert_rows(make_rows(rng, "ip", 5))
    database.execute("CREATE INDEX ON holdfast_indexed USING hnsw (vector vector_ip_ops)")
    with pytest.raises(InvalidInput, match="approximate index"):
        PgvectorStore(database, "indexed", metric="ip", dim=DIM)
    database.execute("DROP TABLE holdfast_indexed")
    database.close()


def test_a_lost_connection_is_made_again_once(postgres_dsn: str, rng: np.random.Generator) -> None:
    database, other = open_postgres(postgres_dsn), open_postgres(postgres_dsn)
    store = PgvectorStore(database, "lost", metric="ip", dim=DIM)
    store.upsert_rows(make_rows(rng, "ip", 5))
    [(pid,)] = database.execute("SELECT pg_backend_pid()")
    other.execute("SELECT pg_terminate_backend(%s)", (pid,))
    assert store.count() == 5
    store.drop()
    database.close()
    other.close()


def test_two_tables_do_not_mix(ranking_stores: MakeRankingStore, rng: np.random.Generator) -> None:
    for kind in RANKING_STORES:
        first, second = ranking_stores(kind, "ip", DIM), ranking_stores(kind, "ip", DIM)
        first.upsert_rows(make_rows(rng, "ip", 3))
        assert (first.count(), second.count()) == (3, 0)
