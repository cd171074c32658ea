from __future__ import annotations

import operator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import InvalidInput
from holdfast.retrieval.filters import MAX_DEPTH, make_filter

ATTRIBUTES = {"author": "Ada", "year": 1843, "rating": 4.5, "is_public": True}

scalars = st.one_of(st.text(max_size=3), st.integers(-3, 3), st.sampled_from([0.5, 1.0, -2.5]), st.booleans())
attributes = st.dictionaries(st.sampled_from("abc"), scalars)


def compare(kind: str, key: str, value: Any) -> dict[str, Any]:
    return {"type": kind, "key": key, "value": value}


@pytest.mark.parametrize(
    ("filters", "passes"),
    [
        (compare("eq", "author", "Ada"), True),
        (compare("eq", "author", "ada"), False),
        (compare("eq", "year", 1843.0), True),
        (compare("eq", "year", "1843"), False),
        (compare("ne", "year", 1843), False),
        (compare("ne", "year", 1844), True),
        (compare("gt", "rating", 4), True),
        (compare("gte", "year", 1843), True),
        (compare("lt", "year", 1843), False),
        (compare("lte", "rating", 4.5), True),
        (compare("gt", "author", "Abel"), True),
        (compare("gt", "author", 3), False),
        (compare("in", "author", ["Grace", "Ada"]), True),
        (compare("nin", "author", ["Grace"]), True),
        (compare("in", "year", []), False),
        ({"type": "and", "filters": [compare("eq", "author", "Ada"), compare("lt", "year", 1900)]}, True),
        ({"type": "and", "filters": [compare("eq", "author", "Ada"), compare("lt", "year", 1800)]}, False),
        ({"type": "or", "filters": [compare("eq", "author", "Eve"), compare("lt", "year", 1900)]}, True),
    ],
)
def test_comparisons_and_compounds(filters: dict[str, Any], passes: bool) -> None:
    assert make_filter(filters)(ATTRIBUTES) is passes


@pytest.mark.parametrize("kind", ["eq", "gt", "gte", "lt", "lte"])
def test_a_missing_attribute_equals_nothing(kind: str) -> None:
    assert not make_filter(compare(kind, "title", "x"))(ATTRIBUTES)
    assert make_filter(compare("ne", "title", "x"))(ATTRIBUTES)
    assert make_filter(compare("nin", "title", ["x"]))(ATTRIBUTES)


def test_booleans_are_not_numbers() -> None:
    assert not make_filter(compare("eq", "is_public", 1))(ATTRIBUTES)
    assert not make_filter(compare("in", "is_public", [1]))(ATTRIBUTES)
    assert not make_filter(compare("gte", "is_public", 1))(ATTRIBUTES)
    assert make_filter(compare("eq", "is_public", True))(ATTRIBUTES)


def test_no_filter_lets_all_pass() -> None:
    assert make_filter(None)({})


@given(attributes, st.sampled_from("abc"), scalars)
def test_ne_and_nin_are_the_opposites_of_eq_and_in(values: dict[str, Any], key: str, value: Any) -> None:
    assert make_filter(compare("ne", key, value))(values) != make_filter(compare("eq", key, value))(values)
    assert make_filter(compare("nin", key, [value]))(values) != make_filter(compare("in", key, [value]))(values)


@given(st.integers() | st.floats(allow_nan=False), st.integers() | st.floats(allow_nan=False))
def test_numbers_are_ordered_as_numbers(left: float, right: float) -> None:
    for kind in ("gt", "lt"):
        assert make_filter(compare(kind, "a", right))({"a": left}) is getattr(operator, kind)(left, right)


@pytest.mark.parametrize(
    ("filters", "param"),
    [
        ([], "filters"),
        ({}, "filters.type"),
        ({"type": "like", "key": "a", "value": 1}, "filters.type"),
        ({"type": "eq", "value": 1}, "filters.key"),
        ({"type": "eq", "key": 3, "value": 1}, "filters.key"),
        ({"type": "eq", "key": "a"}, "filters.value"),
        ({"type": "eq", "key": "a", "value": None}, "filters.value"),
        ({"type": "eq", "key": "a", "value": [1]}, "filters.value"),
        ({"type": "gt", "key": "a", "value": True}, "filters.value"),
        ({"type": "in", "key": "a", "value": "x"}, "filters.value"),
        ({"type": "in", "key": "a", "value": [None]}, "filters.value"),
        ({"type": "eq", "key": "a", "value": 1, "not": True}, "filters"),
        ({"type": "and", "filters": []}, "filters.filters"),
        ({"type": "and"}, "filters.filters"),
        ({"type": "or", "filters": [compare("eq", "a", 1), {"type": "eq", "key": "a"}]}, "filters.filters[1].value"),
    ],
)
def test_the_error_names_the_faulty_part(filters: Any, param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        make_filter(filters)
    assert caught.value.param == param


def test_nesting_has_a_limit() -> None:
    filters: dict[str, Any] = compare("eq", "a", 1)
    for _ in range(MAX_DEPTH):
        filters = {"type": "and", "filters": [filters]}
    with pytest.raises(InvalidInput, match="nested"):
        make_filter(filters)
