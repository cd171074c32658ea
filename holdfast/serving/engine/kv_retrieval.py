"""Decoding over a long cache that is not read whole: each KV head retrieves the keys it needs, and only when it must.

A sequence keeps its first tokens and its newest ones at hand and reads them exactly. What lies between is cold: in
memory or, above a request's memory budget, in a file without a name; each KV head has an index over it
(`kernels/kv_scan.py`) and reads a selection (`kernels/kv_decode.py`). The prompt's keys are put in order once, alike
beside alike. What is generated follows in segments that end where the meaning turns, since it is read as it was
written.

A selection serves until the queries turn away from those that it was made for. Queries are compared as they were
before rotary embedding, which turns every query a little at each step, with the last one (a sudden turn) and with those
of the last retrieval (a slow drift): by their mean over all heads, and by each group of heads for itself, since heads
drift apart. Below `break_even` tokens all is exact.

Source: LouisKV, arXiv 2510.11292, for the turn and for the two ways to store; FreeKV, 2505.13109, for the correction by
head.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.kernels.attention import attend, merge
from holdfast.kernels.kv_decode import Selection, attend_selection, select
from holdfast.kernels.kv_scan import GROUP_SIZE, KeyIndex, extend, group_keys, make_index

if TYPE_CHECKING:
    import torch

    Angles = Callable[[int], tuple[torch.Tensor, torch.Tensor]]
    """position -> cosines and sines of rotary embedding, each of its first coordinates"""

NUM_SINKS = 4
WINDOW = 256
"""newest tokens that are never cold"""
MAX_SEGMENT = 4 * GROUP_SIZE
"""tokens behind the window that become cold at the latest"""
GROWTH = 64
"""tokens by which the buffer of what is at hand grows"""


@dataclass(frozen=True, slots=True)
class KvOptions:
    """How a sequence is to be decoded."""

    budget: int = 1024
    """cold keys that each query head reads exactly"""
    memory_bytes: int = 4 * 2**30
    """of cold keys and values; what needs more lies in a file in `folder`"""
    folder: Path | None = None
    """None: always in memory"""
    similarity: float = 0.8
    """mean cosine of queries below which heads retrieve anew"""
    break_even: int = 16_384
    """cold tokens below which reading all of them costs less than choosing"""


@dataclass(slots=True)
class KvStats:
    """What happened to the heads of one sequence, or of all since the start."""

    num_decisions: int = 0
    """KV heads times layers times steps"""
    num_retrievals: int = 0
    """of these, how many chose anew"""
    sampled_mass: float = 0.0
    """sum over decisions: share of the attention that lies with keys known by a sample only, its heads' mean"""
    error: float = 0.0
    """sum over decisions: standard error of the sum of weights, relative, its heads' mean"""
    index_bytes: int = 0
    memory_bytes: int = 0
    """of keys and values"""
    disk_bytes: int = 0

    def add(self, other: KvStats) -> None:
        """Take in what another counted."""
        self.num_decisions += other.num_decisions
        self.num_retrievals += other.num_retrievals
        self.sampled_mass += other.sampled_mass
        self.error += other.error


