"""The public door: what `holdfast` promises is there, documented, and costs nothing until used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import holdfast

ROOT = Path(__file__).parents[1]
NAMES = [name for name in holdfast.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_the_object_of_its_home(name: str) -> None:
    public = getattr(holdfast, name)
    assert public.__name__ == name
    assert public.__module__ == f"holdfast.{holdfast._HOMES[name]}"
    assert public.__doc__


def test_the_door_lists_what_type_checkers_see() -> None:
    tree = ast.parse(Path(holdfast.__file__).read_text(encoding="utf-8"))
    imported = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == {name: f"holdfast.{home}" for name, home in holdfast._HOMES.items()}
    assert sorted(imported) == sorted(NAMES)
    assert dir(holdfast) == sorted(holdfast.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        holdfast.no_such_name  # noqa: B018


def test_importing_the_door_loads_nothing_else() -> None:
    script = "import sys, holdfast; print([m for m in sys.modules if 'holdfast.' in m], 'numpy' in sys.modules)"
    printed = subprocess.check_output([sys.executable, "-c", script], text=True, cwd=ROOT)
    assert printed.strip() == "[] False"


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_in_the_docs(name: str) -> None:
    assert f"`{name}" in (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
