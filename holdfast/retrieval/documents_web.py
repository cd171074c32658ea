"""HTML, EPUB and mail to text. Nothing is fetched, and scripts, styles and hidden elements are left out.

HTML is parsed as browsers do, by Lexbor through selectolax. The tree is walked without recursion. A page that nests
tens of thousands of elements is refused unparsed: building its tree takes time in the square of the depth.
"""

from __future__ import annotations

import email
import email.policy
import posixpath
import re
import zipfile
from collections.abc import Iterator
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message
from io import BytesIO
from typing import Any
from urllib.parse import unquote

from selectolax.lexbor import LexborHTMLParser

from holdfast.errors import DocumentError
from holdfast.retrieval.documents import Document, TextBuilder
from holdfast.retrieval.documents_text import decode_text
from holdfast.retrieval.documents_zip import local_name, open_zip, parse_xml


def _tags(names: str) -> frozenset[str]:
    return frozenset(names.split())


_SKIPPED = _tags("script style noscript template svg head iframe object embed canvas audio video")
_HEADINGS = _tags("h1 h2 h3 h4 h5 h6")
_PARAGRAPHS = _HEADINGS | _tags(
    "p div section article header footer main aside nav table ul ol dl blockquote pre form fieldset figure address "
    "details hr body"
)
_LINES = _tags("li tr dt dd br caption figcaption legend option summary")
_UNNESTED = _tags(
    "area base br col embed hr img input link meta param source track wbr p li dt dd tr td th thead tbody tfoot option "
    "optgroup colgroup rp rt html head body"
)
_MAX_DEPTH = 10_000
_TAG = re.compile(r"<(/?)([A-Za-z][^\s/>]*)[^>]*?(/?)>")
_CELLS = frozenset(("td", "th"))
_BLANKS = re.compile(r"[ \t\n\r\f\v]+")
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_XML_ENCODING = re.compile(rb"<\?xml[^>]{0,100}?encoding\s*=\s*[\"']([\w.:-]+)", re.IGNORECASE)
_HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_MAIL_HEADERS = ("From", "To", "Cc", "Date", "Subject")


def read_html(data: bytes, max_chars: int) -> Document:
    """Return the visible text, one section per heading; before the first one, the page's title is the heading."""
    builder = TextBuilder(max_chars)
    add_html(builder, decode_html(data))
    return builder.to_document("html")


def decode_html(data: bytes) -> str:
    """Return HTML bytes as text; the encoding that the page declares counts after a byte-order mark and UTF-8."""
    declared = _META_CHARSET.search(data[:65536]) or _XML_ENCODING.search(data[:200])
    return decode_text(data, declared[1].decode("ascii") if declared else None)


def add_html(builder: TextBuilder, html: str, page: int | None = None) -> None:
    """Add the visible text of a page to `builder`."""
    tree = _parse(html)
    title = tree.css_first("title")
    builder.begin_section(page, title.text() if title is not None else None)
    if tree.body is not None:
        _add_body(builder, tree.body, page)


def _parse(html: str) -> LexborHTMLParser:
    depth = deepest = 0
    for closing, name, empty in _TAG.findall(html):
        if not empty and name.lower() not in _UNNESTED:
            depth = max(depth - 1, 0) if closing else depth + 1
            deepest = max(deepest, depth)
    if deepest > _MAX_DEPTH:
        raise DocumentError(f"the HTML nests more than {_MAX_DEPTH:,} elements", code="too_large")
    return LexborHTMLParser(html)


def _add_body(builder: TextBuilder, body: Any, page: int | None) -> None:
    block = _Block(builder, page)
    for node, is_end in _walk(body):
        block.take(node, is_end)
    block.flush()


def _walk(root: Any) -> Iterator[tuple[Any, bool]]:
    """Yield every node under `root` when it begins and every element also when it ends, in document order."""
    stack: list[tuple[Any, bool]] = [(root, False)]
    while stack:
        node, is_end = stack.pop()
        yield node, is_end
        if is_end or node.tag in _SKIPPED or node.tag.startswith(("-", "!", "_")) or _is_hidden(node):
            continue
        stack.append((node, True))
        children = []
        child = node.child
        while child is not None:
            children.append((child, False))
            child = child.next
        stack.extend(reversed(children))


def _is_hidden(node: Any) -> bool:
    attributes = node.attributes
    return bool(attributes) and (
        "hidden" in attributes or _HIDDEN_STYLE.search(attributes.get("style") or "") is not None
    )


class _Block:
    """The text since the last block boundary; knows how blanks collapse in HTML."""

    def __init__(self, builder: TextBuilder, page: int | None) -> None:
        self._builder = builder
        self._page = page
        self._pieces: list[str] = []
        self._separator = "\n\n"
        self._pre_depth = 0
        self._is_row_begun = False

    def take(self, node: Any, is_end: bool) -> None:
        """Add one node of the walk."""
        tag = node.tag
        if tag == "-text":
            text = node.text_content or ""
            self._pieces.append(text if self._pre_depth else _BLANKS.sub(" ", text))
        elif tag in _CELLS and not is_end:
            if self._is_row_begun:
                self._pieces.append(" | ")
            self._is_row_begun = True
        elif tag in _HEADINGS and is_end:
            heading = "".join(self._pieces)
            if heading.strip():
                self._builder.begin_section(self._page, heading)
            self.flush()
        elif self._is_row_begun and tag not in ("tr", "table") and tag in _PARAGRAPHS | _LINES:
            self._pieces.append(" ")
        elif tag in _PARAGRAPHS or tag in _LINES:
            self.flush("\n" if tag in _LINES else "\n\n")
            self._is_row_begun = False
        if tag == "pre":
            self._pre_depth += -1 if is_end else 1

    def flush(self, separator: str = "\n\n") -> None:
        """Hand the collected text over; `separator` says how it stands apart from what follows."""
        text = "".join(self._pieces)
        self._pieces = []
        if text.strip(" |\n\t"):
            if "\n" not in text:
                text = _BLANKS.sub(" ", text)
            self._builder.add(text, self._separator)
            self._separator = separator
        elif separator == "\n\n":
            self._separator = separator


