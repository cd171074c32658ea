"""`holdfast search` and `holdfast ask`: one question to a data directory, answered in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from holdfast.errors import InvalidInput, NotFound
from holdfast.retrieval.embed import make_embedder
from holdfast.serving import cli_ingest
from holdfast.serving.answer import Done, FileSearch, Finished, Searched
from holdfast.serving.api_keys import DEFAULT_TENANT
from holdfast.serving.cli_output import err, loading, out, print_citations, print_json, print_table
from holdfast.serving.config import Settings
from holdfast.serving.database import DATABASE_NAME
from holdfast.serving.engine.factory import make_engine
from holdfast.serving.engine.protocol import Delta, Message, Sampling, Source
from holdfast.serving.service import Service


@contextmanager
def open_service(settings: Settings, *, answers: bool = False, creates: bool = False) -> Iterator[Service]:
    """Open the data directory for one command; the chosen engine is loaded only for one that answers.

    Raises:
        NotFound: there is no data directory, and the command is not one that `creates` it.
    """
    if not creates and not (settings.data_dir / DATABASE_NAME).exists():
        raise NotFound(
            f"{settings.data_dir} is no data directory: `holdfast ingest` makes one, --data-dir names another"
        )
    with loading():
        service = Service(settings if answers else settings.model_copy(update={"engine": "extract"}))
    try:
        yield service
    finally:
        asyncio.run(service.close())


def search(service: Service, store_id: str, query: str, k: int) -> list[Source]:
    """Return the best `k` passages."""
    if not query.strip():
        raise InvalidInput("the query is empty", param="query")
    return asyncio.run(service.retrieve(DEFAULT_TENANT, [store_id], [query], max_num_results=k))


def list_models(settings: Settings, *, as_json: bool) -> None:
    """Print the answering and the embedding model of these settings."""
    with loading():
        embedder = make_embedder(settings.embedding_model, device=settings.device)
        engine = make_engine(settings, embedder)
    rows: list[dict[str, Any]] = [
        {"id": engine.name, "kind": "answers", "context_tokens": engine.context_len, "dimensions": None},
        {"id": embedder.name, "kind": "embeddings", "context_tokens": embedder.max_tokens, "dimensions": embedder.dim},
    ]
    asyncio.run(engine.close())
    if as_json:
        print_json(rows)
    else:
        print_table(("id", "kind", "context tokens", "dimensions"), [tuple(row.values()) for row in rows])


def only_paths(files: Sequence[Path]) -> dict[str, Any] | None:
    """Return the filter that keeps passages of the given files, None without any."""
    return {"type": "in", "key": "path", "value": [str(path) for path in files]} if files else None


def ask(service: Service, store_id: str, question: str, files: dict[Path, bool], *, as_json: bool) -> None:
    """Ingest `files`, answer from them (from the whole store without any), and print answer and citations."""
    if not question.strip():
        raise InvalidInput("the question is empty", param="question")
    if files:
        summary = cli_ingest.ingest_files(service, store_id, files, err)
        for line in summary.lines():
            err.print(line)
    file_search = FileSearch((store_id,), filters=only_paths(list(files)))
    asyncio.run(_ask(service, question, file_search, as_json=as_json))


async def _ask(service: Service, question: str, file_search: FileSearch, *, as_json: bool) -> None:
    result: dict[str, Any] = {}
    messages = [Message("user", question)]
    stream = service.answerer.stream(DEFAULT_TENANT, messages, search=file_search, sampling=Sampling(temperature=0.0))
    async for event in stream:
        match event:
            case Searched():
                result["sources"] = [asdict(source) for source in event.sources]
            case Delta():
                if not as_json:
                    out.print(event.text, end="")
            case Finished():
                result |= {"answer": event.text, "citations": [asdict(citation) for citation in event.citations]}
                if not as_json:
                    out.print("\n")
                    print_citations(event.citations)
            case Done():
                result["usage"] = {"prompt_tokens": event.prompt_tokens, "completion_tokens": event.completion_tokens}
    if as_json:
        print_json(result)
