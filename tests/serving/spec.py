"""OpenAI's published schemas and the types of its Python package, as judges of our objects."""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonschema import Draft202012Validator
from pydantic import BaseModel

T = TypeVar("T", bound=BaseModel)
EXTENSIONS = {"holdfast"}


class Specification:
    """The schemas under `components` of OpenAI's OpenAPI document."""

    def __init__(self, path: Path) -> None:
        with lzma.open(path) as file:
            document = yaml.load(file, Loader=yaml.CSafeLoader)
        self._components = to_json_schema(document["components"])

    def check(self, name: str, value: object) -> None:
        """Fail, naming the place, unless `value` is valid against the schema called `name`."""
        validator = Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": self._components})
        faults = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]
        assert not faults, f"{name}: {faults}"


def to_json_schema(node: Any) -> Any:
    """Return `node` with OpenAPI 3.0's `nullable` said in JSON Schema's way, and recursion left unchecked."""
    if isinstance(node, list):
        return [to_json_schema(item) for item in node]
    if not isinstance(node, dict):
        return node
    if "$recursiveRef" in node:
        return {}
    plain = {key: to_json_schema(value) for key, value in node.items() if key not in ("nullable", "$recursiveAnchor")}
    return {"anyOf": [plain, {"type": "null"}]} if node.get("nullable") is True else plain


def check_type(kind: type[T], value: dict[str, Any], *, extra: frozenset[str] = frozenset()) -> T:
    """Fail unless `value` is a valid `kind` of the openai package with no key that the package does not know.

    Our `holdfast` object is allowed everywhere, the keys in `extra` here.
    """
    parsed = kind.model_validate(value)
    unknown = set(parsed.model_extra or ()) - EXTENSIONS - extra
    assert not unknown, f"{kind.__name__} has no {sorted(unknown)}"
    return parsed
