"""Bytes of a file to text, with the page or heading each part came from. Libraries do the parsing.

Nothing here limits memory or time: `serving/parse_process.py` runs `read_document` in a child that does.
"""

from __future__ import annotations

from dataclasses import dataclass


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


def read_document(data: bytes, filename: str) -> Document:
    """Return the text of a file.

    Args:
        data: the whole file.
        filename: its name; the ending chooses the reader, content decides where the two disagree.

    Raises:
        DocumentError: the file gives no text; `code` says why.
    """
    raise NotImplementedError
