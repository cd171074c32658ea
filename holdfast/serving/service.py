"""Everything one server process holds, put together once: used by the HTTP application, the command line and tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.retrieval.embed import Embedder, make_embedder
from holdfast.serving.answer import Answerer
from holdfast.serving.collection import Collections
from holdfast.serving.collection_search import Candidate, Ranking, best_fused, best_sources, fuse_candidates
from holdfast.serving.config import Settings
from holdfast.serving.database import Database
from holdfast.serving.engine.factory import make_engine
from holdfast.serving.engine.protocol import DocumentEngine, Engine, Source
from holdfast.serving.files import Files
from holdfast.serving.ingestion import Ingestion
from holdfast.serving.limits import check_query
from holdfast.serving.parse_process import ParseLimits
from holdfast.serving.response_store import ResponseStore
from holdfast.serving.rotations import Rotations
from holdfast.serving.sealed_collections import SealedCollections
from holdfast.serving.sealed_uploads import UploadSealer
from holdfast.serving.untrusted import make_keyring, make_object_store
from holdfast.serving.untrusted_ranking import make_ranking_tables


class Service:
    """Opened with `await asyncio.to_thread(Service, settings)`, or used through its parts; an `answer.Retriever`."""

    settings: Settings
    database: Database
    embedder: Embedder
    files: Files
    collections: Collections
    sealed: SealedCollections
    rotations: Rotations
    responses: ResponseStore
    ingestion: Ingestion
    engine: Engine
    answerer: Answerer
    observe_search: Callable[[float], None]
    """told the seconds of every search; set by whoever measures"""

    def __init__(self, settings: Settings, *, embedder: Embedder | None = None) -> None:
        """Open the data directory and load the models (blocking); `embedder` where it is loaded already.

        Raises:
            Conflict: another process uses the data directory.
        """
        self.settings = settings
        self.observe_search = lambda seconds: None
        self.database = Database(settings.data_dir)
        try:
            self.embedder = embedder or make_embedder(settings.embedding_model, device=settings.device)
            keyring = make_keyring(settings, self.database)
            sealer = None if keyring is None else UploadSealer(keyring)
            self.files = Files(self.database, settings.data_dir, sealer)
            self.sealed = SealedCollections(
                self.database,
                keyring,
                lambda: make_object_store(settings),
                dim=self.embedder.dim,
                rows_bytes=settings.index_memory_bytes,
                num_decoys=settings.decoy_cells,
                make_tables=lambda: make_ranking_tables(settings),
            )
            self.rotations = Rotations(self.sealed)
            self.collections = Collections(
                self.database,
                self.files,
                self.embedder,
                settings.data_dir,
                sealed=self.sealed,
                default_mode=settings.encryption or ("sealed" if settings.object_store else "plain"),
            )
            limits = ParseLimits(memory_bytes=settings.parse_memory_bytes, timeout_s=settings.parse_timeout_s)
            self.responses = ResponseStore(self.database, keyring)
            self.ingestion = Ingestion(self.collections, limits, delete_expired=self._delete_expired)
            self.engine = make_engine(settings, self.embedder)
            if isinstance(self.engine, DocumentEngine):
                self.files.on_delete = self.engine.document_cache.forget
                self.engine.document_cache.keep_only(self.files.all_ids())
            self.answerer = Answerer(
                self.engine,
                self,
                num_passages=settings.num_passages,
                relevance_threshold=settings.relevance_threshold,
            )
        except BaseException:
            self.database.close()
            raise

    async def retrieve(
        self,
        tenant: str,
        vector_store_ids: Sequence[str],
        queries: Sequence[str],
        *,
        max_num_results: int,
        filters: dict[str, Any] | None = None,
        score_threshold: float = 0.0,
        ranking: Ranking | None = None,
    ) -> list[Source]:
        """Return the best passages over all stores and queries, in a total order; no `ranking`: by fused scores.

        A passage that several stores hold is returned once, as the first of them cites it.

        Raises:
            InvalidInput: a query is too long, or `filters` is faulty.
            NotFound: the tenant has no such vector store.
        """
        for query in queries:
            check_query(query, "query")
        started = time.perf_counter()
        vectors = await asyncio.to_thread(self.embedder.encode, list(queries))
        if ranking is None or ranking.text_weight:
            pools = await asyncio.gather(
                *(
                    asyncio.to_thread(
                        self._candidates, tenant, vector_store_ids, vectors[row : row + 1], query, filters
                    )
                    for row, query in enumerate(queries)
                )
            )
            fused = [fuse_candidates(pool, ranking) for pool in pools]
            sources = best_fused(
                [[pair for pair in pairs if pair[0].score >= score_threshold] for pairs in fused], max_num_results
            )
        else:
            searches = [
                asyncio.to_thread(
                    self.collections.search,
                    tenant,
                    vector_store_id,
                    vectors,
                    max_num_results,
                    filters=filters,
                    score_threshold=score_threshold,
                )
                for vector_store_id in vector_store_ids
            ]
            sources = best_sources(await asyncio.gather(*searches), max_num_results)
        self.observe_search(time.perf_counter() - started)
        return [replace(source, rank=rank) for rank, source in enumerate(sources)]

    def _candidates(
        self,
        tenant: str,
        vector_store_ids: Sequence[str],
        vector: NDArray[np.float32],
        query: str,
        filters: dict[str, Any] | None,
    ) -> list[Candidate]:
        """Return one query's candidates, the stores in the order given."""
        return [
            candidate
            for vector_store_id in vector_store_ids
            for candidate in self.collections.find_candidates(tenant, vector_store_id, vector, query, filters=filters)
        ]

    def _delete_expired(self) -> None:
        self.collections.delete_expired()
        self.sealed.delete_leftovers()
        self.responses.delete_expired()

    async def close(self) -> None:
        """Stop ingestion, free the engine, save the indexes, close the database."""
        await asyncio.to_thread(self.ingestion.stop, self.settings.shutdown_timeout_s)
        await asyncio.to_thread(self.rotations.stop)
        await self.engine.close()
        await asyncio.to_thread(self.collections.close)
        self.database.close()
