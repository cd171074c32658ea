"""Noise on a question's vector before it is encoded, and the account of what it still gives away.

It hides which of two similar questions was asked, never the subject: at a noise that leaves retrieval intact, two
questions a distance of 0.1 apart are told apart less than always. What is reported is therefore mu, the distance over
the deviation, and the AUC of the best possible guess between two known candidates, not epsilon alone.

The noise is a function of the question's normalised text, the epoch and the cell: asking again sends the same noise, so
that it cannot be averaged away. Each cell may get its own draw, which protects the documents better (cross-cell
correlation is what an observer of queries needs) and the question worse: it is num_cells releases.

Source: Dong, Roth, Su, "Gaussian differential privacy" (arXiv 1905.02383); Bun and Steinke (arXiv 1605.02065) for zCDP;
Feyisetan et al. (WSDM 2020) for the n-dimensional Laplace mechanism of metric privacy.
"""

from __future__ import annotations

import math
import threading
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import Conflict, InvalidInput
from holdfast.privacy.distance import PlainVector
from holdfast.privacy.keys import SecretKey
from holdfast.privacy.streams import NONCE_SIZE, normals, prf, to_normals, uniforms

GUESS_DISTANCE = 0.1
"""between two questions, where one number is to say how well they are told apart"""


class Mechanism(Protocol):
    """A distribution of noise."""

    def draw(self, key: SecretKey, nonces: Sequence[bytes], dim: int) -> NDArray[np.float64]:
        """Return (len(nonces), dim) noise, row i from the stream of `nonces[i]`."""

    def mu(self, distance: float, dim: int) -> float:
        """Return how far apart one release keeps two questions at `distance`: of two normals, mu deviations apart."""


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Independent normal noise on each coordinate. `mu` is exact."""

    deviation: float
    """standard deviation of each coordinate, where vectors have length 1; 0.03 to 0.05 is usable"""

    def __post_init__(self) -> None:
        if not self.deviation > 0:
            raise InvalidInput(f"deviation must be above 0, not {self.deviation}", param="deviation")

    def draw(self, key: SecretKey, nonces: Sequence[bytes], dim: int) -> NDArray[np.float64]:
        return self.deviation * normals(key, nonces, dim)

    def mu(self, distance: float, dim: int) -> float:
        return distance / self.deviation


@dataclass(frozen=True, slots=True)
class Laplace:
    """Density proportional to exp(-epsilon |z|): length Gamma(dim, 1 / epsilon), direction uniform.

    Pure metric privacy: likelihoods of one release differ by at most exp(epsilon * distance). In many dimensions that
    bound says nothing at any usable noise (epsilon is about dim), and a typical release behaves as `mu` says.
    """

    epsilon: float
    """per unit of distance"""

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise InvalidInput(f"epsilon must be above 0, not {self.epsilon}", param="epsilon")

    def draw(self, key: SecretKey, nonces: Sequence[bytes], dim: int) -> NDArray[np.float64]:
        count = dim + dim % 2
        numbers = uniforms(key, nonces, count + dim)
        directions = to_normals(numbers[:, :count])[:, :dim]
        lengths = -np.log(1.0 - numbers[:, count:]).sum(axis=1) / self.epsilon  # a sum of exponentials is a Gamma
        return np.asarray(directions * (lengths / np.linalg.norm(directions, axis=1))[:, None])

    def mu(self, distance: float, dim: int) -> float:
        return self.epsilon * distance / math.sqrt(dim)


class QueryNoise:
    """Perturbs questions of one collection in one epoch. Thread-safe.

    Reveals: that the same question was asked again, since the noise is the same; and what `mu` says.
    """

    def __init__(self, root: SecretKey, epoch: int, mechanism: Mechanism, num_draws: int = 1) -> None:
        self._key = root.derive("query noise")
        self._epoch = epoch.to_bytes(4, "big")
        self.mechanism = mechanism
        self.num_draws = num_draws

    def perturb(self, text: str, query: PlainVector) -> PlainVector:
        """Return (num_draws, dim) noisy vectors of length 1: one for all cells, or one for each cell.

        Args:
            text: the question; texts that differ in case, width or outer blanks only get the same noise.
            query: (1, dim) its vector.
        """
        noise = self.mechanism.draw(self._key, self._nonces(text), query.values.shape[1])
        noisy = query.values + noise
        return PlainVector((noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32))

    def release_id(self, text: str) -> bytes:
        """Return 16 bytes that name what is released for `text`, for the ledger: the same text costs once."""
        return prf(self._key, b"release", normalised(text), self._epoch)[:NONCE_SIZE]

    def mu(self, distance: float, dim: int) -> float:
        """Return how well one question's release tells it from another at `distance`."""
        return compose([self.mechanism.mu(distance, dim)] * self.num_draws)

    def _nonces(self, text: str) -> list[bytes]:
        name = normalised(text)
        draws = (draw.to_bytes(4, "big") for draw in range(self.num_draws))
        return [prf(self._key, b"draw", name, self._epoch, draw)[:NONCE_SIZE] for draw in draws]


