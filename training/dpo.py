"""Stage `dpo`: Stable-RAG's training, a reader that is taught by preference to answer alike in every order.

The loss pulls the better answer's log-probability over the worse one's, measured against the reader before: no reward
model, no sampling. All weights are trained; the release trains adapters of a model a thousand times as large.

Source: Rafailov et al., "Direct Preference Optimization" (arXiv 2305.18290), equation 7; beta and passes from
Stable-RAG, arXiv 2601.02993.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import LlamaForCausalLM

from training.preferences import Preference

BETA = 0.4
RATE = 2e-5
WARMUP = 0.1
BATCH_SIZE = 16
NUM_PASSES = 2


def train_preferences(model: LlamaForCausalLM, preferences: Sequence[Preference], seed: int) -> list[float]:
    """Train `model` in place and return the mean loss of each pass; log 2 is no preference."""
    with torch.inference_mode():
        before = [float(margin(model, preference)) for preference in preferences]
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
    num_steps = NUM_PASSES * -(-len(preferences) // BATCH_SIZE)
    step, losses = 0, []
    for number in range(NUM_PASSES):
        order = list(range(len(preferences)))
        random.Random(f"{seed}/{number}").shuffle(order)
        total = 0.0
        for first in range(0, len(order), BATCH_SIZE):
            rows = order[first : first + BATCH_SIZE]
            for group in optimiser.param_groups:
                group["lr"] = RATE * min(1.0, (step + 1) / max(1.0, WARMUP * num_steps))
            for row in rows:
                loss = -logsigmoid(BETA * (margin(model, preferences[row]) - before[row]))
                (loss / len(rows)).backward()
                total += float(loss.detach())
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            step += 1
        losses.append(total / len(order))
    return losses


def margin(model: LlamaForCausalLM, preference: Preference) -> Tensor:
    """Return the log-probability of the better answer less that of the worse one, a scalar."""
    better = _log_probability(model, preference.prompt, preference.chosen)
    return better - _log_probability(model, preference.prompt, preference.rejected)


def _log_probability(model: LlamaForCausalLM, prompt: list[int], answer: list[int]) -> Tensor:
    ids = torch.tensor([prompt + answer], device=model.device)
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=len(answer) + 1).logits[0, :-1].float()
    return logits.log_softmax(dim=-1).gather(1, ids[0, len(prompt) :, None]).sum()
