"""Ranked rows in Milvus, always with its exact index types: FLAT for vectors, BIN_FLAT for codes.

Milvus has no type for bytes: sealed ones go as base64. Reads ask for strong consistency, so that a row is found once
it was stored.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import InvalidInput, StoreUnavailable
from holdfast.retrieval.ranking_store import Hits, Metric, RankedHit, RankedRow, check_row, check_vector, sort_hits

METRICS: dict[Metric, str] = {"ip": "IP", "l2": "L2", "hamming": "HAMMING"}
MAX_TEXT_LEN = 65_535
UPSERT_SIZE = 1000
QUERY_SIZE = 1000


class MilvusStore:
    """A `RankingStore` in a collection of its own; `client` is a `pymilvus.MilvusClient`.

    Raises:
        InvalidInput: the collection exists with an approximate index.
    """

    def __init__(self, client: Any, name: str, *, metric: Metric, dim: int) -> None:
        self._client = client
        self._name = f"holdfast_{hashlib.sha256(name.encode()).hexdigest()[:32]}"
        self.metric = metric
        self.dim = dim
        with _milvus_errors():
            if not client.has_collection(self._name):
                self._create()
            for index in client.list_indexes(self._name):
                kind = client.describe_index(self._name, index).get("index_type")
                if kind not in ("FLAT", "BIN_FLAT"):
                    raise InvalidInput(f"the Milvus collection has an index of type {kind}: only FLAT is exact")
            client.load_collection(self._name)

    def upsert_rows(self, rows: Sequence[RankedRow]) -> None:
        lines = [
            {
                "id": row.id.hex(),
                "cell": row.cell,
                "vector": row.vector.tobytes() if self.metric == "hamming" else row.vector.tolist(),
                "sealed": base64.b64encode(row.sealed).decode(),
                "token": row.token,
            }
            for row in (check_row(row, self.metric, self.dim) for row in rows)
        ]
        with _milvus_errors():
            for first in range(0, len(lines), UPSERT_SIZE):
                self._client.upsert(self._name, lines[first : first + UPSERT_SIZE])

    def scan_topk(
        self, queries: Mapping[int, NDArray[Any]], k: int, *, tokens: Sequence[str] | None = None
    ) -> dict[int, Hits]:
        found: dict[int, Hits] = {}
        for cell, query in queries.items():
            check_vector(query, self.metric, self.dim)
            condition = f"cell == {int(cell)}"
            if tokens is not None:
                condition += " and token in [" + ", ".join(f'"{_checked(token)}"' for token in tokens) + "]"
            data = query.tobytes() if self.metric == "hamming" else query.tolist()
            if tokens is not None and not tokens:
                found[cell] = []
                continue
            with _milvus_errors():
                [hits] = self._client.search(
                    self._name,
                    data=[data],
                    filter=condition,
                    limit=k,
                    output_fields=["sealed"],
                    search_params={"metric_type": METRICS[self.metric]},
                    consistency_level="Strong",
                )
            found[cell] = sort_hits([self._to_hit(hit) for hit in hits], k)
        return found

    def delete_rows(self, ids: Sequence[bytes]) -> None:
        if ids:
            with _milvus_errors():
                self._client.delete(self._name, ids=[row_id.hex() for row_id in ids])

    def list_ids(self) -> list[bytes]:
        ids: list[bytes] = []
        with _milvus_errors():
            pages = self._client.query_iterator(
                self._name, QUERY_SIZE, filter='id != ""', output_fields=["id"], consistency_level="Strong"
            )
            while page := pages.next():
                ids += [bytes.fromhex(row["id"]) for row in page]
            pages.close()
        return sorted(ids)

    def count(self) -> int:
        with _milvus_errors():
            rows = self._client.query(self._name, filter="", output_fields=["count(*)"], consistency_level="Strong")
        return int(rows[0]["count(*)"])

    def drop(self) -> None:
        with _milvus_errors():
            self._client.drop_collection(self._name)

    def close(self) -> None:
        self._client.close()

    def _create(self) -> None:
        from pymilvus import DataType

        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=32)
        schema.add_field("cell", DataType.INT64)
        kind = DataType.BINARY_VECTOR if self.metric == "hamming" else DataType.FLOAT_VECTOR
        schema.add_field("vector", kind, dim=self.dim)
        schema.add_field("sealed", DataType.VARCHAR, max_length=MAX_TEXT_LEN)
        schema.add_field("token", DataType.VARCHAR, max_length=128)
        indexes = self._client.prepare_index_params()
        exact = "BIN_FLAT" if self.metric == "hamming" else "FLAT"
        indexes.add_index("vector", index_type=exact, metric_type=METRICS[self.metric])
        self._client.create_collection(self._name, schema=schema, index_params=indexes, consistency_level="Strong")

    def _to_hit(self, hit: Any) -> RankedHit:
        score = float(hit["distance"])
        if self.metric == "l2":
            score = -float(np.sqrt(max(score, 0.0)))  # Milvus gives the square
        elif self.metric == "hamming":
            score = -score
        entity = hit.get("entity", hit)
        return RankedHit(bytes.fromhex(hit["id"]), score, base64.b64decode(entity["sealed"], validate=True))


def open_milvus(uri: str, token: str | None = None) -> Any:
    """Return a client of the server at `uri`."""
    from pymilvus import MilvusClient

    with _milvus_errors():
        return MilvusClient(uri=uri, token=token or "", timeout=10)


def _checked(token: str) -> str:
    """Return a token that may stand in a filter expression."""
    if not token.isalnum():
        raise InvalidInput("a token has letters and digits only", param="tokens")
    return token


@contextmanager
def _milvus_errors() -> Iterator[None]:
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except MilvusException as error:
        raise StoreUnavailable(f"Milvus answers {error.code}") from None
