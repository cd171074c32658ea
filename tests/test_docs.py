"""The docs say what the code does: names, routes, settings, links and tables are compared, and commands are run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from benchmarks import results
from benchmarks.__main__ import benchmark_names
from benchmarks.render import stale_pages
from holdfast.serving.app import create_app
from holdfast.serving.cli import app as command_line
from holdfast.serving.config import Settings

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md", "examples/*.md")
    for page in ROOT.glob(pattern)
)
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
START_TIMEOUT_S = RUN_TIMEOUT_S = 300
DEFAULT_URL = "http://127.0.0.1:8000"


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [body for found, body in BLOCK.findall(text) if found == language]


def anchor(heading: str) -> str:
    """The fragment that hosts of Markdown give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def without_names(path: str) -> str:
    """A path whose parameters have no names: `/v1/files/{file_id}` -> `/v1/files/{}`."""
    return re.sub(r"\{\w+\}", "{}", path)


def test_every_route_is_documented(tmp_path: Path) -> None:
    documented = without_names(DOCS)
    schema = create_app(Settings(data_dir=tmp_path)).openapi()
    assert len(schema["paths"]) > 20
    for path in schema["paths"]:
        assert re.search(rf"{re.escape(without_names(path))}(?![\w/{{])", documented), f"{path} is not in the docs"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented(name: str) -> None:
    field = Settings.model_fields[name]
    default = "unset" if field.get_default() is None else f"`{field.get_default()}`"
    row = f"| `HOLDFAST_{name.upper()}` | {default} | {field.description} |"
    assert row in (ROOT / "docs" / "operations.md").read_text(encoding="utf-8"), row


def commands(group: Any, prefix: str = "holdfast") -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}"


@pytest.mark.parametrize("command", list(commands(typer.main.get_command(command_line))))
def test_every_command_is_documented(command: str) -> None:
    assert f"`{command}" in (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in LINK.findall(BLOCK.sub("", text)):
        if "://" in link:
            continue
        target, _, fragment = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{link} leads nowhere"
        if fragment:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert fragment in map(anchor, headings), f"{link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_named_files_and_tests_exist(page: Path) -> None:
    for path, name in re.findall(r"`((?:holdfast|tests|benchmarks|docs)/[\w./-]+\.\w+)(?:::(\w+))?`", page.read_text()):
        assert (ROOT / path).is_file(), f"{path} is not there"
        if name:
            source = (ROOT / path).read_text(encoding="utf-8")
            assert re.search(rf"^\s*(async def|def|class) {name}\b", source, re.MULTILINE), f"{path}::{name}"


def test_tables_are_what_the_committed_results_say() -> None:
    assert stale_pages() == [], "run `python -m benchmarks render`"


@pytest.mark.parametrize("path", sorted(results.RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_a_committed_result_is_valid(path: Path) -> None:
    record = results.Record.model_validate_json(path.read_text(encoding="utf-8"))
    assert path.name == f"{record.name}.{record.hardware.slug}.json"
    assert record.name in benchmark_names()
    assert record.rows
    assert "--quick" not in record.command


def test_a_newcomer_asks_within_ninety_words() -> None:
    first_question = README[: README.index("```", README.index("```python") + 3)].partition("\n")[2]
    assert len(first_question.split()) <= 90


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The shell of a newcomer who follows the docs from top to bottom, on one data directory."""
    scripts = Path(sys.executable).parent
    data_dir = tmp_path_factory.mktemp("newcomer") / "data"
    return {"PATH": f"{scripts}:/usr/bin:/bin", "HOLDFAST_DATA_DIR": str(data_dir), "HF_HUB_OFFLINE": "1"}


def run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=RUN_TIMEOUT_S)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="class")
def url(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Iterator[str]:
    """The server of `make serve`, on a free port, once it says that it is ready."""
    assert blocks("README.md", "sh")[0].strip() == "make serve"
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^serve:.*\n\t\$\(BIN\)/(.+)$", makefile, re.MULTILINE)
    assert recipe
    command = [sys.executable, "-m", *shlex.split(recipe.group(1))]
    log = tmp_path_factory.mktemp("server") / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            command, cwd=ROOT, env={**environment, "HOLDFAST_PORT": "0"}, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while "Ready" not in log.read_text():
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"not ready after {START_TIMEOUT_S} s:\n{log.read_text()}"
            time.sleep(0.2)
        found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
        assert found
        yield found.group()
    finally:
        server.terminate()
        assert server.wait(30) == 0, log.read_text()


class TestAgainstTheServer:
    """What README's first command starts, and the snippets that talk to it."""

    def test_readme_gets_a_cited_answer(self, url: str, environment: dict[str, str]) -> None:
        [snippet] = blocks("README.md", "python")
        printed = run([sys.executable, "-c", snippet.replace(DEFAULT_URL, url)], environment)
        assert "$6 trillion" in printed
        assert "'page': 17" in printed
        assert "dhs-strategic-plan-2020.pdf" in printed

    def test_the_quickstart_runs(self, url: str, environment: dict[str, str]) -> None:
        snippet = "\n".join(blocks("docs/quickstart.md", "python"))
        printed = run([sys.executable, "-c", snippet.replace(DEFAULT_URL, url)], environment)
        assert printed.startswith("completed\n")
        assert "22 different federal" in printed
        assert "$6 trillion" in printed


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_commands_run_without_a_server(page: str, environment: dict[str, str]) -> None:
    lines = [line.removeprefix(".venv/bin/") for block in blocks(page, "sh") for line in block.splitlines()]
    for command in (shlex.split(line) for line in lines if line.startswith("holdfast ")):
        printed = run([sys.executable, "-m", *command], environment)
        if command[1] == "ask":
            assert "$6 trillion" in printed
            assert "[1] dhs-strategic-plan-2020.pdf, page 17: “" in printed


def test_the_python_page_runs(environment: dict[str, str]) -> None:
    [snippet] = blocks("docs/python.md", "python")
    assert "Department of Homeland Security" in run([sys.executable, "-c", snippet], environment)
