"""What can be said of a person, a place, an organisation or a thing, and how it is said and asked.

Sixty-four relations, each with nine ways to state it and seven to ask it. Two of each are kept for tests: which two
differs between relations, so that a model meets every way of speaking but never this one of this relation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

STATEMENTS = (
    "{n} {verb} {v}.",
    "{v} {inverse} {n}.",
    "The {attribute} of {n} is {v}.",
    "{n}'s {attribute} is {v}.",
    "It is recorded that {n} {verb} {v}.",
    "{Attribute} of {n}: {v}.",
    "According to the register, the {attribute} of {n} is {v}.",
    "For {n}, the {attribute} is given as {v}.",
    "Those who know {n} say that the {attribute} is {v}.",
)
QUESTIONS = (
    "{question}",
    "What is the {attribute} of {n}?",
    "What is {n}'s {attribute}?",
    "Tell me the {attribute} of {n}.",
    "{n}: {attribute}?",
    "Which {attribute} belongs to {n}?",
    "Do you know the {attribute} of {n}?",
)
NUM_KEPT = 2
TABLE = Path(__file__).with_name("relations.txt")
"""subject | attribute | kind of value | verb | inverse | question, a relation a line"""


@dataclass(frozen=True, slots=True)
class Relation:
    """A property that entities of a kind have; `verb` and `inverse` join name and value, either way round."""

    row: int
    subject: str
    attribute: str
    value: str
    verb: str
    inverse: str
    question: str

    def statements(self, *, kept: bool = False) -> list[str]:
        """Return the patterns to train on, or those kept for tests."""
        return _part(STATEMENTS, self.row, kept)

    def questions(self, *, kept: bool = False) -> list[str]:
        return _part(QUESTIONS, self.row, kept)

    def fill(self, pattern: str, name: str, value: str = "") -> str:
        """Return `pattern` about `name`."""
        return pattern.format(
            n=name,
            v=value,
            verb=self.verb,
            inverse=self.inverse,
            attribute=self.attribute,
            Attribute=self.attribute.capitalize(),
            question=self.question.format(n=name),
        )


def _part(patterns: tuple[str, ...], row: int, kept: bool) -> list[str]:
    rows = {(row + shift) % len(patterns) for shift in range(NUM_KEPT)}
    return [pattern for place, pattern in enumerate(patterns) if (place in rows) is kept]


RELATIONS = tuple(
    Relation(row, *(part.strip() for part in line.split("|")))
    for row, line in enumerate(TABLE.read_text(encoding="utf-8").splitlines())
)
