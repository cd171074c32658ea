"""OpenAI's attribute filters: comparisons (`eq ne gt gte lt lte in nin`) joined by `and` and `or`.

A filter is checked whole before it is used, and the error names its faulty part. Equality never crosses kinds: text,
numbers and booleans differ from each other, so `1` is not `true`. Order is defined between two numbers or two texts
(by code point) and is false otherwise. An attribute that a file lacks equals nothing: `eq`, `in` and the orderings are
false, and `ne` and `nin`, which are the opposites of `eq` and `in`, are true.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from holdfast.errors import InvalidInput

Predicate = Callable[[Mapping[str, Any]], bool]

ORDERINGS: dict[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}
COMPARISONS = ("eq", "ne", *ORDERINGS, "in", "nin")
MAX_DEPTH = 16
MAX_PARTS = 1000
MISSING = object()


def make_filter(filters: Mapping[str, Any] | None) -> Predicate:
    """Return a function that says whether attributes pass `filters`; None lets all pass.

    Raises:
        InvalidInput: `param` is the path of the faulty part, such as `filters.filters[1].value`.
    """
    if filters is None:
        return lambda attributes: True
    return _Parser().parse(filters, "filters", depth=1)


class _Parser:
    def __init__(self) -> None:
        self._num_parts = 0

    def parse(self, part: object, path: str, depth: int) -> Predicate:
        self._num_parts += 1
        if depth > MAX_DEPTH or self._num_parts > MAX_PARTS:
            raise InvalidInput(f"filters have at most {MAX_PARTS} parts, nested {MAX_DEPTH} deep", param="filters")
        if not isinstance(part, Mapping):
            raise InvalidInput(f"{path} must be an object, not {part!r:.80}", param=path)
        kind = part.get("type")
        if kind in ("and", "or"):
            return self._parse_compound(part, kind, path, depth)
        if kind in COMPARISONS:
            return _parse_comparison(part, kind, path)
        raise InvalidInput(
            f"{path}.type must be one of {', '.join(COMPARISONS)}, and, or; not {kind!r:.80}", param=f"{path}.type"
        )

    def _parse_compound(self, part: Mapping[str, Any], kind: str, path: str, depth: int) -> Predicate:
        _check_keys(part, {"type", "filters"}, path)
        inner = part["filters"]
        if not isinstance(inner, list) or not inner:
            raise InvalidInput(f"{path}.filters must be a list of at least one filter", param=f"{path}.filters")
        predicates = [self.parse(item, f"{path}.filters[{row}]", depth + 1) for row, item in enumerate(inner)]
        if kind == "and":
            return lambda attributes: all(predicate(attributes) for predicate in predicates)
        return lambda attributes: any(predicate(attributes) for predicate in predicates)


def _parse_comparison(part: Mapping[str, Any], kind: str, path: str) -> Predicate:
    _check_keys(part, {"type", "key", "value"}, path)
    key, value = part["key"], part["value"]
    if not isinstance(key, str) or not key:
        raise InvalidInput(f"{path}.key must be the name of an attribute, not {key!r:.80}", param=f"{path}.key")
    if kind in ("in", "nin"):
        if not isinstance(value, list) or not all(_is_scalar(item) for item in value):
            raise InvalidInput(f"{path}.value must be a list of texts, numbers or booleans", param=f"{path}.value")
        is_listed: Predicate = lambda attributes: any(_equal(attributes.get(key, MISSING), item) for item in value)  # noqa: E731
        return is_listed if kind == "in" else lambda attributes: not is_listed(attributes)
    if kind in ORDERINGS:
        if not _is_scalar(value) or isinstance(value, bool):
            raise InvalidInput(f"{path}.value must be a number or a text for {kind!r}", param=f"{path}.value")
        compare = ORDERINGS[kind]
        return lambda attributes: _is_ordered(attributes.get(key), value) and compare(attributes[key], value)
    if not _is_scalar(value):
        raise InvalidInput(f"{path}.value must be a text, a number or a boolean", param=f"{path}.value")
    if kind == "eq":
        return lambda attributes: _equal(attributes.get(key, MISSING), value)
    return lambda attributes: not _equal(attributes.get(key, MISSING), value)


def _check_keys(part: Mapping[str, Any], keys: set[str], path: str) -> None:
    for key in sorted(keys - part.keys()):
        raise InvalidInput(f"{path}.{key} is missing", param=f"{path}.{key}")
    for name in sorted(str(name) for name in part.keys() - keys):
        raise InvalidInput(f"{path} has an unknown part {name!r:.80}", param=path)


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | int | float)


def _equal(left: object, right: object) -> bool:
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def _is_ordered(left: object, right: object) -> bool:
    if isinstance(left, bool):
        return False
    return isinstance(left, str) == isinstance(right, str) and _is_scalar(left)
