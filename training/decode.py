"""Greedy answers from a model in either mode, as serving reads: documents once, then the questions over their keys.

In set mode every document is read on its own at position 0, and a question over the keys and values of all of them;
this is the same attention as the masks of training, which a test holds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from transformers import DynamicCache, LlamaForCausalLM

from training.encoding import TAIL_POSITION, Mode, encode_document, encode_question, special
from training.tokenizer import END

MAX_ANSWER_TOKENS = 48


@torch.inference_mode()
def read_documents(model: LlamaForCausalLM, tokenizer: Tokenizer, documents: Sequence[str], mode: Mode) -> DynamicCache:
    """Return the keys and values of the documents, in the order given."""
    rows = [encode_document(tokenizer, text) for text in documents]
    if mode != "set":
        rows = [[token for row in rows for token in row]]
    read = [_read(model, row) for row in rows]
    cache = DynamicCache(config=model.config)
    for layer in range(model.config.num_hidden_layers):
        keys = torch.cat([each.layers[layer].keys for each in read], dim=2)
        values = torch.cat([each.layers[layer].values for each in read], dim=2)
        cache.update(keys, values, layer)
    return cache


@torch.inference_mode()
def answer(model: LlamaForCausalLM, tokenizer: Tokenizer, cache: DynamicCache, question: str, mode: Mode) -> str:
    """Return the greedy answer; the cache is left as it was."""
    num_read = cache.get_seq_length()
    position = TAIL_POSITION if mode == "set" else num_read
    ids = encode_question(tokenizer, question)
    end, found = special(tokenizer, END), list[int]()
    device = model.device
    while len(found) < MAX_ANSWER_TOKENS:
        positions = torch.arange(position, position + len(ids), device=device)[None]
        logits = model(
            input_ids=torch.tensor([ids], device=device),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).logits[0, -1]
        position += len(ids)
        ids = [int(logits.argmax())]
        if ids[0] == end:
            break
        found += ids
    cache.crop(num_read - cache.get_seq_length())
    return str(tokenizer.decode(found, skip_special_tokens=False)).strip()


def _read(model: LlamaForCausalLM, ids: list[int]) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    model(input_ids=torch.tensor([ids], device=model.device), past_key_values=cache, use_cache=True)
    return cache
