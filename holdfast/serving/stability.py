"""The stability audit: one question on the passages found for it, under several orders of them.

Every order goes to the engine by itself, without the canonical order that answers otherwise get, so that the audit
shows what the model would do with passages as they come. In set mode the engine orders them itself: nothing should
change.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from holdfast.retrieval.agreement import (
    agreement,
    max_logit_difference,
    mean_pairwise_jsd,
    modal_answer,
    sampled_orders,
)
from holdfast.serving.engine.protocol import Engine, EngineRequest, ReadReport


@dataclass(frozen=True, slots=True)
class OrderAnswer:
    """What the engine said to one order."""

    order: list[int]
    """positions in the canonical order, as the engine was given them"""
    text: str


@dataclass(frozen=True, slots=True)
class Stability:
    """What the audit found."""

    num_passages: int
    num_orders: int
    agreement: float
    """share of pairs of orders with the same answer"""
    distinct_answers: int
    modal_answer: str
    worst_case_agreement: float
    """share of orders that gave the modal answer: 1.0 where no order changes it"""
    max_logit_difference: float | None
    """at the first answer token; None for engines without logits. 0.0 is: not one bit"""
    jsd: float | None
    """mean Jensen-Shannon divergence of pairs of orders at the first answer token, nats"""
    mode: str | None
    guarantee: str | None
    set_digest: str | None
    answers: tuple[OrderAnswer, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


async def audit(engine: Engine, request: EngineRequest, num_orders: int, seed: int) -> Stability:
    """Answer `request`, greedily, under up to `num_orders` distinct orders of its sources, one after another."""
    sampling = replace(request.sampling, temperature=0.0, n=1)
    reading = replace(request.reading, has_logits=True, is_prewarm=False)
    orders = sampled_orders(len(request.sources), num_orders, seed)
    answers: list[OrderAnswer] = []
    reports: list[ReadReport] = []
    for order in orders:
        sources = tuple(request.sources[row] for row in order)
        text = ""
        async with aclosing(
            engine.generate(replace(request, sources=sources, sampling=sampling, reading=reading))
        ) as deltas:
            async for delta in deltas:
                text += delta.text
                reports += [delta.report] if delta.report else []
        answers.append(OrderAnswer(order, text.strip()))
    texts = [answer.text for answer in answers]
    logits = np.array([report.first_logits for report in reports], dtype=np.float32) if reports else None
    mode = str(modal_answer(texts))
    return Stability(
        num_passages=len(request.sources),
        num_orders=len(orders),
        agreement=agreement(texts),
        distinct_answers=len(set(texts)),
        modal_answer=mode,
        worst_case_agreement=texts.count(mode) / len(texts),
        max_logit_difference=None if logits is None else max_logit_difference(logits),
        jsd=None if logits is None else mean_pairwise_jsd(logits),
        mode=reports[0].mode if reports else None,
        guarantee=reports[0].guarantee if reports else None,
        set_digest=reports[0].set_digest if reports else None,
        answers=tuple(answers),
    )
