"""Committed results to the tables in README, docs and the model card.

A page asks for a table by a pair of comments; what stands between them is generated, never typed:

    <!-- benchmark:NAME -->            the rows without a `table`
    <!-- benchmark:NAME TABLE -->      the rows whose `table` is TABLE
    <!-- benchmark:NAME targets -->    the targets
    <!-- benchmark:NAME figure -->     the picture `docs/NAME.svg`, drawn from the newest result
    <!-- /benchmark -->
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks import redteam_figure
from benchmarks.results import Hardware, Record, Value, committed_records

ROOT = Path(__file__).parents[1]
FIGURES = {"redteam": redteam_figure.draw}
"""benchmark -> what draws its picture"""
MARKED = re.compile(
    r"(?P<begin><!-- benchmark:(?P<name>[a-z_]+)(?: (?P<table>[a-z_0-9]+))? -->\n).*?(?P<end><!-- /benchmark -->)",
    re.DOTALL,
)


def pages() -> list[Path]:
    """Return the Markdown pages that may hold tables."""
    return [ROOT / "README.md", ROOT / "holdfast/reader/README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def render_page(text: str) -> str:
    """Return a page with its tables made anew from the committed results."""

    def replace(found: re.Match[str]) -> str:
        records = committed_records(found["name"])
        blocks = [render_record(record, found["table"]) for record in records.values()]
        body = "\n\n".join(blocks) or f"*No result of `{found['name']}` is committed yet.*"
        return f"{found['begin']}\n{body}\n\n{found['end']}"

    return MARKED.sub(replace, text)


def render_record(record: Record, table: str | None) -> str:
    """Return one record's table with a line that says where the numbers come from."""
    if table == "figure":
        return f"![{record.name}: the tables as a picture]({record.name}.svg)"
    if table == "targets":
        rows: list[dict[str, Value]] = [
            {"target": t.what, "measured": t.value, "must": t.must, "aim": t.aim, "holds": t.holds}
            for t in record.targets
        ]
    else:
        rows = [{k: v for k, v in row.items() if k != "table"} for row in record.rows if row.get("table") == table]
    source = f"<sub>`{record.command}` at {record.commit} on {_describe(record.hardware)}</sub>"
    return f"{to_markdown(rows)}\n\n{source}"


def to_markdown(rows: Sequence[dict[str, Value]]) -> str:
    """Return rows as a Markdown table; columns are the keys in order of first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if not columns:
        return "*No rows.*"
    is_number = [all(isinstance(row.get(column), int | float | None) for row in rows) for column in columns]
    lines = [
        "| " + " | ".join(column.replace("_", " ") for column in columns) + " |",
        "|" + "|".join("--:" if right else "---" for right in is_number) + "|",
    ]
    lines += ["| " + " | ".join(format_value(row.get(column)) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def format_value(value: Value) -> str:
    """Four significant digits or so, as a reader wants them."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if value == int(value) and abs(value) >= 10:
            return f"{int(value):,}"
        digits = 4 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
        return f"{value:,.{digits}f}".rstrip("0").rstrip(".") if digits == 4 else f"{value:,.{digits}f}"
    if isinstance(value, int):
        return f"{value:,}"
    return value.replace("|", "\\|")


def stale_pages() -> list[Path]:
    """Return the pages and pictures that are not what the committed results say."""
    texts = {page: page.read_text(encoding="utf-8") for page in pages()}
    stale = [page for page, text in texts.items() if render_page(text) != text]
    return stale + [path for path, text in figures().items() if not path.exists() or path.read_text("utf-8") != text]


def figures() -> dict[Path, str]:
    """Return the pictures that the committed results give, by where they lie."""
    records = {record.name: record for record in committed_records().values()}
    return {ROOT / "docs" / f"{name}.svg": draw(records[name]) for name, draw in FIGURES.items() if name in records}


def write_pages() -> list[Path]:
    """Bring every page and picture up to date; return those that changed."""
    stale, drawn = stale_pages(), figures()
    for page in stale:
        text = drawn[page] if page in drawn else render_page(page.read_text(encoding="utf-8"))
        page.write_text(text, encoding="utf-8")
    return stale


def _describe(hardware: Hardware) -> str:
    return f"{hardware.cpu}, {hardware.cores} cores, {hardware.ram_gib} GiB, {hardware.gpu or 'no GPU'}"
