"""Real questions over real passages, among passages that look as if they answered.

The distractors are those that BM25 ranks highest for one of the questions; at times names and numbers are exchanged
throughout, or the passage is taken out and the answer is that the documents do not say.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass

from training.contexts import NONE, Asked, Context
from training.corpora import Passage, Question
from training.distractors import Distractors
from training.replacement import make_replacements, replace
from training.splits import TRAINED_ON, training_passages, training_questions, words

REPLACED = 0.5
TITLED = 0.7
SHARES = {
    "qamr": 0.28,
    "squad1_dev_a": 0.22,
    "fairytaleqa": 0.2,
    "nq_open_oracle": 0.12,
    "qed_dev": 0.06,
    "timeqa_human": 0.09,
    "clapnq_dev": 0.03,
}
"""how often each set is drawn"""


@dataclass(frozen=True, slots=True)
class _Asking:
    passage: Passage
    questions: list[Question]


class RealQuestions:
    """Draws contexts from the training questions; an answer that does not stand in its passage is not asked for."""

    def __init__(self) -> None:
        passages = training_passages(TRAINED_ON)
        self._distractors = Distractors(list(passages.values()))
        by_passage: dict[str, list[Question]] = defaultdict(list)
        for question in training_questions():
            text = _padded(passages[question.passage].text)
            if not question.answers or any(_padded(answer) in text for answer in question.answers):
                by_passage[question.passage].append(question)
        self._asking: dict[str, list[_Asking]] = {dataset: [] for dataset in SHARES}
        for name, questions in by_passage.items():
            self._asking[questions[0].dataset].append(_Asking(passages[name], questions))

    def draw(self, rng: random.Random, num_documents: int, num_questions: int, unanswerable: float) -> Context:
        """Return a context of `num_documents` passages."""
        dataset = rng.choices(list(SHARES), list(SHARES.values()))[0]
        asking = rng.choice(self._asking[dataset])
        questions = rng.sample(asking.questions, k=min(len(asking.questions), num_questions))
        answers = [answer for question in questions for answer in question.answers]
        others = self._distractors.find(questions[0].text, answers, num_documents, besides=asking.passage.name)
        is_missing = rng.random() < unanswerable and bool(others)
        shown = [asking.passage, *others[: num_documents - 1]] if not is_missing else others[:num_documents]
        texts = [_shown(passage, rng) for passage in shown]
        held = _padded(asking.passage.text)
        asked = []
        for question in questions:
            fitting = [answer for answer in question.answers if _padded(answer) in held]
            asked.append((question.text, rng.choice(fitting) if fitting and not is_missing else ""))
        if rng.random() < REPLACED:
            table = make_replacements(texts, rng)
            texts = [replace(text, table) for text in texts]
            asked = [(replace(text, table), answer and replace(answer, table)) for text, answer in asked]
        order = list(range(len(texts)))
        rng.shuffle(order)
        gold = (order.index(0),)
        return Context(
            "real questions",
            [texts[row] for row in order],
            [Asked(text, answer, gold) if answer else Asked(text, NONE) for text, answer in asked],
        )


def _shown(passage: Passage, rng: random.Random) -> str:
    return f"{passage.title}\n{passage.text}" if passage.title and rng.random() < TITLED else passage.text


def _padded(text: str) -> str:
    return f" {' '.join(words(text))} "
