"""Distractors are like the question and do not answer it."""

from __future__ import annotations

from training.corpora import Passage
from training.distractors import Distractors

PASSAGES = [
    Passage("a", "Alder Bridge", "The Alder Bridge was opened in 1932."),
    Passage("b", "", "The Alder Bridge crosses the river."),
    Passage("c", "", "Bridges of the north are old."),
    Passage("d", "", "Bananas hold potassium."),
]


def test_the_likest_passages_without_the_answer_come_first() -> None:
    distractors = Distractors(PASSAGES)
    found = distractors.find("When was the Alder Bridge opened?", ["1932"], 2)
    assert [passage.name for passage in found] == ["b", "c"]
    assert [passage.name for passage in distractors.find("Alder Bridge", [], 1)] == ["a"]
    assert [passage.name for passage in distractors.find("Alder Bridge", [], 1, besides="a")] == ["b"]


def test_answers_are_found_whatever_the_punctuation() -> None:
    found = Distractors(PASSAGES).find("bananas", ["Hold, potassium!"], 4)
    assert "d" not in [passage.name for passage in found]
