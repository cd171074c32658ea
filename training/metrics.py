"""How an answer is judged: equal to a gold answer, sharing words with one, or holding one.

Source: the SQuAD scorer's normalisation, Rajpurkar et al. (arXiv 1606.05250), section 6.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalised(text: str) -> str:
    """Lower case, no punctuation, no articles, single blanks."""
    return " ".join(_ARTICLES.sub(" ", re.sub(r"[^\w\s]", "", text.lower())).split())


def exact_match(answer: str, gold: Iterable[str]) -> float:
    return float(any(normalised(answer) == normalised(each) for each in gold))


def f1(answer: str, gold: Iterable[str]) -> float:
    """Return the best harmonic mean of precision and recall of words."""
    return max((_f1(normalised(answer).split(), normalised(each).split()) for each in gold), default=0.0)


def contains(answer: str, gold: Iterable[str]) -> float:
    """Say whether a gold answer stands in `answer`, by whole words."""
    padded = f" {normalised(answer)} "
    return float(any(f" {normalised(each)} " in padded for each in gold))


def _f1(found: list[str], gold: list[str]) -> float:
    num_shared = sum((Counter(found) & Counter(gold)).values())
    return 2 * num_shared / (len(found) + len(gold)) if num_shared else float(found == gold)
