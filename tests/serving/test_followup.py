"""Follow-up questions take along what they lean on; others stay as they are."""

from __future__ import annotations

import pytest

from holdfast.serving.engine.protocol import Message
from holdfast.serving.followup import MAX_ADDED_WORDS, standalone_question, user_question


def turns(*contents: str) -> list[Message]:
    """User and assistant in turn, beginning with the user."""
    return [Message("user" if row % 2 == 0 else "assistant", content) for row, content in enumerate(contents)]


@pytest.mark.parametrize(
    ("conversation", "expected"),
    [
        (
            turns("Who designed the Alder Bridge?", "It says who.", "When was it opened?"),
            "When was it opened? designed Alder Bridge",
        ),
        (
            turns("Who designed the Alder Bridge?", "x", "And the water tower?"),
            "And the water tower? designed Alder Bridge",
        ),
        (turns("Where is the town hall?", "x", "Why?"), "Why? town hall"),
        (
            turns("Who designed the bridge?", "The engineer Maria Lindqvist designed it.", "When was she born?"),
            "When was she born? Maria Lindqvist designed bridge",
        ),
        (turns("Where is the hall?", "x", "How old is it?", "y", "Who owns it?"), "Who owns it? old hall"),
    ],
)
def test_a_follow_up_takes_along_what_it_leans_on(conversation: list[Message], expected: str) -> None:
    assert standalone_question(conversation) == expected


@pytest.mark.parametrize(
    "conversation",
    [
        turns("When was it opened?"),
        turns("Who designed the Alder Bridge?", "x", "How many people live in the harbour town today?"),
        [Message("system", "The bridge is old."), Message("user", "When was it opened?")],
    ],
)
def test_a_question_that_stands_alone_or_has_nothing_before_it_stays(conversation: list[Message]) -> None:
    assert standalone_question(conversation) == conversation[-1].content


def test_what_is_added_is_bounded() -> None:
    long = " ".join(f"word{row}" for row in range(500))
    assert len(standalone_question(turns(long, "x", "Why?")).split()) <= 1 + MAX_ADDED_WORDS


def test_the_question_is_the_last_user_turn() -> None:
    assert user_question([*turns("One?", "x", "Two?"), Message("tool", "y")]) == "Two?"
    assert user_question([Message("system", "x")]) == ""
