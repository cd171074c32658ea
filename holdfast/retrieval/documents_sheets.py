"""Excel workbooks (Office Open XML) to text.

Cells need types and number formats, so openpyxl reads them, in its streaming mode; drawings are walked as XML. Strict
workbooks, which openpyxl does not know, are read under their transitional namespaces.

Source: ECMA-376, parts 1 and 4.
"""

from __future__ import annotations

import datetime
import warnings
import zipfile
from io import BytesIO
from typing import Any

from openpyxl import load_workbook

from holdfast.retrieval.documents import Document, TextBuilder
from holdfast.retrieval.documents_office import main_part, outermost, related_text
from holdfast.retrieval.documents_tables import table_lines
from holdfast.retrieval.documents_zip import Parts, attribute, open_zip

_STRICT_NAMESPACE = b"http://purl.oclc.org/ooxml/"
_NAMESPACES = (
    (
        _STRICT_NAMESPACE + b"spreadsheetml/main",
        b"http://schemas.openxmlformats.org/spreadsheetml/2006/main",
    ),
    (
        _STRICT_NAMESPACE + b"officeDocument/relationships",
        b"http://schemas.openxmlformats.org/officeDocument/2006/relationships",
    ),
    (_STRICT_NAMESPACE + b"drawingml/main", b"http://schemas.openxmlformats.org/drawingml/2006/main"),
)


def read_xlsx(data: bytes, max_chars: int) -> Document:
    """Return one section per sheet, headed by its name: values, then text boxes, chart labels and diagrams.

    Formulas give their stored result.
    """
    builder = TextBuilder(max_chars)
    with zipfile.ZipFile(BytesIO(data)) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # openpyxl announces every feature that it leaves out
        parts = open_zip(archive)
        drawings = _sheet_drawings(parts)
        book = BytesIO(_to_transitional(parts)) if _is_strict(parts) else BytesIO(data)
        workbook = load_workbook(book, read_only=True, data_only=True, keep_links=False)
        for number, name in enumerate(workbook.sheetnames, 1):
            builder.begin_section(page=number, heading=name)
            sheet = workbook[name]
            if hasattr(sheet, "reset_dimensions"):  # a chart sheet has no cells
                sheet.reset_dimensions()  # the stated size may be wrong
                for line in table_lines(map(_cell_values, sheet.iter_rows())):
                    builder.add(line)
            for kind, part in drawings.get(name, ()):
                builder.add(related_text(parts.read_xml(part), kind))
    return builder.to_document("xlsx")


def _sheet_drawings(parts: Parts) -> dict[str, list[tuple[str, str]]]:
    """Return the (kind, part) of the drawings, charts and diagrams of each sheet."""
    main = main_part(parts, "xl/workbook.xml")
    targets = parts.relations(main)
    found: dict[str, list[tuple[str, str]]] = {}
    for sheet in outermost(parts.read_xml(main), {"sheet"}):
        _, part = targets.get(attribute(sheet, "id") or "", ("", ""))
        drawings = parts.related(part, "drawing") if part else []
        nested = [
            (kind, name) for d in drawings for kind in ("chart", "diagramData") for name in parts.related(d, kind)
        ]
        found[sheet.get("name", "")] = [("drawing", name) for name in drawings] + nested
    return found


def _is_strict(parts: Parts) -> bool:
    return _STRICT_NAMESPACE in parts.read(main_part(parts, "xl/workbook.xml"))


def _to_transitional(parts: Parts) -> bytes:
    """Return a strict workbook under the transitional namespaces, the only ones that openpyxl reads."""
    rewritten = BytesIO()
    with zipfile.ZipFile(rewritten, "w") as archive:
        for info in parts.archive.infolist():
            if info.filename.endswith((".xml", ".rels")):
                content = parts.read(info.filename)
                for strict, transitional in _NAMESPACES:
                    content = content.replace(strict, transitional)
                archive.writestr(info.filename, content)
    return rewritten.getvalue()


def _cell_values(row: tuple[Any, ...]) -> list[str]:
    return [_cell_value(cell.value, getattr(cell, "number_format", None)) for cell in row]


def _cell_value(value: Any, number_format: str | None) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int | float):
        return f"{value * 100:.10g}%" if (number_format or "").endswith("%") else f"{value:.15g}"
    if isinstance(value, datetime.datetime):
        return value.date().isoformat() if value.time() == datetime.time() else value.isoformat(" ")
    return " ".join(str(value).split())
