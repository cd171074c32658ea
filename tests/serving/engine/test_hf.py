"""The transformers engine, on a real (tiny, random) Llama: batching, sampling, stopping, cancelling."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.errors import ContextTooLong, EngineError, InvalidInput
from holdfast.serving.engine.hf import HfEngine, KvDefaults, make_hf_engine
from holdfast.serving.engine.protocol import EngineRequest, Kv, Reading
from tests.serving.engine.requests import collect, make_request, make_source
from tests.serving.tiny_llama import make_tiny_llama

QUESTIONS = ["Who built the bridge?", "The tower", "When? " * 30, "a", "by the river, in the year 1932 it was"]


async def test_greedy_text_in_a_batch_equals_greedy_text_alone(hf_engine: HfEngine) -> None:
    requests = [
        make_request(question, temperature=0.0, max_tokens=8 + 5 * row) for row, question in enumerate(QUESTIONS)
    ]
    alone = [(await collect(hf_engine, request)).text() for request in requests]
    together = await asyncio.gather(*(collect(hf_engine, request) for request in requests))
    assert [streamed.text() for streamed in together] == alone
    assert len(set(alone)) == len(alone)


async def test_requests_join_and_leave_a_running_batch(hf_engine: HfEngine) -> None:
    long = make_request(QUESTIONS[0], temperature=0.0, max_tokens=60)
    expected_long = (await collect(hf_engine, long)).text()
    short = make_request(QUESTIONS[2], temperature=0.0, max_tokens=6)
    expected_short = (await collect(hf_engine, short)).text()
    running = hf_engine.generate(long)
    pieces = [(await anext(running)).text for _ in range(3)]
    assert (await collect(hf_engine, short)).text() == expected_short
    pieces += [delta.text async for delta in running]
    assert "".join(pieces) == expected_long


async def test_equal_seeds_give_equal_texts_also_in_a_batch(hf_engine: HfEngine) -> None:
    request = make_request(temperature=0.9, top_p=0.95, seed=7, max_tokens=20)
    alone = (await collect(hf_engine, request)).text()
    others = [
        make_request(question, temperature=1.0, seed=row, max_tokens=20) for row, question in enumerate(QUESTIONS)
    ]
    together = await asyncio.gather(*(collect(hf_engine, one) for one in [*others, request]))
    assert together[-1].text() == alone
    assert (await collect(hf_engine, make_request(temperature=0.9, seed=8, max_tokens=20))).text() != alone


async def test_choices_of_one_request_draw_differently(hf_engine: HfEngine) -> None:
    streamed = await collect(hf_engine, make_request(n=3, seed=1, max_tokens=12))
    assert len({streamed.text(choice) for choice in range(3)}) == 3
    assert len(streamed.finish_reasons()) == 3
    first = await collect(hf_engine, make_request(n=1, seed=1, max_tokens=12))
    assert first.text() == streamed.text(0)


async def test_a_stop_string_across_tokens_ends_the_text_before_it(hf_engine: HfEngine) -> None:
    request = make_request(QUESTIONS[1], temperature=0.0, max_tokens=30)
    whole = await collect(hf_engine, request)
    text = whole.text()
    second_delta = len(whole.deltas[0].text) + len(whole.deltas[1].text)
    stop = text[second_delta - 1 : second_delta + 1]
    stopped = await collect(hf_engine, make_request(QUESTIONS[1], temperature=0.0, max_tokens=30, stop=(stop,)))
    assert stopped.text() == text[: text.index(stop)]
    assert stopped.finish_reasons() == ["stop"]


async def test_max_tokens_are_generated_counted_and_reported(hf_engine: HfEngine) -> None:
    streamed = await collect(hf_engine, make_request(temperature=0.0, max_tokens=5))
    assert streamed.num_tokens() == 5
    assert streamed.finish_reasons() == ["length"]


async def test_logprobs_are_the_models_own_and_greedy_picks_the_largest(hf_engine: HfEngine) -> None:
    streamed = await collect(hf_engine, make_request(temperature=0.0, max_tokens=6, logprobs=True, top_logprobs=3))
    logprobs = [entry for delta in streamed.deltas for entry in delta.logprobs]
    assert len(logprobs) == 6
    for entry in logprobs:
        assert entry.logprob < 0
        assert len(entry.top) == 3
        assert entry.top[0] == (entry.token, pytest.approx(entry.logprob))
        assert sorted((value for _, value in entry.top), reverse=True) == [value for _, value in entry.top]


async def test_a_bias_forces_a_token_and_a_penalty_ends_its_reign(hf_engine: HfEngine) -> None:
    (forced,) = hf_engine._tokenizer("bridge", add_special_tokens=False)["input_ids"][:1]
    word = hf_engine._tokenizer.decode([forced])
    biased = make_request(temperature=0.0, max_tokens=4, logit_bias=((forced, 100.0),))
    assert (await collect(hf_engine, biased)).text() == word * 4
    penalised = make_request(temperature=0.0, max_tokens=4, logit_bias=((forced, 100.0),), presence_penalty=200.0)
    assert (await collect(hf_engine, penalised)).text().count(word) == 1


async def test_top_p_near_zero_is_greedy(hf_engine: HfEngine) -> None:
    greedy = await collect(hf_engine, make_request(temperature=0.0, max_tokens=10))
    nucleus = await collect(hf_engine, make_request(temperature=1.0, top_p=1e-6, max_tokens=10))
    assert nucleus.text() == greedy.text()


async def test_a_temperature_near_zero_is_greedy(hf_engine: HfEngine) -> None:
    greedy = await collect(hf_engine, make_request(temperature=0.0, max_tokens=12))
    near = await collect(hf_engine, make_request(temperature=1e-300, seed=4, max_tokens=12))
    assert near.text() == greedy.text()


async def test_the_event_loop_is_free_while_a_prompt_is_encoded(
    hf_engine: HfEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    prompt_ids = hf_engine.prompt_ids

    def note_thread(request: EngineRequest) -> list[int]:
        threads.append(threading.current_thread())
        return prompt_ids(request)

    monkeypatch.setattr(hf_engine, "prompt_ids", note_thread)
    await collect(hf_engine, make_request(max_tokens=2))
    assert threads
    assert threading.main_thread() not in threads


async def test_a_cancelled_request_frees_its_rows_at_the_next_token(hf_engine: HfEngine) -> None:
    running = hf_engine.generate(make_request(temperature=0.0, max_tokens=900, n=16))
    await anext(running)
    assert len(hf_engine._worker.rows) == 16
    await running.aclose()
    started = time.monotonic()
    await collect(hf_engine, make_request(temperature=0.0, max_tokens=1, n=16))
    assert time.monotonic() - started < 5
    assert len(hf_engine._worker.rows) <= 16


async def test_more_requests_than_rows_wait_their_turn(tiny_llama: Path) -> None:
    engine = make_hf_engine(str(tiny_llama), device="cpu")
    engine._worker.max_rows = 2
    requests = [make_request(question, temperature=0.0, max_tokens=6) for question in QUESTIONS]
    streamed = await asyncio.gather(*(collect(engine, request) for request in requests))
    assert all(one.finish_reasons() for one in streamed)
    with pytest.raises(InvalidInput, match="at most 2"):
        engine.check(make_request(n=3))
    await engine.close()


async def test_a_prompt_beyond_the_context_is_refused_before_anything_is_streamed(hf_engine: HfEngine) -> None:
    with pytest.raises(ContextTooLong, match="1024"):
        hf_engine.check(make_request("bridge river tower " * 500))
    with pytest.raises(ContextTooLong):
        hf_engine.check(make_request(max_tokens=1020))


async def test_without_max_tokens_the_answer_ends_within_the_context(hf_engine: HfEngine) -> None:
    request = make_request("the tower " * 300, temperature=0.0)
    room = 1024 - hf_engine.count_prompt_tokens(request)
    assert 0 < room < 512
    assert (await collect(hf_engine, request)).num_tokens() <= room


async def test_a_plain_prompt_is_continued_without_the_chat_template(hf_engine: HfEngine) -> None:
    request = make_request(prompt="The tower was", temperature=0.0, max_tokens=4)
    assert hf_engine.prompt_ids(request) == hf_engine._tokenizer("The tower was")["input_ids"]
    assert (await collect(hf_engine, request)).num_tokens() == 4


async def test_a_failing_model_fails_the_request_and_not_the_engine(
    hf_engine: HfEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(hf_engine._worker._sequences, "step", explode)
        with pytest.raises(EngineError, match="out of memory"):
            await collect(hf_engine, make_request(temperature=0.0, max_tokens=5))
    assert (await collect(hf_engine, make_request(temperature=0.0, max_tokens=5))).num_tokens() == 5


async def test_closing_fails_what_is_running_and_what_comes_after(tiny_llama: Path) -> None:
    engine = make_hf_engine(str(tiny_llama), device="cpu")
    running = engine.generate(make_request(temperature=0.0, max_tokens=900))
    await anext(running)
    await engine.close()
    with pytest.raises(EngineError, match="shutting down"):
        _ = [delta async for delta in running]
    with pytest.raises(EngineError, match="shutting down"):
        await collect(engine, make_request(max_tokens=1))


def test_a_folder_without_a_model_is_refused_plainly(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot load language model"):
        make_hf_engine(str(tmp_path))


@pytest.fixture(scope="module")
def long_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HfEngine]:
    folder = make_tiny_llama(tmp_path_factory.mktemp("long-llama"), context_len=4096)
    engine = make_hf_engine(str(folder), device="cpu", kv=KvDefaults("retrieval", budget=64, break_even=512))
    yield engine
    asyncio.run(engine.close())


def with_kv(request: EngineRequest, kv: Kv | None, kv_budget: int | None = None) -> EngineRequest:
    return replace(request, reading=Reading(kv=kv, kv_budget=kv_budget))


LONG_TEXT = "".join(f"The tower {row} was built in {1000 + row} by the river. " for row in range(100))


async def test_a_long_prompt_is_decoded_with_retrieval_and_says_so(long_engine: HfEngine) -> None:
    request = make_request(prompt=LONG_TEXT, temperature=0.0, max_tokens=6)
    assert long_engine.count_prompt_tokens(request) > 512 + 400
    before = long_engine.kv_totals()
    full = await collect(long_engine, with_kv(request, "full"))
    retrieved = await collect(long_engine, request)
    assert full.num_tokens() == retrieved.num_tokens() == 6
    assert not any(delta.report for delta in full.deltas)
    reports = [delta.report.kv for delta in retrieved.deltas if delta.report and delta.report.kv]
    assert len(reports) == 1
    report = reports[0]
    assert report.budget == 64
    assert 0 < report.trigger_rate <= 1
    assert 0 < report.sampled_mass < 1
    assert 0 < report.index_bytes < report.memory_bytes / 16
    totals = long_engine.kv_totals()
    assert totals.num_decisions - before.num_decisions == 2 * 2 * 5  # the first token comes from the prompt's logits
    for _ in range(100):  # the worker lets go before its next step
        if not long_engine.kv_totals().memory_bytes:
            break
        await asyncio.sleep(0.05)
    assert long_engine.kv_totals().memory_bytes == long_engine.kv_totals().index_bytes == 0


async def test_a_budget_of_the_whole_cache_gives_the_text_of_full_decoding(long_engine: HfEngine) -> None:
    request = make_request(prompt=LONG_TEXT, temperature=0.0, max_tokens=6, n=2)
    full = await collect(long_engine, with_kv(request, "full"))
    retrieved = await collect(long_engine, with_kv(request, "retrieval", 100_000))
    assert [retrieved.text(choice) for choice in range(2)] == [full.text(choice) for choice in range(2)]


async def test_short_prompts_with_retrieval_read_everything(long_engine: HfEngine, hf_engine: HfEngine) -> None:
    requests = [make_request(question, temperature=0.0, max_tokens=8) for question in QUESTIONS[:3]]
    expected = [(await collect(long_engine, with_kv(request, "full"))).text() for request in requests]
    together = await asyncio.gather(*(collect(long_engine, with_kv(request, "retrieval")) for request in requests))
    assert [streamed.text() for streamed in together] == expected


async def test_sets_are_not_decoded_with_retrieval(long_engine: HfEngine) -> None:
    request = make_request(sources=[make_source("The bridge was built by the city.")], max_tokens=4)
    by_default = replace(request, reading=Reading(mode="set"))
    assert (await collect(long_engine, by_default)).finish_reasons()
    with pytest.raises(InvalidInput, match="retrieval"):
        long_engine.check(replace(request, reading=Reading(mode="set", kv="retrieval")))
