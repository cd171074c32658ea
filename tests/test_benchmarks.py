"""The benchmark framework: records, tables and the rule that a red check reports nothing."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import render, results
from benchmarks.results import Hardware, Record, Result, Target


def make_benchmark(monkeypatch: pytest.MonkeyPatch, *, is_correct: bool) -> None:
    module = ModuleType("benchmarks.sample")

    def check() -> None:
        assert is_correct

    def run(quick: bool) -> Result:
        rows = [{"table": "sizes", "size": np.float32(1.5), "quick": quick}, {"note": "a|b", "missing": None}]
        return Result(rows, [Target("size", "size, MiB", 1.5, must=2.0, aim=1.0, better="lower")])

    module.check, module.run = check, run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "benchmarks.sample", module)
    monkeypatch.setattr(command, "benchmark_names", lambda: ["sample"])


def test_a_record_holds_all_that_a_reader_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_benchmark(monkeypatch, is_correct=True)
    assert command.main(["sample", "--quick", "--json", str(tmp_path / "record.json")]) == 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert list(record) == ["name", "commit", "command", "hardware", "versions", "rows", "targets"]
    assert record["command"] == "python -m benchmarks sample --quick"
    assert record["rows"][0] == {"table": "sizes", "size": 1.5, "quick": True}
    assert record["targets"] == [
        {"id": "size", "what": "size, MiB", "value": 1.5, "must": 2.0, "aim": 1.0, "holds": True}
    ]


def test_a_red_check_reports_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_benchmark(monkeypatch, is_correct=False)
    assert command.main(["sample", "--json", str(tmp_path / "record.json")]) == 1
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "record.json").exists()


@pytest.mark.parametrize("name", command.benchmark_names())
def test_a_benchmark_checks_before_it_runs(name: str) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    assert callable(module.check)
    assert list(inspect.signature(module.run).parameters) == ["quick"]


@pytest.mark.parametrize(
    ("value", "better", "holds"), [(2.0, "higher", True), (1.9, "higher", False), (2.1, "lower", False)]
)
def test_a_target_holds_on_its_good_side(value: float, better: str, holds: bool) -> None:
    assert Target("id", "what", value, must=2.0, aim=3.0, better=better).holds is holds  # type: ignore[arg-type]


def test_a_page_shows_the_table_it_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = Hardware(cpu="AMD EPYC 7B13 64-Core Processor", cores=2, ram_gib=24, gpu=None)
    record = Record(
        name="sample", commit="abc", command="python -m benchmarks sample", hardware=hardware, versions={},
        rows=[{"table": "sizes", "file_size": 1234567, "share": 0.98765, "ok": True}, {"other": "a|b"}], targets=[],
    )
    monkeypatch.setattr(render, "committed_records", lambda name: {Path("x"): record} if name == "sample" else {})
    text = "before\n<!-- benchmark:sample sizes -->\nold\n<!-- /benchmark -->\nafter"
    shown = render.render_page(text)
    assert "| 1,234,567 | 0.9877 | yes |" in shown
    assert "a\\|b" not in shown
    assert "old" not in shown
    assert shown.startswith("before\n")
    assert shown.endswith("after")
    assert render.render_page(shown) == shown
    assert hardware.slug == "amd-epyc-7b13-2-cores"
    assert "No result of `other`" in render.render_page("<!-- benchmark:other -->\n<!-- /benchmark -->")


def test_what_is_not_a_record_is_refused() -> None:
    with pytest.raises(ValueError, match="commit"):
        results.Record.model_validate({"name": "sample"})
