"""The command line: what it accepts, prints and returns, on real files, the bundled model and a real data directory."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import typer.main
from rich.console import Console

from holdfast.errors import InvalidInput
from holdfast.retrieval.embed import Embedder
from holdfast.serving import cli, cli_ingest, service
from holdfast.serving.cli_options import make_settings
from holdfast.serving.config import Settings
from holdfast.serving.service import Service

QUIET = Console(stderr=True, quiet=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three readable files, one that nothing reads, one hidden."""
    folder = tmp_path / "files"
    (folder / "deep").mkdir(parents=True)
    (folder / "harbour.md").write_text("# Harbour\n\nThe lighthouse of Port Ellen was lit by Mary Calder in 1853.\n")
    (folder / "deep" / "bees.txt").write_text("A hive in winter holds about ten thousand bees around one queen.\n")
    (folder / "deep" / "prices.csv").write_text("item,price\nrope,12\nanchor,340\n")
    (folder / "picture.xyz").write_bytes(bytes(range(256)) * 8)
    (folder / ".notes.txt").write_text("The password of the harbour master is swordfish.\n")
    return folder


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOLDFAST_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def run(
    data_dir: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run `holdfast ARGUMENTS` in this process; return exit status, standard output and standard error."""
    for module in (service, "holdfast.serving.cli_query", "holdfast.serving.cli_eval"):
        target = module if isinstance(module, str) else module.__name__
        monkeypatch.setattr(f"{target}.make_embedder", lambda *_, **__: embedder)

    def run_main(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["holdfast", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run_main


@pytest.fixture
def opened(data_dir: Path, embedder: Embedder) -> Iterator[Service]:
    found = Service(Settings(), embedder=embedder)
    yield found
    asyncio.run(found.close())


def in_progress(database: Path) -> bool:
    try:
        with closing(sqlite3.connect(database)) as connection:
            return bool(connection.execute("SELECT 1 FROM store_files WHERE status = 'in_progress'").fetchone())
    except sqlite3.OperationalError:  # not made yet
        return False


def until(is_so: Callable[[], bool], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.1)


def all_commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from all_commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(all_commands(typer.main.get_command(cli.app)))


@pytest.mark.parametrize("path", list(COMMANDS), ids=" ".join)
def test_every_command_shows_an_example(path: tuple[str, ...]) -> None:
    help_text = COMMANDS[path].help
    assert "Example" in help_text
    assert f"holdfast {' '.join(path)}" in help_text


@pytest.mark.parametrize("path", [path for path in COMMANDS if path != ("serve",)], ids=" ".join)
def test_every_result_can_be_had_as_json(path: tuple[str, ...]) -> None:
    assert "--json" in {option for parameter in COMMANDS[path].params for option in parameter.opts}


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_an_option_of_serve(name: str) -> None:
    options = {parameter.name: parameter for parameter in COMMANDS[("serve",)].params}
    assert f"--{name.replace('_', '-')}" in options[name].opts
    description = Settings.model_fields[name].description
    assert description
    assert description in options[name].help


def test_help_loads_no_model_library() -> None:
    script = "import sys; sys.argv = ['holdfast', '--help']\nfrom holdfast.serving.cli import main\n"
    check = "try: main()\nfinally: print([m for m in ('torch', 'numpy', 'fastapi') if m in sys.modules])"
    printed = subprocess.check_output([sys.executable, "-c", script + check], text=True)
    assert printed.rstrip().endswith("[]")


def test_the_module_is_the_command() -> None:
    printed = subprocess.check_output([sys.executable, "-m", "holdfast", "--version"], text=True)
    assert printed.startswith("holdfast ")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nonsense"], "nonsense"),
        (["search"], "query"),
        (["ingest", "no/such/path"], "no/such/path"),
        (["serve", "--port", "x"], "--port"),
        (["serve", "--port", "70000"], "port"),
        (["models", "--engine", "banana"], "'--engine': 'banana' is not one of"),
        (["ask", "", "."], "question is empty"),
        (["search", "q", "-k", "0"], "-k"),
        (["api-key", "create", "--tenant", "not a tenant"], "not a tenant"),
    ],
)
def test_a_mistake_in_the_call_is_one_line_and_status_2(
    run: Callable[..., tuple[int, str, str]], arguments: list[str], named: str
) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("holdfast: ")
    assert named in err
    assert err.count("\n") == 1


def test_an_option_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_PORT", "9001")
    assert make_settings({}).port == 9001
    assert make_settings({"port": 9002}).port == 9002
    monkeypatch.setenv("HOLDFAST_PORT", "many")
    with pytest.raises(InvalidInput, match="port = 'many'"):
        make_settings({})


def test_folders_are_read_recursively_without_hidden_files(folder: Path) -> None:
    found = cli_ingest.find_files([folder, folder / "harbour.md"])
    names = [path.relative_to(folder.resolve()).as_posix() for path in found]
    assert names == ["deep/bees.txt", "deep/prices.csv", "harbour.md", "picture.xyz"]
    assert [path.name for path, was_named in found.items() if was_named] == ["harbour.md"]


def test_unchanged_files_are_known_and_changed_ones_replaced(opened: Service, folder: Path) -> None:
    def ingest() -> cli_ingest.Summary:
        return cli_ingest.ingest_files(opened, "vs_default", cli_ingest.find_files([folder]), QUIET)

    first = ingest()
    assert (first.num_new, first.num_known, first.num_skipped, first.failures) == (3, 0, 1, ())
    again = ingest()
    assert (again.num_new, again.num_known) == (0, 3)
    (folder / "harbour.md").write_text("The lighthouse was lit by Ada Calder.\n")
    changed = ingest()
    assert (changed.num_new, changed.num_known) == (1, 2)
    found = opened.collections.search("default", "vs_default", opened.embedder.encode(["Who lit the lighthouse?"]), 10)
    assert "Ada Calder" in found[0].text
    assert not any("Mary" in source.text for source in found)


def test_a_failed_file_is_named_with_its_reason(opened: Service, folder: Path) -> None:
    empty = folder / "empty.txt"
    empty.touch()
    summary = cli_ingest.ingest_files(
        opened, "vs_default", cli_ingest.find_files([empty, folder / "picture.xyz"]), QUIET
    )
    codes = {Path(failure.path).name: failure.code for failure in summary.failures}
    assert codes == {"empty.txt": "empty", "picture.xyz": "unsupported_format"}
    assert len(list(summary.lines())) == 3


def test_from_files_to_a_cited_answer(run: Callable[..., tuple[int, str, str]], folder: Path) -> None:
    status, out, err = run("ingest", str(folder))
    assert (status, err) == (0, "")
    assert out.startswith("vs_default: files 3 new (")
    status, out, _ = run("search", "Who lit the lighthouse?", "--json", "-k", "2")
    assert status == 0
    assert json.loads(out)[0]["filename"] == "harbour.md"
    status, out, _ = run("ask", "Who lit the lighthouse of Port Ellen?", "--json")
    answer = json.loads(out)
    assert status == 0
    assert "Mary Calder" in answer["answer"]
    assert answer["citations"][0]["quote"] == "The lighthouse of Port Ellen was lit by Mary Calder in 1853."
    status, out, _ = run("ask", "Who lit the lighthouse of Port Ellen?", str(folder / "deep"))
    assert status == 0
    assert "Mary Calder" not in out  # only the named files may answer
    assert run("verify") == (0, "All is well.\n", "")


def test_a_failed_ingest_has_status_1(run: Callable[..., tuple[int, str, str]], folder: Path) -> None:
    status, out, _ = run("ingest", str(folder / "picture.xyz"), "--json")
    assert status == 1
    assert json.loads(out)["failures"][0]["code"] == "unsupported_format"


def test_a_folder_without_files_is_said(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert run("ingest", str(tmp_path / "empty")) == (0, "vs_default: no files found\n", "")


@pytest.mark.parametrize("command", [["search", "x"], ["ask", "x"], ["verify"]])
def test_a_missing_data_directory_is_said_and_not_made(
    run: Callable[..., tuple[int, str, str]], data_dir: Path, command: list[str]
) -> None:
    status, out, err = run(*command)
    assert (status, out) == (1, "")
    assert f"{data_dir} is no data directory" in err
    assert not data_dir.exists()


def test_an_interrupted_ingest_ends_at_once_and_goes_on_later(tmp_path: Path) -> None:
    report = tmp_path / "report.txt"
    report.write_text("\n\n".join(f"Paragraph {row}: {'a word ' * 120}." for row in range(2_000)), encoding="utf-8")
    command = [sys.executable, "-m", "holdfast", "ingest", str(report), "--data-dir", str(tmp_path / "data")]
    environment = {**os.environ, "HOLDFAST_SHUTDOWN_TIMEOUT_S": "0"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as ingest:
        database = tmp_path / "data" / "holdfast.sqlite3"
        until(lambda: database.exists() and in_progress(database))
        time.sleep(4.0)  # into the embedding
        ingest.send_signal(signal.SIGINT)
        printed, _ = ingest.communicate(timeout=60)
    assert (ingest.returncode, printed) == (130, "")
    assert in_progress(database)


def test_a_missing_store_is_status_1(run: Callable[..., tuple[int, str, str]], opened: Service) -> None:
    asyncio.run(opened.close())
    status, out, err = run("search", "anything", "--store", "vs_nowhere")
    assert (status, out) == (1, "")
    assert "vs_nowhere" in err


def test_verify_reports_a_damaged_upload(
    run: Callable[..., tuple[int, str, str]], folder: Path, data_dir: Path
) -> None:
    run("ingest", str(folder / "harbour.md"))
    [blob] = [path for path in (data_dir / "blobs").rglob("*") if path.is_file()]
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes().replace(b"1853", b"1953"))
    status, out, _ = run("verify", "--json")
    assert status == 1
    assert len(json.loads(out)["faults"]) == 1


def test_a_data_directory_in_use_is_one_line(run: Callable[..., tuple[int, str, str]], opened: Service) -> None:
    status, out, err = run("search", "anything")
    assert (status, out) == (1, "")
    assert "in use" in err
    assert "a running server answers over its API" in err
    assert err.count("\n") == 1


def test_keys_are_made_listed_and_revoked(run: Callable[..., tuple[int, str, str]]) -> None:
    made = json.loads(run("api-key", "create", "--tenant", "sales", "--name", "bot", "--json")[1])
    listed = run("api-key", "list")[1]
    assert made["id"] in listed
    assert "sales" in listed
    assert made["key"] not in listed
    assert json.loads(run("api-key", "revoke", made["id"], "--json")[1])[0]["revoked_at"]
    assert run("api-key", "revoke", "0000")[0] == 1


def test_models_lists_what_answers_and_what_embeds(run: Callable[..., tuple[int, str, str]]) -> None:
    status, out, _ = run("models", "--json")
    assert status == 0
    assert [(row["id"], row["kind"]) for row in json.loads(out)] == [
        ("extract", "answers"),
        ("all-MiniLM-L6-v2", "embeddings"),
    ]


def test_eval_scores_a_folder(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    texts = {"a": "Bees live in hives.", "b": "Ropes hold ships.", "c": "Lighthouses warn sailors."}
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text("\n".join(json.dumps({"_id": i, "text": t}) for i, t in texts.items()))
    (tmp_path / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "Where do bees live?"}))
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\ta\t1\n")
    status, out, _ = run("eval", str(tmp_path), "--json", "--cache", str(tmp_path / "vectors.bin"))
    report = json.loads(out)
    assert status == 0
    assert (report["num_texts"], report["num_queries"]) == (3, 1)
    assert report["exact"]["ndcg_at_10"] == report["rescored"]["ndcg_at_10"] == 1.0
    assert (tmp_path / "vectors.bin").stat().st_size > 0
    assert "nDCG@10" in run("eval", str(tmp_path))[1]
