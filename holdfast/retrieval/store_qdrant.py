"""Ranked rows in Qdrant, always searched with `exact`, which passes its graph by.

Row ids are its UUIDs. It ranks floats only: codes are refused.
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from numpy.typing import NDArray

from holdfast.errors import InvalidInput, StoreUnavailable
from holdfast.retrieval.ranking_store import Hits, Metric, RankedHit, RankedRow, check_row, check_vector, sort_hits

DISTANCES: dict[Metric, str] = {"ip": "Dot", "l2": "Euclid"}
UPSERT_SIZE = 256
SCROLL_SIZE = 1000


class QdrantStore:
    """A `RankingStore` in a collection of its own; `client` is a `qdrant_client.QdrantClient`.

    Raises:
        InvalidInput: the metric is `hamming`.
    """

    def __init__(self, client: Any, name: str, *, metric: Metric, dim: int) -> None:
        from qdrant_client import models

        if metric not in DISTANCES:
            raise InvalidInput("Qdrant does not rank codes: use another store or mode", param="store")
        self._client = client
        self._models = models
        # the stand-in is always exact, and warns when it is asked to be
        self._search_params = None if is_local(client) else models.SearchParams(exact=True)
        self._name = f"holdfast_{hashlib.sha256(name.encode()).hexdigest()[:32]}"
        self.metric = metric
        self.dim = dim
        with _qdrant_errors():
            if client.collection_exists(self._name):
                return
            client.create_collection(
                self._name,
                vectors_config=models.VectorParams(size=dim, distance=models.Distance(DISTANCES[metric])),
                hnsw_config=models.HnswConfigDiff(m=0),  # no graph: it would be built on distances that mean nothing
            )
            if not is_local(client):  # strict servers refuse filters on fields without an index
                client.create_payload_index(self._name, "cell", models.PayloadSchemaType.INTEGER, wait=True)
                client.create_payload_index(self._name, "token", models.PayloadSchemaType.KEYWORD, wait=True)

    def upsert_rows(self, rows: Sequence[RankedRow]) -> None:
        points = [
            self._models.PointStruct(
                id=str(uuid.UUID(bytes=row.id)),
                vector=row.vector.tolist(),
                payload={"cell": row.cell, "token": row.token, "sealed": base64.b64encode(row.sealed).decode()},
            )
            for row in (check_row(row, self.metric, self.dim) for row in rows)
        ]
        with _qdrant_errors():
            for first in range(0, len(points), UPSERT_SIZE):
                self._client.upsert(self._name, points[first : first + UPSERT_SIZE], wait=True)

    def scan_topk(
        self, queries: Mapping[int, NDArray[Any]], k: int, *, tokens: Sequence[str] | None = None
    ) -> dict[int, Hits]:
        models = self._models
        found: dict[int, Hits] = {}
        for cell, query in queries.items():
            check_vector(query, self.metric, self.dim)
            conditions = [models.FieldCondition(key="cell", match=models.MatchValue(value=cell))]
            if tokens is not None:
                conditions.append(models.FieldCondition(key="token", match=models.MatchAny(any=list(tokens))))
            with _qdrant_errors():
                answer = self._client.query_points(
                    self._name,
                    query=query.tolist(),
                    query_filter=models.Filter(must=conditions),
                    search_params=self._search_params,
                    limit=k,
                    with_payload=["sealed"],
                )
            sign = -1.0 if self.metric == "l2" else 1.0
            hits = [
                RankedHit(
                    uuid.UUID(str(point.id)).bytes,
                    sign * point.score,
                    base64.b64decode(point.payload["sealed"], validate=True),
                )
                for point in answer.points
            ]
            found[cell] = sort_hits(hits, k)
        return found

    def delete_rows(self, ids: Sequence[bytes]) -> None:
        points = [str(uuid.UUID(bytes=row_id)) for row_id in ids]
        if points:
            with _qdrant_errors():
                self._client.delete(self._name, self._models.PointIdsList(points=points), wait=True)

    def list_ids(self) -> list[bytes]:
        ids: list[bytes] = []
        offset = None
        with _qdrant_errors():
            while True:
                points, offset = self._client.scroll(
                    self._name, limit=SCROLL_SIZE, offset=offset, with_payload=False, with_vectors=False
                )
                ids += [uuid.UUID(str(point.id)).bytes for point in points]
                if offset is None:
                    return sorted(ids)

    def count(self) -> int:
        with _qdrant_errors():
            return int(self._client.count(self._name, exact=True).count)

    def drop(self) -> None:
        with _qdrant_errors():
            self._client.delete_collection(self._name)

    def close(self) -> None:
        self._client.close()


def open_qdrant(url: str, api_key: str | None = None) -> Any:
    """Return a client of the server at `url`."""
    from qdrant_client import QdrantClient

    return QdrantClient(url=url, api_key=api_key, timeout=10)


def is_local(client: Any) -> bool:
    """Whether `client` is the library's own stand-in for a server."""
    return type(client._client).__name__ == "QdrantLocal"


@contextmanager
def _qdrant_errors() -> Iterator[None]:
    from qdrant_client.http.exceptions import ApiException

    try:
        yield
    except (ApiException, OSError) as error:
        raise StoreUnavailable(f"Qdrant does not answer: {type(error).__name__}") from None
