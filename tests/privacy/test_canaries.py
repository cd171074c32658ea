"""Canaries: how many it takes, that an honest store always returns them, and that a dropping store is noticed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from holdfast.errors import IntegrityError, InvalidInput, ShapeError, TamperError
from holdfast.privacy.canaries import Canaries, make_canaries, noticed_share, num_canaries
from holdfast.privacy.keys import EpochKeys, SecretKey
from holdfast.privacy.tokens import RowNames

DIM = 384
NUM_ROWS = 4000
NUM_CANARIES = 512
TOP_K = 8
NAMES = RowNames(EpochKeys("acme", "vs_1", 1, SecretKey(bytes(32))))


@pytest.fixture(scope="module")
def rows() -> NDArray[np.float32]:
    """Clustered unit vectors in few effective dimensions, as embeddings of texts are."""
    rng = np.random.default_rng(5)
    basis = rng.standard_normal((80, DIM))
    topics = rng.standard_normal((60, 80))
    vectors = (topics[rng.integers(60, size=NUM_ROWS)] + rng.standard_normal((NUM_ROWS, 80))) @ basis
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def canaries(rows: NDArray[np.float32]) -> Canaries:
    row_ids = [NAMES.row_id("canaries", number, 0) for number in range(NUM_CANARIES)]
    return make_canaries(rows, row_ids, np.random.default_rng(6))


def rank(stored: NDArray[np.float32], ids: NDArray[np.int64], queries: NDArray[np.float32]) -> list[set[int]]:
    """The honest answer of a store to each query."""
    return [set(ids[row].tolist()) for row in np.argpartition(-(queries @ stored.T), TOP_K, axis=1)[:, :TOP_K]]


class TestPlan:
    def test_anchors(self) -> None:
        assert num_canaries(0.01, 0.99) == 459
        assert 1 - (1 - 0.01) ** 512 >= 0.99
        assert num_canaries(0.5, 0.5) == 1

    @pytest.mark.parametrize("share", [0.001, 0.01, 0.3])
    @pytest.mark.parametrize("detection", [0.5, 0.99, 0.999999])
    def test_it_is_just_enough(self, share: float, detection: float) -> None:
        num = num_canaries(share, detection)
        assert 1 - (1 - share) ** num >= detection > 1 - (1 - share) ** (num - 1)
        assert noticed_share(num, detection) <= share < noticed_share(num - 1, detection) or num == 1

    @pytest.mark.parametrize(("share", "detection"), [(0, 0.9), (1, 0.9), (0.1, 0), (0.1, 1), (-1, 2)])
    def test_shares_are_between_0_and_1(self, share: float, detection: float) -> None:
        with pytest.raises(InvalidInput):
            num_canaries(share, detection)


class TestPlacement:
    def test_an_honest_store_returns_every_canary(self, rows: NDArray[np.float32], canaries: Canaries) -> None:
        stored = np.vstack([rows, canaries.vectors])
        results = rank(stored, np.arange(len(stored)), canaries.probes)
        found = [{canaries.row_ids[i - NUM_ROWS] for i in ids if i >= NUM_ROWS} for ids in results]
        canaries.check(range(NUM_CANARIES), found)

    def test_scores_may_be_noisy(self, rows: NDArray[np.float32], canaries: Canaries) -> None:
        """The scores of `asym` at radius 0.7 have a standard deviation of 0.05; few alarms may be false."""
        rng = np.random.default_rng(7)
        stored = np.vstack([rows, canaries.vectors])
        scores = canaries.probes @ stored.T + rng.normal(0, 0.05, (NUM_CANARIES, len(stored)))
        top = np.argpartition(-scores, TOP_K, axis=1)[:, :TOP_K]
        is_found = (top == np.arange(NUM_ROWS, len(stored))[:, None]).any(axis=1)
        assert is_found.mean() > 0.99

    def test_canaries_are_unit_vectors_among_the_rows(self, rows: NDArray[np.float32], canaries: Canaries) -> None:
        assert np.allclose(np.linalg.norm(canaries.vectors, axis=1), 1, atol=1e-6)
        assert np.allclose(np.linalg.norm(canaries.probes, axis=1), 1, atol=1e-6)
        assert np.allclose((canaries.vectors * canaries.probes).sum(1), 0.95, atol=1e-5)
        spread = np.linalg.qr(rows[:80].T)[0].T
        share_in_span = np.linalg.norm(canaries.vectors @ spread.T, axis=1)
        assert share_in_span.min() > 0.999

    def test_canaries_come_from_the_systems_randomness(self, rows: NDArray[np.float32]) -> None:
        one, other = (make_canaries(rows, [bytes(16)]) for _ in range(2))
        assert not np.array_equal(one.vectors, other.vectors)

    def test_too_few_rows_are_refused(self, rows: NDArray[np.float32]) -> None:
        for vectors, row_ids in ((rows[:1], [bytes(16)]), (rows[0], [bytes(16)]), (rows, [])):
            with pytest.raises(ShapeError):
                make_canaries(vectors, row_ids)


class TestAlarm:
    def test_a_store_that_drops_one_row_in_a_hundred_is_noticed(
        self, rows: NDArray[np.float32], canaries: Canaries
    ) -> None:
        """512 canaries notice it with probability 0.994; of 400 stores at least 390 have to be caught."""
        rng = np.random.default_rng(8)
        stored = np.vstack([rows, canaries.vectors])
        num_noticed = 0
        for _ in range(400):
            is_kept = rng.random(len(stored)) >= 0.01
            # what is left of the canaries is still returned: `test_an_honest_store_returns_every_canary`
            results = [
                [row_id] if kept else [] for row_id, kept in zip(canaries.row_ids, is_kept[NUM_ROWS:], strict=True)
            ]
            try:
                canaries.check(range(NUM_CANARIES), results)
            except TamperError:
                num_noticed += 1
        assert num_noticed >= 390

    def test_the_alarm_counts_what_was_probed(self, canaries: Canaries) -> None:
        with pytest.raises(TamperError, match="2 of 3 canaries"):
            canaries.check([5, 6, 7], [{canaries.row_ids[5]}, {canaries.row_ids[5]}, set()])
        canaries.check([6], [{bytes(16), canaries.row_ids[6]}])
        canaries.check([], [])


def test_bytes_and_back(canaries: Canaries) -> None:
    data = canaries.to_bytes()
    read = Canaries.from_bytes(data)
    assert read.row_ids == canaries.row_ids
    assert np.array_equal(read.vectors, canaries.vectors)
    assert np.array_equal(read.probes, canaries.probes)
    for damaged in (b"", data[:-1], data[:9], bytes(8), data + b"x"):
        with pytest.raises(IntegrityError):
            Canaries.from_bytes(damaged)
