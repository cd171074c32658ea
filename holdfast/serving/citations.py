"""Which words of the files support which words of an answer.

An engine that quotes says so itself. For a language model's free text each sentence of the answer is aligned with the
one sentence of the passages that covers most of its words, rare words counting more (inverse frequency over the
passages' sentences); a sentence that nothing covers gets no citation. Lexical and deterministic: a citation is found
by looking, never taken from what a model or a document claims.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.retrieval.sentences import split_sentences
from holdfast.retrieval.words import content_words
from holdfast.serving.engine.protocol import Quote, Source
from holdfast.serving.prompts import NOT_IN_FILES

MIN_COVERAGE = 0.5
"""share of an answer sentence's word weight that the quoted sentence must hold"""
MIN_COMMON_WORDS = 2


@dataclass(frozen=True, slots=True)
class Citation:
    """A verbatim quote: `file_text[start:end] == quote`, supporting `answer[answer_start:answer_end]`."""

    file_id: str
    filename: str
    page: int | None
    heading: str | None
    start: int
    end: int
    quote: str
    answer_start: int
    answer_end: int


def cite(quotes: Sequence[Quote], sources: Sequence[Source]) -> tuple[Citation, ...]:
    """Return the citations of quotes from `sources`, in the answer's order."""
    ordered = sorted(quotes, key=lambda quote: (quote.answer_start, quote.answer_end, quote.source, quote.start))
    return tuple(_citation(quote, sources[quote.source]) for quote in ordered)


def attribute(answer: str, sources: Sequence[Source]) -> tuple[Quote, ...]:
    """Return the best supporting sentence of `sources` for each sentence of `answer` that has one.

    Ties go to the earlier source, then to the earlier sentence.
    """
    if answer.strip() == NOT_IN_FILES:
        return ()
    candidates = [
        (row, start, end, set(content_words(source.text[start:end])))
        for row, source in enumerate(sources)
        for start, end in split_sentences(source.text)
    ]
    frequency = Counter(word for *_, held in candidates for word in held)
    weights = {word: math.log(1 + len(candidates) / count) for word, count in frequency.items()}
    unknown_weight = math.log(1 + len(candidates))
    quotes = []
    for answer_start, answer_end in split_sentences(answer):
        said = set(content_words(answer[answer_start:answer_end]))
        total = sum(weights.get(word, unknown_weight) for word in sorted(said))
        best: tuple[float, int, int, int] | None = None
        for row, start, end, held in candidates:
            common = said & held
            if len(common) < min(MIN_COMMON_WORDS, len(said)) or not common:
                continue
            coverage = sum(weights[word] for word in sorted(common)) / total
            if coverage >= MIN_COVERAGE and (best is None or coverage > best[0]):
                best = (coverage, row, start, end)
        if best is not None:
            quotes.append(Quote(best[1], best[2], best[3], answer_start, answer_end))
    return tuple(quotes)


def _citation(quote: Quote, source: Source) -> Citation:
    return Citation(
        file_id=source.file_id,
        filename=source.filename,
        page=source.page,
        heading=source.heading,
        start=source.start + quote.start,
        end=source.start + quote.end,
        quote=source.text[quote.start : quote.end],
        answer_start=quote.answer_start,
        answer_end=quote.answer_end,
    )
