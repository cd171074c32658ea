"""What is evaluated is never trained on, by title and by eight words in a row."""

from __future__ import annotations

import pytest

from training import splits
from training.corpora import read_passages, read_questions
from training.splits import NQ_FAMILY, SQUAD, TRAINED_ON

pytestmark = pytest.mark.usefixtures("eval_data")


def test_the_split_written_down_is_the_one_its_rule_gives() -> None:
    assert splits.choose_splits() == splits.written_splits()
    assert len(splits.written_splits()["squad"]) == splits.NUM_SQUAD_ARTICLES


def test_no_eight_words_in_a_row_are_both_trained_on_and_tested() -> None:
    tested = set().union(*(splits.shingles(passage.text) for passage in splits.kept_passages().values()))
    trained = splits.training_passages(TRAINED_ON)
    assert len(trained) > 20_000
    assert len(tested) > 100_000
    for passage in trained.values():
        assert tested.isdisjoint(splits.shingles(passage.text)), passage.name
        assert passage.title not in splits.kept_titles()


def test_the_filter_finds_what_titles_alone_would_miss() -> None:
    by_title = [
        passage
        for dataset in TRAINED_ON
        for passage in read_passages(dataset).values()
        if passage.title not in splits.kept_titles()
    ]
    assert len(by_title) > len(splits.training_passages(TRAINED_ON))


def test_no_question_is_both_trained_on_and_tested() -> None:
    trained = splits.training_questions()
    names = {(question.dataset, question.name) for question in trained}
    asked = {" ".join(splits.words(question.text)) for question in trained}
    for dataset in (SQUAD, *(name for name in NQ_FAMILY if name != "nq_multidoc10")):
        tested = splits.kept_questions(dataset)
        assert len(tested) > 60
        assert names.isdisjoint((question.dataset, question.name) for question in tested)
        assert asked.isdisjoint(" ".join(splits.words(question.text)) for question in tested)
        assert len(tested) < len(read_questions(dataset))
