"""A passage is relevant by its score, and near the threshold by its words too."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.serving.relevance import SURE_MARGIN, relevant_sources
from tests.serving.engine.requests import make_source

QUESTION = "When was the Alder Bridge opened?"


@pytest.mark.parametrize(
    ("text", "heading", "score", "is_relevant"),
    [
        ("Unrelated words.", None, 0.3 + SURE_MARGIN, True),
        ("Unrelated words.", None, 0.44, False),
        ("The bridge opened.", None, 0.3, True),
        ("The bridge is grey.", None, 0.3, False),
        ("It opened in 1932.", "Alder Bridge", 0.3, True),
        ("The Alder Bridge opened.", None, 0.29, True),
        ("It opened in 1932.", "Alder Bridge", 0.3 - SURE_MARGIN, True),
        ("The Alder Bridge is grey.", None, 0.29, False),
        ("The Alder Bridge opened.", None, 0.14, False),
    ],
)
def test_score_and_words_decide(text: str, heading: str | None, score: float, is_relevant: bool) -> None:
    source = make_source(text, heading=heading, score=score)
    assert relevant_sources([source], QUESTION, 0.3) == [source] * is_relevant


def test_a_question_without_content_words_goes_by_the_score() -> None:
    source = make_source("Anything.", score=0.31)
    assert relevant_sources([source], "Why?", 0.3) == [source]
    below = make_source("Anything.", score=0.29)
    assert relevant_sources([below], "Why?", 0.3) == relevant_sources([below], "Anything?", 0.3) == []


@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0, 1))
def test_order_is_kept_and_nothing_far_below_the_threshold_passes(scores: list[float], threshold: float) -> None:
    sources = [make_source("The bridge opened.", score=score, name=str(row)) for row, score in enumerate(scores)]
    kept = relevant_sources(sources, QUESTION, threshold)
    assert kept == [source for source in sources if source in kept]
    assert all(source.score >= threshold - SURE_MARGIN for source in kept)