def read_epub(data: bytes, max_chars: int) -> Document:
    """Return the chapters in reading order, one section per heading."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        parts = open_zip(archive)
        chapters = _spine(parts)
        locked = _encrypted_parts(parts)
        builder = TextBuilder(max_chars)
        for name in chapters:
            if name in locked:
                raise DocumentError("the book is protected (DRM)", code="encrypted")
            if name in parts:
                add_html(builder, decode_html(parts.read(name)))
    return builder.to_document("epub")


def _spine(parts: Any) -> list[str]:
    """Return the names of the chapters: the spine of the package document, or every HTML part where there is none."""
    roots = [
        element.get("full-path", "")
        for element in parts.read_xml("META-INF/container.xml").iter()
        if local_name(element) == "rootfile"
    ]
    if not roots or roots[0] not in parts:
        return sorted(name for name in parts.names if name.endswith((".xhtml", ".html", ".htm")))
    package = parts.read_xml(roots[0])
    folder = posixpath.dirname(roots[0])
    hrefs = {e.get("id"): e.get("href", "") for e in package.iter() if local_name(e) == "item"}
    order = [hrefs.get(e.get("idref"), "") for e in package.iter() if local_name(e) == "itemref"]
    return [posixpath.normpath(posixpath.join(folder, unquote(href))) for href in order if href]


def _encrypted_parts(parts: Any) -> set[str]:
    if "META-INF/encryption.xml" not in parts:
        return set()
    root = parse_xml(parts.read("META-INF/encryption.xml"))
    return {unquote(e.get("URI", "")) for e in root.iter() if local_name(e) == "CipherReference"}


def read_eml(data: bytes, max_chars: int) -> Document:
    """Return the main headers and the body, the subject as heading; a forwarded message follows under its own."""
    builder = TextBuilder(max_chars)
    add_mail(builder, data)
    return builder.to_document("eml")


def add_mail(builder: TextBuilder, data: bytes) -> None:
    """Add a message, or a web page saved as one (MHTML), to `builder`."""
    root = email.message_from_bytes(data, policy=email.policy.compat32)
    _begin_message(builder, root)
    stack: list[Message] = [root]
    while stack:
        part = stack.pop()
        kind = part.get_content_type()
        if kind == "message/rfc822" and part is not root and part.is_multipart():
            inner = _forwarded(part)
            _begin_message(builder, inner)
            stack.append(inner)
        elif part.is_multipart():
            children = _children(part)
            stack.extend(reversed(_preferred(children) if kind == "multipart/alternative" else children))
        elif part.get_filename() or part.get_content_disposition() == "attachment":
            builder.add(f"Attachment: {_header_text(part.get_filename() or kind)}")
        elif kind == "text/html":
            _add_mail_html(builder, _body_text(part))
        elif kind.startswith("text/"):
            builder.add(_body_text(part))


def _children(part: Message) -> list[Message]:
    payload = part.get_payload()
    return [child for child in payload if isinstance(child, Message)] if isinstance(payload, list) else []


def _forwarded(part: Message) -> Message:
    """Return the message inside a message/rfc822 part; some programs encode it, though the standard forbids that."""
    inner = _children(part)[0]
    encoding = str(part.get("Content-Transfer-Encoding", "")).strip().lower()
    if encoding in ("base64", "quoted-printable") and not inner.keys():
        inner["Content-Transfer-Encoding"] = encoding
        payload = inner.get_payload(decode=True)
        return email.message_from_bytes(payload if isinstance(payload, bytes) else b"")
    return inner


def _preferred(versions: list[Message]) -> list[Message]:
    """Return the plain version of a body where it says anything, else the last and therefore richest one."""
    plain = [part for part in versions if part.get_content_type() == "text/plain" and _body_text(part).strip()]
    return plain[:1] or versions[-1:]


def _begin_message(builder: TextBuilder, message: Message) -> None:
    headers = {name: _header_text(message[name]) for name in _MAIL_HEADERS if message[name] is not None}
    builder.begin_section(heading=headers.get("Subject"))
    builder.add("\n".join(f"{name}: {value}" for name, value in headers.items() if value))


def _header_text(value: object) -> str:
    """Return a header decoded from its MIME words; as it stands where they are wrong."""
    raw = str(value)
    try:
        decoded = str(make_header(decode_header(raw)))
    except (LookupError, ValueError, UnicodeError, HeaderParseError):
        decoded = raw
    return " ".join(decoded.split())


def _body_text(part: Message) -> str:
    payload = part.get_payload(decode=True)
    return decode_text(payload, part.get_content_charset()) if isinstance(payload, bytes) else ""


def _add_mail_html(builder: TextBuilder, html: str) -> None:
    tree = _parse(html)
    if tree.body is not None:
        _add_body(builder, tree.body, None)
