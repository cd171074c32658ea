"""PDF pages to text with PDFium, the reader inside Chrome: fast, and hardened against hostile files.

PDFium gives lines, not paragraphs. A line that starts much lower than the page's usual line distance, or in another
type size, begins a paragraph; only blanks are changed for it. Words that a line end hyphenated are joined again.
"""

from __future__ import annotations

import ctypes
import itertools
import statistics

import pypdfium2
import pypdfium2.raw as pdfium

from holdfast.errors import DocumentError
from holdfast.retrieval.documents import Document, TextBuilder

_HYPHEN_MARK = "\ufffe"
_GAP_FACTOR = 1.35
_SIZE_FACTOR = 1.15
_MAX_MEASURED_LINES = 2_000
_MAX_DAMAGED_PAGES = 1_000


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
    for row in range(num_pages):
        try:
            text = _page_text(pdf, row)
        except pypdfium2.PdfiumError:
            num_damaged += 1
            if num_damaged > _MAX_DAMAGED_PAGES:  # the stated number of pages may be invented
                break
            continue
        builder.begin_section(page=row + 1)
        builder.add(text)
    if num_damaged and not builder.has_text:
        raise DocumentError("the PDF has no page that can be read", code="malformed")
    return builder.to_document("pdf")


def _page_text(pdf: pypdfium2.PdfDocument, row: int) -> str:
    page = pdf[row]
    try:
        text_page = page.get_textpage()
        try:
            text: str = text_page.get_text_range()
            lines = text.split("\r\n")
            if 2 < len(lines) <= _MAX_MEASURED_LINES:
                text = _with_paragraphs(text_page, lines)
        finally:
            text_page.close()
    finally:
        page.close()
    return text.replace(f"{_HYPHEN_MARK}\r\n", "").replace(_HYPHEN_MARK, "").replace("\u00ad\r\n", "")


def _with_paragraphs(text_page: pypdfium2.PdfTextPage, lines: list[str]) -> str:
    """Join `lines` again, with an empty line where the layout shows that a paragraph begins."""
    places: list[tuple[float, float] | None] = []
    offset = 0
    for line in lines:
        start = offset + len(line) - len(line.lstrip())
        places.append(_line_place(text_page, start) if line.strip() else None)
        offset += len(line.encode("utf-16-le")) // 2 + 2  # PDFium counts UTF-16 units
    drops = [
        above[0] - below[0]
        for above, below in itertools.pairwise(places)
        if above is not None and below is not None and above[0] > below[0]
    ]
    usual = statistics.median(drops) if drops else 0.0
    joined = [lines[0]]
    for (above, below), line in zip(itertools.pairwise(places), lines[1:], strict=True):
        begins = above is not None and below is not None and _begins_paragraph(above, below, usual)
        joined.append("\r\n\r\n" if begins else "\r\n")
        joined.append(line)
    return "".join(joined)


def _begins_paragraph(above: tuple[float, float], below: tuple[float, float], usual_drop: float) -> bool:
    drop = above[0] - below[0]
    sizes = sorted((above[1], below[1]))
    return drop > _GAP_FACTOR * usual_drop > 0 or (drop != 0 and sizes[1] > _SIZE_FACTOR * sizes[0] > 0)


def _line_place(text_page: pypdfium2.PdfTextPage, text_index: int) -> tuple[float, float] | None:
    """Return (baseline, type size) of the character at `text_index`, in points; None where PDFium has none."""
    index = pdfium.FPDFText_GetCharIndexFromTextIndex(text_page, text_index)
    if index < 0:
        return None
    x, y = ctypes.c_double(), ctypes.c_double()
    if not pdfium.FPDFText_GetCharOrigin(text_page, index, x, y):
        return None
    return y.value, float(pdfium.FPDFText_GetFontSize(text_page, index))
