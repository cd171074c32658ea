"""Word and PowerPoint packages (Office Open XML) to text.

Their parts are walked directly as XML: that keeps text boxes, content controls, footnotes, equations and strict or
macro-enabled variants, and a damaged relation costs one part instead of the file.

Source: ECMA-376, parts 1 and 4.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from io import BytesIO
from typing import Any

from holdfast.errors import DocumentError
from holdfast.retrieval.documents import Document, TextBuilder
from holdfast.retrieval.documents_web import add_html, add_mail, decode_html
from holdfast.retrieval.documents_zip import Parts, attribute, local_name, open_zip

_SKIPPED = {"del", "moveFrom", "Fallback", "instrText", "delText", "sectPr", "rPr"}
_OUTLINE_LEVELS = frozenset("012345678")
_BREAKS = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}
_WORD_EXTRAS = (
    ("footnotes", "Footnotes"),
    ("endnotes", "Endnotes"),
    ("comments", "Comments"),
    ("header", "Page headers"),
    ("footer", "Page footers"),
)


def read_docx(data: bytes, max_chars: int) -> Document:
    """Return the body under its headings, then footnotes, endnotes, comments, and page headers and footers."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        parts = open_zip(archive)
        main = main_part(parts, "word/document.xml")
        heading_styles = _heading_styles(parts, main)
        builder = TextBuilder(max_chars)
        _add_word_part(builder, parts.read_xml(main), heading_styles)
        for kind, title in _WORD_EXTRAS:
            names = parts.related(main, kind)
            if names:
                builder.begin_section(heading=title)
            for name in names:
                _add_word_part(builder, parts.read_xml(name), frozenset())
        for kind in ("chart", "diagramData"):
            for name in parts.related(main, kind):
                builder.add(related_text(parts.read_xml(name), kind))
        for name in parts.related(main, "aFChunk"):
            if name.endswith((".htm", ".html", ".xhtml")):
                add_html(builder, decode_html(parts.read(name)))
            elif name.endswith((".mht", ".mhtml")):
                add_mail(builder, parts.read(name))
    return builder.to_document("docx")


def main_part(parts: Parts, usual: str) -> str:
    """Return the name of the document, presentation or workbook part."""
    found = parts.related("", "officeDocument")
    if found:
        return found[0]
    if usual in parts:
        return usual
    raise DocumentError("the Office package has no main document part", code="malformed")


def _heading_styles(parts: Parts, main: str) -> frozenset[str]:
    """Return the ids of the paragraph styles that are titles or headings, by name, outline level or inheritance."""
    names = parts.related(main, "styles")
    if not names:
        return frozenset()
    found: set[str] = set()
    based_on: dict[str, str] = {}
    for style in parts.read_xml(names[0]):
        style_id = attribute(style, "styleId") if local_name(style) == "style" else None
        if style_id is None:
            continue
        for child in style.iter():
            kind, value = local_name(child), attribute(child, "val") or ""
            is_named = kind == "name" and (value.lower().startswith("heading") or value.lower() == "title")
            if is_named or (kind == "outlineLvl" and value in _OUTLINE_LEVELS):
                found.add(style_id)
            elif kind == "basedOn":
                based_on[style_id] = value
    for style_id in based_on:
        seen = {style_id}
        parent = based_on.get(style_id)
        while parent is not None and parent not in seen and parent not in found:
            seen.add(parent)
            parent = based_on.get(parent)
        if parent in found:
            found.add(style_id)
    return frozenset(found)


def _add_word_part(builder: TextBuilder, root: Any, heading_styles: frozenset[str]) -> None:
    """Add paragraphs and table rows in reading order; a paragraph inside a cell belongs to its row."""
    for element in outermost(root, {"p", "tbl"}):
        if local_name(element) == "tbl":
            for number, row in enumerate(_rows(element, "tr", "tc")):
                builder.add(" | ".join(row), "\n" if number else "\n\n")
            continue
        text = _inline_text(element)
        if text.strip() and _is_heading(element, heading_styles):
            builder.begin_section(heading=text)
        builder.add(text, "\n" if _is_list_item(element) else "\n\n")
        for box in outermost(element, {"txbxContent"}):
            _add_word_part(builder, box, heading_styles)


def outermost(root: Any, names: set[str]) -> Iterator[Any]:
    """Yield the descendants of `root` named in `names` in order, not entering them nor what is deleted or doubled."""
    stack = list(reversed(root))
    while stack:
        element = stack.pop()
        name = local_name(element)
        if name in names:
            yield element
        elif name not in _SKIPPED:
            stack.extend(reversed(element))


def _rows(table: Any, row_name: str, cell_name: str) -> Iterator[list[str]]:
    for row in outermost(table, {row_name}):
        yield [" ".join(_cell_text(cell).split()) for cell in outermost(row, {cell_name})]


