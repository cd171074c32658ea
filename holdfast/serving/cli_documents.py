"""`holdfast stability` and `holdfast warm`: what set mode promises, tried on one question; and its cache, filled."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing
from typing import get_args

from holdfast.errors import InvalidInput
from holdfast.serving.answer import FileSearch
from holdfast.serving.api_keys import DEFAULT_TENANT
from holdfast.serving.cli_output import err, make_progress, out, print_json, print_table
from holdfast.serving.engine.protocol import (
    DocumentEngine,
    EngineRequest,
    Message,
    Mode,
    Reading,
    Sampling,
    Source,
)
from holdfast.serving.service import Service
from holdfast.serving.stability import Stability, audit

MAX_ANSWER_TOKENS = 32


def show_stability(
    service: Service, store_id: str, question: str, mode: str, num_orders: int, seed: int, *, as_json: bool
) -> None:
    """Audit one question and print what was found.

    Raises:
        InvalidInput: no passage is relevant to the question, or there is no such mode.
    """
    reading = Reading(mode=_to_mode(mode))
    found = asyncio.run(_audit(service, FileSearch((store_id,)), question, reading, num_orders, seed))
    if as_json:
        print_json(found.to_json())
        return
    rows = [
        ("passages", found.num_passages),
        ("orders", found.num_orders),
        ("distinct answers", found.distinct_answers),
        ("pairs that agree", f"{found.agreement:.1%}"),
        ("orders with the commonest answer", f"{found.worst_case_agreement:.1%}"),
        ("largest logit difference", found.max_logit_difference),
        ("divergence at the first token (nats)", found.jsd),
        ("mode", found.mode),
        ("guarantee", found.guarantee),
    ]
    print_table(("measure", "value"), [row for row in rows if row[1] is not None])
    for text, count in Counter(answer.text for answer in found.answers).most_common():
        out.print(f"\n{count} of {found.num_orders}: {text}", markup=False)


def warm(service: Service, store_id: str, *, as_json: bool) -> None:
    """Read all passages of a store into the cache, with a progress bar.

    Raises:
        InvalidInput: the engine keeps no documents.
    """
    if not isinstance(service.engine, DocumentEngine):
        raise InvalidInput("only the hf engine keeps documents: add --engine hf --model MODEL", param="engine")
    sources = service.collections.passages(DEFAULT_TENANT, store_id)
    num_written = asyncio.run(_warm(service.engine, sources))
    files = service.engine.document_cache.files
    result = {"passages": len(sources), "tokens_written": num_written, "disk_bytes": files.num_bytes if files else 0}
    if as_json:
        print_json(result)
    else:
        out.print(f"{store_id}: {len(sources)} passages warm, {num_written} tokens read now")


async def _audit(
    service: Service, search: FileSearch, question: str, reading: Reading, num_orders: int, seed: int
) -> Stability:
    sampling = Sampling(max_tokens=MAX_ANSWER_TOKENS, temperature=0.0)
    request = EngineRequest((Message("user", question),), question, (), sampling, reading=reading)
    request, _ = await service.answerer.gather(request, search)
    if not request.sources:
        raise InvalidInput("no passage is relevant to this question", param="question")
    return await audit(service.engine, request, num_orders, seed)


async def _warm(engine: DocumentEngine, sources: list[Source]) -> int:
    num_written = 0
    question = "warm"
    with make_progress(err) as progress:
        for source in progress.track(sources, description="Reading passages"):
            request = EngineRequest(
                (Message("user", question),),
                question,
                (source,),
                Sampling(max_tokens=1),
                reading=Reading(mode="set", is_prewarm=True),
            )
            async with aclosing(engine.generate(request)) as deltas:
                async for delta in deltas:
                    num_written += delta.report.cache_write_tokens if delta.report else 0
    return num_written


def _to_mode(mode: str) -> Mode:
    if mode not in get_args(Mode):
        raise InvalidInput(f"mode is {mode!r}; it is one of {', '.join(get_args(Mode))}", param="mode")
    return mode  # type: ignore[return-value]
