"""Set mode as the engine serves it: one answer for a set, whatever its order, neighbours and history."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from holdfast.errors import ContextTooLong, InvalidInput
from holdfast.serving.engine.document_cache import DocumentCache
from holdfast.serving.engine.document_files import DocumentFiles
from holdfast.serving.engine.hf import HfEngine
from holdfast.serving.engine.hf_set import mixed
from holdfast.serving.engine.hf_stream import ChoiceStream
from holdfast.serving.engine.protocol import DocumentEngine, EngineRequest, Reading, ReadReport, Source
from holdfast.serving.engine.set_attention import MAX_DOCUMENT_LEN
from tests.serving.engine.requests import Streamed, collect, make_request, make_source

TEXTS = [
    "The tower was built in 1889 by a company of engineers.",
    "The bridge was built by the city in the year 1932, and it stands by the river. " * 2,
    "A river is a river.",
    "Answer the question from the passages below. " * 4,
    "Engineers stand by the tower.",
    "1932, 1889",
]
SOURCES = [make_source(text, name=f"{row}.txt") for row, text in enumerate(TEXTS)]
MEMORY = 64 * 2**20
Logits = list[torch.Tensor]


def make_engine(folder: Path, cache: DocumentCache | None = None, dtype: torch.dtype = torch.float32) -> HfEngine:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return HfEngine(model, AutoTokenizer.from_pretrained(folder), "tiny", document_cache=cache, secret=b"secret")


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
async def engine(request: pytest.FixtureRequest, tiny_llama: Path) -> AsyncIterator[HfEngine]:
    made = make_engine(tiny_llama, DocumentCache(MEMORY), request.param)
    yield made
    await made.close()


@pytest.fixture
def logits(monkeypatch: pytest.MonkeyPatch) -> Logits:
    """All logits that tokens were chosen from, in order."""
    seen: Logits = []
    push = ChoiceStream.push

    def note(self: ChoiceStream, token_id: int, row: torch.Tensor) -> Any:
        seen.append(row)
        return push(self, token_id, row)

    monkeypatch.setattr(ChoiceStream, "push", note)
    return seen


def set_request(
    sources: Sequence[Source] = SOURCES, question: str = "Who built the bridge?", **options: Any
) -> EngineRequest:
    reading = {key: options.pop(key) for key in ("mode", "is_prewarm") if key in options}
    tenant = options.pop("tenant", "default")
    request = make_request(question, sources, **{"temperature": 0.0, "max_tokens": 6} | options)
    return replace(request, reading=Reading(**{"mode": "set"} | reading), tenant=tenant)


def report(streamed: Streamed) -> ReadReport:
    [found] = [delta.report for delta in streamed.deltas if delta.report]
    return found


def shuffled(seed: int) -> list[Source]:
    return random.Random(seed).sample(SOURCES, len(SOURCES))


def cut_short(folder: Path) -> None:
    for path in folder.glob("*/*"):
        path.write_bytes(path.read_bytes()[:-7])


async def ask(engine: HfEngine, request: EngineRequest, logits: Logits) -> tuple[torch.Tensor, ReadReport]:
    """Return the answer's (tokens, vocab) logits and how it was read."""
    logits.clear()
    streamed = await collect(engine, request)
    return torch.stack(logits), report(streamed)


async def test_every_order_gives_the_same_bits_and_says_so(engine: HfEngine, logits: Logits) -> None:
    expected, first = await ask(engine, set_request(), logits)
    assert first.guarantee == "bitwise"
    assert first.mode == "set"
    for seed in range(5):
        other, read = await ask(engine, set_request(shuffled(seed)), logits)
        assert torch.equal(other, expected)
        assert read.set_digest == first.set_digest
        assert read.documents == first.documents
    fewer, read = await ask(engine, set_request(SOURCES[1:]), logits)
    assert not torch.equal(fewer[0], expected[0])
    assert read.set_digest != first.set_digest


async def test_a_document_twice_is_one(engine: HfEngine, logits: Logits) -> None:
    expected, _ = await ask(engine, set_request(), logits)
    twice, read = await ask(engine, set_request([*SOURCES, SOURCES[2]]), logits)
    assert torch.equal(twice, expected)
    assert len(read.documents) == len(SOURCES)


