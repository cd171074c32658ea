"""The new model here is the old one turned, bent and disturbed; what the map is fitted on is never searched."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from holdfast.errors import InvalidInput, ShapeError
from holdfast.retrieval.exact import nearest_rows
from holdfast.retrieval.index import BinaryIndex
from holdfast.retrieval.upgrade import UpgradeMap, UpgradingIndex

DIM = 64
Floats = NDArray[np.float32]


def unit(vectors: NDArray[np.floating]) -> Floats:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def make_models(rng: np.random.Generator, num_texts: int) -> tuple[Floats, Floats]:
    """Return old and new vectors of texts that gather around subjects."""
    subjects = rng.standard_normal((40, DIM))
    texts = subjects[rng.integers(0, 40, num_texts)] + 0.7 * rng.standard_normal((num_texts, DIM))
    turn = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0]
    bend = np.diag(rng.uniform(0.6, 1.4, DIM))
    return unit(texts), unit(texts @ turn @ bend + 0.05 * rng.standard_normal((num_texts, DIM)) + 0.2)


def found_share(found: NDArray[np.integer], truth: NDArray[np.integer]) -> float:
    pairs = zip(found.tolist(), truth.tolist(), strict=True)
    return float(np.mean([len({*a} & {*b}) / len(b) for a, b in pairs]))


@pytest.fixture(scope="module")
def models() -> tuple[Floats, Floats]:
    return make_models(np.random.default_rng(4), 3000)


def test_new_questions_search_old_codes_and_backfill_makes_the_new_index(models: tuple[Floats, Floats]) -> None:
    old, new = models
    upgrade = UpgradeMap.fit(new[:1500], old[:1500])
    ids = np.random.default_rng(1).permutation(100_000)[:1300].astype(np.uint64)
    old_index, fresh = BinaryIndex(DIM), BinaryIndex(DIM)
    old_index.add(ids, old[1500:2800])
    fresh.add(ids, new[1500:2800])
    questions = slice(2800, 3000)
    truth = ids[nearest_rows(old[1500:2800], old[questions], 10)[0]]
    before = found_share(old_index.search(old[questions], 10).ids, truth)
    upgrading = UpgradingIndex(old_index, BinaryIndex(DIM), upgrade)
    mapped = upgrading.search(new[questions], 10)[0]
    assert found_share(mapped, truth) >= 0.7 * before
    assert found_share(old_index.search(new[questions], 10).ids, truth) < 0.2, "without the map there is nothing"
    wanted = fresh.search(new[questions], 10)
    shares = [found_share(mapped, wanted.ids)]
    for part in (slice(0, 650), slice(650, 1300)):
        assert not upgrading.is_done
        assert upgrading.backfill(ids[part], new[1500:2800][part]) == 650
        shares.append(found_share(upgrading.search(new[questions], 10)[0], wanted.ids))
    assert upgrading.is_done
    assert shares == sorted(shares), "each backfill brings results nearer to the new model's"
    found, scores = upgrading.search(new[questions], 10)
    assert np.array_equal(found, wanted.ids)
    assert np.array_equal(scores, wanted.scores)


def test_a_pure_rotation_is_found_exactly(rng: np.random.Generator) -> None:
    old = unit(rng.standard_normal((500, DIM)))
    turn = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0]
    upgrade = UpgradeMap.fit(unit(old @ turn), old)
    others = unit(rng.standard_normal((50, DIM)))
    assert np.allclose(upgrade.to_old(unit(others @ turn)), others, atol=0.05)
    assert upgrade.gain == pytest.approx(1, abs=0.05)


def test_models_may_differ_in_dimension(rng: np.random.Generator) -> None:
    old = unit(rng.standard_normal((900, 32)))
    new = unit(old @ np.linalg.qr(rng.standard_normal((DIM, DIM)))[0][:32])
    mapped = UpgradeMap.fit(new[:800], old[:800]).to_old(new[800:])
    assert (np.einsum("ij,ij->i", mapped, old[800:]) > 0.95).all()


def test_a_removed_passage_is_not_brought_back(models: tuple[Floats, Floats]) -> None:
    old, new = models
    upgrading = UpgradingIndex(BinaryIndex(DIM), BinaryIndex(DIM), UpgradeMap.fit(new[:500], old[:500]))
    ids = np.arange(10, dtype=np.uint64)
    upgrading.old.add(ids, old[:10])
    upgrading.old.remove(ids[:1])
    assert upgrading.backfill(ids, new[:10]) == 9
    assert upgrading.is_done
    assert 0 not in upgrading.search(new[:1], 10)[0]


def test_faulty_samples_are_named(models: tuple[Floats, Floats]) -> None:
    old, new = models
    with pytest.raises(ShapeError, match="same texts"):
        UpgradeMap.fit(new[:100], old[:99])
    with pytest.raises(InvalidInput, match="at least"):
        UpgradeMap.fit(new[:10], old[:10])
