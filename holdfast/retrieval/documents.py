"""Bytes of a file to text, with the page or heading each part came from. Libraries do the parsing.

Each `documents_*.py` beside this file reads a family of formats into a `TextBuilder`; `documents_format.py` decides
which. Text is kept as the library extracted it, except that control characters and lone surrogates are dropped and
line ends become `\\n`, so that offsets mean the same everywhere.

Nothing here limits memory or time: `serving/parse_process.py` runs `read_document` in a child that does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from holdfast.errors import DocumentError

MAX_TEXT_CHARS = 20_000_000
MAX_SECTIONS = 100_000
MAX_HEADING_CHARS = 300
_LINE_END = re.compile("\r\n?|[\x0b\x0c\x85]")
_UNWANTED = re.compile("[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch of a document's text that lies on one page or under one heading."""

    start: int
    """characters into `Document.text`"""
    end: int
    """characters, exclusive"""
    page: int | None = None
    """from 1; PDF pages, slides and sheets"""
    heading: str | None = None
    """nearest heading above, slide title or sheet name"""


@dataclass(frozen=True, slots=True)
class Document:
    """The text of one file. Sections are in order, do not overlap and need not cover blanks between them."""

    text: str
    sections: tuple[Section, ...]
    format: str
    """short name: pdf, docx, pptx, xlsx, html, markdown, rst, text, csv, json, epub, eml"""


def clean_text(text: str) -> str:
    """Return `text` with `\\n` line ends, without control characters (tabs stay) and lone surrogates."""
    return _UNWANTED.sub("", _LINE_END.sub("\n", text))


class TextBuilder:
    """Collects the blocks of a document, and notes where pages and headings begin."""

    def __init__(self, max_chars: int = MAX_TEXT_CHARS) -> None:
        self._max_chars = max_chars
        self._parts: list[str] = []
        self._len = 0
        self._starts: list[tuple[int, int | None, str | None]] = [(0, None, None)]

    @property
    def has_text(self) -> bool:
        """Whether anything but blanks was added."""
        return self._len > 0

    def begin_section(self, page: int | None = None, heading: str | None = None) -> None:
        """State that what is added from now on lies on `page` under `heading`."""
        if heading is not None:
            heading = " ".join(clean_text(heading).split())[:MAX_HEADING_CHARS] or None
        self._starts.append((self._len, page, heading))
        if len(self._starts) > MAX_SECTIONS:
            raise DocumentError(f"the file has more than {MAX_SECTIONS:,} pages or headings", code="too_large")

    def add(self, block: str, separator: str = "\n\n") -> None:
        """Append a block, after `separator` where something precedes it; a blank block adds nothing."""
        block = clean_text(block).strip()
        if not block:
            return
        if self._len:
            block = separator + block
        self._len += len(block)
        if self._len > self._max_chars:
            raise DocumentError(f"the file holds more than {self._max_chars:,} characters of text", code="too_large")
        self._parts.append(block)

    def to_document(self, format_name: str) -> Document:
        """Return what was collected; sections without text are left out.

        Raises:
            DocumentError: `no_text` where nothing but blanks was added.
        """
        text = "".join(self._parts)
        if not text:
            raise DocumentError(f"the {format_name} file is well-formed but holds no text", code="no_text")
        ends = [start for start, _, _ in self._starts[1:]] + [self._len]
        sections = []
        for (start, page, heading), end in zip(self._starts, ends, strict=True):
            start += len(text[start:end]) - len(text[start:end].lstrip())
            if start < end:
                sections.append(Section(start, end, page, heading))
        return Document(text, tuple(sections), format_name)


def sections_by_line(text: str, headings: Sequence[tuple[int, str]], format_name: str, max_chars: int) -> Document:
    """Return `text` as a document whose sections begin at `headings`, each (character offset, title)."""
    builder = TextBuilder(max_chars)
    previous = 0
    for offset, title in headings:
        builder.add(text[previous:offset])
        builder.begin_section(heading=title)
        previous = offset
    builder.add(text[previous:])
    return builder.to_document(format_name)


def read_document(data: bytes, filename: str, *, max_chars: int = MAX_TEXT_CHARS) -> Document:
    """Return the text of a file.

    Args:
        data: the whole file.
        filename: its name; the ending chooses the reader, content decides where the two disagree.
        max_chars: longer texts are refused as `too_large`.

    Raises:
        DocumentError: the file gives no text; `code` says why.
    """
    from holdfast.retrieval.documents_format import detect_format  # it imports this module

    format_name = detect_format(data, filename)
    try:
        return _reader(format_name)(data, max_chars)
    except (DocumentError, MemoryError):
        raise
    except RecursionError as error:
        raise DocumentError(f"the {format_name} file is nested too deeply to read", code="too_large") from error
    except Exception as error:  # parsers raise nearly anything on damaged input
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise DocumentError(f"the {format_name} file is damaged ({reason})", code="malformed") from error


def _reader(format_name: str) -> Callable[[bytes, int], Document]:
    """Return the function that reads a format; a factory, so that a PDF costs no spreadsheet import."""
    if format_name == "pdf":
        from holdfast.retrieval.documents_pdf import read_pdf

        return read_pdf
    if format_name == "xlsx":
        from holdfast.retrieval.documents_sheets import read_xlsx

        return read_xlsx
    if format_name in ("docx", "pptx"):
        from holdfast.retrieval.documents_office import read_docx, read_pptx

        return read_docx if format_name == "docx" else read_pptx
    if format_name in ("html", "epub", "eml"):
        from holdfast.retrieval import documents_web

        return {
            "html": documents_web.read_html,
            "epub": documents_web.read_epub,
            "eml": documents_web.read_eml,
        }[format_name]
    from holdfast.retrieval import documents_text

    return {
        "markdown": documents_text.read_markdown,
        "rst": documents_text.read_rst,
        "csv": documents_text.read_csv,
        "json": documents_text.read_json,
        "text": documents_text.read_text,
    }[format_name]
