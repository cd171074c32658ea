"""Stable-RAG's steps on states whose clusters are known, against scikit-learn, and on a real model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from transformers import AutoModelForCausalLM

from holdfast.serving.engine.stable_rag import (
    hidden_states,
    k_means,
    num_clusters,
    principal_components,
    representative,
    stable_rag,
)


def clusters(sizes: list[int], seed: int = 0, dim: int = 64) -> np.ndarray:
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(len(sizes), dim)) * 10
    return np.concatenate(
        [centre + generator.normal(size=(size, dim)) * 0.1 for centre, size in zip(centres, sizes, strict=True)]
    )


@pytest.mark.parametrize(("sizes", "expected"), [([30, 30], 2), ([20, 15, 10, 15], 4), ([12, 9, 8], 3)])
def test_the_eigengap_finds_the_clusters(sizes: list[int], expected: int) -> None:
    assert num_clusters(principal_components(clusters(sizes))) == expected


def test_the_representative_is_in_the_middle_of_the_largest_cluster() -> None:
    states = clusters([5, 40, 10])
    found = representative(states, seed=1)
    assert 5 <= found.row < 45
    assert sorted(np.bincount(found.labels)) == [5, 10, 40]
    middle = states[5:45].mean(axis=0)
    assert found.row - 5 == ((states[5:45] - middle) ** 2).sum(axis=1).argmin()
    assert representative(states, seed=1).row == found.row


def test_components_and_clusters_are_scikit_learns() -> None:
    states = clusters([20, 15, 25], seed=3)
    ours = principal_components(states)
    theirs = PCA(n_components=30).fit_transform(states)
    assert np.allclose(np.abs(ours), np.abs(theirs), atol=1e-6)
    labels, _ = k_means(ours, 3, seed=0)
    expected = KMeans(3, n_init=10, random_state=0).fit_predict(theirs)
    assert len({(mine, other) for mine, other in zip(labels.tolist(), expected.tolist(), strict=True)}) == 3


@pytest.mark.parametrize("num_orders", [1, 2, 3])
def test_few_and_equal_states_are_answered_too(num_orders: int) -> None:
    assert 0 <= representative(np.ones((num_orders, 8)), seed=0).row < num_orders


def test_an_answer_is_the_greedy_answer_to_its_representative(tiny_llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    prompts = [[3, 4 + row, 5, 60 - row, 7] for row in range(6)]
    answer, row = stable_rag(model, prompts, 4, seed=0)
    assert hidden_states(model, prompts).shape == (6, 64)
    ids = list(prompts[row])
    for token_id in answer:
        with torch.inference_mode():
            assert int(model(torch.tensor([ids])).logits[0, -1].argmax()) == token_id
        ids.append(token_id)
