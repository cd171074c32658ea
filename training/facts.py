"""Documents of invented facts and questions about them.

Everything is drawn anew for each example, so nothing can be remembered and reading is the only way to answer. Hard
cases are built in: the same property of other names, other properties of the same name, names easily mistaken, a
former value beside the present one, two facts to be joined, names that occur nowhere.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from training import names
from training.contexts import NONE, Asked, Context
from training.relations import RELATIONS, Relation

FORMER = (
    "Until {year}, the {attribute} of {n} was {v}.",
    "The {attribute} of {n} used to be {v}, but that ended in {year}.",
    "In former times {v} was given as the {attribute} of {n}.",
)
_SUBJECTS = tuple(dict.fromkeys(relation.subject for relation in RELATIONS))
_BY_SUBJECT = {subject: [each for each in RELATIONS if each.subject == subject] for subject in _SUBJECTS}
_JOINS = [
    (first, second)
    for first in RELATIONS
    for second in _BY_SUBJECT.get(first.value, ())
    if first.subject != second.value
]


@dataclass(frozen=True, slots=True)
class FactShape:
    """How hard a context of facts is."""

    num_documents: tuple[int, int] = (4, 10)
    facts_a_document: tuple[int, int] = (1, 4)
    num_questions: tuple[int, int] = (3, 6)
    near_duplicates: float = 0.3
    """share of documents whose name is easily mistaken for another's"""
    former: float = 0.15
    """share of facts that have a former value too"""
    unanswerable: float = 0.1
    shared_relations: float = 0.7
    """share of documents about the same properties as the first"""
    kept_patterns: bool = False
    """state and ask in the ways that are kept for tests"""


@dataclass(frozen=True, slots=True)
class _Fact:
    relation: Relation
    name: str
    value: str
    document: int


def make_facts(rng: random.Random, shape: FactShape = FactShape()) -> Context:
    """Return a context of facts."""
    subject = rng.choice(_SUBJECTS)
    num_documents = rng.randint(*shape.num_documents)
    shared = rng.sample(_BY_SUBJECT[subject], k=min(len(_BY_SUBJECT[subject]), shape.facts_a_document[1]))
    used: list[str] = []
    facts: list[_Fact] = []
    documents: list[str] = []
    for row in range(num_documents):
        same = rng.random() < shape.shared_relations or not row
        kind = subject if same else rng.choice(_SUBJECTS)
        name = _new_name(rng, kind, used, shape.near_duplicates)
        count = rng.randint(*shape.facts_a_document)
        relations = rng.sample(shared if same else _BY_SUBJECT[kind], k=min(count, len(shared)))
        own = [_Fact(relation, name, names.KINDS[relation.value](rng), row) for relation in relations]
        documents.append(_tell(rng, own, shape))
        facts += own
    asked = []
    for fact in rng.sample(facts, k=min(len(facts), rng.randint(*shape.num_questions))):
        pattern = rng.choice(fact.relation.questions(kept=shape.kept_patterns))
        if rng.random() < shape.unanswerable:
            stranger = _new_name(rng, fact.relation.subject, used, shape.near_duplicates)
            asked.append(Asked(fact.relation.fill(pattern, stranger), NONE))
        else:
            asked.append(Asked(fact.relation.fill(pattern, fact.name), fact.value, (fact.document,)))
    return Context("facts", documents, asked)


def make_two_hops(rng: random.Random, shape: FactShape = FactShape()) -> Context:
    """Return a context where each answer takes two facts: a property of whoever is a property of the name asked for."""
    num_pairs = max(2, rng.randint(*shape.num_documents) // 2)
    first, second = rng.choice(_JOINS)
    used: list[str] = []
    told: list[tuple[str, int]] = []
    pairs = []
    for row in range(num_pairs):
        name, middle = _new_name(rng, first.subject, used, 0.2), _new_name(rng, second.subject, used, 0.2)
        value = names.KINDS[second.value](rng)
        told += [(_state(rng, first, name, middle, shape), row), (_state(rng, second, middle, value, shape), row)]
        pairs.append((name, value))
    rng.shuffle(told)
    asked = []
    for row in rng.sample(range(num_pairs), k=min(num_pairs, rng.randint(*shape.num_questions))):
        name, value = pairs[row]
        question = f"What is the {second.attribute} of the {first.attribute} of {name}?"
        evidence = tuple(place for place, (_, pair) in enumerate(told) if pair == row)
        asked.append(Asked(question, value, evidence))
    return Context("two hops", [text for text, _ in told], asked)


def _new_name(rng: random.Random, kind: str, used: list[str], near: float) -> str:
    while True:
        name = names.near_duplicate(rng.choice(used), rng) if used and rng.random() < near else names.KINDS[kind](rng)
        if name not in used:
            used.append(name)
            return name


def _tell(rng: random.Random, facts: list[_Fact], shape: FactShape) -> str:
    told = []
    for fact in facts:
        sentence = _state(rng, fact.relation, fact.name, fact.value, shape)
        if rng.random() < shape.former:
            former = rng.choice(FORMER).format(
                n=fact.name,
                attribute=fact.relation.attribute,
                v=names.KINDS[fact.relation.value](rng),
                year=names.year(rng),
            )
            sentence = f"{former} {sentence}" if rng.random() < 0.5 else f"{sentence} {former}"
        told.append(sentence)
    return " ".join(told)


def _state(rng: random.Random, relation: Relation, name: str, value: str, shape: FactShape) -> str:
    return relation.fill(rng.choice(relation.statements(kept=shape.kept_patterns)), name, value)
