"""A network that reads a question and a passage and points at the answer.

The layers are those of all-MiniLM-L6-v2, fine-tuned; its word embeddings are used as they are, so that only layers
and head are stored. The first position stands for "not here". A passage is read alone, hence its answer depends
neither on other passages nor on their order.

Source: Devlin et al., "BERT" (arXiv 1810.04805), section 4.3; Wang et al., "MiniLM" (arXiv 2002.10957).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Linear, Module
    from transformers import BertModel

CLS, SEP = 101, 102
MAX_QUESTION_TOKENS = 48
"""word-pieces of a question; what is beyond is not read"""
MAX_HEADING_TOKENS = 24


@dataclass(frozen=True, slots=True)
class SpanInput:
    """What the network reads: `[CLS] question [SEP] heading [SEP] passage [SEP]`."""

    ids: tuple[int, ...]
    types: tuple[int, ...]
    """0 for the question, 1 for heading and passage"""
    passage_start: int
    """position of the passage's first word-piece"""


@dataclass(frozen=True, slots=True)
class SpanNetwork:
    """Encoder and head; the encoder's embeddings belong to the embedding model and are never trained."""

    encoder: BertModel
    head: Linear

    def scores(self, ids: Tensor, types: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return how well an answer begins and ends at each position, position 0 meaning "not here".

        Args:
            ids, types, mask: (B, T) int64, as `SpanInput`; mask is 0 where a row is padded.

        Returns:
            starts, ends: (B, T) float32 logits.
        """
        hidden = self.encoder(input_ids=ids, token_type_ids=types, attention_mask=mask).last_hidden_state
        starts, ends = self.head(hidden).unbind(-1)
        return starts, ends

    def stored(self) -> dict[str, Module]:
        """Return the parts that are trained and stored, by name."""
        return {"encoder": self.encoder.encoder, "head": self.head}


def make_span_input(question: Sequence[int], heading: Sequence[int], passage: Sequence[int]) -> SpanInput:
    """Return the input for word-pieces without special tokens; an empty heading takes no separator."""
    head = (CLS, *question, SEP)
    before = (*heading, SEP) if heading else ()
    ids = (*head, *before, *passage, SEP)
    return SpanInput(ids, (0,) * len(head) + (1,) * (len(ids) - len(head)), len(head) + len(before))


def make_span_network(base: BertModel) -> SpanNetwork:
    """Return a network that shares `base`'s embeddings and starts from a copy of its layers."""
    import copy

    from torch import nn

    encoder = copy.copy(base)
    encoder._modules = dict(base._modules)
    encoder.encoder = copy.deepcopy(base.encoder)
    encoder.pooler = None
    head = nn.Linear(base.config.hidden_size, 2)
    nn.init.normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return SpanNetwork(encoder, head)
