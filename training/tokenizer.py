"""Stage `tokenizer`: a byte-level BPE of the reader's own.

Digits stand alone, so that numbers are copied digit by digit; nothing merges across blanks and punctuation; the
marks of documents, questions and answers are tokens that no text can spell.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from holdfast.serving.engine.prompt_formats import ANSWER, DOCUMENT, END_DOCUMENT, END_QUESTION, QUESTION
from training.contexts import NONE

PAD, END = "<pad>", "<end>"
QUOTE, END_QUOTE = "<quote>", "</quote>"
SPECIAL = (PAD, END, DOCUMENT, END_DOCUMENT, QUESTION, END_QUESTION, ANSWER, NONE, QUOTE, END_QUOTE)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Return a tokenizer of `vocab_size` tokens learned from `texts`; equal texts give equal tokenizers."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]|\s"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.encode_special_tokens = True
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """Return a stored tokenizer; a mark in a text is encoded as its characters, so only code makes marks."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True
    return tokenizer
