"""The workload: its heads look as their numbers say, and measuring gives the numbers back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from holdfast.errors import ShapeError
from holdfast.kernels.attention_workload import HEADS, NUM_SINKS, Head, fit, make_head, make_workload
from holdfast.kernels.sparse_attention import attention_weights


def weights(queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The weights of the last quarter's queries."""
    return attention_weights(np.float64(queries[:, -len(keys[0]) // 4 :]), np.float64(keys))


def test_the_same_seed_gives_the_same_bytes_and_another_one_others() -> None:
    first, again, other = make_workload(96), make_workload(96), make_workload(96, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    assert [part.shape for part in first] == [(4, 96, 64)] * 3
    assert {part.dtype for part in first} == {np.dtype(np.float32)}


def test_heads_of_a_group_share_keys_and_differ_in_queries() -> None:
    queries, keys, values = make_workload(128, group=3, head_dim=32)
    assert (queries.shape, keys.shape, values.shape) == ((12, 128, 32), (4, 128, 32), (4, 128, 32))
    assert not np.array_equal(queries[0], queries[1])


def test_each_effect_is_where_its_number_says() -> None:
    plain = Head(sink=0, local=0, local_len=16, heavy=0, topic=0, topic_len=64, noise=0.3, smoothness=0.5)
    even = weights(*make_head(plain, 1024)[:2])
    assert even[..., :NUM_SINKS].sum(-1).mean() < 0.02
    sinks = weights(*make_head(replace(plain, sink=8), 1024)[:2])
    assert sinks[..., :NUM_SINKS].sum(-1).mean() > 0.8
    near = weights(*make_head(replace(plain, local=8), 1024)[:2])[0]
    rows = np.arange(256)
    assert sum(near[rows, 768 + rows - lag].mean() for lag in range(32)) > 0.5
    far = weights(*make_head(replace(plain, slash=8, slash_distance=500), 1024)[:2])[0]
    assert far[rows, 268 + rows].mean() > 20 / 1024
    heavy = weights(*make_head(replace(plain, heavy=1.5), 1024)[:2])[0].mean(axis=0)
    assert np.sort(heavy)[-20:].sum() > 0.3


@pytest.mark.parametrize("name", HEADS)
def test_measuring_gives_the_numbers_back(name: str) -> None:
    head = HEADS[name]
    queries, keys, _ = make_head(head, 4096, seed=5)
    found = fit(queries, keys[0])
    assert found.sink == pytest.approx(head.sink, abs=0.8)
    assert found.local == pytest.approx(head.local, abs=2)
    assert found.topic == pytest.approx(head.topic, abs=2.1)
    assert found.heavy == pytest.approx(head.heavy, abs=0.4)
    assert found.noise == pytest.approx(head.noise, rel=0.1)
    assert found.smoothness == pytest.approx(head.smoothness, abs=0.1)
    assert found.needle_rate == pytest.approx(head.needle_rate, abs=0.012)
    assert found.key_mean == pytest.approx(head.key_mean, rel=0.1)


def test_a_fitted_head_can_be_continued_beyond_its_length() -> None:
    queries, keys, _ = make_head(HEADS["vertical"], 2048, seed=6, group=2)
    longer = make_head(fit(queries, keys[0]), 4096, seed=7)
    shares = [np.sort(weights(queries[:1], keys))[..., -256:].sum(-1).mean() for queries, keys, _ in
              (longer, make_head(HEADS["vertical"], 4096, seed=8))]  # fmt: skip
    assert shares[0] == pytest.approx(shares[1], abs=0.15)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match="at least 32"):
        make_head(HEADS["stream"], 64, head_dim=31)
    queries, keys, _ = make_head(HEADS["stream"], 512)
    with pytest.raises(ShapeError, match="1024"):
        fit(queries, keys[0])
