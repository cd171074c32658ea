"""What the command line prints: results to standard output, for people or as JSON; all else to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from holdfast.errors import Conflict, HoldfastError, InvalidInput
from holdfast.serving.answer import Citation
from holdfast.serving.api_keys import ApiKey
from holdfast.serving.engine.protocol import Source

FAILED, USAGE = 1, 2

out = Console(highlight=False, markup=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)

SNIPPET = """
    from openai import OpenAI

    client = OpenAI(base_url="{url}/v1", api_key="none")
    answer = client.responses.create(
        model="{model}",
        input="What do my files say about ...?",
        tools=[{{"type": "file_search", "vector_store_ids": ["{store}"]}}],
    )
    print(answer.output_text)
"""


def print_error(error: HoldfastError) -> int:
    """Say in one line what went wrong; return the exit status: 2 for a mistake in the call, else 1."""
    message = " ".join(error.message.split())
    if isinstance(error, Conflict):
        message += " (a running server answers over its API)"
    print(f"holdfast: {message}", file=sys.stderr)
    return USAGE if isinstance(error, InvalidInput) else FAILED


def make_progress(console: Console) -> Progress:
    """Return the bar that long work shows; nothing is shown where nobody watches."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def loading() -> AbstractContextManager[object]:
    """Show that models are being loaded, to whoever watches."""
    return err.status("Loading models") if err.is_terminal else nullcontext()


def print_json(value: Any) -> None:
    """Print one JSON document."""
    print(json.dumps(value, ensure_ascii=False, indent=1, default=str))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under headings."""
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    out.print(table, soft_wrap=False)


def where(item: Source | Citation) -> str:
    """File with page or heading: `report.pdf, page 4`."""
    place = f"page {item.page}" if item.page is not None else item.heading
    return f"{item.filename}, {place}" if place else item.filename


def print_keys(keys: Sequence[ApiKey], *, as_json: bool) -> None:
    """Print API keys without their secrets."""
    if as_json:
        print_json([asdict(key) for key in keys])
        return
    rows = [(key.id, key.tenant, key.name, _time(key.created_at), _time(key.revoked_at)) for key in keys]
    print_table(("id", "tenant", "name", "created", "revoked"), rows)


def print_sources(sources: Sequence[Source], *, as_json: bool) -> None:
    """Print what a search found."""
    if as_json:
        print_json([asdict(source) for source in sources])
        return
    for source in sources:
        out.print(f"{source.score:.3f}  {where(source)}", style="bold")
        out.print(f"{' '.join(source.text.split())}\n")


def print_citations(citations: Sequence[Citation]) -> None:
    """Print the quotes that support an answer."""
    for number, citation in enumerate(citations, start=1):
        out.print(f"[{number}] {where(citation)}: “{' '.join(citation.quote.split())}”", style="dim")


def _time(seconds: int | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
