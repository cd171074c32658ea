"""Invented facts: asked in training's ways or the tests', answerable by reading and by nothing else."""

from __future__ import annotations

import random

import pytest

from training.contexts import NONE, Context
from training.facts import FactShape, make_facts, make_two_hops
from training.lookups import make_chains, make_counted_words, make_needles, make_pairs
from training.relations import NUM_KEPT, QUESTIONS, RELATIONS, STATEMENTS

FILLER = ["It rained. The road was long. Nobody spoke of it.", "The sea was calm. A gull cried."]


def test_there_are_enough_relations_and_ways_to_speak_of_them() -> None:
    assert len(RELATIONS) >= 60
    assert len(STATEMENTS) >= 8
    assert len(QUESTIONS) >= 6
    assert len({(relation.subject, relation.attribute) for relation in RELATIONS}) == len(RELATIONS)
    for relation in RELATIONS:
        for part, whole in ((relation.statements, STATEMENTS), (relation.questions, QUESTIONS)):
            assert len(part(kept=True)) == NUM_KEPT
            assert sorted(part() + part(kept=True)) == sorted(whole)


@pytest.mark.parametrize("kept", [False, True])
def test_what_is_said_is_said_in_the_ways_asked_for(kept: bool) -> None:
    shape = FactShape((3, 3), (2, 2), (3, 3), former=0.0, unanswerable=0.0, kept_patterns=kept)
    for seed in range(30):
        context = make_facts(random.Random(seed), shape)
        for asked in context.asked:
            said = [
                relation.fill(pattern, name)
                for relation in RELATIONS
                for pattern in relation.questions(kept=kept)
                for name in [_name_in(asked.question, relation.fill(pattern, "{}"))]
                if name
            ]
            assert asked.question in said


def _name_in(question: str, pattern: str) -> str:
    before, _, after = pattern.partition("{}")
    fits = question.startswith(before) and question.endswith(after) and len(question) > len(before) + len(after)
    return question[len(before) : len(question) - len(after)] if fits else ""


def test_every_answer_stands_in_its_evidence_and_strangers_have_none() -> None:
    num_absent = 0
    for seed in range(60):
        context = make_facts(random.Random(seed), FactShape(unanswerable=0.3))
        for asked in context.asked:
            num_absent += asked.answer == NONE
            assert (asked.answer == NONE) == (not asked.evidence)
            assert all(asked.answer in context.documents[row] for row in asked.evidence)
    assert num_absent > 10


def test_two_examples_share_no_name() -> None:
    first, second = (make_facts(random.Random(seed), FactShape((8, 8))) for seed in (1, 2))
    answers = {asked.answer for asked in first.asked if len(asked.answer) > 6}
    assert answers
    assert not any(answer in text for answer in answers for text in second.documents)


def test_two_hops_join_two_documents() -> None:
    for seed in range(20):
        for asked in make_two_hops(random.Random(seed)).asked:
            assert len(asked.evidence) == 2


@pytest.mark.parametrize(
    "context",
    [
        make_pairs(random.Random(0), 20, 20),
        make_pairs(random.Random(3), 30, 4),
        make_needles(random.Random(0), FILLER, 2),
        make_chains(random.Random(0), 3, 4, 4),
        make_counted_words(random.Random(0), 40, 3),
    ],
    ids=lambda context: context.kind,
)
def test_lookups_hold_what_they_ask_for(context: Context) -> None:
    for asked in context.asked:
        held = "\n".join(context.documents[row] for row in asked.evidence)
        assert asked.answer == NONE or all(word in held for word in asked.answer.split())


def test_the_most_frequent_word_is_the_answer() -> None:
    context = make_counted_words(random.Random(5), 60, 3)
    words = "\n".join(context.documents).split("\n")
    assert max(set(words), key=words.count) == context.asked[0].answer
