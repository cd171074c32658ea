"""Stage `export`: a checkpoint as a folder that transformers and vLLM load, in bfloat16."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from holdfast.serving.engine.hf import TRAINED_FOR_SETS
from training.tokenizer import END, PAD


def export(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write weights, configuration and tokenizer; the configuration says that the model was trained for set mode."""
    model = model.to(torch.bfloat16)
    setattr(model.config, TRAINED_FOR_SETS, True)
    model.generation_config.eos_token_id = model.config.eos_token_id
    model.generation_config.pad_token_id = model.config.pad_token_id
    model.save_pretrained(folder)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, clean_up_tokenization_spaces=False
    )
    fast.save_pretrained(folder)
