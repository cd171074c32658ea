"""Stage `export`: a checkpoint as a folder that transformers and vLLM load, in bfloat16."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from training.encoding import TAIL_POSITION
from training.tokenizer import END, PAD


def export(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write weights, configuration and tokenizer; the configuration's `tail_position` is where set mode puts tails."""
    model = model.to(torch.bfloat16)
    model.config.tail_position = TAIL_POSITION
    model.generation_config.eos_token_id = model.config.eos_token_id
    model.generation_config.pad_token_id = model.config.pad_token_id
    model.save_pretrained(folder)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, clean_up_tokenization_spaces=False
    )
    fast.save_pretrained(folder)