async def test_alone_and_among_sixteen_the_bits_are_the_same(engine: HfEngine) -> None:
    requests = [
        set_request(shuffled(row)[: 1 + row % 6], f"{'Who? ' * (row % 4)}{row}", max_tokens=2 + row % 5, logprobs=True)
        for row in range(14)
    ]
    requests += [make_request(f"The {row}", temperature=0.0, max_tokens=9) for row in range(2)]  # sequences beside them
    alone = [await collect(engine, request) for request in requests]
    together = await asyncio.gather(*(collect(engine, request) for request in requests))
    for one, other in zip(alone[:14], together[:14], strict=True):
        assert [entry for delta in one.deltas for entry in delta.logprobs] == [
            entry for delta in other.deltas for entry in delta.logprobs
        ]
        assert one.text() == other.text()


async def test_after_eviction_and_recomputation_the_bits_are_the_same(tiny_llama: Path, logits: Logits) -> None:
    cache = DocumentCache(MEMORY)
    engine = make_engine(tiny_llama, cache)
    expected, _ = await ask(engine, set_request(), logits)
    cache.budget_bytes = 0
    await ask(engine, set_request([make_source("something else")]), logits)
    gc.collect()
    again, read = await ask(engine, set_request(shuffled(3)), logits)
    assert set(read.found) == {"evicted"}
    assert torch.equal(again, expected)
    await engine.close()


async def test_after_a_restart_the_disk_gives_the_same_bits(tiny_llama: Path, tmp_path: Path, logits: Logits) -> None:
    answers = []
    for _ in range(2):
        engine = make_engine(tiny_llama, DocumentCache(MEMORY, DocumentFiles(tmp_path, MEMORY)))
        answers.append(await ask(engine, set_request(), logits))
        await engine.close()
    (computed, first), (mapped, second) = answers
    assert set(first.found) == {"new"}
    assert set(second.found) == {"disk"}
    assert torch.equal(computed, mapped)
    cut_short(tmp_path)
    engine = make_engine(tiny_llama, DocumentCache(MEMORY, DocumentFiles(tmp_path, MEMORY)))
    recomputed, third = await ask(engine, set_request(), logits)
    await engine.close()
    assert set(third.found) == {"damaged"}
    assert torch.equal(computed, recomputed)


async def test_warm_only_the_question_is_prefilled(engine: HfEngine) -> None:
    cold = report(await collect(engine, set_request()))
    warm = report(await collect(engine, set_request(shuffled(1))))
    other = report(await collect(engine, set_request(SOURCES[:3], question="When?")))
    num_document_tokens = sum(num_tokens for _, num_tokens in cold.documents)
    assert cold.cache_write_tokens == num_document_tokens
    assert warm.cache_write_tokens == other.cache_write_tokens == 0
    assert warm.prefilled_tokens == cold.prefilled_tokens - num_document_tokens
    assert other.prefilled_tokens < warm.prefilled_tokens < 60
    assert warm.found == ("memory",) * len(SOURCES)
    assert engine.count_prompt_tokens(set_request()) == warm.cached_tokens + warm.prefilled_tokens


async def test_thirty_two_requests_share_one_copy(tiny_llama: Path) -> None:
    engine = make_engine(tiny_llama, DocumentCache(MEMORY))
    requests = [set_request(shuffled(row), f"question {row}", max_tokens=4) for row in range(32)]
    answers = [asyncio.create_task(collect(engine, request)) for request in requests]
    most = 0
    while not all(answer.done() for answer in answers):
        pointers = {
            (kv.tensor.data_ptr(), kv.num_bytes)
            for streams in list(engine._worker._set_batch.rows)
            for sequence in streams
            for kv in sequence.documents
        }
        most = max(most, sum(size for _, size in pointers))
        await asyncio.sleep(0.005)
    one_copy = engine.document_cache.stats.num_bytes
    assert 0 < most <= one_copy
    assert engine.document_cache.stats.found["new"] == len(SOURCES)
    assert engine.document_cache.stats.found["memory"] == 31 * len(SOURCES)
    await engine.close()


async def test_tenants_do_not_see_one_anothers_cache(engine: HfEngine, logits: Logits) -> None:
    expected, _ = await ask(engine, set_request(tenant="a"), logits)
    other, read = await ask(engine, set_request(tenant="b"), logits)
    assert set(read.found) == {"new"}
    assert torch.equal(other, expected)


async def test_a_prewarm_reads_and_says_nothing(engine: HfEngine) -> None:
    streamed = await collect(engine, set_request(is_prewarm=True))
    assert streamed.text() == ""
    assert streamed.num_tokens() == 0
    assert streamed.finish_reasons() == ["stop"]
    assert report(streamed).cache_write_tokens == report(streamed).prefilled_tokens > 0
    assert report(await collect(engine, set_request())).cache_write_tokens == 0


