"""PDF pages to text with PDFium, the reader inside Chrome: fast, and hardened against hostile files.

PDFium gives lines, not paragraphs. A line that starts much lower than the page's usual line distance, or in another
type size, begins a paragraph; a line that was broken because it was full runs on into the next; and a gap inside a
line that is as wide as a blank becomes one. Nothing but blanks is added. Looking at every gap takes some microseconds
a character, so only the first million characters are treated so. Words that a line end hyphenated are joined again.
"""

from __future__ import annotations

import ctypes
import itertools
import re
import statistics
from typing import NamedTuple

import pypdfium2
import pypdfium2.raw as pdfium

from holdfast.errors import DocumentError
from holdfast.retrieval.documents import Document, TextBuilder

_HYPHEN_MARK = "\ufffe"
_GAP_FACTOR = 1.35
_SIZE_FACTOR = 1.15
_BLANK_EM = 0.14
_MAX_GAP_SHARE = 0.1
_MAX_MEASURED_CHARS = 50_000
_MAX_REPAIRED_CHARS = 1_000_000
_MAX_DAMAGED_PAGES = 1_000
_LIST_ITEM = re.compile(r"\s*(?:[-*+•‣▪◦●■–—·|#]|\(?(?:\d{1,3}|[A-Za-z]|[ivxIVX]{1,5})[.)])\s")
_LABEL = re.compile(r"\s*[^\W\d_][^:\n]{0,48}:(?:\s|$)")
_CONTENTS_LINE = re.compile(r"(?:\.\s?){4,}\d*\s*$")


class _Place(NamedTuple):
    """Where a line stands on its page, in points."""

    baseline: float
    size: float
    left: float
    right: float
    word_right: float
    """where its first word ends"""


def read_pdf(data: bytes, max_chars: int) -> Document:
    """Return one section per page that has text."""
    try:
        pdf = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if error.err_code == pdfium.FPDF_ERR_PASSWORD:
            raise DocumentError("the PDF needs a password; save it without one", code="encrypted") from error
        raise DocumentError(f"the PDF is damaged ({error})", code="malformed") from error
    builder = TextBuilder(max_chars)
    num_pages = len(pdf)
    num_damaged = 0
    num_chars = 0
    for row in range(num_pages):
        try:
            text = _page_text(pdf, row, is_repaired=num_chars < _MAX_REPAIRED_CHARS)
        except pypdfium2.PdfiumError:
            num_damaged += 1
            if num_damaged > _MAX_DAMAGED_PAGES:  # the stated number of pages may be invented
                break
            continue
        num_chars += len(text)
        builder.begin_section(page=row + 1)
        builder.add(text)
    if num_damaged and not builder.has_text:
        raise DocumentError("the PDF has no page that can be read", code="malformed")
    return builder.to_document("pdf")


def _page_text(pdf: pypdfium2.PdfDocument, row: int, *, is_repaired: bool) -> str:
    page = pdf[row]
    try:
        text_page = page.get_textpage()
        try:
            text: str = text_page.get_text_range()
            is_indexed = text_page.count_chars() == len(text)  # one character per index, so positions can be looked up
            if is_indexed and len(text) <= _MAX_MEASURED_CHARS:
                text = _with_layout(text_page, text, is_repaired=is_repaired)
        finally:
            text_page.close()
    finally:
        page.close()
    return text.replace(f"{_HYPHEN_MARK}\r\n", "").replace(_HYPHEN_MARK, "").replace("\u00ad\r\n", "")


