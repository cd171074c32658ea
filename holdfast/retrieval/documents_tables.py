"""Rows of cells to lines that still make sense when a passage holds only some of them.

Where the first row looks like column names, each further row is written as `name: value; name: value`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def table_lines(rows: Iterable[list[str]]) -> Iterator[str]:
    """Yield one line per row that holds anything."""
    header: list[str] | None = None
    is_first = True
    for row in rows:
        cells = [" ".join(cell.split()) for cell in row]
        while cells and not cells[-1]:
            cells.pop()
        if not any(cells):
            continue
        if is_first:
            is_first = False
            header = cells if _is_header(cells) else None
            yield " | ".join(cells)
        elif header is None:
            yield " | ".join(cells)
        else:
            yield "; ".join(_named_cells(header, cells))


def _is_header(cells: list[str]) -> bool:
    """Column names are several, different, short, and begin with a letter."""
    return (
        len(cells) > 1
        and len(set(cells)) == len(cells)
        and all(cell and len(cell) <= 60 and cell[0].isalpha() for cell in cells)
    )


def _named_cells(header: list[str], cells: list[str]) -> Iterator[str]:
    for column, cell in enumerate(cells):
        if cell:
            yield f"{header[column]}: {cell}" if column < len(header) else cell
