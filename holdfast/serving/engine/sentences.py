"""Which sentences of the passages best answer a question.

A sentence's score adds up what it shares with the question: the passage's own retrieval score, the question's rare
words in the sentence and around it (the heading, the sentence before), a sign of the kind of answer asked for, and
nearness of the embeddings. The weights are those of a listwise logistic fit on held-out questions, rounded;
`benchmarks/answers.py` measures them. Only the sentences that the cheap parts rank highest are embedded.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from holdfast.retrieval.embed import Embedder
from holdfast.retrieval.sentences import split_sentences
from holdfast.serving.engine.answer_cues import answer_kind, holds_answer
from holdfast.serving.engine.protocol import Source
from holdfast.serving.words import content_words

PASSAGE_WEIGHT = 15.0
WORDS_WEIGHT = 5.5
AROUND_WEIGHT = 4.0
CUE_WEIGHT = 2.0
NEARNESS_WEIGHT = 3.0

MAX_EMBEDDED = 8
"""sentences embedded for one question: more changed one answer in a thousand of the held-out questions"""
MAX_SENTENCES = 3
MAX_WORDS = 60
"""words of an answer, unless its best sentence alone is longer"""
MAX_SCORE_GAP = 3.0
"""a sentence this far below the best adds more words than answers"""


@dataclass(frozen=True, slots=True)
class Sentence:
    """`sources[source].text[start:end]`, and how well it answers."""

    source: int
    start: int
    end: int
    text: str
    score: float = 0.0


def best_sentences(question: str, sources: Sequence[Source], embedder: Embedder) -> list[Sentence]:
    """Return the sentences that answer `question`, at least one if the sources hold any, in the order to read them.

    The passage with the best sentence comes first, and sentences of one passage stand as they do there. Depends on
    each source's text, heading and score, not on their order (equal scores aside).
    """
    return choose_sentences(rank_sentences(question, sources, embedder))


def choose_sentences(ranked: Sequence[Sentence], max_sentences: int = MAX_SENTENCES) -> list[Sentence]:
    """Return the first of `ranked` that make an answer of at most `MAX_WORDS` words, in the order to read them."""
    chosen: list[Sentence] = []
    num_words = 0
    for sentence in ranked:
        size = len(sentence.text.split())
        is_fitting = num_words + size <= MAX_WORDS and ranked[0].score - sentence.score <= MAX_SCORE_GAP
        if not chosen or (is_fitting and all(sentence.text != other.text for other in chosen)):
            chosen.append(sentence)
            num_words += size
        if len(chosen) == max_sentences:
            break
    first = {sentence.source: rank for rank, sentence in reversed(list(enumerate(chosen)))}
    return sorted(chosen, key=lambda sentence: (first[sentence.source], sentence.start))


def rank_sentences(question: str, sources: Sequence[Source], embedder: Embedder) -> list[Sentence]:
    """Return the most promising sentences, best first."""
    sentences = [
        Sentence(row, start, end, source.text[start:end])
        for row, source in enumerate(sources)
        for start, end in split_sentences(source.text)
    ]
    scored = sorted(_score_by_words(question, sources, sentences), key=_rank)[:MAX_EMBEDDED]
    vectors = embedder.encode([question, *(sentence.text for sentence in scored)])
    nearness = (vectors[1:] @ vectors[0]).tolist()
    return sorted(
        (
            replace(sentence, score=sentence.score + NEARNESS_WEIGHT * near)
            for sentence, near in zip(scored, nearness, strict=True)
        ),
        key=_rank,
    )


def _score_by_words(question: str, sources: Sequence[Source], sentences: Sequence[Sentence]) -> list[Sentence]:
    """Return the sentences with all parts of the score but nearness."""
    kind = answer_kind(question)
    asked = sorted(set(content_words(question)))
    held = [set(content_words(sentence.text)) for sentence in sentences]
    headings = [set(content_words(source.heading or "")) for source in sources]
    frequency = Counter(word for words in held for word in words)
    weights = {word: math.log(1 + (len(held) + 0.5) / (frequency[word] + 0.5)) for word in asked}
    total = sum(weights.values()) or 1.0
    scored = []
    for row, (sentence, words) in enumerate(zip(sentences, held, strict=True)):
        has_sentence_before = row > 0 and sentences[row - 1].source == sentence.source
        around = headings[sentence.source] | (held[row - 1] if has_sentence_before else set())
        score = (
            PASSAGE_WEIGHT * sources[sentence.source].score
            + WORDS_WEIGHT * sum(weights[word] for word in asked if word in words) / total
            + AROUND_WEIGHT * sum(weights[word] for word in asked if word in around - words) / total
            + CUE_WEIGHT * holds_answer(kind, sentence.text, question)
        )
        scored.append(replace(sentence, score=score))
    return scored


def _rank(sentence: Sentence) -> tuple[float, int, int]:
    return (-sentence.score, sentence.source, sentence.start)
