"""`python -m benchmarks NAME [--quick] [--json PATH]`, `python -m benchmarks render`.

A benchmark's correctness check runs first; when it is red, nothing is reported but the failure.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
import traceback
from pathlib import Path

from benchmarks.plots import write_plots
from benchmarks.render import ROOT, to_markdown, write_pages
from benchmarks.results import RESULTS, Record, make_record

NOT_BENCHMARKS = {"__init__", "__main__", "results", "render", "corpora", "searchers", "plots"}


def benchmark_names() -> list[str]:
    """Return the names of the benchmarks: the modules here that define `run`."""
    modules = sorted(path for path in Path(__file__).parent.glob("*.py") if path.stem not in NOT_BENCHMARKS)
    return [path.stem for path in modules if "\ndef run(" in path.read_text(encoding="utf-8")]


def print_record(record: Record) -> None:
    """Print every table and the targets."""
    for table in dict.fromkeys(row.get("table") for row in record.rows):
        rows = [{k: v for k, v in row.items() if k != "table"} for row in record.rows if row.get("table") == table]
        print(f"\n{table or record.name}\n\n{to_markdown(rows)}")
    for target in record.targets:
        verdict = "holds " if target.holds else "MISSED"
        bounds = f"must {target.must:g}, aim {target.aim:g}"
        print(f"{verdict} {target.id}: {target.what} = {target.value:g} ({bounds})")


def main(arguments: list[str] | None = None) -> int:
    """Run one benchmark, or render the tables; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure, and publish what was measured.")
    parser.add_argument("name", choices=[*benchmark_names(), "render"], help="a benchmark, or `render` for the tables")
    parser.add_argument("--quick", action="store_true", help="a small sample, to see that it works; not kept")
    parser.add_argument("--json", type=Path, metavar="PATH", help="where to write it (a full run has a default)")
    chosen = parser.parse_args(arguments)
    if chosen.name == "render":
        for page in [*write_pages(), *write_plots()]:
            print(f"updated {page.relative_to(ROOT)}")
        return 0
    command = shlex.join(["python", "-m", "benchmarks", chosen.name, *(["--quick"] if chosen.quick else [])])
    module = importlib.import_module(f"benchmarks.{chosen.name}")
    try:
        module.check()
    except AssertionError:
        traceback.print_exc()
        print(f"{chosen.name}: the correctness check failed; nothing was measured", file=sys.stderr)
        return 1
    record = make_record(chosen.name, command, module.run(chosen.quick))
    print_record(record)
    path = chosen.json or (None if chosen.quick else RESULTS / f"{record.name}.{record.hardware.slug}.json")
    if path is not None:
        path.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
        print(f"\nwritten to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
