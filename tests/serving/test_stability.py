"""The audit, on engines whose dependence on order is known."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from holdfast.serving.engine.protocol import Delta, EngineRequest, Reading, ReadReport
from holdfast.serving.stability import audit
from tests.serving.engine.requests import make_request, make_source

SOURCES = [make_source(text) for text in ("alpha", "beta", "gamma", "delta")]


@dataclass
class FirstEngine:
    """Answers with the passage that came first, or with the first by name; may report logits."""

    is_steady: bool = False
    has_logits: bool = True
    name: str = "first"
    context_len: int | None = None
    can_follow_instructions: bool = False
    asked: list[EngineRequest] = field(default_factory=list)

    def count_tokens(self, text: str) -> int:
        return len(text)

    def count_prompt_tokens(self, request: EngineRequest) -> int:
        return 1

    def check(self, request: EngineRequest) -> None:
        return None

    async def generate(self, request: EngineRequest) -> AsyncGenerator[Delta]:
        self.asked.append(request)
        texts = [source.text for source in request.sources]
        answer = min(texts) if self.is_steady else texts[0]
        if self.has_logits:
            yield Delta(report=ReadReport("sequence", "none", 1, first_logits=(float(len(answer)), 0.0)))
        yield Delta(text=f" {answer} ", num_tokens=1, finish_reason="stop")

    async def close(self) -> None:
        return None


async def test_an_engine_that_follows_the_order_is_found_out() -> None:
    engine = FirstEngine()
    request = make_request("?", SOURCES, temperature=1.0, n=3)
    found = await audit(engine, request, num_orders=24, seed=0)
    assert found.num_orders == 24
    assert found.distinct_answers == 4
    assert found.worst_case_agreement == 0.25
    assert found.agreement == 5 / 23
    assert found.max_logit_difference == 1.0
    assert found.jsd is not None
    assert found.jsd > 0
    assert {tuple(answer.order) for answer in found.answers} == {
        tuple([source.text for source in SOURCES].index(source.text) for source in asked.sources)
        for asked in engine.asked
    }
    assert all(asked.sampling.temperature == 0.0 and asked.sampling.n == 1 for asked in engine.asked)


async def test_an_engine_that_does_not_is_steady_to_the_last_bit() -> None:
    found = await audit(FirstEngine(is_steady=True), make_request("?", SOURCES), num_orders=10, seed=1)
    assert (found.agreement, found.distinct_answers, found.worst_case_agreement) == (1.0, 1, 1.0)
    assert (found.modal_answer, found.max_logit_difference, found.jsd) == ("alpha", 0.0, 0.0)


async def test_engines_without_logits_are_judged_by_their_answers() -> None:
    found = await audit(FirstEngine(has_logits=False), make_request("?", SOURCES[:2]), num_orders=10, seed=1)
    assert (found.num_orders, found.distinct_answers) == (2, 2)
    assert found.max_logit_difference is found.jsd is found.mode is None
    assert Reading().has_logits is False