def normalised(text: str) -> bytes:
    """Return `text` in the form by which questions count as the same: NFKC, case folded, blanks made single."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).encode()


def compose(mus: Sequence[float]) -> float:
    """Return the mu of several releases together: exact for Gaussian noise."""
    return math.sqrt(sum(mu * mu for mu in mus))


def normal_cdf(x: float) -> float:
    """Return the standard normal distribution function, exact in its lower tail too."""
    return 0.5 * math.erfc(-x / math.sqrt(2))


def guessing_auc(mu: float) -> float:
    """Return the AUC of the best guess which of two known candidates was asked."""
    return normal_cdf(mu / math.sqrt(2))


def guessing_advantage(mu: float) -> float:
    """Return the total-variation distance: how much better than a coin the best guess is."""
    return 2 * normal_cdf(mu / 2) - 1


def delta_of(mu: float, epsilon: float) -> float:
    """Return the delta for which mu-Gaussian privacy is (epsilon, delta)-differential privacy: exact."""
    if mu == 0:
        return 0.0
    tail = normal_cdf(-mu / 2 - epsilon / mu)
    return normal_cdf(mu / 2 - epsilon / mu) - (math.exp(epsilon + math.log(tail)) if tail else 0.0)


def epsilon_of(mu: float, delta: float) -> float:
    """Return the smallest epsilon that goes with `delta`, by bisection of `delta_of`."""
    low, high = 0.0, zcdp_epsilon(mu * mu / 2, delta)
    if delta_of(mu, low) <= delta:
        return 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(mu, middle) > delta else (low, middle)
    return high


def zcdp_epsilon(rho: float, delta: float) -> float:
    """Return the epsilon of rho-zCDP, rho = mu^2 / 2: a bound, 6 to 22 % above `epsilon_of`."""
    return rho + 2 * math.sqrt(rho * math.log(1 / delta))


@dataclass(frozen=True, slots=True)
class Account:
    """Whose questions are counted together: one asker, one collection, one store that may remember."""

    principal: str
    collection_id: str
    store: str


@dataclass(slots=True)
class _Spent:
    rho: float = 0.0
    releases: set[bytes] = field(default_factory=set)


class Ledger:
    """What each account has spent of its budget. A rotation of keys resets it only where rows get new ids and order.

    Thread-safe. The caller stores `to_dict` before it sends what was charged.
    """

    def __init__(self, budget_mu: float, when_spent: Literal["refuse", "sealed"] = "refuse") -> None:
        self.budget_mu = budget_mu
        self.when_spent = when_spent
        self._spent: dict[Account, _Spent] = {}
        self._lock = threading.Lock()

    def charge(self, account: Account, release_id: bytes, mu: float) -> Literal["send", "sealed"]:
        """Charge one release and say what to do: send the encoded question, or rank by opening sealed rows instead.

        What was released before costs nothing. Nothing is charged where the answer is not "send".

        Raises:
            Conflict: the budget is spent and the ledger refuses; `code` is `privacy_budget_spent`.
        """
        with self._lock:
            spent = self._spent.setdefault(account, _Spent())
            if release_id in spent.releases:
                return "send"
            rho = spent.rho + mu * mu / 2
            if rho <= self.budget_mu**2 / 2:
                spent.rho = rho
                spent.releases.add(release_id)
                return "send"
        if self.when_spent == "sealed":
            return "sealed"
        message = f"the privacy budget (mu {self.budget_mu:g}) is spent: wait until the rows are encoded anew"
        raise Conflict(message, code="privacy_budget_spent")

    def spent_mu(self, account: Account) -> float:
        """Return what the account's releases together give away."""
        with self._lock:
            return math.sqrt(2 * self._spent.get(account, _Spent()).rho)

    def to_dict(self) -> list[dict[str, Any]]:
        """Return the accounts as JSON can hold them. Release ids are PRF values: no question can be read from them."""
        with self._lock:
            return [
                {
                    "principal": account.principal,
                    "collection_id": account.collection_id,
                    "store": account.store,
                    "rho": spent.rho,
                    "releases": sorted(release.hex() for release in spent.releases),
                }
                for account, spent in self._spent.items()
            ]

    def restore(self, accounts: Sequence[dict[str, Any]]) -> None:
        """Take up the accounts that `to_dict` returned."""
        with self._lock:
            for row in accounts:
                account = Account(row["principal"], row["collection_id"], row["store"])
                self._spent[account] = _Spent(row["rho"], {bytes.fromhex(text) for text in row["releases"]})
