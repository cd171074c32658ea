"""Query noise: the samplers match theory, the account is exact, the ledger stops, and asking again averages nothing."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from holdfast.errors import Conflict, InvalidInput
from holdfast.privacy.distance import PlainVector
from holdfast.privacy.keys import SecretKey
from holdfast.privacy.leakage_view import auc, unit
from holdfast.privacy.noise import (
    Account,
    Gaussian,
    Laplace,
    Ledger,
    QueryNoise,
    compose,
    delta_of,
    epsilon_of,
    guessing_advantage,
    guessing_auc,
    normalised,
    zcdp_epsilon,
)

KEY = SecretKey(bytes(range(32)))
DIM = 384
CASES = json.loads((Path(__file__).parent / "vectors" / "accounting.json").read_text())["cases"]
ANN = Account("ann", "vs_1", "s3://bucket")


def nonces(count: int, start: int = 0) -> list[bytes]:
    return [number.to_bytes(16, "big") for number in range(start, start + count)]


@pytest.fixture
def query() -> PlainVector:
    return PlainVector(unit(np.random.default_rng(1).standard_normal((1, DIM)).astype(np.float32)))


@pytest.mark.parametrize("mu", [0.25, 0.5, 1.0, 2.0])
def test_the_best_guess_on_gaussian_noise_succeeds_as_theory_says(mu: float) -> None:
    """R9. The likelihood ratio of two known queries is the projection on their difference."""
    mechanism, distance = Gaussian(0.1), 0.1 * mu
    difference = np.zeros(DIM)
    difference[[3, 200]] = distance / math.sqrt(2)
    noise = mechanism.draw(KEY, nonces(6000), DIM)
    ratios = noise @ difference
    measured = auc(ratios[:3000] + difference @ difference, ratios[3000:])
    assert mechanism.mu(distance, DIM) == pytest.approx(mu)
    assert measured == pytest.approx(guessing_auc(mu), abs=0.02)


@pytest.mark.parametrize("mu", [0.25, 0.5, 1.0, 2.0])
def test_the_best_guess_on_laplace_noise_succeeds_as_mu_says(mu: float) -> None:
    epsilon = 384.0
    difference = np.zeros(DIM)
    difference[7] = mu * math.sqrt(DIM) / epsilon
    mechanism = Laplace(epsilon)
    noise = mechanism.draw(KEY, nonces(6000), DIM)
    shifted = np.concatenate([noise[:3000] + difference, noise[3000:]])
    ratios = epsilon * (np.linalg.norm(shifted, axis=1) - np.linalg.norm(shifted - difference, axis=1))
    assert np.abs(ratios).max() <= epsilon * np.linalg.norm(difference) + 1e-9, "the pure bound of metric privacy"
    assert auc(ratios[:3000], ratios[3000:]) == pytest.approx(guessing_auc(mu), abs=0.02)


def test_noise_has_the_length_and_direction_that_theory_gives() -> None:
    laplace = Laplace(50.0).draw(KEY, nonces(4000), 30)
    assert stats.kstest(np.linalg.norm(laplace, axis=1), stats.gamma(30, scale=1 / 50).cdf).pvalue > 0.01
    gaussian = Gaussian(0.05).draw(KEY, nonces(4000), 30)
    assert stats.kstest((np.linalg.norm(gaussian, axis=1) / 0.05) ** 2, stats.chi2(30).cdf).pvalue > 0.01
    for noise in (laplace, gaussian):
        assert stats.kstest((unit(noise)[:, 4] + 1) / 2, stats.beta(14.5, 14.5).cdf).pvalue > 0.01
    odd = Laplace(50.0).draw(KEY, nonces(10), 31)
    assert odd.shape == (10, 31)


def test_the_account_equals_an_independent_one() -> None:
    """Composition of Gaussian noise is exact here; the other library's is an upper bound a little above."""
    assert len(CASES) == 24
    for case in CASES:
        mu = compose([1 / case["deviation_over_distance"]] * case["releases"])
        epsilon = epsilon_of(mu, case["delta"])
        assert epsilon == pytest.approx(case["epsilon"], rel=2e-3, abs=2e-3), case
        assert delta_of(mu, epsilon) <= case["delta"] * (1 + 1e-9)
        assert epsilon < zcdp_epsilon(mu * mu / 2, case["delta"]) < 1.4 * epsilon + 0.5


