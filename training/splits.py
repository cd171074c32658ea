"""What is evaluated is never trained on: one split by title, written down in `splits.json`.

The NQ family (nq_open_oracle, nq_multidoc10, QED, ClapNQ) quotes the same articles of Wikipedia, so it is split once
for all four; of SQuAD ten articles are kept for tests. A passage of any set may be trained on only if its title is
not a test title and it shares no run of eight words with a test passage.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from training.corpora import Passage, Question, read_passages, read_questions

SPLITS = Path(__file__).with_name("splits.json")
NQ_FAMILY = ("nq_open_oracle", "nq_multidoc10", "qed_dev", "clapnq_dev")
SQUAD = "squad1_dev_a"
TRAINED_ON = ("qamr", "fairytaleqa", SQUAD, "nq_open_oracle", "qed_dev", "clapnq_dev", "timeqa_human")
NUM_SQUAD_ARTICLES = 10
SHINGLE_LEN = 8
"""words"""
_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Return the words of `text` in lower case."""
    return _WORD.findall(text.lower())


def shingles(text: str) -> set[str]:
    """Return every run of eight words."""
    held = words(text)
    return {" ".join(held[row : row + SHINGLE_LEN]) for row in range(len(held) - SHINGLE_LEN + 1)}


def choose_splits() -> dict[str, list[str]]:
    """Return the test titles: half of the NQ family's and ten SQuAD articles, by the hash of the title."""
    nq = {passage.title for dataset in NQ_FAMILY for passage in read_passages(dataset).values()}
    squad = {passage.title for passage in read_passages(SQUAD).values()}
    by_hash = sorted(nq - squad, key=_hash)
    kept = sorted(squad, key=_hash)[:NUM_SQUAD_ARTICLES]
    return {"squad": sorted(kept), "nq": sorted({*by_hash[: len(by_hash) // 2], *(nq & set(kept))})}


def written_splits() -> dict[str, list[str]]:
    """Return the test titles written down: of SQuAD and of the NQ family."""
    written: dict[str, list[str]] = json.loads(SPLITS.read_text(encoding="utf-8"))
    return written


@cache
def kept_titles() -> frozenset[str]:
    """Return the titles written down, those of the NQ family and of SQuAD together."""
    return frozenset(title for titles in written_splits().values() for title in titles)


@cache
def kept_passages() -> dict[str, Passage]:
    """Return the passages of SQuAD and the NQ family under a test title, by name."""
    return {
        name: passage
        for dataset in (SQUAD, *NQ_FAMILY)
        for name, passage in read_passages(dataset).items()
        if passage.title in kept_titles()
    }


@cache
def training_passages(datasets: tuple[str, ...]) -> dict[str, Passage]:
    """Return the passages of `datasets` that share neither title nor eight words in a row with a test passage."""
    forbidden = set().union(*(shingles(passage.text) for passage in kept_passages().values()))
    return {
        name: passage
        for dataset in datasets
        for name, passage in read_passages(dataset).items()
        if passage.title not in kept_titles() and forbidden.isdisjoint(shingles(passage.text))
    }


def training_questions(datasets: Iterable[str] = TRAINED_ON) -> list[Question]:
    """Return the questions whose passage may be trained on and that no test question repeats."""
    allowed = training_passages(tuple(datasets))
    asked = {" ".join(words(question.text)) for dataset in datasets for question in kept_questions(dataset)}
    return [
        question
        for dataset in datasets
        for question in read_questions(dataset)
        if question.passage in allowed and " ".join(words(question.text)) not in asked
    ]


def kept_questions(dataset: str) -> list[Question]:
    """Return a set's questions about passages kept for tests."""
    return [question for question in read_questions(dataset) if question.passage in kept_passages()]


def write_splits() -> None:
    """Write the split down; done once, since what was trained depends on it."""
    SPLITS.write_text(json.dumps(choose_splits(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _hash(title: str) -> str:
    return hashlib.sha256(title.encode()).hexdigest()
