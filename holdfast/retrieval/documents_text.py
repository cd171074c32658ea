"""Text formats: encodings, Markdown, reStructuredText, CSV, JSON and plain text.

Markdown and reStructuredText keep their source text, so that a quotation is found in the file as it stands; only their
headings are recognised, line by line. Nothing in them is executed or included.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterator
from io import StringIO
from typing import Any

from holdfast.errors import DocumentError
from holdfast.retrieval.documents import Document, TextBuilder, clean_text, sections_by_line
from holdfast.retrieval.documents_tables import table_lines

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SAMPLE_BYTES = 32_768
_MIN_GUESS_BYTES = 24
_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_SETEXT = re.compile(r" {0,3}(?:=+|-{2,})[ \t]*$")
_RST_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1{2,}\s*$")
_MAX_KEY_PATH = 4


def decode_text(data: bytes, declared: str | None = None) -> str:
    """Return `data` as text: by its byte-order mark, as UTF-8, as `declared`, or as the most plausible encoding.

    Bytes that the encoding does not allow become U+FFFD. Encodings that switch by escape sequences look like ASCII,
    so `declared` comes first where there are any.
    """
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            return data[len(bom) :].decode(encoding, errors="replace")
    if b"\x00" in data and (wide := _utf16_without_mark(data[:_SAMPLE_BYTES])):
        return data.decode(wide, errors="replace")
    candidates = ["utf-8"] if declared is None else ["utf-8", declared]
    for encoding in reversed(candidates) if b"\x1b" in data else candidates:
        try:
            return data.decode(encoding)
        except (LookupError, UnicodeError):
            continue
    return data.decode(_guess_encoding(data), errors="replace")


def _utf16_without_mark(sample: bytes) -> str | None:
    """Return the byte order of text whose every second byte is small, as in most scripts that are not East Asian."""
    num_even, num_odd = (sum(byte <= 8 for byte in sample[first::2]) for first in (0, 1))
    if max(num_even, num_odd) * 3 < len(sample) or min(num_even, num_odd) * 8 > max(num_even, num_odd):
        return None
    return "utf-16-be" if num_even > num_odd else "utf-16-le"


def _guess_encoding(data: bytes) -> str:
    decoded = data[:_SAMPLE_BYTES].decode("utf-8", errors="replace")
    num_bad = decoded.count("\ufffd")
    if num_bad * 10 <= sum(char > "\x7f" for char in decoded):
        return "utf-8"
    if len(data) >= _MIN_GUESS_BYTES:
        from charset_normalizer import from_bytes  # slow to import, and seldom needed

        best = from_bytes(data[:_SAMPLE_BYTES]).best()
        if best is not None:
            return str(best.encoding)
    return "cp1252"


def read_text(data: bytes, max_chars: int) -> Document:
    """Return the text as one section."""
    return sections_by_line(decode_text(data), [], "text", max_chars)


def read_markdown(data: bytes, max_chars: int) -> Document:
    """Return the source text, one section per heading."""
    text = clean_text(decode_text(data))
    return sections_by_line(text, list(_markdown_headings(text)), "markdown", max_chars)


def _markdown_headings(text: str) -> Iterator[tuple[int, str]]:
    """Yield (offset, title) of ATX and one-line setext headings outside fenced code."""
    fence = ""
    offset = previous_offset = 0
    previous = ""
    for line in text.split("\n"):
        opening = _FENCE.match(line)
        if fence:
            if opening and opening[1].startswith(fence) and not line[opening.end() :].strip():
                fence = ""
            previous = ""
        elif opening:
            fence, previous = opening[1], ""
        elif len(line) <= 1000 and (atx := _ATX.match(line)):
            if atx[2]:
                yield offset, atx[2]
            previous = ""
        elif len(previous) <= 300 and previous.strip() and len(line) <= 300 and _SETEXT.match(line):
            yield previous_offset, previous.strip()
            previous = ""
        else:
            is_title = not previous.strip() and not line.lstrip().startswith(("|", ">", "-", "*", "+", "    "))
            previous, previous_offset = (line if is_title else "\u2063" * 301), offset
            if not line.strip():
                previous = ""
        offset += len(line) + 1


def read_rst(data: bytes, max_chars: int) -> Document:
    """Return the source text, one section per title."""
    text = clean_text(decode_text(data))
    return sections_by_line(text, list(_rst_headings(text)), "rst", max_chars)


def _rst_headings(text: str) -> Iterator[tuple[int, str]]:
    """Yield (offset, title) of lines underlined with one repeated punctuation mark, as long as the title or longer."""
    lines = text.split("\n")
    offset = 0
    for row, line in enumerate(lines):
        under = lines[row + 1] if row + 1 < len(lines) else ""
        above = lines[row - 1] if row else ""
        title = line.strip()
        is_title = 0 < len(title) <= 300 and not _RST_ADORNMENT.match(line) and _RST_ADORNMENT.match(under)
        if is_title and len(under.rstrip()) >= len(line.rstrip()):
            has_overline = _RST_ADORNMENT.match(above) and above.rstrip() == under.rstrip()
            if has_overline or (not above.strip() and not line[0].isspace()):
                yield offset - (len(above) + 1 if has_overline else 0), title
        offset += len(line) + 1


def read_csv(data: bytes, max_chars: int) -> Document:
    """Return one paragraph per row, its values named by the header where there is one."""
    text = clean_text(decode_text(data))
    csv.field_size_limit(max_chars)
    builder = TextBuilder(max_chars)
    for line in table_lines(csv.reader(StringIO(text), delimiter=_csv_delimiter(text))):
        builder.add(line)
    return builder.to_document("csv")


def _csv_delimiter(text: str) -> str:
    """Return the delimiter that is most frequent in the first non-blank line; a comma where none occurs."""
    first = next((line for line in text.split("\n", 50) if line.strip()), "")
    return max(",;\t|", key=first.count)


def read_json(data: bytes, max_chars: int) -> Document:
    """Return one `path: value` line per value, an empty line between the items of the outermost list.

    JSON Lines are read as such a list. A file that is not JSON is read as plain text.
    """
    text = decode_text(data)
    try:
        items = _json_items(text)
    except RecursionError as error:
        raise DocumentError("the JSON is nested too deeply to read", code="too_large") from error
    except ValueError:
        return read_text(data, max_chars)
    builder = TextBuilder(max_chars)
    for item in items:
        for number, (path, value) in enumerate(_json_values(item)):
            builder.add(f"{path}: {value}" if path else value, "\n" if number else "\n\n")
    return builder.to_document("json")


def _json_items(text: str) -> list[Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    return value if isinstance(value, list) else [value]


def _json_values(item: Any) -> Iterator[tuple[str, str]]:
    """Yield (path, text) of every value that is not empty; a path names the last few keys that lead there."""
    stack: list[tuple[tuple[str, ...], Any]] = [((), item)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, dict):
            stack.extend(((*path, key)[-_MAX_KEY_PATH:], child) for key, child in reversed(value.items()))
        elif isinstance(value, list) and all(isinstance(child, str) for child in value):
            yield ".".join(path), "".join(value) if any("\n" in child for child in value) else ", ".join(value)
        elif isinstance(value, list):
            stack.extend((path, child) for child in reversed(value))
        elif value is not None and value != "":
            yield ".".join(path), value if isinstance(value, str) else json.dumps(value)
