"""A reader of words: from a vector to the words of the text it stands for, learned on the adversary's own texts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from holdfast.privacy.leakage_linear import fit_linear
from holdfast.privacy.leakage_view import Floats, top, unit

NUM_WORDS = 1500
MIN_TEXTS = 4
MAX_SHARE = 0.1
_WORD = re.compile(r"[a-z]{4,}")


class WordModel:
    """Linear regression from a vector to the presence of each of the commonest content words.

    Content words have four letters or more and stand in 4 texts at least and in a tenth at most.
    """

    def __init__(self, vectors: Floats, texts: Sequence[str]) -> None:
        counts = Counter(word for text in texts for word in words_of(text))
        usual = [word for word, count in counts.items() if MIN_TEXTS <= count <= MAX_SHARE * len(texts)]
        self.words = sorted(usual, key=lambda word: (-counts[word], word))[:NUM_WORDS]
        self._columns = {word: column for column, word in enumerate(self.words)}
        self._read = fit_linear(unit(vectors), self.presence(texts).astype(np.float32))

    def presence(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Return (texts, words) which word stands in which text."""
        found = np.zeros((len(texts), len(self.words)), dtype=bool)
        for row, text in enumerate(texts):
            found[row, [self._columns[word] for word in words_of(text) if word in self._columns]] = True
        return found

    def score(self, vectors: Floats, present: NDArray[np.bool_]) -> tuple[float, float]:
        """Return the mean AUC over words that occur, and the share of each text's ten likeliest words that occur."""
        likely = self._read(vectors)
        ranks = np.empty(likely.shape, dtype=np.float32)
        np.put_along_axis(ranks, np.argsort(likely, axis=0), np.arange(len(likely), dtype=np.float32)[:, None], axis=0)
        positives = present.sum(axis=0)
        usable = (positives >= 2) & (positives < len(present))
        sums = np.where(present, ranks, 0).sum(axis=0)[usable]
        positives = positives[usable]
        areas = (sums - positives * (positives - 1) / 2) / (positives * (len(present) - positives))
        best = top(likely, min(10, likely.shape[1]))
        return float(areas.mean()), float(np.take_along_axis(present, best, axis=1).mean())


def words_of(text: str) -> set[str]:
    """Return the words of four letters or more."""
    return set(_WORD.findall(text.lower()))
