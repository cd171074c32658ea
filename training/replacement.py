"""Names and numbers exchanged consistently, so that a question can only be answered by reading.

Every name of a passage (a capitalised word that is neither the beginning of its sentence nor ever written small) and
every number becomes another one, the same wherever it stands: passage, title, question and answer. Names come from
syllables, so that no model has read about them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

_TOKEN = re.compile(r"[^\W\d_]+|\d+")
_NAME = re.compile(r"(?<![.!?]\s)(?<![.!?]\"\s)(?<!^)(?<!\w)[A-Z][a-z]{2,}(?!\w)")
_SYLLABLES = (
    "b br c ch d dr f fr g gr h j k kl l m n p pr qu r s sh st t th tr v w z",
    "a e i o u ai ea ia io oa",
    "- l n r s t m nd rk th ck x",
)
_ONSETS, _VOWELS, _ENDS = ([part.strip("-") for part in parts.split()] for parts in _SYLLABLES)
_KINDS = """
    January February March April May June July August September October November December Monday Tuesday Wednesday
    Thursday Friday Saturday Sunday The His Her Its This That These Those She They You But And For Not With From
    Mr Mrs Miss Sir Lord Lady King Queen President Prince Princess General Doctor Saint
"""
KEPT = frozenset(_KINDS.split())
"""words that tell what kind of thing is meant"""


def make_name(rng: random.Random, num_syllables: int | None = None) -> str:
    """Return a capitalised word of one to three syllables that is pronounceable and no name of anything."""
    count = num_syllables or rng.choice((1, 2, 2, 2, 3))
    word = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_ENDS) for _ in range(count))
    return word.capitalize()


def make_number(rng: random.Random, like: str) -> str:
    """Return another number of as many digits; a year stays a year."""
    if len(like) == 4 and like[:2] in ("15", "16", "17", "18", "19", "20"):
        return str(rng.randint(1500, 2040))
    first = rng.choice("123456789") if like[0] != "0" else "0"
    return first + "".join(rng.choice("0123456789") for _ in like[1:])


def make_replacements(texts: Sequence[str], rng: random.Random) -> dict[str, str]:
    """Return what each name and number of `texts` becomes, keyed in lower case; single digits stay."""
    small = {word for text in texts for word in re.findall(r"\b[a-z]+\b", text)}
    names = {name for text in texts for name in _NAME.findall(text) if name not in KEPT and name.lower() not in small}
    numbers = {number for text in texts for number in re.findall(r"\d{2,}", text)}
    table = {name.lower(): make_name(rng) for name in sorted(names)}
    return table | {number: make_number(rng, number) for number in sorted(numbers)}


def replace(text: str, table: dict[str, str]) -> str:
    """Return `text` with every word that `table` names exchanged, written small or large as before."""

    def exchange(found: re.Match[str]) -> str:
        word = found.group()
        other = table.get(word.lower())
        if other is None:
            return word
        return other.lower() if word.islower() else other.upper() if word.isupper() and len(word) > 1 else other

    return _TOKEN.sub(exchange, text)
