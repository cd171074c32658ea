"""Stage `export`: a checkpoint as a folder that transformers and vLLM load, in bfloat16.

The token that stands for "no answer" is spelled out there as the sentence that every engine answers with, so that any
server shows it. The chat template takes `documents`, as transformers passes them, and the last message.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from holdfast.serving.engine.hf import TRAINED_FOR_SETS, TRAINED_ON_MARKS
from holdfast.serving.engine.prompt_formats import ANSWER, DOCUMENT, END_DOCUMENT, END_QUESTION, QUESTION
from holdfast.serving.prompts import NOT_IN_FILES
from training.contexts import NONE
from training.tokenizer import END, PAD

CHAT_TEMPLATE = (
    "{% for document in documents or [] %}"
    f"{DOCUMENT}{{{{ document.text }}}}{END_DOCUMENT}"
    "{% endfor %}"
    f"{QUESTION}{{{{ messages[-1].content }}}}{END_QUESTION}{ANSWER}"
)


def export(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write weights, configuration and tokenizer; the configuration says that the model was trained for set mode."""
    model = model.to(torch.bfloat16)
    setattr(model.config, TRAINED_FOR_SETS, True)
    setattr(model.config, TRAINED_ON_MARKS, True)
    model.generation_config.eos_token_id = model.config.eos_token_id
    model.generation_config.pad_token_id = model.config.pad_token_id
    model.save_pretrained(folder)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=_spelled_out(tokenizer), pad_token=PAD, eos_token=END, clean_up_tokenization_spaces=False
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)


def _spelled_out(tokenizer: Tokenizer) -> Tokenizer:
    """Return the tokenizer with `NONE` as an ordinary token that reads `NOT_IN_FILES`."""
    state = json.loads(tokenizer.to_str())
    for added in state["added_tokens"]:
        if added["content"] == NONE:
            added |= {"content": NOT_IN_FILES, "special": False}
    vocabulary = state["model"]["vocab"]
    vocabulary[NOT_IN_FILES] = vocabulary.pop(NONE)
    return Tokenizer.from_str(json.dumps(state))
