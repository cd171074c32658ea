"""Which words of a passage answer a question, and whether any do.

Every passage is read alone and unpadded, so a reading depends on question, heading and text only. Scores are
log-odds against "not here" and therefore comparable between passages. A passage longer than the network reads at once
is read in windows that overlap by half; a word-piece counts in the window where it stands furthest from an edge.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from holdfast.retrieval.embed import load_bundled_encoder
from holdfast.serving.engine.protocol import Source
from holdfast.serving.engine.span_model import (
    MAX_HEADING_TOKENS,
    MAX_QUESTION_TOKENS,
    SpanNetwork,
    load_span_network,
    make_span_input,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WEIGHTS = Path(__file__).parents[2] / "reader" / "spans.safetensors"
WINDOW_TOKENS = 256
"""word-pieces of a passage read at once"""
MAX_SPAN_TOKENS = 30
"""word-pieces of an answer"""
MIN_LOG_ODDS = -2.0
"""below this no passage answers; chosen on held-out questions, see `benchmarks/answers.py`"""
_ENGLISH = re.compile(
    r"\b(?:what|who|whom|whose|when|where|which|why|how|is|are|was|were|does|did|do|has|had|the|of)\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Span:
    """`text[start:end]` and its log-odds against "not here"."""

    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What the network made of one passage: for each word-piece, how well an answer begins and ends there."""

    offsets: list[tuple[int, int]]
    """characters of the passage, ascending"""
    starts: NDArray[np.float32]
    ends: NDArray[np.float32]

    def best_span(self, start: int = 0, end: int | None = None) -> Span | None:
        """Return the best answer within characters `start` to `end`, the earliest of equals; None if no word is there.

        Cost: `MAX_SPAN_TOKENS` operations a word-piece.
        """
        first = bisect_left(self.offsets, start, key=lambda offset: offset[0])
        last = len(self.offsets)
        if end is not None:
            last = max(first, bisect_left(self.offsets, end + 1, key=lambda offset: offset[1]))
        num_tokens = last - first
        if not num_tokens:
            return None
        best: tuple[float, int, int] | None = None
        for length in range(min(MAX_SPAN_TOKENS, num_tokens)):
            scores = self.starts[first : last - length] + self.ends[first + length : last]
            row = int(scores.argmax())
            found = (-float(scores[row]), first + row, first + row + length)
            best = found if best is None else min(best, found)
        assert best is not None
        score, begin, stop = best
        return Span(self.offsets[begin][0], self.offsets[stop][1], -score)


def is_answered(question: str, readings: Sequence[Reading], min_log_odds: float = MIN_LOG_ODDS) -> bool:
    """Say whether any passage answers; there must be one.

    A question that is not English is taken to be answered, since the reader reads English only.
    """
    if not _ENGLISH.search(question):
        return bool(readings)
    spans = [reading.best_span() for reading in readings]
    return any(span is not None and span.score >= min_log_odds for span in spans)


class SpanReader:
    """Reads passages for answers; safe to call from many threads."""

    def __init__(self, network: SpanNetwork, tokenizer: Tokenizer) -> None:
        self._network = network
        self._tokenizer = tokenizer

    def read(self, question: str, sources: Sequence[Source]) -> list[Reading]:
        """Return a reading per source.

        Cost: about 25 million multiplications a word-piece of question, heading and passage.
        """
        return [self.read_passage(question, source.heading or "", source.text) for source in sources]

    def read_passage(self, question: str, heading: str, text: str) -> Reading:
        """Return the reading of one passage."""
        asked = self._tokenizer.encode(question, add_special_tokens=False).ids[:MAX_QUESTION_TOKENS]
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        title = self._tokenizer.encode(heading, add_special_tokens=False).ids[:MAX_HEADING_TOKENS]
        num_tokens = len(encoded.ids)
        starts, ends = np.empty((2, num_tokens), dtype=np.float32)
        quarter = WINDOW_TOKENS // 4
        for first in range(0, max(1, num_tokens - WINDOW_TOKENS // 2), WINDOW_TOKENS // 2):
            last = min(first + WINDOW_TOKENS, num_tokens)
            kept = first + quarter if first else 0  # what comes earlier stands further from the last window's edge
            scores = self._scores(asked, title, encoded.ids[first:last])
            starts[kept:last], ends[kept:last] = scores[:, kept - first :]
        return Reading(encoded.offsets, starts, ends)

    def _scores(self, question: Sequence[int], heading: Sequence[int], passage: Sequence[int]) -> NDArray[np.float32]:
        """Return (2, len(passage)): starts and ends, those of "not here" subtracted."""
        import torch

        read = make_span_input(question, heading, passage)
        ids, types = torch.tensor([read.ids]), torch.tensor([read.types])
        with torch.inference_mode():
            scores = torch.stack(self._network.scores(ids, types, torch.ones_like(ids)))[:, 0]
        here = scores[:, read.passage_start : -1] - scores[:, :1]
        found: NDArray[np.float32] = here.numpy()
        return found


def make_span_reader(weights: Path = WEIGHTS) -> SpanReader:
    """Load the span reader.

    Raises:
        IntegrityError: the weights are missing or damaged.
    """
    encoder, tokenizer = load_bundled_encoder()
    return SpanReader(load_span_network(encoder, weights), tokenizer)
