"""The models that can be trained, and how.

All load as `LlamaForCausalLM`: grouped queries, heads of 64, RoPE, RMSNorm, SwiGLU, tied embeddings. Embeddings (and
with them the output head) begin with a standard deviation of 0.5 and the rest with 0.02: with smaller ones the first
step of learning to look things up did not come. The last norm begins small, so that the first logits are not huge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from training.facts import FactShape

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

EMBEDDING_STD = 0.5
MATRIX_STD = 0.02
FIRST_LOGIT_STD = 4.0


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of the curriculum, up to `until` of all steps."""

    until: float
    max_tokens: int
    """of a row in set mode and of plain text"""
    max_sequential_tokens: int
    facts: FactShape
    shares: dict[str, float]
    """how often each kind of context is drawn"""
    read_weight: float = 0.1
    """of documents in the loss, where answers weigh 1"""
    question_weight: float = 0.1
    """of questions: a name that is half said is found in the documents, which is half of looking it up"""


@dataclass(frozen=True, slots=True)
class Size:
    """A model and its training."""

    name: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    feed_forward_size: int
    phases: tuple[Phase, ...]
    num_steps: int
    tokens_a_step: int
    peak_rate: float
    anneal_share: float = 0.2
    """of the steps, at the end, over which the rate falls to zero"""
    warmup_steps: int = 200
    weight_decay: float = 0.05
    max_norm: float = 1.0
    z_loss: float = 1e-4
    checkpoint_every_s: float = 120.0
    log_every: int = 20


_EASY = FactShape((2, 4), (1, 1), (2, 4), near_duplicates=0.0, former=0.0, unanswerable=0.0, shared_relations=1.0)
_FEW = FactShape((4, 6), (1, 2), (3, 5), near_duplicates=0.1, former=0.0, unanswerable=0.05)
_MIDDLE = FactShape((4, 10), (1, 4), (3, 6))
_WIDE = FactShape((4, 20), (1, 4), (4, 8))
_TINY = FactShape((2, 3), (1, 2), (1, 2))

FIRST = {"facts": 0.55, "pairs": 0.35, "plain text": 0.1}
LOOKUPS = {"two hops": 0.06, "pairs": 0.09, "needles": 0.04, "chains": 0.03, "counted words": 0.02}
ALL = {"facts": 0.36, **LOOKUPS, "cloze": 0.2, "real questions": 0.12, "plain text": 0.08}
LAST = {"facts": 0.22, **LOOKUPS, "cloze": 0.1, "real questions": 0.4, "plain text": 0.04}
CURRICULUM = (
    Phase(0.15, 512, 512, _EASY, FIRST, read_weight=0.02, question_weight=0.5),
    Phase(0.6, 1024, 1024, _MIDDLE, ALL),
    Phase(0.8, 2048, 4096, _WIDE, ALL),
    Phase(1.0, 2048, 4096, _WIDE, LAST),
)
SMALL_CURRICULUM = (
    Phase(0.1915, 256, 256, _EASY, {"facts": 0.8, "pairs": 0.2}, read_weight=0.02, question_weight=0.02),
    Phase(0.2974, 256, 256, _EASY, {"facts": 0.8, "pairs": 0.2}, read_weight=0.02, question_weight=0.5),
    Phase(0.75, 256, 256, _EASY, {"facts": 0.5, "pairs": 0.1, "continuations": 0.4}, 0.02, 0.5),
    Phase(0.9, 384, 384, _FEW, {"facts": 0.75, "pairs": 0.2, "plain text": 0.05}, read_weight=0.05),
    Phase(1.0, 512, 512, _FEW, {"facts": 0.6, "pairs": 0.1, "cloze": 0.1, "real questions": 0.2}),
)
MICRO_CURRICULUM = (
    Phase(0.5, 192, 192, _EASY, {"facts": 0.7, "pairs": 0.3}),
    Phase(1.0, 256, 320, _TINY, {"facts": 0.6, "pairs": 0.2, "two hops": 0.2}),
)

SIZES = {
    size.name: size
    for size in (
        Size("r-30m", 8192, 512, 9, 8, 4, 64, 1408, CURRICULUM, 2_000, 524_288, 1e-3),
        Size("r-8m", 8192, 256, 8, 4, 2, 64, 688, CURRICULUM, 2_400, 524_288, 1e-3),
        Size("cpu-3m", 4096, 192, 6, 3, 3, 64, 512, SMALL_CURRICULUM, 2_400, 4_096, 1e-3),
        Size("micro", 512, 32, 2, 2, 1, 16, 64, MICRO_CURRICULUM, 12, 1_024, 1e-3, warmup_steps=4, log_every=2),
    )
}


def make_model(size: Size, seed: int) -> LlamaForCausalLM:
    """Return a model with fresh weights in float32; the same seed gives the same ones."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=size.vocab_size,
        hidden_size=size.hidden_size,
        intermediate_size=size.feed_forward_size,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        num_key_value_heads=size.num_kv_heads,
        head_dim=size.head_dim,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        rope_theta=10_000.0,
        initializer_range=MATRIX_STD,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=EMBEDDING_STD)
    first_logit_std = EMBEDDING_STD * math.sqrt(size.hidden_size)
    torch.nn.init.constant_(model.model.norm.weight, min(1.0, FIRST_LOGIT_STD / first_logit_std))
    return model
