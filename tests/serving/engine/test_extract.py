"""What the extract engine does with every parameter, and that its quotes are true."""

from __future__ import annotations

import pytest

from holdfast.errors import InvalidInput
from holdfast.retrieval.embed import Embedder
from holdfast.serving.engine.extract import ExtractEngine
from holdfast.serving.engine.protocol import EngineRequest
from holdfast.serving.engine.spans import SpanReader
from holdfast.serving.prompts import NO_FILES, NOT_IN_FILES
from tests.serving.engine.requests import collect, make_request, make_source

TEXT = "The Alder Bridge crosses the river. It was opened in 1932. The engineer Maria Lindqvist designed it."
SOURCES = [make_source(TEXT, start=40), make_source("The tower holds 450 cubic metres.", score=0.5, name="b.txt")]
QUESTION = "When was the Alder Bridge opened?"


@pytest.fixture(params=["sentences", "spans"])
def engine(request: pytest.FixtureRequest, embedder: Embedder, span_reader: SpanReader) -> ExtractEngine:
    return ExtractEngine(embedder, span_reader if request.param == "spans" else None)


async def quotes_hold(engine: ExtractEngine, request: EngineRequest) -> str:
    streamed = await collect(engine, request)
    text = streamed.text()
    quotes = [quote for delta in streamed.deltas for quote in delta.quotes]
    for quote in quotes:
        quoted = request.sources[quote.source].text[quote.start : quote.end]
        assert quoted
        assert text[quote.answer_start : quote.answer_end] == quoted
    covered = sum(quote.answer_end - quote.answer_start for quote in quotes)
    assert covered + 2 * (len(quotes) - 1) >= len(text.rstrip())
    return text


async def test_a_question_too_long_to_embed_is_refused(engine: ExtractEngine) -> None:
    with pytest.raises(InvalidInput, match="characters"):
        await collect(engine, make_request("word " * 10_000))
    with pytest.raises(InvalidInput, match="characters"):
        engine.count_prompt_tokens(make_request("word " * 10_000))


async def test_the_answer_is_made_of_quotes(engine: ExtractEngine) -> None:
    text = await quotes_hold(engine, make_request(QUESTION, SOURCES))
    assert "It was opened in 1932." in text


async def test_a_reader_says_when_the_passages_do_not(embedder: Embedder, span_reader: SpanReader) -> None:
    request = make_request("Who wrote the opera about the king of Sweden?", SOURCES)
    streamed = await collect(ExtractEngine(embedder, span_reader), request)
    assert streamed.text() == NOT_IN_FILES
    assert not [quote for delta in streamed.deltas for quote in delta.quotes]
    assert (await collect(ExtractEngine(embedder), request)).text() != NOT_IN_FILES


async def test_the_order_of_the_passages_does_not_change_the_answer(engine: ExtractEngine) -> None:
    answers = {(await collect(engine, make_request(QUESTION, each))).text() for each in (SOURCES, SOURCES[::-1])}
    assert len(answers) == 1


async def test_sentences_from_different_places_stand_apart(engine: ExtractEngine) -> None:
    for blank in ("\n\n", " "):
        sources = [make_source(f"The Alder Bridge opened in 1932.{blank}The Alder Bridge opened to all in 1933.")]
        assert await quotes_hold(engine, make_request(QUESTION, sources)) == sources[0].text
    sources.append(make_source("The Alder Bridge was opened by the queen in 1932.", name="b.txt"))
    text = await quotes_hold(engine, make_request(QUESTION, sources))
    assert sorted(text.split("\n\n")) == sorted(source.text for source in sources)


async def test_sampling_changes_nothing_and_choices_are_equal(engine: ExtractEngine) -> None:
    plain = await collect(engine, make_request(QUESTION, SOURCES))
    request = make_request(
        QUESTION, SOURCES, n=3, temperature=2.0, top_p=0.1, seed=9, presence_penalty=1.0, frequency_penalty=-1.0
    )
    streamed = await collect(engine, request)
    assert [streamed.text(choice) for choice in range(3)] == [plain.text()] * 3
    assert streamed.finish_reasons() == ["stop"] * 3


@pytest.mark.parametrize("max_tokens", [1, 2, 5, 9, 17, 1000])
async def test_max_tokens_cut_at_a_token_and_shorten_the_quote(engine: ExtractEngine, max_tokens: int) -> None:
    whole = await collect(engine, make_request(QUESTION, SOURCES))
    request = make_request(QUESTION, SOURCES, max_tokens=max_tokens)
    text = await quotes_hold(engine, request)
    streamed = await collect(engine, request)
    assert whole.text().startswith(text)
    is_cut = max_tokens < whole.num_tokens()
    assert streamed.num_tokens() == (max_tokens if is_cut else whole.num_tokens())
    assert streamed.finish_reasons() == ["length" if is_cut else "stop"]


async def test_a_stop_string_cuts_before_it(engine: ExtractEngine) -> None:
    whole = (await collect(engine, make_request(QUESTION, SOURCES))).text()
    text = await quotes_hold(engine, make_request(QUESTION, SOURCES, stop=("193",)))
    assert text == whole[: whole.index("193")]
    nothing = await collect(engine, make_request(QUESTION, SOURCES, stop=(whole[0],)))
    assert (nothing.text(), nothing.finish_reasons(), nothing.num_tokens()) == ("", ["stop"], 0)


async def test_without_files_it_says_what_it_is_for(engine: ExtractEngine) -> None:
    assert (await collect(engine, make_request("Hello"))).text() == NO_FILES
    assert (await collect(engine, make_request(prompt="Once upon a time"))).text() == NO_FILES


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (make_request(logprobs=True), "logprobs"),
        (make_request(logit_bias=((5, 1.0),)), "logit_bias"),
    ],
)
async def test_what_it_cannot_do_is_refused_by_name(engine: ExtractEngine, request_: EngineRequest, param: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        engine.check(request_)
    assert raised.value.param == param


def test_prompt_tokens_are_those_of_question_and_passages(engine: ExtractEngine, embedder: Embedder) -> None:
    expected = sum(embedder.count_tokens(text) for text in (QUESTION, *(source.text for source in SOURCES)))
    assert engine.count_prompt_tokens(make_request(QUESTION, SOURCES)) == expected
