"""Which reader a file needs, judged by its first bytes, then by its name; and what to say where there is none."""

from __future__ import annotations

import re
import zipfile
from io import BytesIO
from pathlib import PurePath

from holdfast.errors import DocumentError
from holdfast.retrieval.documents_zip import open_zip

TEXT_ENDINGS = {
    "md": "markdown",
    "markdown": "markdown",
    "rst": "rst",
    "rest": "rst",
    "html": "html",
    "htm": "html",
    "xhtml": "html",
    "csv": "csv",
    "tsv": "csv",
    "json": "json",
    "jsonl": "json",
    "ndjson": "json",
    "ipynb": "json",
    "eml": "eml",
}
_ZIP_ENDINGS = ("docx", "docm", "dotx", "dotm", "pptx", "pptm", "ppsx", "potx", "xlsx", "xlsm", "xltx", "epub")
_OFFICE_MAIN_PARTS = {"word/": "docx", "ppt/": "pptx", "xl/": "xlsx"}
_ENCRYPTED_STREAMS = ("EncryptedPackage".encode("utf-16-le"), "EncryptionInfo".encode("utf-16-le"))
_OLE_SAVE_AS = {"doc": ".docx", "dot": ".docx", "xls": ".xlsx", "ppt": ".pptx", "pps": ".pptx", "msg": ".eml"}
_BINARY_SIGNATURES = (
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"\x1f\x9d", "a compress archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\xfd7zXZ", "an xz archive; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"\x89PNG", "an image; run OCR on it first"),
    (b"\xff\xd8\xff", "an image; run OCR on it first"),
    (b"GIF8", "an image; run OCR on it first"),
    (b"II*\x00", "an image; run OCR on it first"),
    (b"MM\x00*", "an image; run OCR on it first"),
    (b"%!PS", "PostScript; convert it to PDF first"),
)
_MAIL_HEADER = re.compile(
    rb"(?:From|To|Received|Return-Path|Date|Subject|Message-ID|MIME-Version|Delivered-To):", re.IGNORECASE
)


def detect_format(data: bytes, filename: str) -> str:
    """Return the short name of the format of `data` (see `Document.format`).

    Raises:
        DocumentError: empty, encrypted, legacy_format, unsupported_format, or malformed where the name promises a
            format that the bytes cannot be.
    """
    ending = PurePath(filename).suffix.lower().lstrip(".")
    head = data[:1024]
    if not data.strip(b" \t\r\n\x00"):
        raise DocumentError("the file is empty", code="empty")
    if b"%PDF-" in head:
        return "pdf"
    if data.startswith(b"PK\x03\x04") or (ending in _ZIP_ENDINGS and b"PK\x03\x04" in head):
        return _zip_format(data)
    if data.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        raise _ole_error(data, ending)
    if head.lstrip().startswith(b"{\\rtf"):
        raise DocumentError("RTF is not read; save it as .docx or .txt", code="legacy_format")
    for signature, advice in _BINARY_SIGNATURES:
        if data.startswith(signature):
            raise DocumentError(f"the file is {advice}", code="unsupported_format")
    if ending == "pdf" or ending in _ZIP_ENDINGS:
        raise DocumentError(f"the file is named .{ending}, but its content is not that format", code="malformed")
    if ending in ("odt", "ods", "odp"):
        raise _opendocument_error()
    if ending in _OLE_SAVE_AS:
        raise DocumentError(f".{ending} is not read; save it as {_OLE_SAVE_AS[ending]}", code="legacy_format")
    return _text_format(data, head, ending)


def _text_format(data: bytes, head: bytes, ending: str) -> str:
    if ending in TEXT_ENDINGS:
        return TEXT_ENDINGS[ending]
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "html"
    if len(_MAIL_HEADER.findall(head)) >= 3 and _MAIL_HEADER.match(head):
        return "eml"
    is_wide = head.startswith((b"\xff\xfe", b"\xfe\xff"))
    if not is_wide and ending not in ("txt", "text") and b"\x00" in data[:65536]:
        raise DocumentError(f"no reader for this kind of binary file (.{ending})", code="unsupported_format")
    return "text"


def _zip_format(data: bytes) -> str:
    try:
        archive = zipfile.ZipFile(BytesIO(data))
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise DocumentError(f"the file is a damaged or cut-off ZIP package ({error})", code="malformed") from error
    with archive:
        parts = open_zip(archive)
        kind = parts.read("mimetype", max_bytes=1000).strip() if "mimetype" in parts else b""
        if kind == b"application/epub+zip" or ("META-INF/container.xml" in parts and not kind):
            return "epub"
        if kind.startswith(b"application/vnd.oasis.opendocument"):
            raise _opendocument_error()
        if "xl/workbook.bin" in parts:
            raise DocumentError("binary workbooks (.xlsb) are not read; save as .xlsx", code="unsupported_format")
        if "[Content_Types].xml" in parts:
            for folder, format_name in _OFFICE_MAIN_PARTS.items():
                if any(name.startswith(folder) for name in parts.names):
                    return format_name
            raise DocumentError("an Office package without a document, slides or sheets", code="malformed")
    raise DocumentError("the file is a ZIP archive; unpack it and add the files", code="unsupported_format")


def _opendocument_error() -> DocumentError:
    return DocumentError("OpenDocument is not read; save it as .docx, .xlsx, .pptx or PDF", code="unsupported_format")


def _ole_error(data: bytes, ending: str) -> DocumentError:
    if any(name in data for name in _ENCRYPTED_STREAMS):
        return DocumentError("the file is password-protected; save it without a password", code="encrypted")
    advice = _OLE_SAVE_AS.get(ending, "a current format such as .docx, .xlsx or .pptx")
    return DocumentError(f"an old binary Office format; save it as {advice}", code="legacy_format")