def test_what_mu_means() -> None:
    assert [round(guessing_auc(mu), 2) for mu in (0.25, 0.5, 1, 2, 4)] == [0.57, 0.64, 0.76, 0.92, 1.0]
    assert [round(guessing_advantage(mu), 2) for mu in (0.25, 0.5, 1, 2, 4)] == [0.1, 0.2, 0.38, 0.68, 0.95]
    assert epsilon_of(0.0, 1e-6) == 0.0
    assert epsilon_of(0.001, 0.5) == 0.0


def test_asking_again_sends_the_same_noise(query: PlainVector) -> None:
    noise = QueryNoise(KEY, 1, Gaussian(0.05), num_draws=3)
    first = noise.perturb("What is a Foo?", query).values
    assert first.shape == (3, DIM)
    assert np.allclose(np.linalg.norm(first, axis=1), 1.0, atol=1e-6)
    for again in ("  what is a FOO? ", "What\tis a\nfoo?", "Ｗhat is a foo?"):
        assert np.array_equal(noise.perturb(again, query).values, first)
        assert noise.release_id(again) == noise.release_id("What is a Foo?")
    assert len(np.unique(first, axis=0)) == 3, "each cell has its own draw"
    other_epoch = QueryNoise(KEY, 2, Gaussian(0.05), num_draws=3)
    for different in (noise.perturb("What is a bar?", query), other_epoch.perturb("What is a foo?", query)):
        assert not (different.values == first).all(axis=1).any()
    assert noise.release_id("What is a bar?") != noise.release_id("What is a foo?")


def test_draws_for_each_cell_are_as_many_releases() -> None:
    assert QueryNoise(KEY, 1, Gaussian(0.05), 16).mu(0.1, DIM) == pytest.approx(8.0)
    assert QueryNoise(KEY, 1, Gaussian(0.05), 1).mu(0.1, DIM) == pytest.approx(2.0)
    assert QueryNoise(KEY, 1, Laplace(384), 1).mu(0.1, DIM) == pytest.approx(1.96, abs=0.01)


def test_texts_that_count_as_the_same() -> None:
    assert normalised("  Straße \n ﬁve ") == b"strasse five"
    assert normalised("a b") != normalised("ab")


@pytest.mark.parametrize("make", [Gaussian, Laplace])
@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan])
def test_noise_of_no_size_is_refused(make: type[Gaussian | Laplace], wrong: float) -> None:
    with pytest.raises(InvalidInput, match="above 0"):
        make(wrong)


def test_a_ledger_refuses_when_the_budget_is_spent() -> None:
    ledger = Ledger(budget_mu=2.0)
    assert [ledger.charge(ANN, bytes([number]) * 16, 1.0) for number in range(4)] == ["send"] * 4
    assert ledger.spent_mu(ANN) == pytest.approx(2.0)
    with pytest.raises(Conflict, match="budget") as caught:
        ledger.charge(ANN, b"z" * 16, 0.01)
    assert caught.value.code == "privacy_budget_spent"
    assert ledger.charge(ANN, bytes(16), 1.0) == "send", "what was released before costs nothing"
    assert ledger.charge(Account("bob", "vs_1", "s3://bucket"), b"z" * 16, 1.0) == "send"
    assert ledger.spent_mu(ANN) == pytest.approx(2.0)


def test_a_ledger_may_fall_back_instead() -> None:
    ledger = Ledger(budget_mu=1.0, when_spent="sealed")
    assert ledger.charge(ANN, b"a", 0.9) == "send"
    assert ledger.charge(ANN, b"b", 0.9) == "sealed"
    assert ledger.charge(ANN, b"c", 0.4) == "send", "a smaller release may still fit"
    assert ledger.spent_mu(ANN) == pytest.approx(compose([0.9, 0.4]))


def test_a_ledger_survives_a_restart() -> None:
    ledger = Ledger(budget_mu=1.0)
    ledger.charge(ANN, b"a", 0.9)
    stored = json.loads(json.dumps(ledger.to_dict()))
    again = Ledger(budget_mu=1.0)
    again.restore(stored)
    assert again.charge(ANN, b"a", 0.9) == "send"
    with pytest.raises(Conflict):
        again.charge(ANN, b"b", 0.9)
    assert again.to_dict() == ledger.to_dict()


def test_a_ledger_is_exact_under_threads() -> None:
    ledger = Ledger(budget_mu=1.0, when_spent="sealed")
    answers: list[str] = []

    def ask(name: int) -> None:
        answers.extend(ledger.charge(ANN, b"%d %d" % (name, number), 0.1) for number in range(50))

    threads = [threading.Thread(target=ask, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers.count("send") in (99, 100)  # the hundredth may miss by a rounding
    assert answers.count("sealed") == 400 - answers.count("send")


