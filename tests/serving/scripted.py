"""A server on loopback over a scripted engine, in this process: for failures, silences and engines that can do more."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import uvicorn

from holdfast.errors import EngineError, InvalidInput, NotFound
from holdfast.serving.answer import Answerer
from holdfast.serving.app import create_app
from holdfast.serving.config import Settings
from holdfast.serving.database import Database
from holdfast.serving.engine.protocol import Delta, EngineRequest, Quote, Source, TokenLogprob
from holdfast.serving.ranked_epoch import RankingStats
from holdfast.serving.response_store import ResponseStore
from holdfast.serving.server import bind

ANSWER = ("The", " keel", " is", " oak.")
TEXT = "A holdfast grips rock. The keel is oak. The mast is pine."
OTHER_TEXT = "Tides rise twice a day."
SOURCES = [
    Source(1, "file-ships", "ships.txt", TEXT, 100, 100 + len(TEXT), 3, "Hulls", 0.9, {"year": 1850.0}),
    Source(2, "file-sea", "sea.txt", OTHER_TEXT, 0, len(OTHER_TEXT), None, None, 0.8, {}),
]


@dataclass
class ScriptedEngine:
    """Says the same four words; a question may make it fail, wait or talk long."""

    name: str = "scripted"
    context_len: int | None = None
    can_follow_instructions: bool = False
    requests: list[EngineRequest] = field(default_factory=list)
    num_running: int = 0

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def count_prompt_tokens(self, request: EngineRequest) -> int:
        texts = [turn.content for turn in request.messages] + [source.text for source in request.sources]
        return self.count_tokens(" ".join([request.prompt or "", *texts]))

    def check(self, request: EngineRequest) -> None:
        if request.sampling.seed == 13:
            raise InvalidInput("this engine refuses the seed 13", param="seed")

    async def generate(self, request: EngineRequest) -> AsyncGenerator[Delta]:
        self.requests.append(request)
        self.num_running += 1
        try:
            async for delta in self._deltas(request):
                yield delta
        finally:
            self.num_running -= 1

    async def _deltas(self, request: EngineRequest) -> AsyncGenerator[Delta]:
        script = request.prompt or request.question
        if "fail at once" in script:
            raise EngineError("the model caught fire")
        if "wait" in script:
            await asyncio.sleep(60)
        sampling = request.sampling
        answer = ANSWER * 10 if "long" in script else ANSWER
        words = answer[: sampling.max_tokens]
        for word in words:
            for choice in range(sampling.n):
                top = ((word, -0.5), (" x", -1.5))[: sampling.top_logprobs]
                logprobs = (TokenLogprob(word, -0.5, top),) if sampling.logprobs else ()
                yield Delta(choice, word, 1, logprobs, self._quotes(request) if word == words[-1] else ())
            if "fail late" in script:
                raise EngineError("the model caught fire")
            if "crash late" in script:
                raise ZeroDivisionError("a secret path")
            if "pause" in script:
                await asyncio.sleep(60)
        for choice in range(sampling.n):
            yield Delta(choice, finish_reason="stop" if words == answer else "length")

    def _quotes(self, request: EngineRequest) -> tuple[Quote, ...]:
        rows = [row for row, source in enumerate(request.sources) if "keel" in source.text]
        return tuple(Quote(row, 23, 39, 0, 16) for row in rows)

    async def close(self) -> None:
        return None


class ListedPassages:
    """Finds the same passages in every vector store but `vs_none` (nothing found) and `vs_missing` (not there)."""

    async def retrieve(
        self, tenant: str, vector_store_ids: Sequence[str], queries: Sequence[str], **options: Any
    ) -> list[Source]:
        if "vs_missing" in vector_store_ids:
            raise NotFound("no vector store 'vs_missing'", param="vector_store_id")
        return [] if "vs_none" in vector_store_ids else SOURCES[: options["max_num_results"]]


@dataclass
class Scripted:
    """A running server, an HTTP client of it, and the engine behind it."""

    client: httpx.Client
    engine: ScriptedEngine
    base_url: str

    def post(self, path: str, **body: Any) -> httpx.Response:
        content = json.dumps({"model": "scripted", **body})
        return self.client.post(path, content=content, headers={"content-type": "application/json"})

    def events(self, path: str, **body: Any) -> list[Any]:
        """Return the data of a stream's events, the closing `[DONE]` as text."""
        with self.client.stream("POST", path, json={"model": "scripted", "stream": True, **body}) as response:
            assert response.status_code == 200, response.read()
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]


@contextmanager
def running_scripted(folder: Path) -> Iterator[Scripted]:
    """Serve a scripted engine with the real application, Answerer and database."""
    settings = Settings(data_dir=folder, request_timeout_s=20)
    engine = ScriptedEngine()
    database = Database(settings.data_dir)

    async def close() -> None:
        database.close()

    service = SimpleNamespace(
        settings=settings,
        database=database,
        responses=ResponseStore(database),
        engine=engine,
        answerer=Answerer(engine, ListedPassages(), num_passages=8, relevance_threshold=0.3),
        ingestion=SimpleNamespace(start=lambda: None),
        rotations=SimpleNamespace(resume=lambda: None),
        sealed=SimpleNamespace(ranking_stats=RankingStats()),
        close=close,
    )
    listener = bind("127.0.0.1", 0)
    app = create_app(settings, service)  # type: ignore[arg-type]
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with httpx.Client(base_url=base_url, timeout=30) as client:
            yield Scripted(client, engine, base_url)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
