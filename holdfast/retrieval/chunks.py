"""Text to passages with offsets, and to sentences.

Passages end at the best boundary that fits (paragraph, then sentence, then word) and never cross a page or a heading.
Lengths are counted in the embedder's own word-pieces, a window at a time, so that cost grows with the text alone.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from holdfast.errors import InvalidInput
from holdfast.retrieval.documents import Document, Section
from holdfast.retrieval.sentences import split_sentences

__all__ = ["Chunking", "Passage", "split_document", "split_sentences"]

TokenOffsets = Callable[[str], list[tuple[int, int]]]
MAX_CHARS_PER_TOKEN = 10
_FIRST_WINDOW = 6
_PARAGRAPH_END = re.compile(r"\n[^\S\n]*\n")


@dataclass(frozen=True, slots=True)
class Chunking:
    """How long passages are, in the embedder's word-pieces."""

    max_tokens: int = 200
    overlap_tokens: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise InvalidInput(f"max_tokens is {self.max_tokens}; it must be at least 1", param="max_tokens")
        if not 0 <= self.overlap_tokens <= self.max_tokens / 2:
            raise InvalidInput(
                f"overlap_tokens is {self.overlap_tokens}; it must be from 0 to half of max_tokens ({self.max_tokens})",
                param="overlap_tokens",
            )


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of a document's text: `text[start:end]`, without blanks at either end."""

    start: int
    end: int
    page: int | None
    heading: str | None


def split_document(document: Document, token_offsets: TokenOffsets, chunking: Chunking = Chunking()) -> list[Passage]:
    """Return the passages of `document` in order.

    Every non-blank character is in at least one passage; none has more than `chunking.max_tokens` word-pieces, nor
    more than ten characters for each of those. Neighbours overlap by at most `chunking.overlap_tokens`, a little less
    where that would begin inside a word. Same document, same chunking: same passages.

    Cost: tokenises about one and a half times the text, in windows of a few passages.
    """
    passages = []
    for section in _flows(document):
        splitter = _Splitter(document.text, section.start, section.end, token_offsets, chunking)
        passages += [Passage(start, end, section.page, section.heading) for start, end in splitter.spans()]
    return passages


def _flows(document: Document) -> list[Section]:
    """Join neighbouring sections of one page where the heading stays true for all of the text.

    That is so where both have the same heading, and where the first holds no more than its own heading.
    """
    flows: list[Section] = []
    for section in document.sections:
        last = flows[-1] if flows else None
        if last is not None and last.page == section.page:
            is_bare = last.heading is not None and _is_bare_heading(document.text[last.start : last.end], last.heading)
            if last.heading == section.heading or is_bare:
                flows[-1] = Section(last.start, section.end, section.page, section.heading)
                continue
        flows.append(section)
    return flows


def _is_bare_heading(text: str, heading: str) -> bool:
    return len(text) <= 2 * len(heading) + 20 and " ".join(text.strip("#=-~*^\"'+` \t\n").split()) == heading


class _Splitter:
    """Cuts one section, from left to right."""

    def __init__(self, text: str, start: int, end: int, token_offsets: TokenOffsets, chunking: Chunking) -> None:
        self._text = text
        self._start = start
        self._end = start + len(text[start:end].rstrip())
        self._token_offsets = token_offsets
        self._max_tokens = chunking.max_tokens
        self._overlap = chunking.overlap_tokens
        body = text[start : self._end]
        self._paragraph_ends = [start + found.start() for found in _PARAGRAPH_END.finditer(body)]
        self._sentence_ends = [start + end for _, end in split_sentences(body)]

    def spans(self) -> list[tuple[int, int]]:
        """Return the (start, end) of each passage."""
        spans: list[tuple[int, int]] = []
        start = self._skip_blanks(self._start)
        while start < self._end:
            tokens, window_end = self._window(start)
            if window_end == self._end and len(tokens) <= self._max_tokens:
                spans.append((start, self._end))
                break
            end = self._cut(start, tokens, window_end)
            spans.append((start, end))
            start = self._next_start(start, end, tokens)
        return spans

    def _window(self, start: int) -> tuple[list[tuple[int, int]], int]:
        """Tokenise from `start` until more word-pieces are seen than fit, or a passage's characters are used up."""
        for chars_per_token in (_FIRST_WINDOW, MAX_CHARS_PER_TOKEN):
            window_end = min(self._end, start + chars_per_token * self._max_tokens)
            offsets = self._token_offsets(self._text[start:window_end])
            if len(offsets) > self._max_tokens or window_end == self._end:
                break
        return [(start + first, start + last) for first, last in offsets], window_end

    def _cut(self, start: int, tokens: list[tuple[int, int]], window_end: int) -> int:
        """Return where the passage that begins at `start` ends."""
        most = self._max_tokens
        if window_end == self._end and len(tokens) - most < most // 4:
            most = len(tokens) - most // 4  # leave a last passage that is worth reading
        least = min(max(most // 2, self._overlap), len(tokens) - 1, most - 1)
        upper = tokens[most][0] if most < len(tokens) else window_end
        lower = tokens[least][0] if least >= 0 else start
        for ends in (self._paragraph_ends, self._sentence_ends):
            row = bisect_right(ends, upper) - 1
            if row >= 0 and ends[row] > lower:
                return self._strip_end(start, ends[row])
        for end in range(min(upper, self._end - 1), lower, -1):
            if self._text[end].isspace():
                return self._strip_end(start, end)
        return self._cut_word(start, upper)

    def _cut_word(self, start: int, end: int) -> int:
        """Return an end inside a word, moved back until it fits: part of a word may give more pieces than the whole."""
        end = max(end, start + 1)
        while end > start + 1:
            offsets = self._token_offsets(self._text[start:end])
            if len(offsets) <= self._max_tokens:
                break
            end = max(start + 1, min(end - 1, start + offsets[self._max_tokens][0]))
        return self._strip_end(start, end)

    def _next_start(self, start: int, end: int, tokens: list[tuple[int, int]]) -> int:
        """Return where the next passage begins: after `end`, or at a word that is the overlap before it."""
        if self._overlap:
            num_inside = bisect_right(tokens, end, key=lambda token: token[1])
            first = max(num_inside - self._overlap, 0)
            for token_start, _ in tokens[first:num_inside]:
                if token_start > start and self._text[token_start - 1].isspace():
                    return token_start
        return self._skip_blanks(end)

    def _strip_end(self, start: int, end: int) -> int:
        return start + max(len(self._text[start:end].rstrip()), 1)

    def _skip_blanks(self, start: int) -> int:
        while start < self._end and self._text[start].isspace():
            start += 1
        return start
