"""Passages are ordered by what they say."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from holdfast.retrieval.order import canonical_order


@given(st.lists(st.text()), st.randoms(use_true_random=False))
def test_shuffling_passages_leaves_the_order_unchanged(texts: list[str], random: object) -> None:
    shuffled = random.sample(texts, len(texts))  # type: ignore[attr-defined]
    assert [texts[row] for row in canonical_order(texts)] == [shuffled[row] for row in canonical_order(shuffled)]


@given(st.lists(st.text()))
def test_every_position_occurs_once(texts: list[str]) -> None:
    assert sorted(canonical_order(texts)) == list(range(len(texts)))


def test_the_order_is_that_of_sha_256() -> None:
    texts = ["a", "b", "c", "d"]
    digests = [hashlib.sha256(texts[row].encode()).hexdigest() for row in canonical_order(texts)]
    assert digests == sorted(digests)


def test_text_that_is_no_unicode_has_a_place_too() -> None:
    assert sorted(canonical_order(["\ud800", "b"])) == [0, 1]
