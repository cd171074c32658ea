"""Opaque row ids and equality tokens: stable within an epoch, unrelated elsewhere, equal where values are equal."""

from __future__ import annotations

import hmac
import json
import math
import struct
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import InvalidInput
from holdfast.privacy.keys import EpochKeys, SecretKey, length_prefixed
from holdfast.privacy.tokens import FieldTokens, RowNames, canonical_value

KEYS = EpochKeys("acme", "vs_1", 3, SecretKey(bytes(range(32))))
VECTORS = json.loads((Path(__file__).parent / "vectors" / "tokens.json").read_text(encoding="utf-8"))


def keys_of(vector: dict[str, Any]) -> EpochKeys:
    return EpochKeys("acme", "vs_1", vector["epoch"], SecretKey(bytes.fromhex(vector["root"])))


@pytest.mark.parametrize("vector", VECTORS["row_ids"], ids=str)
def test_known_row_ids(vector: dict[str, Any]) -> None:
    names = RowNames(keys_of(vector))
    assert names.row_id(vector["document"], vector["passage"], vector["version"]).hex() == vector["row_id"]


@pytest.mark.parametrize("vector", VECTORS["tokens"], ids=str)
def test_known_tokens(vector: dict[str, Any]) -> None:
    assert FieldTokens(keys_of(vector), vector["field"]).token(vector["value"]).hex() == vector["token"]


@given(st.text(max_size=30), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_a_row_id_is_what_its_docstring_says(document_id: str, passage: int, version: int) -> None:
    data = length_prefixed(document_id) + struct.pack(">IQI", passage, version, 3)
    expected = hmac.digest(KEYS.rows.reveal(), data, "sha256")[:16]
    assert RowNames(KEYS).row_id(document_id, passage, version) == expected


def test_everything_about_a_row_changes_its_id() -> None:
    others = [
        EpochKeys("acme", "vs_1", 4, SecretKey(bytes(range(32)))),
        EpochKeys("acme", "vs_1", 3, SecretKey(bytes(32))),
    ]
    ids = {RowNames(keys).row_id("doc", 1, 1) for keys in [KEYS, *others]}
    ids |= {RowNames(KEYS).row_id(*row) for row in [("doc", 2, 1), ("doc", 1, 2), ("doc2", 1, 1), ("do", 1, 1)]}
    assert len(ids) == 7
    assert {len(one) for one in ids} == {16}


VALUES: list[Any] = [
    True,
    False,
    0,
    1,
    -1,
    0.5,
    "",
    "1",
    "true",
    "True",
    "b\x01",
    "n",
    2**53,
    math.inf,
    -math.inf,
    "é",
    "\ud800",
]


def test_different_values_have_different_tokens() -> None:
    tokens = FieldTokens(KEYS, "field")
    for left, right in combinations(VALUES, 2):
        assert tokens.token(left) != tokens.token(right), (left, right)


@pytest.mark.parametrize(("left", "right"), [(1, 1.0), (0, -0.0), ("é", "e\u0301"), (2**53, float(2**53))])
def test_equal_values_have_equal_tokens(left: Any, right: Any) -> None:
    assert canonical_value(left) == canonical_value(right)


@given(st.one_of(st.text(), st.booleans(), st.floats(allow_nan=False), st.integers(-(2**53), 2**53)))
def test_tokens_of_fields_and_epochs_are_unrelated(value: Any) -> None:
    later = EpochKeys("acme", "vs_1", 4, SecretKey(bytes(32)))
    found = {FieldTokens(keys, field).token(value) for keys in (KEYS, later) for field in ("a", "b")}
    assert len(found) == 4


@pytest.mark.parametrize("value", [math.nan, 2**53 + 1, -(2**53) - 1])
def test_what_cannot_be_compared_is_refused(value: float) -> None:
    with pytest.raises(InvalidInput):
        FieldTokens(KEYS, "field").token(value)