def _with_layout(text_page: pypdfium2.PdfTextPage, text: str, *, is_repaired: bool) -> str:
    """Return `text` with the empty lines that the layout shows, full lines joined, and, where `is_repaired`, blanks."""
    lines = text.split("\r\n")
    starts = list(itertools.accumulate((len(line) + 2 for line in lines[:-1]), initial=0))
    places = [_line_place(text_page, line, start) for line, start in zip(lines, starts, strict=True)]
    drops = [
        a.baseline - b.baseline
        for a, b in itertools.pairwise(places)
        if a is not None and b is not None and a.baseline > b.baseline
    ]
    usual_drop = statistics.median(drops) if drops else 0.0
    begins = [
        above is None or below is None or _begins_paragraph(above, below, usual_drop)
        for above, below in itertools.pairwise([None, *places])
    ]
    margins = _right_margins(places, begins)
    pieces = []
    for row, (line, start, place) in enumerate(zip(lines, starts, places, strict=True)):
        above = places[row - 1] if row else None
        if above is None or place is None:
            pieces.append("\r\n" if row else "")
        elif begins[row]:
            pieces.append("\r\n\r\n")
        else:
            is_full = above.right + place.word_right - place.left > margins[row - 1]
            pieces.append(_line_break(lines[row - 1], line, is_full=is_full))
        pieces.append(_with_blanks(text_page, line, start) if place and is_repaired else line)
    return "".join(pieces)


def _begins_paragraph(above: _Place, below: _Place, usual_drop: float) -> bool:
    drop = above.baseline - below.baseline
    sizes = sorted((above.size, below.size))
    return drop > _GAP_FACTOR * usual_drop > 0 or (drop != 0 and sizes[1] > _SIZE_FACTOR * sizes[0] > 0)


def _right_margins(places: list[_Place | None], begins: list[bool]) -> list[float]:
    """Return for each line how far right the lines of its paragraph reach."""
    margins = [place.right if place else 0.0 for place in places]
    for row in range(1, len(margins)):
        if not begins[row]:
            margins[row] = max(margins[row - 1], margins[row])
    for row in range(len(margins) - 1, 0, -1):
        if not begins[row]:
            margins[row - 1] = margins[row]
    return margins


def _line_break(line: str, next_line: str, *, is_full: bool) -> str:
    """Return what stands between two lines of one paragraph: a blank where the second continues the first."""
    begins_low = next_line.lstrip()[:1].islower()
    is_continued = begins_low or (is_full and not _LABEL.match(next_line))
    if not is_continued or _LIST_ITEM.match(next_line) or _CONTENTS_LINE.search(line):
        return "\r\n"
    if line.endswith((_HYPHEN_MARK, "\u00ad")):  # joined later
        return "\r\n"
    return "" if line[-1:].isspace() else " "


def _line_place(text_page: pypdfium2.PdfTextPage, line: str, start: int) -> _Place | None:
    """Return the place of the line that begins at character `start`; None where it is blank or PDFium has none."""
    words = line.split(maxsplit=1)
    if not words:
        return None
    first = start + len(line) - len(line.lstrip())
    x, y = ctypes.c_double(), ctypes.c_double()
    if not pdfium.FPDFText_GetCharOrigin(text_page, first, x, y):
        return None
    box = pdfium.FS_RECTF()
    rights = []
    for index in (start + len(line.rstrip()) - 1, first + len(words[0]) - 1):
        is_measured = pdfium.FPDFText_GetLooseCharBox(text_page, index, ctypes.byref(box))
        rights.append(box.right if is_measured else x.value)
    size = float(pdfium.FPDFText_GetFontSize(text_page, first))
    return _Place(y.value, size, x.value, rights[0], rights[1])


def _with_blanks(text_page: pypdfium2.PdfTextPage, line: str, start: int) -> str:
    """Return `line` with a blank in every gap as wide as one; a line that is letter-spaced throughout stays as it is.

    PDFium misses the blank between two narrow letters where the file has a gap instead of a space.
    """
    box = pdfium.FS_RECTF()
    handle, reference, measure = text_page.raw, ctypes.byref(box), pdfium.FPDFText_GetLooseCharBox
    gaps: list[int] = []
    right = height = 0.0
    is_inside_word = False
    for column, char in enumerate(line):
        is_measured = not char.isspace() and measure(handle, start + column, reference)
        if is_measured and is_inside_word and _BLANK_EM * height < box.left - right < height:
            gaps.append(column)
        is_inside_word = bool(is_measured)
        right, height = box.right, box.top - box.bottom
    if not gaps or len(gaps) > _MAX_GAP_SHARE * len(line):
        return line
    return " ".join(line[a:b] for a, b in itertools.pairwise([0, *gaps, len(line)]))
