"""Which sentences of the passages best answer a question.

A sentence's score adds up what speaks for it: the passage's own retrieval score, the question's rare words in the
sentence and around it (headings, the sentence before), a sign of the kind of answer asked for, and the answer that a
reader of the passages found in it. Without a reader, nearness of the embeddings stands in for the last, and only the
sentences that the cheap parts rank highest are embedded. The weights are those of a listwise logistic fit on held-out
questions, rounded; `benchmarks/answers.py` measures both. A heading is no answer, and a line that ends in a colon is
one only with what it announces.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from holdfast.retrieval.embed import Embedder
from holdfast.retrieval.sentences import split_sentences
from holdfast.retrieval.words import content_words
from holdfast.serving.engine.answer_cues import answer_kind, holds_answer
from holdfast.serving.engine.protocol import Source
from holdfast.serving.engine.spans import Reading


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each part of a sentence's score counts."""

    passage: float
    words: float
    around: float
    cue: float
    heading: float
    """below zero, and outweighs a question's words: a heading repeats them"""
    judged: float
    """of what the reader found, or of nearness"""


BY_NEARNESS = Weights(passage=15.0, words=5.5, around=4.0, cue=2.0, heading=-6.0, judged=3.0)
BY_READING = Weights(passage=5.0, words=2.0, around=1.0, cue=0.5, heading=-3.0, judged=0.6)

MAX_EMBEDDED = 8
"""sentences embedded for one question: more changed one answer in a thousand of the held-out questions"""
MAX_SENTENCES = 3
MAX_WORDS = 60
"""words of an answer, unless its best sentence alone is longer"""
MAX_SCORE_GAP = 3.0
"""a sentence this far below the best adds more words than answers"""
MAX_HEADING_WORDS = 12
MAX_LOG_ODDS = 15.0
"""what the reader says counts no more than this, either way"""

_LIST_ITEM = re.compile(r"(?:[-*+•‣▪◦●■–—·]|\(?(?:\d{1,3}|[A-Za-z]|[ivxIVX]{1,5})[.)])\s")
_CONTENTS_LINE = re.compile(r"(?:\.\s?){5,}\s*\d*$")
_SECTION_NUMBER = re.compile(r"^\d+(?:\.\d+)+\.?\s+")
_STATEMENT = re.compile(r"[\d:|]|[.!?…;。！？｡][\"'”’»)\]]*$")


@dataclass(frozen=True, slots=True)
class Sentence:
    """`sources[source].text[start:end]`, and how well it answers."""

    source: int
    start: int
    end: int
    text: str
    score: float = 0.0


def best_sentences(
    question: str, sources: Sequence[Source], embedder: Embedder, readings: Sequence[Reading] | None = None
) -> list[Sentence]:
    """Return the sentences that answer `question`, at least one if the sources hold any, in the order to read them.

    The passage with the best sentence comes first, and sentences of one passage stand as they do there. Depends on
    each source's text, heading and score, not on their order (equal scores aside).
    """
    return choose_sentences(rank_sentences(question, sources, embedder, readings))


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


def rank_sentences(
    question: str, sources: Sequence[Source], embedder: Embedder, readings: Sequence[Reading] | None = None
) -> list[Sentence]:
    """Return the most promising sentences, best first, judged by the readings of the sources where there are any."""
    sentences = [
        Sentence(row, start, end, source.text[start:end])
        for row, source in enumerate(sources)
        for start, end in answer_spans(source.text)
    ]
    weights = BY_NEARNESS if readings is None else BY_READING
    scored = _score_by_words(question, sources, sentences, weights)
    if readings is None:
        scored = sorted(scored, key=_rank)[:MAX_EMBEDDED]
        vectors = embedder.encode([question, *(sentence.text for sentence in scored)])
        judged = (vectors[1:] @ vectors[0]).tolist()
    else:
        judged = [_span_score(readings[sentence.source], sentence) for sentence in scored]
    return sorted(
        (
            replace(sentence, score=sentence.score + weights.judged * score)
            for sentence, score in zip(scored, judged, strict=True)
        ),
        key=_rank,
    )


def answer_spans(text: str) -> list[tuple[int, int]]:
    """Return the spans of the sentences of `text`; one that ends in a colon goes on with what it announces, if short.

    Announced are the items of the list that follows, else the next sentence.
    """
    sentences = split_sentences(text)
    spans: list[tuple[int, int]] = []
    row = 0
    while row < len(sentences):
        start, end = sentences[row]
        row += 1
        last = row
        while last < len(sentences) and (text[end - 1] == ":" or (last > row and _is_item(text, sentences[last]))):
            end = sentences[last][1]
            last += 1
        if last > row and len(text[start:end].split()) <= MAX_WORDS:
            row = last
        spans.append((start, sentences[row - 1][1]))
    return spans


def is_heading(text: str) -> bool:
    """Say whether a sentence only names what follows: a title, a label without a value, a line of contents."""
    if text.startswith("#") or text.endswith(":") or _CONTENTS_LINE.search(text):
        return True
    title = _SECTION_NUMBER.sub("", text, count=1)
    return len(title.split()) <= MAX_HEADING_WORDS and not (_STATEMENT.search(title) or _LIST_ITEM.match(title))


def _is_item(text: str, span: tuple[int, int]) -> bool:
    return _LIST_ITEM.match(text, span[0]) is not None


def _span_score(reading: Reading, sentence: Sentence) -> float:
    """Return the log-odds of the best answer in a sentence, within bounds."""
    span = reading.best_span(sentence.start, sentence.end)
    return -MAX_LOG_ODDS if span is None else max(-MAX_LOG_ODDS, min(span.score, MAX_LOG_ODDS))


def _score_by_words(
    question: str, sources: Sequence[Source], sentences: Sequence[Sentence], weights: Weights
) -> list[Sentence]:
    """Return the sentences with all parts of the score but what judges them one by one."""
    kind = answer_kind(question)
    asked = sorted(set(content_words(question)))
    held = [set(content_words(sentence.text)) for sentence in sentences]
    headings = [set(content_words(source.heading or "")) for source in sources]
    frequency = Counter(word for words in held for word in words)
    rarity = {word: math.log(1 + (len(held) + 0.5) / (frequency[word] + 0.5)) for word in asked}
    total = sum(rarity.values()) or 1.0
    scored = []
    above = around = set[str]()
    for row, (sentence, words) in enumerate(zip(sentences, held, strict=True)):
        if row == 0 or sentences[row - 1].source != sentence.source:
            around = above = headings[sentence.source]
        is_title = is_heading(sentence.text)
        score = (
            weights.passage * sources[sentence.source].score
            + weights.words * sum(rarity[word] for word in asked if word in words) / total
            + weights.around * sum(rarity[word] for word in asked if word in around - words) / total
            + weights.cue * holds_answer(kind, sentence.text, question)
            + weights.heading * is_title
        )
        above = headings[sentence.source] | words if is_title else above
        around = above | words
        scored.append(replace(sentence, score=score))
    return scored


def _rank(sentence: Sentence) -> tuple[float, int, int]:
    return (-sentence.score, sentence.source, sentence.start)