@dataclass(slots=True)
class ColdHead:
    """The cold keys and values of one KV head."""

    keys: torch.Tensor
    """(capacity, D) float32 on the CPU, in the order of the index"""
    values: torch.Tensor
    index: KeyIndex | None = None
    selection: Selection | None = None

    @property
    def num_keys(self) -> int:
        return self.index.num_keys if self.index else 0

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Take in whole groups of keys and values, alike ones side by side."""
        import torch  # loaded with the model, not on import

        order = torch.from_numpy(group_keys(keys.numpy()))
        first, last = self.num_keys, self.num_keys + len(keys)
        self.keys[first:last] = keys[order]
        self.values[first:last] = values[order]
        added = self.keys[first:last].numpy()
        self.index = extend(self.index, added) if self.index else make_index(added)
        self.selection = None


@dataclass(slots=True)
class RetrievalLayer:
    """One layer of one sequence."""

    near: torch.Tensor
    """(2, num_kv_heads, capacity, D) keys and values of the first and of the newest tokens"""
    near_len: int
    heads: list[ColdHead]
    last: torch.Tensor | None = None
    """(num_heads, D) the previous queries, before rotary embedding"""
    retrieved: torch.Tensor | None = None
    """the same, at the last retrieval of each head"""

    def push(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Append one token's (num_kv_heads, 1, D) keys and values."""
        import torch

        if self.near_len == self.near.shape[2]:
            self.near = torch.nn.functional.pad(self.near, (0, 0, 0, GROWTH))
        self.near[0, :, self.near_len] = keys[:, 0]
        self.near[1, :, self.near_len] = values[:, 0]
        self.near_len += 1

    def cool(self, num_tokens: int) -> None:
        """Make the oldest tokens behind the sinks cold."""
        first, last = NUM_SINKS, NUM_SINKS + num_tokens
        for head, keys, values in zip(self.heads, *self.near[:, :, first:last], strict=True):
            head.append(keys.contiguous(), values.contiguous())
        self.near[:, :, first : self.near_len - num_tokens] = self.near[:, :, last : self.near_len].clone()
        self.near_len -= num_tokens

    def turned(self, query: torch.Tensor, similarity: float) -> tuple[np.ndarray, bool]:
        """Return which KV heads must retrieve for (num_heads, D) unrotated queries, and whether the meaning turned."""
        import torch

        num_kv_heads = len(self.heads)
        if self.last is None or self.retrieved is None:
            self.last = self.retrieved = query
            return np.ones(num_kv_heads, dtype=np.bool_), True
        cosine = torch.nn.functional.cosine_similarity
        alike = torch.minimum(cosine(query, self.last, dim=1), cosine(query, self.retrieved, dim=1))
        has_turned = bool(alike.mean() < similarity)
        drifted = (alike.view(num_kv_heads, -1).mean(dim=1) < similarity).numpy() | has_turned
        drifted |= np.array([head.selection is None for head in self.heads])
        self.last = query
        is_new = torch.from_numpy(np.repeat(drifted, len(query) // num_kv_heads))[:, None]
        self.retrieved = torch.where(is_new, query, self.retrieved)
        return drifted, has_turned


@dataclass(slots=True)
class RetrievalSequence:
    """One sequence under way; takes the place of a `SetSequence` in a decoding step."""

    layers: list[RetrievalLayer]
    position: int
    """of its next token"""
    options: KvOptions
    angles: Angles
    is_on_disk: bool
    stats: KvStats = field(default_factory=KvStats)
    _turn: tuple[torch.Tensor, torch.Tensor] | None = None
    _has_turned: bool = False

    def attend(
        self, layer: int, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Take in one token's keys and values, and return its attention, (num_heads, 1, head_dim)."""
        import torch

        own = self.layers[layer]
        asked = query.float().cpu()
        own.push(keys.float().cpu(), values.float().cpu())
        near = attend(asked, *own.near[:, :, : own.near_len], scale=scale)
        if not own.heads[0].num_keys:
            return near[0].to(query)
        if self._turn is None:
            self._turn = self.angles(self.position)
        drifted, has_turned = own.turned(unrotated(asked[:, 0], *self._turn), self.options.similarity)
        self._has_turned |= has_turned
        outputs, lses, sampled, errors = [], [], [], []
        for head, group, has_drifted in zip(own.heads, asked[:, 0].chunk(len(own.heads)), drifted, strict=True):
            assert head.index is not None
            if has_drifted or head.selection is None:
                budget = self.options.budget
                head.selection = select(
                    head.index, group, head.keys[: head.num_keys], head.values[: head.num_keys], budget, scale=scale
                )
                self.stats.num_retrievals += 1
            attended = attend_selection(group, head.selection, scale=scale)
            outputs.append(attended.output)
            lses.append(attended.lse)
            sampled.append(attended.sampled_mass)
            errors.append(attended.error)
        cold = torch.cat(outputs)[:, None], torch.cat(lses)[:, None]
        output, lse = merge([near, cold])
        share = torch.exp(cold[1] - lse)[:, 0]
        self.stats.num_decisions += len(own.heads)
        self.stats.sampled_mass += float((share * torch.cat(sampled)).mean()) * len(own.heads)
        self.stats.error += float((share * torch.cat(errors)).mean()) * len(own.heads)
        return output.to(query)

    def advance(self, num_tokens: int) -> None:
        """Move on after a forward pass; what the window leaves behind becomes cold where a segment ends."""
        import torch

        self.position += num_tokens
        behind = self.layers[0].near_len - NUM_SINKS - WINDOW
        cold = self.layers[0].heads[0].num_keys
        if (cold and behind >= (GROUP_SIZE if self._has_turned else MAX_SEGMENT)) or (
            not cold and behind >= max(self.options.break_even, GROUP_SIZE)
        ):
            with torch.inference_mode():
                for layer in self.layers:
                    layer.cool(behind // GROUP_SIZE * GROUP_SIZE)
        self._turn, self._has_turned = None, False

    def fork(self) -> RetrievalSequence:
        """Return a sequence that goes on from here by itself."""
        layers = []
        for layer in self.layers:
            heads = []
            for head in layer.heads:
                keys, values = _empty(tuple(head.keys.shape), self.options.folder if self.is_on_disk else None)
                keys[: head.num_keys], values[: head.num_keys] = (
                    head.keys[: head.num_keys],
                    head.values[: head.num_keys],
                )
                heads.append(ColdHead(keys, values, head.index, head.selection))
            layers.append(RetrievalLayer(layer.near.clone(), layer.near_len, heads, layer.last, layer.retrieved))
        return RetrievalSequence(layers, self.position, self.options, self.angles, self.is_on_disk)

    def make_room(self) -> None:
        """Nothing to do: room is made as it is needed."""

    def report(self) -> KvStats:
        """Return what was counted, with the bytes held now."""
        stats = self.stats
        heads = [head for layer in self.layers for head in layer.heads]
        stats.index_bytes = sum(head.index.num_bytes for head in heads if head.index)
        cold = sum(2 * head.keys.nbytes for head in heads)
        near = sum(layer.near.nbytes for layer in self.layers)
        stats.disk_bytes = cold if self.is_on_disk else 0
        stats.memory_bytes = near + cold - stats.disk_bytes
        return stats


def make_sequence(
    layers: list[tuple[torch.Tensor, torch.Tensor]], max_new_tokens: int, options: KvOptions, angles: Angles
) -> RetrievalSequence:
    """Return the sequence that goes on from a prompt.

    Args:
        layers: keys and values of each layer, (num_kv_heads, L, head_dim), after rotary embedding.
        max_new_tokens: for which room is made among the cold tokens.
        angles: of rotary embedding, by position.

    Cost: a few microseconds for each token, layer and KV head, for the index.
    """
    num_kv_heads, prompt_len, head_dim = layers[0][0].shape
    room = (prompt_len + max_new_tokens) // GROUP_SIZE * GROUP_SIZE
    behind = prompt_len - NUM_SINKS - WINDOW
    num_bytes = 2 * len(layers) * num_kv_heads * room * head_dim * 4
    is_on_disk = options.folder is not None and num_bytes > options.memory_bytes
    made = []
    for keys, values in layers:
        near = _side_by_side(keys, values)
        heads = [
            ColdHead(*_empty((room, head_dim), options.folder if is_on_disk else None)) for _ in range(num_kv_heads)
        ]
        layer = RetrievalLayer(near, prompt_len, heads)
        if behind >= max(options.break_even, GROUP_SIZE):
            layer.cool(behind // GROUP_SIZE * GROUP_SIZE)
            layer.near = layer.near[:, :, : layer.near_len + GROWTH].clone()
        made.append(layer)
    return RetrievalSequence(made, prompt_len, options, angles, is_on_disk)


def unrotated(query: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Return (num_heads, D) queries as they were before rotary embedding with the angles of one position.

    The second half of the embedded coordinates are the partners of the first, as in Llama and most since.
    """
    import torch

    num_rotated = len(cosines)
    turned, rest = query[:, :num_rotated], query[:, num_rotated:]
    first, second = turned.chunk(2, dim=1)
    back = turned * cosines - torch.cat([-second, first], dim=1) * sines
    return torch.cat([back, rest], dim=1)


def make_angles(model: Any) -> Angles:
    """Return the angles of `model`'s own rotary embedding."""
    import torch

    rotary = model.get_decoder().rotary_emb

    def angles(position: int) -> tuple[torch.Tensor, torch.Tensor]:
        positions = torch.tensor([[position]], device=model.device)
        with torch.inference_mode():
            cosines, sines = rotary(torch.zeros(1, 1, 1, device=model.device), positions)
        return cosines[0, 0].float().cpu(), sines[0, 0].float().cpu()

    return angles


def can_retrieve(model: Any) -> bool:
    """Return whether the queries of `model` can be compared across positions."""
    return hasattr(model.get_decoder(), "rotary_emb")


def _side_by_side(keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.stack([keys.float().cpu(), values.float().cpu()])


def _empty(shape: tuple[int, ...], folder: Path | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return room for keys and values, in memory or in a file that ends with the process, however that ends."""
    import torch

    if folder is None or not np.prod(shape):
        return torch.empty(shape), torch.empty(shape)
    with tempfile.TemporaryFile(dir=folder) as file:
        room = np.memmap(file, dtype=np.float32, mode="w+", shape=(2, *shape))
    return torch.from_numpy(room[0]), torch.from_numpy(room[1])
