"""The life of a question: searched, sorted by content, cut to fit, answered, cited; with both local engines."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest

from holdfast.errors import ContextTooLong, InvalidInput, NotFound
from holdfast.retrieval.embed import Embedder
from holdfast.serving.answer import Answerer, Delta, FileSearch, Searched
from holdfast.serving.collection_search import Ranking
from holdfast.serving.engine.extract import ExtractEngine
from holdfast.serving.engine.hf import HfEngine, make_hf_engine
from holdfast.serving.engine.protocol import Message, Sampling
from holdfast.serving.engine.spans import SpanReader
from holdfast.serving.prompts import NO_FILES, NOT_IN_FILES
from tests.serving.answering import SEARCH, ListRetriever, answer
from tests.serving.engine.requests import make_source
from tests.serving.tiny_llama import make_tiny_llama

BRIDGE = make_source("The Alder Bridge was opened in 1932. Maria Lindqvist designed it.", score=0.7, start=10)
TOWER = make_source("The water tower holds 450 cubic metres. It is green.", score=0.5, name="b.txt")
HALL = make_source("The town hall was opened in 1871 by the mayor.", score=0.45, name="c.txt")
FAR = make_source("Bananas are rich in potassium.", score=0.1, name="d.txt")
SOURCES = [BRIDGE, TOWER, HALL, FAR]
QUESTION = "When was the Alder Bridge opened?"


@pytest.fixture
def extract(embedder: Embedder) -> ExtractEngine:
    return ExtractEngine(embedder)


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HfEngine]:
    engine = make_hf_engine(str(make_tiny_llama(tmp_path_factory.mktemp("tiny"))), device="cpu")
    yield engine
    asyncio.run(engine.close())


async def test_an_answer_is_streamed_with_its_search_first_and_its_citations_last(extract: ExtractEngine) -> None:
    got = await answer(extract, ListRetriever(SOURCES), QUESTION)
    assert [type(event).__name__ for event in (got.events[0], *got.events[-2:])] == ["Searched", "Finished", "Done"]
    assert got.searched.queries == (QUESTION,)
    assert got.searched.sources == tuple(SOURCES)
    assert "opened in 1932" in got.text
    assert got.text == "".join(event.text for event in got.events if isinstance(event, Delta))
    citation = next(row for row in got.finished[0].citations if "1932" in row.quote)
    assert BRIDGE.text[citation.start - 10 : citation.end - 10] == citation.quote
    assert got.text[citation.answer_start : citation.answer_end] == citation.quote
    assert got.done.completion_tokens == got.finished[0].num_tokens > 0
    assert got.done.prompt_tokens > 0
    assert got.done.extra == {"is_answered": True, "num_dropped": 0, "num_repeated": 0}


@pytest.mark.parametrize("seed", range(6))
async def test_the_order_of_retrieval_does_not_change_the_answer_of_extract(extract: ExtractEngine, seed: int) -> None:
    expected = await answer(extract, ListRetriever(SOURCES), QUESTION)
    assert (await answer(extract, ListRetriever(SOURCES, seed), QUESTION)).events == expected.events


@pytest.mark.parametrize("seed", range(4))
async def test_the_order_of_retrieval_does_not_change_the_answer_of_a_model(hf: HfEngine, seed: int) -> None:
    expected = await answer(hf, ListRetriever(SOURCES), QUESTION, temperature=0.0, max_tokens=16)
    shuffled = await answer(hf, ListRetriever(SOURCES, seed), QUESTION, temperature=0.0, max_tokens=16)
    assert shuffled.events == expected.events


async def test_scores_and_ranks_do_not_reach_the_model(hf: HfEngine) -> None:
    best_first = [replace(TOWER, score=0.9), replace(BRIDGE, score=0.5)]
    worst_first = [replace(TOWER, score=0.5), replace(BRIDGE, score=0.9)]
    texts = [
        (await answer(hf, ListRetriever(sources), QUESTION, temperature=0.0, max_tokens=16)).text
        for sources in (best_first, worst_first)
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("n", [1, 2])
async def test_below_the_threshold_the_files_do_not_say(extract: ExtractEngine, hf: HfEngine, n: int) -> None:
    for engine in (extract, hf):
        for sources in ([FAR], []):
            got = await answer(engine, ListRetriever(sources), "Who painted it?", n=n)
            assert got.searched.sources == tuple(sources)
            assert [choice.text for choice in got.finished] == [NOT_IN_FILES] * n
            assert all(choice.citations == () and choice.finish_reason == "stop" for choice in got.finished)
            assert got.done.extra["is_answered"] is False


async def test_an_engine_that_finds_no_answer_says_so_without_citations(
    embedder: Embedder, span_reader: SpanReader
) -> None:
    engine = ExtractEngine(embedder, span_reader)
    got = await answer(engine, ListRetriever(SOURCES), "Who wrote the opera about the king of Sweden?")
    assert got.searched.sources == tuple(SOURCES)
    assert got.text == NOT_IN_FILES
    assert got.finished[0].citations == ()
    assert got.done.extra["is_answered"] is False
    assert (await answer(engine, ListRetriever(SOURCES), QUESTION)).done.extra["is_answered"] is True


async def test_a_threshold_of_the_request_replaces_the_servers(extract: ExtractEngine) -> None:
    lenient = FileSearch(("vs_1",), score_threshold=0.05)
    assert (await answer(extract, ListRetriever([FAR]), "What are bananas rich in?", search=lenient)).text == FAR.text
    strict = FileSearch(("vs_1",), score_threshold=0.9)
    assert (await answer(extract, ListRetriever(SOURCES), QUESTION, search=strict)).text == NOT_IN_FILES


async def test_the_search_is_passed_on_as_asked(extract: ExtractEngine) -> None:
    retriever = ListRetriever(SOURCES)
    filters = {"key": "year", "type": "eq", "value": 1932}
    ranking = Ranking(0.5, 2.0)
    await answer(extract, retriever, QUESTION, search=FileSearch(("vs_1", "vs_2"), filters, 3, 0.2, ranking))
    options = {"max_num_results": 6, "filters": filters, "score_threshold": 0.2, "ranking": ranking}
    assert retriever.calls == [("t1", ("vs_1", "vs_2"), (QUESTION,), options)]


async def test_the_rank_of_the_search_decides_before_the_score(extract: ExtractEngine) -> None:
    ranked = [replace(BRIDGE, rank=1, score=0.9), replace(TOWER, rank=0, score=0.4)]
    got = await answer(extract, ListRetriever(ranked), QUESTION)
    assert got.searched.sources == tuple(ranked[::-1])


async def test_repetitions_leave_their_places_to_others(extract: ExtractEngine) -> None:
    copies = [replace(BRIDGE, passage_id=row, text=BRIDGE.text.upper(), score=0.6, rank=row + 1) for row in range(3)]
    others = [replace(TOWER, rank=7), replace(HALL, rank=8)]
    search = FileSearch(("vs_1",), max_num_results=3)
    for seed in (1, 2):
        got = await answer(extract, ListRetriever([BRIDGE, *copies, *others], seed), QUESTION, search=search)
        assert got.searched.sources == (BRIDGE, *others)
        assert got.searched.num_repeated == got.done.extra["num_repeated"] == 3
        assert "opened in 1932" in got.text


async def test_what_exceeds_the_context_is_dropped_from_the_lowest_rank_and_said(hf: HfEngine) -> None:
    many = [
        make_source(f"Bridge {row} was built by the city. " * 8, score=0.9 - row / 100, name=str(row))
        for row in range(8)
    ]
    got = await answer(hf, ListRetriever(many, seed=1), QUESTION, max_tokens=200, temperature=0.0)
    assert 0 < got.searched.num_dropped < 8
    assert got.done.extra["num_dropped"] == got.searched.num_dropped
    assert got.done.prompt_tokens + 200 <= 1024
    assert len(got.searched.sources) == 8
    kept = many[: 8 - got.searched.num_dropped]
    same = await answer(hf, ListRetriever(kept), QUESTION, max_tokens=200, temperature=0.0)
    assert same.text == got.text


async def test_a_passage_that_cannot_fit_is_an_error_and_not_an_empty_prompt(hf: HfEngine) -> None:
    huge = make_source("The bridge was built by the city. " * 300, score=0.9)
    with pytest.raises(ContextTooLong, match="1024"):
        await answer(hf, ListRetriever([huge]), QUESTION)


async def test_equal_texts_of_several_files_count_once(extract: ExtractEngine) -> None:
    twins = [BRIDGE, replace(BRIDGE, passage_id=5, file_id="file-twin", score=0.7)]
    one = await answer(extract, ListRetriever(twins), QUESTION)
    other = await answer(extract, ListRetriever(twins[::-1]), QUESTION)
    assert one.events == other.events
    assert one.text.count("1932") == 1


async def test_a_follow_up_is_searched_with_what_it_leans_on(extract: ExtractEngine) -> None:
    conversation = [
        Message("user", "Who designed the Alder Bridge?"),
        Message("assistant", "Maria Lindqvist designed it."),
        Message("user", "When was it opened?"),
    ]
    retriever = ListRetriever(SOURCES)
    got = await answer(extract, retriever, conversation)
    assert got.searched.queries == ("When was it opened? designed Alder Bridge",)
    assert "1932" in got.text


async def test_a_model_rewrites_a_follow_up_and_the_rules_stand_in_for_nonsense(
    hf: HfEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = [Message("user", "Who built the Alder Bridge?"), Message("assistant", "x"), Message("user", "When?")]
    seen = []
    original = hf.generate

    def rewriting(reply: str):  # type: ignore[no-untyped-def]
        async def generate(request):  # type: ignore[no-untyped-def]
            seen.append(request)
            if len(seen) % 2:
                yield Delta(text=reply, finish_reason="stop")
            else:
                async for delta in original(request):
                    yield delta

        return generate

    for reply, expected in (
        ("When was the Alder Bridge built?\n", "When was the Alder Bridge built?"),
        ("a\nb", "When? built Alder Bridge"),
        ("", "When? built Alder Bridge"),
    ):
        monkeypatch.setattr(hf, "generate", rewriting(reply))
        got = await answer(hf, ListRetriever(SOURCES), conversation, max_tokens=3)
        assert got.searched.queries == (expected,)
        assert "Alder Bridge" in seen[-2].messages[-1].content


async def test_a_prompt_with_a_search_is_a_question(extract: ExtractEngine) -> None:
    got = await answer(extract, ListRetriever(SOURCES), [], prompt=QUESTION)
    assert "1932" in got.text


async def test_without_a_search_nothing_is_searched(extract: ExtractEngine, hf: HfEngine) -> None:
    retriever = ListRetriever(SOURCES)
    got = await answer(extract, retriever, "Hello", search=None)
    assert got.text == NO_FILES
    assert got.finished[0].citations == ()
    plain = await answer(hf, retriever, [], prompt="The tower", search=None, max_tokens=3, n=2, seed=1)
    assert [choice.num_tokens for choice in plain.finished] == [3, 3]
    assert plain.done.completion_tokens == 6
    assert retriever.calls == []


async def test_requests_are_checked_before_the_first_event(extract: ExtractEngine) -> None:
    retriever = ListRetriever(SOURCES)
    with pytest.raises(InvalidInput, match="no user turn"):
        await answer(extract, retriever, [Message("system", "x")])
    with pytest.raises(InvalidInput, match="log probabilities"):
        await answer(extract, retriever, QUESTION, logprobs=True)
    assert retriever.calls == []


async def test_what_the_retriever_refuses_is_passed_on(extract: ExtractEngine) -> None:
    class Empty(ListRetriever):
        async def retrieve(self, *_: object, **__: object) -> list[object]:  # type: ignore[override]
            raise NotFound("no vector store 'vs_1'")

    with pytest.raises(NotFound):
        await answer(extract, Empty([]), QUESTION)


async def test_closing_the_answer_stops_the_model(hf: HfEngine) -> None:
    answerer = Answerer(hf, ListRetriever(SOURCES), num_passages=8, relevance_threshold=0.3)
    messages = [Message("user", QUESTION)]
    events = answerer.stream("t1", messages, search=SEARCH, sampling=Sampling(max_tokens=400, temperature=0.0))
    assert isinstance(await anext(events), Searched)
    assert isinstance(await anext(events), Delta)
    (row,) = hf._worker.rows
    await events.aclose()
    assert row.job.is_cancelled
