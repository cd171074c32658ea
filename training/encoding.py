"""Contexts to token rows, positions and masks: the set mode, the sequential mode and plain text in one layout.

A row holds documents, then tails: each tail is one question with its answer. A token sees what stands before it in
its own segment; a tail's token also sees all documents. In set mode documents are blind to one another, all begin at
position 0 and every tail at `TAIL_POSITION`, so their order cannot matter; in sequential mode documents follow each
other and see those before. Tails never see each other, so many questions train on one context.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from holdfast.serving.engine.set_attention import MAX_DOCUMENT_LEN
from training.contexts import NONE, Asked, Context
from training.tokenizer import ANSWER, DOCUMENT, END, END_DOCUMENT, END_QUESTION, PAD, QUESTION

Mode = Literal["set", "sequential", "plain"]
TAIL_POSITION = MAX_DOCUMENT_LEN
"""where every tail begins in set mode"""
ROW_MULTIPLE = 64
PADDING = -(2**15)
"""the segment of what pads a row"""


@dataclass(frozen=True, slots=True)
class Row:
    """One context in tokens."""

    ids: NDArray[np.int32]
    positions: NDArray[np.int32]
    segments: NDArray[np.int16]
    """0, 1, ... for the documents, -1, -2, ... for the tails"""
    weights: NDArray[np.float32]
    """of predicting this token from the one before in its segment; 0 for a segment's first"""
    mode: Mode


def special(tokenizer: Tokenizer, token: str) -> int:
    """Return the id of a special token."""
    found = tokenizer.token_to_id(token)
    assert found is not None
    return int(found)


def encode_document(tokenizer: Tokenizer, text: str, *, max_tokens: int = TAIL_POSITION) -> list[int]:
    """Return a document between its marks, cut to `max_tokens`; it reads the same whatever stands beside it."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids[: max_tokens - 2]
    return [special(tokenizer, DOCUMENT), *ids, special(tokenizer, END_DOCUMENT)]


def encode_question(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return a question up to the mark after which the answer begins."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids[:128]
    return [special(tokenizer, QUESTION), *ids, special(tokenizer, END_QUESTION), special(tokenizer, ANSWER)]


def encode_answer(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return an answer; that the documents do not say is one token."""
    if text == NONE:
        return [special(tokenizer, NONE)]
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def encode(
    context: Context,
    tokenizer: Tokenizer,
    mode: Mode,
    max_tokens: int,
    *,
    read_weight: float = 0.1,
    question_weight: float = 0.1,
) -> Row:
    """Return a row of at most `max_tokens`: questions and what answers them stay, other documents go first.

    Where not even one question fits beside its documents, the row is their beginning as plain text.

    Args:
        read_weight, question_weight: of documents and of questions in the loss; answers and plain text weigh 1.
    """
    end = special(tokenizer, END)
    if mode == "plain":
        text = tokenizer.encode("\n\n".join(context.documents), add_special_tokens=False).ids[: max_tokens - 1]
        return _pack([[*text, end]], [], [], mode, 1.0, 1.0)
    documents = [encode_document(tokenizer, text) for text in context.documents]
    tails, read = [], []
    for asked in context.asked:
        question = encode_question(tokenizer, asked.question)
        tails.append([*question, *encode_answer(tokenizer, asked.answer), end])
        read.append(len(question))
    needed = {row for asked in context.asked for row in asked.evidence}
    rows = list(range(len(documents)))
    while rows and sum(len(documents[row]) for row in rows) + sum(map(len, tails)) > max_tokens:
        spare = [row for row in rows if row not in needed]
        if spare:
            rows.remove(spare[-1])
        else:
            tails, read = tails[:-1], read[:-1]
            needed = {row for asked in context.asked[: len(tails)] for row in asked.evidence}
            if not tails:
                return encode(context, tokenizer, "plain", max_tokens)
    return _pack([documents[row] for row in rows], tails, read, mode, read_weight, question_weight)