def _cell_text(cell: Any) -> str:
    """Return the text of a table cell, nested tables included."""
    return " ".join(text for text in map(_inline_text, _paragraphs(cell)) if text.strip())


def _paragraphs(root: Any) -> Iterator[Any]:
    """Yield all paragraphs under `root`, those in text boxes inside paragraphs too."""
    for paragraph in outermost(root, {"p"}):
        yield paragraph
        yield from _paragraphs_in_boxes(paragraph)


def _paragraphs_in_boxes(paragraph: Any) -> Iterator[Any]:
    for box in outermost(paragraph, {"txbxContent"}):
        yield from outermost(box, {"p"})


def _inline_text(paragraph: Any) -> str:
    """Return the runs of a paragraph, text boxes excluded; equations contribute their characters."""
    pieces: list[str] = []
    stack = list(reversed(paragraph))
    while stack:
        element = stack.pop()
        name = local_name(element)
        if name == "t":
            pieces.append("".join(element.itertext()))
        elif name in _BREAKS:
            pieces.append(_BREAKS[name])
        elif name not in _SKIPPED and name not in ("txbxContent", "pPr"):
            stack.extend(reversed(element))
    return "".join(pieces)


def _is_heading(paragraph: Any, heading_styles: frozenset[str]) -> bool:
    for setting in paragraph.iterfind("{*}pPr/*"):
        name, value = local_name(setting), attribute(setting, "val") or ""
        if (name == "pStyle" and value in heading_styles) or (name == "outlineLvl" and value in _OUTLINE_LEVELS):
            return True
    return False


def _is_list_item(paragraph: Any) -> bool:
    return paragraph.find("{*}pPr/{*}numPr") is not None


def read_pptx(data: bytes, max_chars: int) -> Document:
    """Return one section per slide, headed by its title: shapes, tables, chart labels, diagrams, notes, comments."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        parts = open_zip(archive)
        main = main_part(parts, "ppt/presentation.xml")
        targets = parts.relations(main)
        builder = TextBuilder(max_chars)
        number = 0
        masters: dict[str, None] = {}
        for slide_id in outermost(parts.read_xml(main), {"sldId"}):
            ids = [value for key, value in slide_id.attrib.items() if key.endswith("}id")]
            kind, name = targets.get(ids[0] if ids else "", ("", ""))
            if kind != "slide" or name not in parts:
                continue
            number += 1
            _add_slide(builder, parts, name, number)
            masters.update(_master_parts(parts, name))
        builder.begin_section(heading="Slide master")
        for name in masters:
            for shape in outermost(parts.read_xml(name), {"sp", "graphicFrame"}):
                if shape.find("{*}nvSpPr/{*}nvPr/{*}ph") is None:  # a placeholder only prompts the author
                    builder.add(_shape_text(shape))
    return builder.to_document("pptx")


def _master_parts(parts: Parts, slide: str) -> dict[str, None]:
    """Return the layout and master that a slide shows, in a set with order."""
    layouts = parts.related(slide, "slideLayout")
    return dict.fromkeys(layouts + [name for layout in layouts for name in parts.related(layout, "slideMaster")])


def _add_slide(builder: TextBuilder, parts: Parts, name: str, number: int) -> None:
    root = parts.read_xml(name)
    shapes = list(outermost(root, {"sp", "graphicFrame"}))
    titles = [shape for shape in shapes if _is_title(shape)]
    heading = " ".join(_shape_text(titles[0]).split()) if titles else None
    builder.begin_section(page=number, heading=heading)
    for shape in titles + [shape for shape in shapes if shape not in titles]:
        builder.add(_shape_text(shape))
    for kind in ("chart", "diagramData", "notesSlide", "comments"):
        for related in parts.related(name, kind):
            builder.add(related_text(parts.read_xml(related), kind))


def _is_title(shape: Any) -> bool:
    placeholder = shape.find("{*}nvSpPr/{*}nvPr/{*}ph")
    return placeholder is not None and placeholder.get("type") in ("title", "ctrTitle")


def _shape_text(shape: Any) -> str:
    lines = [" | ".join(row) for row in _rows(shape, "tr", "tc")]
    lines += [_inline_text(p) for p in outermost(shape, {"p", "tbl"}) if local_name(p) == "p"]
    return "\n".join(line for line in lines if line.strip())


def related_text(root: Any, kind: str) -> str:
    """Return the words of a drawing, chart, diagram, notes page or list of comments."""
    if kind == "comments":
        return "\n".join("".join(element.itertext()) for element in outermost(root, {"text"}))
    lines = []
    for element in outermost(root, {"p", "strCache", "fld"}):
        if local_name(element) == "strCache":
            lines.append(", ".join("".join(value.itertext()) for value in outermost(element, {"v"})))
        elif element.find("{*}fld") is None:  # a field repeats the slide number or the date
            lines.append(_inline_text(element))
    return "\n".join(dict.fromkeys(line for line in lines if line.strip()))
