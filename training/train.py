"""Stages `pretrain` and `anneal`: one schedule from the first step to the last, in as many runs as it takes.

The curriculum widens by share of all steps; the rate rises, stays, and falls to zero over the annealing steps, whose
data is mostly real questions. `pretrain` stops where annealing begins. A checkpoint every two minutes holds weights,
optimiser and step, and the data depends on the seed and the step alone, so a run stopped at any point goes on to the
same weights on the same machine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from transformers import LlamaForCausalLM

from training.encoding import Row, attention_mask, collate, pad_id
from training.mixture import Mixture
from training.sizes import Size, make_model


@dataclass(frozen=True, slots=True)
class Machine:
    """What a run may use."""

    device: str = "cpu"
    num_threads: int = 1
    num_loaders: int = 0
    """processes that draw data"""
    is_compiled: bool = False
    rows_a_pass: int = 4
    """most rows in one pass over the model; the gradients of a step's passes add up. Few where caches are small: on
    a CPU four rows are twice as fast as 64"""


class Steps(Dataset[list[list[Row]]]):
    """The rows of each step, cut into passes of rows of like length."""

    def __init__(self, mixture: Mixture, size: Size, machine: Machine, first: int, last: int) -> None:
        self._mixture, self._size, self._machine = mixture, size, machine
        self._first, self._num_steps = first, last - first

    def __len__(self) -> int:
        return self._num_steps

    def __getitem__(self, row: int) -> list[list[Row]]:
        step = self._first + row
        phase = self._mixture.phase(step)
        # a row has at most `max_sequential_tokens`; numbering by that bound keeps steps from sharing rows
        most = self._size.tokens_a_step // 16
        rows, num_tokens = [], 0
        for number in range(step * most, (step + 1) * most):
            drawn = self._mixture.row(phase, number)
            rows.append(drawn)
            num_tokens += len(drawn.ids)
            if num_tokens >= self._size.tokens_a_step:
                break
        return _passes(rows, self._machine.rows_a_pass, self._size.phases[phase].max_tokens)


def _passes(rows: list[Row], rows_a_pass: int, max_tokens: int) -> list[list[Row]]:
    """Return rows sorted by length and cut into passes of at most as many tokens as `rows_a_pass` full rows."""
    passes: list[list[Row]] = []
    budget = rows_a_pass * max_tokens
    for row in sorted(rows, key=lambda row: len(row.ids), reverse=True):
        if passes and (len(passes[-1]) + 1) * len(passes[-1][0].ids) <= budget:
            passes[-1].append(row)
        else:
            passes.append([row])
    return passes


def learning_rate(step: int, size: Size) -> float:
    """Return the rate at `step`."""
    anneal_from = anneal_step(size)
    if step < size.warmup_steps:
        return size.peak_rate * (step + 1) / size.warmup_steps
    if step < anneal_from:
        return size.peak_rate
    return size.peak_rate * (size.num_steps - step) / (size.num_steps - anneal_from)


def anneal_step(size: Size) -> int:
    return round(size.num_steps * (1 - size.anneal_share))


def loss_of(model: LlamaForCausalLM, batch: dict[str, Tensor], z_loss: float) -> tuple[Tensor, Tensor]:
    """Return the weighted loss and the sum of weights; the loss is a sum, so that passes add up.

    Documents and questions are predicted with a small weight, answers with the full one; the first token of a segment
    is not predicted, since what stands before it in the row is none of its business.
    """
    hidden = model.model(
        input_ids=batch["ids"],
        position_ids=batch["positions"],
        attention_mask=attention_mask(batch["segments"], batch["is_set"]),
        use_cache=False,
    ).last_hidden_state[:, :-1]
    weights = batch["weights"][:, 1:]
    kept = weights > 0
    logits, weights = model.lm_head(hidden[kept]).float(), weights[kept]
    losses = cross_entropy(logits, batch["ids"][:, 1:][kept], reduction="none")
    losses = losses + z_loss * logits.logsumexp(-1).square()
    return (losses * weights).sum(), weights.sum()


def train(folder: Path, size: Size, tokenizer: Tokenizer, machine: Machine, *, seed: int = 0, until: int) -> int:
    """Train to step `until` or go on to it, and return the step reached.

    Writes `folder`/checkpoint.pt and log.jsonl.
    """
    torch.set_num_threads(machine.num_threads)
    torch.set_flush_denormal(True)
    model = make_model(size, seed).to(machine.device)
    optimiser = _make_optimiser(model, size, machine.device)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pt"
    first = _restore(checkpoint, model, optimiser, machine.device)
    if machine.is_compiled:
        model.model.compile(dynamic=True)
    is_gpu = machine.device.startswith("cuda")
    saved = logged = time.monotonic()
    num_tokens, losses = 0, []
    for step, passes in enumerate(_load(Mixture(size, tokenizer, seed), size, machine, first, until), start=first):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, size)
        total = sum(float((row.weights[1:] > 0).dot(row.weights[1:])) for rows in passes for row in rows)
        summed = torch.zeros((), device=machine.device)
        for rows in passes:
            batch = collate(rows, pad_id(tokenizer))
            batch = {name: part.to(machine.device, non_blocking=True) for name, part in batch.items()}
            with torch.autocast("cuda", torch.bfloat16, enabled=is_gpu):
                loss, _ = loss_of(model, batch, size.z_loss)
            (loss / total).backward()
            summed += loss.detach() / total
            num_tokens += sum(len(row.ids) for row in rows)
        torch.nn.utils.clip_grad_norm_(model.parameters(), size.max_norm)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(summed)
        now, is_last = time.monotonic(), step + 1 == until
        if (step + 1) % size.log_every == 0 or is_last:
            mean = float(torch.stack(losses).mean())
            line = {"step": step + 1, "loss": round(mean, 4), "tokens_a_second": round(num_tokens / (now - logged))}
            with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
            num_tokens, losses, logged = 0, [], now
        if is_last or now - saved > size.checkpoint_every_s:
            save_checkpoint(checkpoint, step + 1, model, optimiser)
            saved = now
    return max(first, until)


def load_checkpoint(folder: Path, size: Size) -> tuple[LlamaForCausalLM, int]:
    """Return the model of a run and the step it has reached."""
    model = make_model(size, 0)
    state = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    model.train(False)
    return model, int(state["step"])


def _load(mixture: Mixture, size: Size, machine: Machine, first: int, until: int) -> Iterator[list[list[Row]]]:
    steps = Steps(mixture, size, machine, first, until)
    yield from DataLoader(
        steps,
        batch_size=None,
        num_workers=machine.num_loaders,
        multiprocessing_context="fork" if machine.num_loaders else None,
    )


def _make_optimiser(model: LlamaForCausalLM, size: Size, device: str) -> torch.optim.AdamW:
    matrices = [each for name, each in model.named_parameters() if each.ndim == 2 and "embed" not in name]
    others = [each for name, each in model.named_parameters() if each.ndim != 2 or "embed" in name]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": size.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=size.peak_rate,
        betas=(0.9, 0.95),
        fused=True,
    )


def save_checkpoint(
    path: Path, step: int, model: LlamaForCausalLM, optimiser: torch.optim.Optimizer | None = None
) -> None:
    """Write a checkpoint, whole or not at all; without its optimiser a run cannot go on from it."""
    state = {"model": model.state_dict(), "step": step}
    if optimiser is not None:
        state["optimiser"] = optimiser.state_dict()
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def _restore(path: Path, model: LlamaForCausalLM, optimiser: torch.optim.Optimizer, device: str) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, map_location=device, weights_only=True)
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])
