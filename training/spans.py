"""Stage `spans`: fine-tune the bundled encoder to point at answers.

Resumable: a checkpoint every few minutes holds weights, optimiser and step, and batches depend on the seed and the
step alone, so a run that was stopped goes on to the same weights. Deterministic for a given number of threads.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from holdfast.retrieval.embed import load_bundled_encoder
from holdfast.serving.engine.span_model import SpanNetwork, make_span_network, store_span_network
from holdfast.serving.engine.spans import WEIGHTS
from training.span_examples import SpanExample, SpanExamples


@dataclass(frozen=True)
class SpanConfig:
    """How the span head is trained."""

    seed: int = 0
    num_steps: int = 1800
    batch_size: int = 16
    peak_rate: float = 2e-4
    head_rate: float = 1e-3
    warmup_share: float = 0.06
    weight_decay: float = 0.01
    max_norm: float = 1.0
    num_threads: int = 1
    num_workers: int = 2
    """processes that share a batch: on a busy machine two of one thread each go faster than one of two"""
    batches_a_draw: int = 16
    """batches are cut from so many batches' examples sorted by length, which spares padding"""
    checkpoint_every: int = 100
    log_every: int = 20


def learning_rate(step: int, config: SpanConfig) -> float:
    """Return the share of the peak rate at `step`: a linear rise, then a linear fall to zero."""
    warmup = max(1, math.ceil(config.warmup_share * config.num_steps))
    return min((step + 1) / warmup, (config.num_steps - step) / (config.num_steps - warmup + 1))


class Batches:
    """The examples of each step; a function of the seed and the step."""

    def __init__(self, examples: SpanExamples, config: SpanConfig) -> None:
        self._examples = examples
        self._config = config
        self._draw = lru_cache(maxsize=1)(self._make_draw)

    def __getitem__(self, step: int) -> list[SpanExample]:
        draw, row = divmod(step, self._config.batches_a_draw)
        return self._draw(draw)[row]

    def _make_draw(self, draw: int) -> list[list[SpanExample]]:
        """Return the batches of a draw: its examples cut by length, in random order."""
        size = self._config.batch_size
        numbers = range(draw * size * self._config.batches_a_draw, (draw + 1) * size * self._config.batches_a_draw)
        drawn = sorted((self._examples[number] for number in numbers), key=_length)
        batches = [drawn[first : first + size] for first in range(0, len(drawn), size)]
        random.Random(f"{self._config.seed}/order/{draw}").shuffle(batches)
        return batches


def collate(batch: Sequence[SpanExample]) -> dict[str, Tensor]:
    """Return padded tensors: ids, types, mask (B, T) int64, and allowed, starts, ends (B, T) bool.

    `allowed` are the positions an answer may stand at: the passage's, and 0 for "not here".
    """
    B, T = len(batch), max(map(_length, batch))
    tensors = {name: torch.zeros((B, T), dtype=torch.int64) for name in ("ids", "types", "mask")}
    flags = {name: torch.zeros((B, T), dtype=torch.bool) for name in ("allowed", "starts", "ends")}
    for row, example in enumerate(batch):
        read, size = example.read, _length(example)
        tensors["ids"][row, :size] = torch.tensor(read.ids)
        tensors["types"][row, :size] = torch.tensor(read.types)
        tensors["mask"][row, :size] = 1
        flags["allowed"][row, read.passage_start : size - 1] = True
        flags["allowed"][row, 0] = True
        flags["starts"][row, list(example.starts or (0,))] = True
        flags["ends"][row, list(example.ends or (0,))] = True
    return tensors | flags


def span_loss(network: SpanNetwork, batch: dict[str, Tensor]) -> Tensor:
    """Return the negative log-probability that start and end are any of the right ones, summed over the batch."""
    losses = []
    found = network.scores(batch["ids"], batch["types"], batch["mask"])
    for scores, right in zip(found, ("starts", "ends"), strict=True):
        scores = scores.masked_fill(~batch["allowed"], -torch.inf)
        held = scores.masked_fill(~batch[right], -torch.inf)
        losses.append(scores.logsumexp(-1) - held.logsumexp(-1))
    return torch.stack(losses).sum()


