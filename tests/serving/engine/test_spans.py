"""Spans by the shipped weights: verbatim, alone, and with a verdict."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.serving.engine.spans import (
    MAX_SPAN_TOKENS,
    WINDOW_TOKENS,
    Reading,
    SpanReader,
    is_answered,
)
from tests.serving.engine.requests import make_source

BRIDGE = (
    "The Alder Bridge crosses the river north of the town. It was opened in 1932 after four years of work. "
    "The engineer Maria Lindqvist designed it. It carries two lanes of traffic and a footpath."
)
TOWER = "The water tower stands on a hill. It holds 450 cubic metres. It was painted green in 1971."


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("When was the Alder Bridge opened?", "1932"),
        ("Who designed the bridge?", "Maria Lindqvist"),
        ("How many lanes does the bridge carry?", "two"),
    ],
)
def test_the_best_span_answers(span_reader: SpanReader, question: str, answer: str) -> None:
    bridge, tower = span_reader.read(question, [make_source(BRIDGE), make_source(TOWER)])
    span, elsewhere = bridge.best_span(), tower.best_span()
    assert span is not None
    assert elsewhere is not None
    assert answer in BRIDGE[span.start : span.end]
    assert span.score > elsewhere.score
    assert is_answered(question, [tower, bridge])


def test_what_no_passage_says_is_not_answered(span_reader: SpanReader) -> None:
    sources = [make_source(BRIDGE), make_source(TOWER)]
    for question in ("Who wrote the opera about the king of Sweden?", "What is the capital of France?"):
        assert not is_answered(question, span_reader.read(question, sources))
    assert is_answered("Wie hoch ist der Turm?", span_reader.read("Wie hoch ist der Turm?", sources))
    assert not is_answered("Who was it?", [])


def test_a_passage_reads_the_same_whatever_stands_beside_it(span_reader: SpanReader) -> None:
    question = "When was it opened?"
    alone = span_reader.read_passage(question, "Bridges", BRIDGE)
    beside = span_reader.read(question, [make_source(TOWER), make_source(BRIDGE, heading="Bridges")])[1]
    assert np.array_equal(alone.starts, beside.starts)
    assert np.array_equal(alone.ends, beside.ends)
    assert not np.array_equal(alone.starts, span_reader.read_passage(question, "", BRIDGE).starts)


def test_a_span_stands_within_the_characters_asked_for(span_reader: SpanReader) -> None:
    reading = span_reader.read_passage("When was the Alder Bridge opened?", "", BRIDGE)
    start = BRIDGE.index("The engineer")
    span = reading.best_span(start, len(BRIDGE))
    assert span is not None
    assert start <= span.start < span.end <= len(BRIDGE)
    whole = reading.best_span()
    assert whole is not None
    assert whole.score > span.score
    assert reading.best_span(3, 4) is None


def test_a_long_passage_is_read_to_its_end(span_reader: SpanReader) -> None:
    filler = "Nothing of note happened that day in the valley. " * 60
    for text in (filler + BRIDGE, BRIDGE + " " + filler, filler + BRIDGE + " " + filler):
        reading = span_reader.read_passage("Who designed the Alder Bridge?", "", text)
        assert len(reading.offsets) > 2 * WINDOW_TOKENS
        assert np.isfinite(reading.starts).all()
        span = reading.best_span()
        assert span is not None
        assert "Lindqvist" in text[span.start : span.end]


def test_passages_without_words_and_in_other_scripts_are_read(span_reader: SpanReader) -> None:
    assert span_reader.read_passage("When?", "", "").best_span() is None
    for text in ("…", "東京は日本の首都である。", "x" * 3000, "\n\n\n"):
        span = span_reader.read_passage("何時?", "", text).best_span()
        assert span is None or 0 <= span.start < span.end <= len(text)


@given(st.integers(1, 60), st.integers(0, 2**32 - 1), st.data())
def test_the_best_span_is_the_best_of_all(num_tokens: int, seed: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    starts, ends = rng.integers(-3, 4, (2, num_tokens)).astype(np.float32)
    reading = Reading([(2 * row, 2 * row + 1) for row in range(num_tokens)], starts, ends)
    first = data.draw(st.integers(0, num_tokens - 1))
    last = data.draw(st.integers(first, num_tokens))
    span = reading.best_span(2 * first, 2 * last)
    every = [
        (-float(starts[row] + ends[stop]), row, stop)
        for row in range(first, last)
        for stop in range(row, min(row + MAX_SPAN_TOKENS, last))
    ]
    if not every:
        assert span is None
        return
    score, row, stop = min(every)
    assert span is not None
    assert (span.start, span.end, span.score) == (2 * row, 2 * stop + 1, -score)
