"""Tasks that only ask where something stands: keys and values, lists to go on with, needles, chains of variables,
counted words.

Source: the recall tasks of Arora et al., "Zoology" (arXiv 2312.04927), and Hsieh et al., "RULER" (arXiv 2404.06654);
the keys are those of Liu et al., "Lost in the Middle" (arXiv 2307.03172).
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable

from training import names
from training.contexts import NONE, Asked, Context

NUM_QUESTIONS = 4
UNANSWERABLE = 0.05


def make_pairs(rng: random.Random, num_pairs: int, num_documents: int) -> Context:
    """Return keys and values spread over documents; both short words or both UUIDs."""
    is_uuid = rng.random() < 0.4
    make: Callable[[], str] = (
        (lambda: str(uuid.UUID(int=rng.getrandbits(128), version=4))) if is_uuid else (lambda: names.code(rng))
    )
    pairs = {make(): make() for _ in range(num_pairs)}
    lines = [f'"{key}": "{value}"' for key, value in pairs.items()]
    documents = _spread(lines, num_documents)
    asked = []
    for key in rng.sample(sorted(pairs), k=min(len(pairs), NUM_QUESTIONS)):
        if rng.random() < UNANSWERABLE:
            asked.append(Asked(f'"{make()}"', NONE))
        else:
            holder = next(row for row, text in enumerate(documents) if f'"{key}":' in text)
            asked.append(Asked(f'"{key}"', pairs[key], (holder,)))
    return Context("pairs", documents, asked)


def make_continuations(rng: random.Random, num_documents: int) -> Context:
    """Return lists of names and values; a question begins one of them, and its answer is the rest.

    Every token of an answer but the first stands behind the one before it in a document, so this teaches copying, and
    with it looking up, sooner than facts do, whose answers are short.
    """
    lists = [[names.KINDS[kind](rng) for kind in rng.sample(sorted(names.KINDS), k=5)] for _ in range(num_documents)]
    asked = []
    for row in rng.sample(range(num_documents), k=min(num_documents, NUM_QUESTIONS)):
        shown = rng.randint(1, 2)
        asked.append(Asked(", ".join(lists[row][:shown]), ", ".join(lists[row][shown:]), (row,)))
    return Context("continuations", [", ".join(held) for held in lists], asked)


def make_needles(rng: random.Random, fillers: list[str], num_needles: int) -> Context:
    """Return prose with sentences hidden in it that give a number for a word."""
    documents = list(fillers)
    needles = {names.thing(rng).lower(): str(rng.randrange(1000, 10**7)) for _ in range(num_needles)}
    holders = {}
    for word, value in needles.items():
        row = rng.randrange(len(documents))
        sentences = documents[row].split(". ")
        sentences.insert(rng.randint(0, len(sentences)), f"The special number for {word} is {value}")
        documents[row] = ". ".join(sentences)
        holders[word] = row
    asked = [
        Asked(f"What is the special number for {word}?", value, (holders[word],))
        for word, value in sorted(needles.items())[:NUM_QUESTIONS]
    ]
    return Context("needles", documents, asked)


def make_chains(rng: random.Random, num_chains: int, chain_len: int, num_documents: int) -> Context:
    """Return assignments of variables to one another; asked is which variables hold a number."""
    letters = [first + second + third for first in "BCDFGH" for second in "AEIOU" for third in "KLMNPRST"]
    drawn = rng.sample(letters, k=num_chains * chain_len)
    lines: list[list[str]] = []
    asked = []
    for row in range(num_chains):
        value, chain = str(rng.randrange(10_000, 99_999)), drawn[row * chain_len : (row + 1) * chain_len]
        sources = [value, *chain]
        lines.append([f"VAR {name} = {source}" for name, source in zip(chain, sources, strict=False)])
        asked.append((f"Which variables hold {value}?", " ".join(chain)))
    merged = []
    while any(lines):
        merged.append(rng.choice([chain for chain in lines if chain]).pop(0))
    documents = _spread(merged, num_documents)
    every = tuple(range(len(documents)))
    return Context("chains", documents, [Asked(question, answer, every) for question, answer in asked[:NUM_QUESTIONS]])


def make_counted_words(rng: random.Random, num_words: int, num_documents: int) -> Context:
    """Return lists of words; asked is which occurs most often over all of them."""
    common, *rest = rng.sample(names.NOUNS + names.ADJECTIVES, k=max(3, num_words // 6))
    held = [common] * max(3, num_words // 3)
    while len(held) < num_words:
        held += [rng.choice(rest)]
    rng.shuffle(held)
    documents = _spread(held, num_documents)
    every = tuple(range(len(documents)))
    return Context("counted words", documents, [Asked("Which word is most frequent?", common, every)])


def _spread(lines: list[str], num_documents: int) -> list[str]:
    """Return `lines` dealt out to at most `num_documents` documents, in order."""
    size = -(-len(lines) // num_documents)
    return ["\n".join(lines[first : first + size]) for first in range(0, len(lines), size)]
