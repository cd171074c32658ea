"""How much answers depend on the order of passages: the measures, on answers and first-token distributions alone.

Question i was asked under orders m = 1..M and answered y[i, m], right or wrong c[i, m]. A model that always says the
same agrees with itself perfectly, so none of these means anything without the accuracy, and the accuracy without any
passages, beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import ShapeError

Answers = Sequence[Sequence[Hashable]]
"""a row for each question, a column for each order"""
Correct = NDArray[np.bool_]
"""(num_questions, num_orders)"""


def agreement(answers: Sequence[Hashable]) -> float:
    """Return the share of pairs of orders that answered alike; 1.0 for a single order."""
    num_orders = len(answers)
    if num_orders == 0:
        raise ShapeError("agreement needs the answer of at least one order")
    if num_orders == 1:
        return 1.0
    alike = sum(count * (count - 1) for count in Counter(answers).values())
    return alike / (num_orders * (num_orders - 1))


def permutation_agreement_rate(answers: Answers) -> float:
    """Return PAR: `agreement`, averaged over questions. The flip rate is 1 - PAR."""
    return float(np.mean([agreement(row) for row in answers]))


def any_flip_rate(answers: Answers) -> float:
    """Return the share of questions with two or more distinct answers."""
    return float(np.mean([len(set(row)) > 1 for row in answers]))


def mean_distinct_answers(answers: Answers) -> float:
    """Return how many distinct answers a question got, on average."""
    return float(np.mean([len(set(row)) for row in answers]))


def modal_answer(answers: Sequence[Hashable]) -> Hashable:
    """Return the most frequent answer; of several, the one given first."""
    return Counter(answers).most_common(1)[0][0]


def accuracy(correct: Correct) -> float:
    """Return ACC: the share of right answers, over questions and orders."""
    return float(correct.mean())


def worst_case_accuracy(correct: Correct) -> float:
    """Return WCA: the share of questions that are right under every order."""
    return float(correct.all(axis=1).mean())


def best_case_accuracy(correct: Correct) -> float:
    """Return the share of questions that are right under some order."""
    return float(correct.any(axis=1).mean())


def permutation_sensitivity(correct: Correct) -> float:
    """Return PSR: of the questions right under some order, the mean share of orders that are wrong; 0.0 if none is."""
    known = correct[correct.any(axis=1)]
    return float(1.0 - known.mean()) if len(known) else 0.0


def changed_rate(before: Sequence[Hashable], after: Sequence[Hashable]) -> float:
    """Return the share of questions whose answer changed: flips by insertion, deletion, duplication, replacement."""
    if len(before) != len(after) or not before:
        raise ShapeError(f"{len(before)} answers before and {len(after)} after; there must be as many, and some")
    return float(np.mean([old != new for old, new in zip(before, after, strict=True)]))


def max_logit_difference(logits: NDArray[np.float32]) -> float:
    """Return the largest absolute difference of a logit between any two orders; `logits` is (num_orders, vocab)."""
    return float((logits.max(axis=0) - logits.min(axis=0)).max())


def mean_pairwise_jsd(logits: NDArray[np.float32]) -> float:
    """Return the Jensen-Shannon divergence of first-token distributions, in nats, averaged over pairs of orders.

    Args:
        logits: (num_orders, vocab). Equal rows give exactly 0.
    """
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    probabilities = np.exp(shifted)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    rows = len(logits)
    pairs = [(first, second) for first in range(rows) for second in range(first + 1, rows)]
    if not pairs:
        return 0.0
    return float(np.mean([_jsd(probabilities[first], probabilities[second]) for first, second in pairs]))


def bootstrap_interval(
    values: NDArray[np.float64], seed: int, *, num_samples: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """Return the percentile interval of a mean over questions, resampling questions."""
    generator = np.random.default_rng(seed)
    means = [values[generator.integers(0, len(values), len(values))].mean() for _ in range(num_samples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def sampled_orders(num_passages: int, num_orders: int, seed: int) -> list[list[int]]:
    """Return distinct orders: as given, reversed, then seeded random ones; fewer where there are not so many."""
    orders = [list(range(num_passages)), list(range(num_passages))[::-1]]
    generator = np.random.default_rng(seed)
    possible = 1
    for factor in range(2, num_passages + 1):
        possible = min(possible * factor, num_orders)
    kept = {tuple(order) for order in orders}
    while len(kept) < possible:
        order = generator.permutation(num_passages).tolist()
        if tuple(order) not in kept:
            orders.append(order)
            kept.add(tuple(order))
    unique = [order for place, order in enumerate(orders) if order not in orders[:place]]
    return unique[:num_orders]


def _jsd(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    middle = (first + second) / 2
    return (_kl(first, middle) + _kl(second, middle)) / 2


def _kl(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    held = first > 0
    return float((first[held] * np.log(first[held] / second[held])).sum())
