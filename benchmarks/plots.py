"""Plots for the pages, drawn from the committed results like the tables: `python -m benchmarks render` makes them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from benchmarks.render import ROOT
from benchmarks.results import Record, Value, committed_records

PLOTS = ROOT / "docs" / "plots"
TABLE = "at_100000"


def write_plots() -> list[Path]:
    """Draw recall against speed and against memory for each committed `retrieval_speed`; return the files."""
    written = []
    for path, record in committed_records("retrieval_speed").items():
        hardware = path.stem.partition(".")[2]
        for name, column, label in (
            ("speed", _queries_a_second, "queries a second, 64 at a time, 2 threads"),
            ("memory", lambda row: row["bytes_a_vector"], "bytes of memory a vector"),
        ):
            target = PLOTS / f"recall_{name}.{hardware}.svg"
            _draw(record, target, column, label)
            written.append(target)
    return written


def _queries_a_second(row: dict[str, Value]) -> float | None:
    each = row.get("64 queries, 2 threads: ms each")
    return 1000 / each if isinstance(each, int | float) and each else None


def _draw(record: Record, target: Path, column: Any, label: str) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "holdfast"  # the same results give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    families: dict[str, list[tuple[float, float]]] = {}
    for row in record.rows:
        value = column(row) if row.get("table") == TABLE else None
        if value is not None:
            family = re.sub(r" (ef )?[0-9]+x?$", "", str(row["system"]))  # without the setting
            families.setdefault(family, []).append((float(value), float(row["recall@10"] or 0)))
    for family, points in families.items():
        marker = "o" if family.startswith("holdfast") else "x"
        axes.plot(*zip(*sorted(points), strict=True), marker=marker, linewidth=1, label=family)
    axes.set(xscale="log", xlabel=label, ylabel="recall@10 against exact float", title="100,000 MiniLM vectors")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small")
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, metadata={"Date": None})
    pyplot.close(figure)
