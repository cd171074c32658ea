"""Passages that look as if they answered a question and do not: the hardest ones by BM25.

Source: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from training.corpora import Passage
from training.splits import words

K1 = 1.2
B = 0.75


class Distractors:
    """A BM25 index over passages; ties go to the earlier passage."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = passages
        self._padded = [f" {' '.join(words(f'{passage.title} {passage.text}'))} " for passage in passages]
        counts = [Counter(padded.split()) for padded in self._padded]
        lengths = np.array([max(1, sum(count.values())) for count in counts], dtype=np.float32)
        norms = K1 * (1 - B + B * lengths / lengths.mean())
        postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for row, count in enumerate(counts):
            for word, times in count.items():
                postings[word].append((row, times))
        self._postings: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for word, found in postings.items():
            rows = np.array([row for row, _ in found], dtype=np.int32)
            times = np.array([times for _, times in found], dtype=np.float32)
            idf = np.log(1 + (len(passages) - len(found) + 0.5) / (len(found) + 0.5))
            self._postings[word] = rows, idf * times * (K1 + 1) / (times + norms[rows])

    def find(self, question: str, answers: Sequence[str], num_results: int, *, besides: str = "") -> list[Passage]:
        """Return the passages most like `question` that hold none of `answers` and are not named `besides`."""
        scores = np.zeros(len(self._passages), dtype=np.float32)
        for word in sorted(set(words(question))):
            if word in self._postings:
                rows, weights = self._postings[word]
                scores[rows] += weights
        num_seen = min(len(scores), 4 * num_results)
        best = np.argpartition(-scores, num_seen - 1)[:num_seen]
        unwanted = [f" {' '.join(words(answer))} " for answer in answers]
        found = []
        for row in sorted(best.tolist(), key=lambda row: (-scores[row], row)):
            passage = self._passages[row]
            if passage.name != besides and not any(text in self._padded[row] for text in unwanted):
                found.append(passage)
        return found[:num_results]
