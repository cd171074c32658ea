"""Which of the passages found may answer a question.

A score alone is a weak witness near the threshold: embeddings of unrelated texts come that close, and those of names
and numbers stay below. So a passage in the band above the threshold must also hold half of the question's content
words, itself or in its heading, and in the band below it every one of two or more.
`benchmarks/answers.py` measures how often this declines a question that the files answer, and the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.retrieval.words import content_words
from holdfast.serving.engine.protocol import Source

SURE_MARGIN = 0.15
"""this far above the threshold the score alone is enough, and this far below it nothing is"""
MIN_WORD_SHARE = 0.5
MIN_NAMED_WORDS = 2


def relevant_sources(found: Sequence[Source], question: str, threshold: float) -> list[Source]:
    """Return the sources that may answer `question` in the user's words, in the order given."""
    asked = set(content_words(question))
    return [source for source in found if _is_relevant(source, asked, threshold)]


def _is_relevant(source: Source, asked: set[str], threshold: float) -> bool:
    if source.score >= threshold + SURE_MARGIN:
        return True
    if source.score >= threshold:
        return _word_share(asked, source) >= MIN_WORD_SHARE
    return source.score >= threshold - SURE_MARGIN and len(asked) >= MIN_NAMED_WORDS and _word_share(asked, source) == 1


def _word_share(asked: set[str], source: Source) -> float:
    """The share of the question's words in the source; 1 for a question without content words."""
    held = set(content_words(f"{source.heading or ''} {source.text}"))
    return len(asked & held) / len(asked) if asked else 1.0
