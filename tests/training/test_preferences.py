"""Pairs of answers by the four cases, and a preference that is learned."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from training.contexts import NONE, Asked
from training.dpo import margin, train_preferences
from training.encoding import encode_answer, encode_document, encode_question, special
from training.facts import FactShape, make_facts
from training.preferences import Preference, judge, load_preferences, make_preferences, save_preferences
from training.sizes import SIZES, make_model
from training.tokenizer import END, train_tokenizer

MICRO = SIZES["micro"]
SHAPE = FactShape((3, 3), (1, 1), (1, 1), 0.0, 0.0, 0.0, 1.0)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    contexts = [make_facts(random.Random(number), SHAPE) for number in range(50)]
    return train_tokenizer([text for context in contexts for text in context.documents], MICRO.vocab_size)


@pytest.mark.parametrize(
    ("gold", "answers", "expected"),
    [
        ("Ada", ["Ada", "the Ada."], []),
        ("Ada", ["Bo", "Ada", "Bo", "Cy"], [(0, "Ada", "Bo"), (1, "Ada", "Bo")]),
        ("Ada", ["Bo", "Cy", "Cy"], [(0, "Ada", NONE)]),
        (NONE, ["Bo", "Cy", "Cy"], [(0, NONE, "Cy")]),
        ("Ada", ["", "Ada"], [(0, "Ada", ""), (1, "Ada", "")]),
    ],
)
def test_the_four_cases(gold: str, answers: list[str], expected: list[tuple[int, str, str]]) -> None:
    assert judge(Asked("Who?", gold), answers) == expected


def test_an_untrained_reader_is_shown_the_answer_in_its_documents(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = make_model(MICRO, 0).eval()
    contexts = [make_facts(random.Random(number), SHAPE) for number in range(2)]
    made = list(make_preferences(model, tokenizer, contexts, seed=0))
    assert made
    end, none = special(tokenizer, END), special(tokenizer, NONE)
    golds = [[*encode_answer(tokenizer, asked.answer), end] for context in contexts for asked in context.asked]
    assert all(preference.chosen in golds and preference.rejected == [none, end] for preference in made)
    assert save_preferences(tmp_path / "preferences.jsonl", made) == len(made)
    assert load_preferences(tmp_path / "preferences.jsonl") == made


def test_what_is_preferred_becomes_likelier_than_what_is_not(tokenizer: Tokenizer) -> None:
    prompt = encode_document(tokenizer, "The bridge is old.") + encode_question(tokenizer, "What is old?")
    end = special(tokenizer, END)
    preferences = [
        Preference(prompt, [*encode_answer(tokenizer, "The bridge"), end], [special(tokenizer, NONE), end])
    ] * 64
    model = make_model(MICRO, 0)
    with torch.inference_mode():
        before = float(margin(model, preferences[0]))
    losses = train_preferences(model, preferences, seed=0)
    with torch.inference_mode():
        after = float(margin(model, preferences[0]))
    assert after > before
    assert losses[1] < losses[0] <= math.log(2) + 1e-6
