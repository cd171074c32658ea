"""Sentences as a reader would cut them, and the properties that hold for any text."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.retrieval.sentences import split_sentences


def sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in split_sentences(text)]


@pytest.mark.parametrize(
    "expected",
    [
        ["Dr. Smith met J. R. Jones at 3.5 m.", "They spoke."],
        ["The U.S. Department of Labor acts.", "It does."],
        ["He works in the U.S.", "The agency is large."],
        ["See Fig. 3 and No. 7, e.g. the table, i.e. below.", "Done!"],
        ["Made by Acme Inc. in 1999.", "Who knows?", '"Yes." She left.'],
        ["Costs rose by 2.5 percent (see Sec. 4).", "Then they fell."],
        ["Strategy 1.2.3. Public Health protects people.", "Next."],
        ["Really?!", "Yes…", "No."],
        ["日本語の文。", "次の文！"],
        ["Version 2.0 runs at example.com/a.b without a stop"],
    ],
)
def test_full_stops_that_end_nothing(expected: list[str]) -> None:
    joined = "".join(expected) if expected[0].startswith("日") else " ".join(expected)
    if '"Yes." She left.' in expected:
        expected = [*expected[:-1], '"Yes."', "She left."]
    assert sentences(joined) == expected


def test_a_line_break_inside_a_sentence_is_no_end() -> None:
    assert sentences("The plan was\nmade in\nMay. It held.") == ["The plan was\nmade in\nMay.", "It held."]


def test_a_blank_line_is_an_end() -> None:
    assert sentences("A title\n\nThe text goes on\n \nand on") == ["A title", "The text goes on", "and on"]


def test_list_items_are_sentences() -> None:
    assert sentences("Take:\n- bread\n* milk\n1. eggs\n2) salt\n• tea") == [
        "Take:", "- bread", "* milk", "1. eggs", "2) salt", "• tea",
    ]  # fmt: skip


def test_a_line_with_a_label_is_a_sentence() -> None:
    rows = [
        "Store 12\n(downtown)",
        "Cashier: Emily Rodriguez",
        "Runway used: 18",
        "Ratio (b): 2:1\nall in\nthese: one two",
    ]
    assert sentences("\n".join(rows)) == rows


def test_long_runs_without_punctuation_are_cut_into_lines() -> None:
    lines = [f"entry {number} of the log" for number in range(100)]
    assert sentences("\n".join(lines)) == lines


@given(st.text(alphabet=st.sampled_from(list("aB1 .\n!?\"')(-。\u00a0\u2028é")), max_size=300))
def test_sentences_hold_every_character_once_and_in_order(text: str) -> None:
    spans = split_sentences(text)
    assert all(text[start:end] == text[start:end].strip() != "" for start, end in spans)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    assert "".join("".join(text[start:end] for start, end in spans).split()) == "".join(text.split())
