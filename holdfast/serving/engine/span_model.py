"""A network that reads a question and a passage and points at the answer.

The layers are those of all-MiniLM-L6-v2, fine-tuned; its word embeddings are used as they are, so that only layers
and head are stored. The first position stands for "not here". A passage is read alone, hence its answer depends
neither on other passages nor on their order.

Source: Devlin et al., "BERT" (arXiv 1810.04805), section 4.3; Wang et al., "MiniLM" (arXiv 2002.10957).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.errors import IntegrityError

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


def make_span_network(encoder: BertModel) -> SpanNetwork:
    """Return a network on `encoder`, whose embeddings stay as they are, with a head that knows nothing yet."""
    from torch import nn

    encoder.requires_grad_(False)
    head = nn.Linear(encoder.config.hidden_size, 2)
    nn.init.normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    network = SpanNetwork(encoder, head)
    for part in network.stored().values():
        part.requires_grad_(True)
    return network


def load_span_network(encoder: BertModel, weights: Path) -> SpanNetwork:
    """Return a network on `encoder` with stored layers and head, in float32.

    Raises:
        IntegrityError: the file is not such weights.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    network = make_span_network(encoder)
    try:
        stored = {name: weight.float() for name, weight in load_file(weights).items()}
        for name, part in network.stored().items():
            prefix = f"{name}."
            own = {key.removeprefix(prefix): weight for key, weight in stored.items() if key.startswith(prefix)}
            part.load_state_dict(own)
            part.requires_grad_(False)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise IntegrityError(f"{weights} does not hold the span head's weights: {error}") from error
    return network


def store_span_network(network: SpanNetwork, weights: Path) -> None:
    """Write layers and head, rounded to bfloat16."""
    import torch
    from safetensors.torch import save_file

    save_file(
        {
            f"{name}.{key}": weight.to(torch.bfloat16).contiguous()
            for name, part in network.stored().items()
            for key, weight in part.state_dict().items()
        },
        weights,
    )
