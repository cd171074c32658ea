"""Which context comes next: the curriculum, drawn without end and never stored.

Row number `i` of a phase depends on the seed, the phase and `i` only, whatever process draws it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache

from tokenizers import Tokenizer

from training import facts, lookups, prose
from training.contexts import Context
from training.encoding import Mode, Row, encode, shuffled
from training.reading import RealQuestions
from training.sizes import Phase, Size

MODES: dict[Mode, float] = {"set": 0.7, "sequential": 0.15, "plain": 0.15}
"""how often a context is read as a set, in a random order, or as the text of its documents alone"""
CHARS_PER_TOKEN = 4


class Mixture:
    """Draws rows for one size of model."""

    def __init__(self, size: Size, tokenizer: Tokenizer, seed: int) -> None:
        self._size = size
        self._tokenizer = tokenizer
        self._seed = seed

    def phase(self, step: int) -> int:
        """Return the row of the phase that `step` belongs to."""
        share = step / self._size.num_steps
        return next(row for row, phase in enumerate(self._size.phases) if share < phase.until or phase.until >= 1)

    def row(self, phase_row: int, number: int) -> Row:
        rng = random.Random(f"{self._seed}/{phase_row}/{number}")
        phase = self._size.phases[phase_row]
        context = draw_context(rng, phase)
        mode: Mode = rng.choices(list(MODES), list(MODES.values()))[0]
        if not context.asked:
            mode = "plain"
        size = phase.max_sequential_tokens if mode == "sequential" else phase.max_tokens
        context = shuffled(context, rng)
        weights = {"read_weight": phase.read_weight, "question_weight": phase.question_weight}
        return encode(context, self._tokenizer, mode, size, **weights)


def draw_context(rng: random.Random, phase: Phase) -> Context:
    """Return a context of a kind drawn by the phase's shares."""
    kind = rng.choices(list(phase.shares), list(phase.shares.values()))[0]
    num_documents = rng.randint(*phase.facts.num_documents)
    num_questions = rng.randint(*phase.facts.num_questions)
    if kind == "facts":
        return facts.make_facts(rng, phase.facts)
    if kind == "two hops":
        return facts.make_two_hops(rng, phase.facts)
    if kind == "pairs":
        num_pairs = rng.randint(num_documents, max(num_documents, phase.max_tokens // 40))
        return lookups.make_pairs(rng, num_pairs, num_pairs if rng.random() < 0.5 else num_documents)
    if kind == "continuations":
        return lookups.make_continuations(rng, num_documents)
    if kind == "chains":
        return lookups.make_chains(rng, rng.randint(1, 3), rng.randint(2, 4), num_documents)
    if kind == "counted words":
        return lookups.make_counted_words(rng, rng.randint(12, phase.max_tokens // 8), num_documents)
    room = phase.max_tokens * CHARS_PER_TOKEN
    if kind == "needles":
        filler = prose.paragraphs(rng, num_documents, max(120, room // num_documents))
        return lookups.make_needles(rng, filler, rng.randint(1, 4))
    if kind == "cloze":
        return prose.make_cloze(rng, num_documents, max(160, room // (num_documents + 4)))
    if kind == "real questions":
        return real_questions().draw(rng, num_documents, num_questions, phase.facts.unanswerable)
    return prose.make_plain_text(rng, room)


def texts(size: Size, seed: int, num_contexts: int) -> Iterator[str]:
    """Yield the texts of contexts of all phases, for the tokenizer."""
    for number in range(num_contexts):
        rng = random.Random(f"{seed}/texts/{number}")
        context = draw_context(rng, rng.choice(size.phases))
        yield "\n".join([*context.documents, *(f"{asked.question}\n{asked.answer}" for asked in context.asked)])


@cache
def real_questions() -> RealQuestions:
    """Return the real questions, read once."""
    return RealQuestions()