def _pack(
    documents: Sequence[list[int]],
    tails: Sequence[list[int]],
    read: Sequence[int],
    mode: Mode,
    read_weight: float,
    question_weight: float,
) -> Row:
    parts = [*documents, *tails]
    segments = [*range(len(documents)), *range(-1, -len(tails) - 1, -1)]
    tail_position = TAIL_POSITION if mode == "set" else sum(map(len, documents))
    positions, weights = [], []
    position = 0
    for row, ids in enumerate(parts):
        start = tail_position if row >= len(documents) else 0 if mode == "set" else position
        positions.append(np.arange(start, start + len(ids)))
        position += len(ids)
        weight = np.full(len(ids), read_weight if row < len(documents) else question_weight)
        if row >= len(documents):
            weight[read[row - len(documents)] :] = 1.0
        weight[0] = 0.0
        weights.append(weight)
    return Row(
        ids=np.concatenate([np.array(ids, dtype=np.int32) for ids in parts]),
        positions=np.concatenate(positions).astype(np.int32),
        segments=np.repeat(np.array(segments, dtype=np.int16), [len(ids) for ids in parts]),
        weights=np.concatenate(weights).astype(np.float32),
        mode=mode,
    )


def collate(rows: Sequence[Row], pad: int) -> dict[str, Tensor]:
    """Return a batch: ids, positions, segments (B, T) int64, weights (B, T) float32, is_set (B,) bool.

    Rows are padded to a multiple of 64; padding weighs nothing and is seen by nothing else.
    """
    longest = max(len(row.ids) for row in rows)
    T = -(-longest // ROW_MULTIPLE) * ROW_MULTIPLE
    batch = {
        "ids": np.full((len(rows), T), pad, dtype=np.int64),
        "positions": np.zeros((len(rows), T), dtype=np.int64),
        "segments": np.full((len(rows), T), PADDING, dtype=np.int64),
        "weights": np.zeros((len(rows), T), dtype=np.float32),
    }
    for place, row in enumerate(rows):
        for name, part in batch.items():
            values = getattr(row, name)
            part[place, : len(values)] = values
    is_set = np.array([row.mode == "set" for row in rows])
    return {name: torch.from_numpy(part) for name, part in (batch | {"is_set": is_set}).items()}


def attention_mask(segments: Tensor, is_set: Tensor) -> Tensor:
    """Return (B, 1, T, T) bool, True where the first may see the second.

    Args:
        segments: (B, T) int64, as in `Row`.
        is_set: (B,) bool, whether documents are blind to one another.

    Reference: visible, equal bit for bit but for padding.
    """
    seer, seen = segments[:, :, None], segments[:, None, :]
    shared = (seer == seen) | ((seen >= 0) & ((seer < 0) | ~is_set[:, None, None]))
    return shared.tril()[:, None]


def visible(row: Row) -> NDArray[np.bool_]:
    """Return (T, T) bool: may the first see the second? Written out token by token, to be checked against."""
    T = len(row.segments)
    seen_by = np.zeros((T, T), dtype=np.bool_)
    for seer in range(T):
        for seen in range(seer + 1):
            own, other = row.segments[seer], row.segments[seen]
            is_document = other >= 0
            seen_by[seer, seen] = own == other or (is_document and (own < 0 or row.mode != "set"))
    return seen_by


def shuffled(context: Context, rng: random.Random) -> Context:
    """Return the same context with its documents in another order."""
    order = list(range(len(context.documents)))
    rng.shuffle(order)
    place = {row: new for new, row in enumerate(order)}
    asked = [Asked(a.question, a.answer, tuple(sorted(place[row] for row in a.evidence))) for a in context.asked]
    return Context(context.kind, [context.documents[row] for row in order], asked)


def pad_id(tokenizer: Tokenizer) -> int:
    return special(tokenizer, PAD)
