"""Why a response's documents missed the cache, against an earlier response."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.serving.api.cache_diagnostics import cache_diagnostics


def make_response(digests: str, misses: dict[str, int] | None = None, model: str = "m") -> dict[str, Any]:
    documents = [{"digest": digest, "tokens": 10} for digest in digests]
    return {
        "model": model,
        "holdfast": {"set_digest": digests or "empty", "documents": documents, "cache_misses": misses or {}},
        "usage": {"input_tokens_details": {"cache_write_tokens": 10 * sum((misses or {}).values())}},
    }


def test_a_hit_needs_no_reason() -> None:
    assert cache_diagnostics(make_response("ab"), make_response("xy")) == {"type": "cache_hit"}


@pytest.mark.parametrize(("model", "reason"), [("m", "input_changed"), ("other", "model_changed")])
def test_a_miss_says_what_changed_and_what_could_be_used_again(model: str, reason: str) -> None:
    assert cache_diagnostics(make_response("abc", {"new": 2}), make_response("ax", model=model)) == {
        "type": "cache_miss",
        "reason": reason,
        "cache_missed_tokens": 20,
        "comparison_reusable_tokens": 10,
    }


def test_what_cannot_be_compared_says_so() -> None:
    assert cache_diagnostics(make_response("a"), None) == {"type": "comparison_response_not_found"}
    sequence = make_response("a") | {"holdfast": {"set_digest": None}}
    assert cache_diagnostics(sequence, make_response("a")) == {"type": "unavailable"}
    assert cache_diagnostics(make_response("a"), sequence) == {"type": "unavailable"}
    assert cache_diagnostics(make_response("a"), {"model": "m"}) == {"type": "unavailable"}
