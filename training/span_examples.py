"""Endless examples for the span head: a question, a window of a passage, and where the answer stands in it.

A third hold no answer: the distractors BM25 ranks highest, windows of the right passage without the answer, the
right passage asked about another name, ClapNQ's and TimeQA's own unanswerable questions. Titles come and go, window
lengths vary, and names and numbers are exchanged at times. Example number `i` depends on the seed and `i` only.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

from tokenizers import Tokenizer

from holdfast.serving.engine.span_model import MAX_QUESTION_TOKENS, SpanInput, make_span_input
from training.corpora import Passage, Question
from training.distractors import Distractors
from training.replacement import make_name, make_replacements, replace
from training.splits import TRAINED_ON, training_passages, training_questions

SHARES = {
    "qamr": 0.26,
    "squad1_dev_a": 0.26,
    "fairytaleqa": 0.17,
    "nq_open_oracle": 0.14,
    "qed_dev": 0.07,
    "timeqa_human": 0.07,
    "clapnq_dev": 0.03,
}
"""how often each set is drawn"""
BUDGETS = ((96, 0.3), (128, 0.25), (192, 0.35), (256, 0.1))
"""word-pieces of an example, at most, and how often"""
NO_ANSWER = 0.32
"""examples drawn without an answer"""
REPLACED = 0.25
TITLED = 0.5
NUM_DISTRACTORS = 12


@dataclass(frozen=True, slots=True)
class SpanExample:
    """One row of a batch; `starts` and `ends` are positions in `read.ids`, both empty where nothing answers."""

    read: SpanInput
    starts: tuple[int, ...]
    ends: tuple[int, ...]


class SpanExamples:
    """Draws examples from the training questions."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self._tokenizer = tokenizer
        self._seed = seed
        passages = training_passages(TRAINED_ON)
        self._passages = passages
        self._pool = list(passages.values())
        self._distractors = Distractors(self._pool)
        self._questions: dict[str, list[Question]] = {dataset: [] for dataset in SHARES}
        for question in training_questions():
            self._questions[question.dataset].append(question)
        self._encode = lru_cache(maxsize=50_000)(self._encode_text)

    def __getitem__(self, number: int) -> SpanExample:
        rng = random.Random(f"{self._seed}/{number}")
        while True:
            example = self._draw(rng)
            if example is not None:
                return example

    def _draw(self, rng: random.Random) -> SpanExample | None:
        dataset = rng.choices(list(SHARES), list(SHARES.values()))[0]
        question = rng.choice(self._questions[dataset])
        passage = self._passages[question.passage]
        text, answer = question.text, rng.choice(question.answers) if question.answers else ""
        is_answered = bool(answer) and rng.random() >= NO_ANSWER
        if answer and not is_answered:
            kind = rng.random()
            if kind < 0.55:
                found = self._distractors.find(text, question.answers, NUM_DISTRACTORS, besides=passage.name)
                if not found:
                    return None
                passage = rng.choice(found)
            elif kind < 0.65:
                passage = rng.choice(self._pool)
            elif kind < 0.85:
                text = self._ask_about_another(text, passage, rng)
                if not text:
                    return None
                answer = ""  # nothing in the passage is about that name
        if rng.random() < REPLACED:
            table = make_replacements([passage.title, passage.text], rng)
            text, answer = replace(text, table), replace(answer, table)
            passage = Passage("", replace(passage.title, table), replace(passage.text, table))
        answers = [answer] if is_answered else ([answer, *question.answers] if answer else [])
        return self._window(text, passage, answers, is_answered, rng)

    @staticmethod
    def _ask_about_another(text: str, passage: Passage, rng: random.Random) -> str:
        """Return `text` about a name or number that the passage does not hold; empty where it names nothing."""
        table = make_replacements([f"{passage.title} . {passage.text}"], rng)
        shared = sorted(word for word in set(text.lower().replace("?", " ").split()) & set(table))
        if not shared:
            return ""
        word = rng.choice(shared)
        others = sorted(set(table) - set(text.lower().split()))
        other = rng.choice(others) if others and rng.random() < 0.3 and not word.isdigit() else ""
        return replace(text, {word: other.title() or (table[word] if word.isdigit() else make_name(rng))})

    def _window(
        self, text: str, passage: Passage, answers: list[str], is_answered: bool, rng: random.Random
    ) -> SpanExample | None:
        budget = rng.choices([size for size, _ in BUDGETS], [weight for _, weight in BUDGETS])[0]
        title = self._encode(passage.title)[:24] if passage.title and rng.random() < TITLED else ()
        question = self._encode(text)[:MAX_QUESTION_TOKENS]
        body = self._encode(passage.text)
        spans = [span for answer in answers for span in _occurrences(self._encode(answer), body)]
        if is_answered and not spans:
            return None
        room = max(32, budget - len(question) - len(title) - 4)
        first = 0
        if len(body) > room:
            if is_answered:
                start, end = rng.choice(spans)
                first = rng.randint(max(0, min(end - room, start)), max(0, min(start, len(body) - room)))
            else:
                gaps = [row for row in range(0, len(body) - room + 1, 8) if not _overlapping(spans, row, row + room)]
                if not gaps:
                    return None
                first = rng.choice(gaps)
        elif spans and not is_answered:
            return None
        window = body[first : first + room]
        read = make_span_input(question, title, window)
        held = [(start - first, end - first) for start, end in spans if first <= start and end <= first + len(window)]
        if is_answered and not held:
            return None
        starts = tuple(sorted({read.passage_start + start for start, _ in held})) if is_answered else ()
        ends = tuple(sorted({read.passage_start + end - 1 for _, end in held})) if is_answered else ()
        return SpanExample(read, starts, ends)

    def _encode_text(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)


def _occurrences(wanted: tuple[int, ...], held: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return every (start, end) where the word-pieces `wanted` stand in `held`."""
    size = len(wanted)
    if not size:
        return []
    return [(row, row + size) for row in range(len(held) - size + 1) if held[row : row + size] == wanted]


def _overlapping(spans: list[tuple[int, int]], first: int, last: int) -> bool:
    return any(start < last and first < end for start, end in spans)