def train_spans(folder: Path, config: SpanConfig, *, device: str = "cpu", until: int | None = None) -> None:
    """Train to step `until` or to the end, going on where `folder`'s checkpoint ends; writes the checkpoint there."""
    until = config.num_steps if until is None else until
    folder.mkdir(parents=True, exist_ok=True)
    if config.num_workers == 1:
        _work(0, folder, config, device, until)
        return
    meeting = folder / "meeting"
    meeting.unlink(missing_ok=True)
    torch.multiprocessing.spawn(_work, (folder, config, device, until), config.num_workers)


def _work(rank: int, folder: Path, config: SpanConfig, device: str, until: int) -> None:
    """Train one worker's share of every batch; gradients are summed, so that all workers hold the same weights."""
    torch.set_num_threads(config.num_threads)
    torch.manual_seed(config.seed)
    is_shared = config.num_workers > 1
    if is_shared:
        meeting = f"file://{(folder / 'meeting').resolve()}"
        distributed.init_process_group("gloo", meeting, timedelta(days=1), config.num_workers, rank)
    encoder, tokenizer = load_bundled_encoder()
    network = make_span_network(encoder)
    network.encoder.to(device)
    network.head.to(device)
    optimiser = torch.optim.AdamW(
        [
            {"params": list(network.encoder.encoder.parameters()), "peak": config.peak_rate},
            {"params": list(network.head.parameters()), "peak": config.head_rate},
        ],
        betas=(0.9, 0.98),
        weight_decay=config.weight_decay,
        fused=True,
    )
    checkpoint, log = folder / "checkpoint.pt", folder / "log.jsonl"
    first = _restore(checkpoint, network, optimiser)
    batches = Batches(SpanExamples(tokenizer, config.seed), config)
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    started, losses, num_tokens = time.monotonic(), [], 0
    for step in range(first, until):
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * learning_rate(step, config)
        batch = collate(batches[step][rank :: config.num_workers])
        loss = span_loss(network, {name: tensor.to(device) for name, tensor in batch.items()}) / config.batch_size
        loss.backward()
        if is_shared:
            gradient = torch.cat([parameter.grad.flatten() for parameter in parameters] + [loss.detach().view(1)])
            distributed.all_reduce(gradient)
            *shares, loss = gradient.split([*(parameter.numel() for parameter in parameters), 1])
            for parameter, share in zip(parameters, shares, strict=True):
                parameter.grad = share.view_as(parameter)
        torch.nn.utils.clip_grad_norm_(parameters, config.max_norm)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
        num_tokens += config.num_workers * int(batch["mask"].sum())
        is_last = step + 1 == until
        if rank == 0 and ((step + 1) % config.log_every == 0 or is_last):
            _log(log, step + 1, sum(losses) / len(losses), num_tokens / (time.monotonic() - started))
            started, losses, num_tokens = time.monotonic(), [], 0
        if rank == 0 and ((step + 1) % config.checkpoint_every == 0 or is_last):
            _save(checkpoint, step + 1, network, optimiser)
    if is_shared:
        distributed.destroy_process_group()


def export_spans(folder: Path, target: Path | None) -> Path:
    """Write the checkpoint's weights, rounded to bfloat16, where the package looks for them or to `target`."""
    network = make_span_network(load_bundled_encoder()[0])
    _restore(folder / "checkpoint.pt", network, None)
    path = target or WEIGHTS
    path.parent.mkdir(parents=True, exist_ok=True)
    store_span_network(network, path)
    return path


def _length(example: SpanExample) -> int:
    return len(example.read.ids)


def _log(path: Path, step: int, loss: float, tokens_a_second: float) -> None:
    line = {"step": step, "loss": round(loss, 4), "tokens_a_second": round(tokens_a_second)}
    with path.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(line | {"cpu_s": round(time.process_time())}) + "\n")


def _save(path: Path, step: int, network: SpanNetwork, optimiser: torch.optim.Optimizer) -> None:
    state: dict[str, Any] = {name: part.state_dict() for name, part in network.stored().items()}
    partial = path.with_suffix(".partial")
    torch.save(state | {"optimiser": optimiser.state_dict(), "step": step}, partial)
    partial.replace(path)


def _restore(path: Path, network: SpanNetwork, optimiser: torch.optim.Optimizer | None) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    for name, part in network.stored().items():
        part.load_state_dict(state[name])
    if optimiser is not None:
        optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])
