"""Books: plain text to model, filler for needles, and cloze questions made from what recurs.

A phrase that stands in two passages of a book is a question without any labelling: one passage with the phrase left
out asks, the other answers. Some books are kept for measuring perplexity.

Source: recurring-span selection, Ram et al., "Splinter" (arXiv 2101.00438).
"""

from __future__ import annotations

import hashlib
import lzma
import random
import re
from collections import defaultdict
from functools import cache

from benchmarks.corpora import EVAL_DATA
from training.contexts import Asked, Context

BLANK = "____"
KEPT_SHARE = 0.03
"""of the books, kept for tests"""
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n")
_PHRASE_WORD = re.compile(r"[A-Za-z][\w'’-]*")
_STOP_WORDS = """
    the a an of and to in that it is was he his her she with as for on at by be this had not but from or have which they
    you were their all there been one so said if would when who will no out up what we him my me are them i do into then
    could more than some very upon did has shall
"""
_STOP = frozenset(_STOP_WORDS.split())


@cache
def books(*, kept: bool = False) -> tuple[str, ...]:
    """Return the books to train on, or those kept for tests, in the order of the files (about 170 MB in memory)."""
    found = []
    for path in sorted((EVAL_DATA / "lm_text").glob("*.txt.xz")):
        with lzma.open(path, "rt", encoding="utf-8") as text:
            found += [book for book in text.read().split("\f\n") if len(book) > 10_000]
    return tuple(book for book in found if _is_kept(book) is kept)


def excerpt(rng: random.Random, num_chars: int, *, kept: bool = False) -> str:
    """Return a stretch of a book, longer books being likelier, that begins with a word."""
    shelf = books(kept=kept)
    book = rng.choices(shelf, _weights(kept))[0]
    start = rng.randrange(max(1, len(book) - num_chars))
    return " ".join(book[start : start + num_chars].split(" ")[1:])


def paragraphs(rng: random.Random, num_paragraphs: int, max_chars: int) -> list[str]:
    """Return paragraphs that follow each other somewhere, short ones left out, long ones cut."""
    while True:
        text = excerpt(rng, 3 * num_paragraphs * max_chars)
        found = [" ".join(paragraph.split())[:max_chars] for paragraph in _PARAGRAPH.split(text)[1:-1]]
        found = [paragraph for paragraph in found if len(paragraph) >= max_chars // 4]
        if len(found) >= num_paragraphs:
            return found[:num_paragraphs]


def make_cloze(rng: random.Random, num_documents: int, max_chars: int, num_questions: int = 4) -> Context:
    """Return passages of a book and questions with a blank, each from a passage that was taken out."""
    while True:
        texts = paragraphs(rng, num_documents + num_questions, max_chars)
        held: dict[tuple[str, ...], list[tuple[int, int, int]]] = defaultdict(list)
        for row, text in enumerate(texts):
            words = [(found.group(), *found.span()) for found in _PHRASE_WORD.finditer(text)]
            for size in (1, 2, 3):
                for first in range(len(words) - size + 1):
                    run = words[first : first + size]
                    if _is_telling([word for word, _, _ in run]):
                        held[tuple(word.lower() for word, _, _ in run)].append((row, run[0][1], run[-1][2]))
        recurring = [
            places for _, places in sorted(held.items()) if 2 <= len({row for row, _, _ in places}) <= num_documents
        ]
        rng.shuffle(recurring)
        asking: dict[int, tuple[int, int]] = {}
        for places in recurring:
            row, start, end = rng.choice(places)
            stays = [other for other, _, _ in places if other != row and other not in asking]
            if row not in asking and stays and len(asking) < num_questions:
                asking[row] = (start, end)
        documents = [text for row, text in enumerate(texts) if row not in asking]
        asked = []
        for row, (start, end) in asking.items():
            answer = texts[row][start:end]
            evidence = tuple(place for place, text in enumerate(documents) if answer.lower() in text.lower())
            if evidence:
                before, after = texts[row][max(0, start - 120) : start], texts[row][end : end + 80]
                asked.append(Asked(f"{before}{BLANK}{after}", answer, evidence))
        if asked:
            return Context("cloze", documents[:num_documents], [a for a in asked if max(a.evidence) < num_documents])


def make_plain_text(rng: random.Random, num_chars: int) -> Context:
    return Context("plain text", [excerpt(rng, num_chars)])


def _is_telling(words: list[str]) -> bool:
    """Say whether a phrase is worth asking for: it neither begins nor ends with a function word; alone it is a name."""
    if words[0].lower() in _STOP or words[-1].lower() in _STOP:
        return False
    return len(words) > 1 or (words[0][0].isupper() and len(words[0]) > 3)


@cache
def _weights(kept: bool) -> tuple[int, ...]:
    return tuple(map(len, books(kept=kept)))


def _is_kept(book: str) -> bool:
    digest = hashlib.sha256(book[:2_000].encode()).digest()
    return int.from_bytes(digest[:4]) < KEPT_SHARE * 2**32