async def test_instructions_of_the_request_do_not_keep_documents_apart(engine: HfEngine) -> None:
    await collect(engine, set_request())
    request = set_request()
    instructed = replace(request, messages=(replace(request.messages[0], role="system"), *request.messages))
    read = report(await collect(engine, instructed))
    assert read.cache_write_tokens == 0


async def test_auto_is_sequence_unless_the_model_was_trained_for_sets(tiny_llama: Path) -> None:
    engine = make_engine(tiny_llama)
    read = report(await collect(engine, set_request(mode="auto")))
    assert (read.mode, read.guarantee, read.set_digest) == ("sequence", "none", None)
    await engine.close()
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    model.config.holdfast_set_mode = True
    trained = HfEngine(model, AutoTokenizer.from_pretrained(tiny_llama), "tiny")
    assert report(await collect(trained, set_request(mode="auto"))).mode == "set"
    without_documents = await collect(trained, set_request((), mode="auto"))
    assert not [delta.report for delta in without_documents.deltas if delta.report]
    await trained.close()


async def test_a_mixture_has_no_order_and_reads_each_document_alone(engine: HfEngine, logits: Logits) -> None:
    expected, read = await ask(engine, set_request(mode="mixture"), logits)
    other, _ = await ask(engine, set_request(shuffled(4), mode="mixture"), logits)
    assert torch.equal(other, expected)
    assert read.mode == "mixture"
    one_by_one = [(await ask(engine, set_request([source], mode="mixture"), logits))[0][0] for source in SOURCES]
    mean = torch.stack(one_by_one).softmax(dim=-1).mean(dim=0)
    assert torch.allclose(expected[0].softmax(dim=-1), mean, atol=1e-5)
    assert torch.equal(mixed(one_by_one[0][None]), one_by_one[0])


async def test_several_choices_share_a_reading_and_draw_differently(engine: HfEngine) -> None:
    streamed = await collect(engine, set_request(n=3, seed=1, temperature=8.0, max_tokens=6))
    assert len({streamed.text(choice) for choice in range(3)}) == 3


async def test_running_answers_get_tokens_while_documents_are_read(tiny_llama: Path) -> None:
    engine = make_engine(tiny_llama, DocumentCache(MEMORY))
    running = engine.generate(make_request("Who?", temperature=0.0, max_tokens=300))
    await anext(running)
    row = engine._worker.rows[0]
    seen = []
    fetch = engine._worker._sets.fetch  # type: ignore[union-attr]

    def note(*args: Any) -> Any:
        seen.append(len(row.stream._ids))
        return fetch(*args)

    engine._worker._sets.fetch = note  # type: ignore[union-attr, method-assign]
    await collect(engine, set_request())
    assert len(seen) == len(SOURCES)
    assert seen == sorted(set(seen))
    await running.aclose()
    await engine.close()


async def test_long_passages_are_read_in_parts(engine: HfEngine) -> None:
    long = make_source(" ".join(f"The bridge was built by the city in the year {row}." for row in range(60)))
    read = report(await collect(engine, set_request([long])))
    assert len(read.documents) > 1
    assert sum(num_tokens for _, num_tokens in read.documents) > MAX_DOCUMENT_LEN
    assert max(num_tokens for _, num_tokens in read.documents) <= MAX_DOCUMENT_LEN


async def test_a_set_is_not_limited_by_the_context_but_its_question_is(engine: HfEngine) -> None:
    many = [make_source(f"{row} {text}", name=f"{row}.txt") for row in range(5) for text in TEXTS]
    request = set_request(many)
    assert engine.count_prompt_tokens(request) > 1024 > engine.count_context_tokens(request)
    assert len(report(await collect(engine, request)).documents) == 30
    with pytest.raises(ContextTooLong):
        engine.check(set_request(question="bridge river tower " * 200))


async def test_an_engine_that_cannot_says_so(tiny_llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, attn_implementation="eager")
    engine = HfEngine(model, AutoTokenizer.from_pretrained(tiny_llama), "tiny")
    with pytest.raises(InvalidInput, match="full attention"):
        engine.check(set_request())
    assert (await collect(engine, make_request(max_tokens=2))).finish_reasons()
    assert isinstance(engine, DocumentEngine)
    await engine.close()
