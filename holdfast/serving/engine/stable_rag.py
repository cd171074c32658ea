"""Stable-RAG's inference as its released code does it: read several orders, answer from the most typical one.

A baseline, not a mode: it needs one prefill for each order before the first token, and nothing keeps the representative
of one sample of orders from differing from another's. The numbered steps are the release's:

1. each order's prompt is read; its state is the last layer's, at the last token;
2. the states are reduced to at most 30 principal components;
3. affinities exp(-(1 - cosine) / 0.1) give a normalised Laplacian, whose largest eigengap (of the first 20) is the
   number of clusters, at least 2;
4. k-means groups the reduced states;
5. the order nearest to the centre of a cluster stands for it, and its prompt is decoded greedily.

The release decodes every cluster, to make preference data for training. For one answer we take the largest cluster.

Source: Stable-RAG, arXiv 2601.02993, and its released code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NUM_COMPONENTS = 30
AFFINITY_WIDTH = 0.1
MAX_EIGENGAPS = 20
MIN_CLUSTERS = 2
NUM_STARTS = 10
MAX_ROUNDS = 300


@dataclass(frozen=True, slots=True)
class Representative:
    """Which order stands for all."""

    row: int
    """the order nearest to the centre of the largest cluster"""
    labels: NDArray[np.int64]
    """(num_orders,) cluster of each order"""


def stable_rag(model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, seed: int) -> tuple[list[int], int]:
    """Return the greedy answer's token ids from the representative prompt, and that prompt's row.

    Args:
        model: any transformers causal language model.
        prompts: token ids, one prompt for each order of the same documents.

    Cost: one prefill for each prompt, and one decoding.
    """
    import torch  # heavy: loaded with the first model, not on import

    row = representative(hidden_states(model, prompts), seed).row
    prompt = torch.tensor([list(prompts[row])], device=model.device)
    with torch.inference_mode():
        output = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=max_new_tokens, do_sample=False
        )
    return output[0, prompt.shape[1] :].tolist(), row


def hidden_states(model: Any, prompts: Sequence[Sequence[int]]) -> Floats:
    """Return the (num_prompts, hidden_size) states of the last tokens in the last layer (step 1)."""
    import torch

    states = []
    for prompt in prompts:
        with torch.inference_mode():
            output = model(torch.tensor([list(prompt)], device=model.device), output_hidden_states=True)
        states.append(output.hidden_states[-1][0, -1].double().cpu().numpy())
    return np.stack(states)


def representative(states: Floats, seed: int) -> Representative:
    """Return which of the (num_orders, dim) states stands for all (steps 2 to 5); ties go to the lower row."""
    rows, labels = representatives(states, seed)
    return Representative(rows[int(np.bincount(labels).argmax())], labels)


def representatives(states: Floats, seed: int) -> tuple[list[int], NDArray[np.int64]]:
    """Return the row that stands for each cluster, and the (num_orders,) clusters."""
    if len(states) <= MIN_CLUSTERS:
        return list(range(len(states))), np.arange(len(states), dtype=np.int64)
    reduced = principal_components(states)
    labels, centres = k_means(reduced, num_clusters(reduced), seed)
    nearest = []
    kept, labels = np.unique(labels, return_inverse=True)  # equal states leave clusters empty
    for cluster, centre in enumerate(centres[kept]):
        members = np.flatnonzero(labels == cluster)
        nearest.append(int(members[((reduced[members] - centre) ** 2).sum(axis=1).argmin()]))
    return nearest, labels


def principal_components(states: Floats) -> Floats:
    """Return the states' first components, as many as there are, `NUM_COMPONENTS` at most (step 2)."""
    centred = states - states.mean(axis=0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    kept = min(NUM_COMPONENTS, len(singular))
    reduced: Floats = left[:, :kept] * singular[:kept]
    return reduced


def num_clusters(reduced: Floats) -> int:
    """Return the number of clusters that the largest eigengap tells (step 3)."""
    lengths = np.linalg.norm(reduced, axis=1, keepdims=True)
    unit = reduced / np.where(lengths > 0, lengths, 1.0)
    affinity = np.exp(-(1.0 - unit @ unit.T) / AFFINITY_WIDTH)
    degrees = affinity.sum(axis=1)
    laplacian = np.eye(len(reduced)) - affinity / np.sqrt(np.outer(degrees, degrees))
    gaps = np.diff(np.linalg.eigvalsh(laplacian))[:MAX_EIGENGAPS]
    return min(max(MIN_CLUSTERS, int(gaps.argmax()) + 1), len(reduced))


def k_means(points: Floats, k: int, seed: int) -> tuple[NDArray[np.int64], Floats]:
    """Return (N,) labels and (k, dim) centres: the best of `NUM_STARTS` runs from k-means++ starts (step 4)."""
    generator = np.random.default_rng(seed)
    best: tuple[float, NDArray[np.int64], Floats] | None = None
    for _ in range(NUM_STARTS):
        centres = points[_spread_start(points, k, generator)]
        labels = np.full(len(points), -1, dtype=np.int64)
        for _ in range(MAX_ROUNDS):
            distances = ((points[:, None] - centres[None]) ** 2).sum(axis=2)
            previous, labels = labels, distances.argmin(axis=1)
            if (labels == previous).all():
                break
            for cluster in np.unique(labels):
                centres[cluster] = points[labels == cluster].mean(axis=0)
        cost = float(distances.min(axis=1).sum())
        if best is None or cost < best[0]:
            best = cost, labels, centres
    assert best is not None
    return best[1], best[2]


def _spread_start(points: Floats, k: int, generator: np.random.Generator) -> list[int]:
    rows = [int(generator.integers(len(points)))]
    while len(rows) < k:
        distances = ((points[:, None] - points[rows][None]) ** 2).sum(axis=2).min(axis=1)
        total = distances.sum()
        weights = distances / total if total > 0 else np.full(len(points), 1 / len(points))
        rows.append(int(generator.choice(len(points), p=weights)))
    return rows
