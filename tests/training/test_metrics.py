"""Answers are judged as the SQuAD scorer does."""

from __future__ import annotations

import pytest

from training import metrics


@pytest.mark.parametrize(
    ("answer", "gold", "exact", "f1", "contains"),
    [
        ("The Alder Bridge!", ["alder bridge"], 1.0, 1.0, 1.0),
        ("opened in 1932", ["1932", "in 1932"], 0.0, 0.8, 1.0),
        ("1932", ["in 1932"], 0.0, 2 / 3, 0.0),
        ("forty", ["fort"], 0.0, 0.0, 0.0),
        ("", ["x"], 0.0, 0.0, 0.0),
        ("x", [], 0.0, 0.0, 0.0),
    ],
)
def test_an_answer_is_judged(answer: str, gold: list[str], exact: float, f1: float, contains: float) -> None:
    assert metrics.exact_match(answer, gold) == exact
    assert metrics.f1(answer, gold) == pytest.approx(f1)
    assert metrics.contains(answer, gold) == contains
