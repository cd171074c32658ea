"""The question sets as they lie on disk: passages and questions, whoever may train on them.

Found through `HOLDFAST_EVAL_DATA`, like the benchmarks' data. Text is detokenised (`Tokyo , Japan` reads
`Tokyo, Japan`), since that is how the passages of a real file look.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from benchmarks.corpora import EVAL_DATA, read_rows

QA_FILES = {
    "qamr": ("qa.dev", "qa.test"),
    "fairytaleqa": ("qa.train",),
    "squad1_dev_a": ("qa.test",),
    "nq_open_oracle": ("qa.test",),
    "qed_dev": ("qa.test",),
    "clapnq_dev": ("qa.test",),
    "timeqa_human": ("qa.train",),
}
"""the files of each set that hold questions; FairytaleQA's validation part is left for tests"""

_SPACE_BEFORE = re.compile(r" +(?=[,.;:!?%)\]}]|'(?:s|re|ve|ll|d|m)\b|n't\b)")
_SPACE_AFTER = re.compile(r"(?<=[(\[{$£€#]) +")
_QUOTE_MARKS = re.compile(r"``\s*|\s*''")


@dataclass(frozen=True, slots=True)
class Passage:
    """A paragraph of a set; `name` is unique over all sets."""

    name: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """A question and what answers it; no `answers` means that its passage does not say."""

    dataset: str
    name: str
    text: str
    answers: tuple[str, ...]
    passage: str
    """name of the passage that holds the answer, or on whose subject the question is; empty where none is named"""


def detokenise(text: str) -> str:
    """Return `text` with the blanks that a tokeniser put around punctuation taken out again."""
    text = _QUOTE_MARKS.sub(lambda found: ' "' if "`" in found.group() else '" ', text)
    return re.sub(r" {2,}", " ", _SPACE_AFTER.sub("", _SPACE_BEFORE.sub("", text))).strip()


@cache
def read_passages(dataset: str) -> dict[str, Passage]:
    """Return a set's passages by name."""
    path = EVAL_DATA / dataset / ("passages.jsonl.gz" if dataset == "nq_multidoc10" else "corpus.jsonl.gz")
    found = {}
    for row in read_rows(path):
        name = f"{dataset}/{row['_id']}"
        found[name] = Passage(name, detokenise(row.get("title") or ""), detokenise(row["text"]))
    return found


@cache
def read_questions(dataset: str) -> tuple[Question, ...]:
    """Return a set's questions in the order of its files.

    ClapNQ's answers are written in long form, so only its unanswerable questions are of use here; an answer of
    FairytaleQA that does not stand in its passage is found out by whoever looks for it there.
    """
    questions = []
    for stem in QA_FILES[dataset]:
        for row in read_rows(EVAL_DATA / dataset / f"{stem}.jsonl.gz"):
            is_answerable = row.get("answerable", True)
            if dataset == "clapnq_dev" and is_answerable:
                continue
            answers = tuple(detokenise(answer).strip(" ,;") for answer in row["answers"]) if is_answerable else ()
            gold = row["gold"][0] if row["gold"] else ""
            passage = f"{dataset}/{gold}" if gold else ""
            questions.append(Question(dataset, row["id"], detokenise(row["question"]), answers, passage))
    return tuple(questions)
