"""Words that mean the same fold to the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.retrieval.words import content_words, stem, words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("bridge", "bridges"), ("open", "opened"), ("run", "running"), ("city", "cities"), ("glass", "glasses"),
        ("Röntgen", "rontgen's"), ("close", "closed"), ("design", "designing"), ("quick", "quickly"),
    ],
)  # fmt: skip
def test_forms_of_a_word_are_one_word(one: str, other: str) -> None:
    assert words(one) == words(other)


def test_function_words_carry_no_content() -> None:
    assert content_words("Who was the first of the engineers?") == [stem("first"), stem("engineers")]


@given(st.text(max_size=60))
def test_any_text_gives_non_empty_words(text: str) -> None:
    assert all(words(text))
    assert set(content_words(text)) <= set(words(text))
