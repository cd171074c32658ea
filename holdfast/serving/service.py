"""Everything one server process holds, put together once: used by the HTTP application, the command line and tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holdfast.retrieval.embed import Embedder
from holdfast.serving.answer import Answerer
from holdfast.serving.collection import Collections
from holdfast.serving.config import Settings
from holdfast.serving.database import Database
from holdfast.serving.engine.protocol import Engine, Source
from holdfast.serving.files import Files
from holdfast.serving.ingestion import Ingestion


class Service:
    """Opened with `await Service.open(settings)` or used through its parts; implements `answer.Retriever`."""

    settings: Settings
    database: Database
    embedder: Embedder
    files: Files
    collections: Collections
    ingestion: Ingestion
    engine: Engine
    answerer: Answerer

    def __init__(self, settings: Settings) -> None:
        """Open the data directory and load the models (blocking)."""
        raise NotImplementedError

    async def retrieve(
        self,
        tenant: str,
        vector_store_ids: Sequence[str],
        queries: Sequence[str],
        *,
        max_num_results: int,
        filters: dict[str, Any] | None = None,
        score_threshold: float = 0.0,
    ) -> list[Source]:
        raise NotImplementedError

    async def close(self) -> None:
        """Stop ingestion, free the engine, close the database."""
        raise NotImplementedError
