"""Files to text: each format by a small file made here, then every file of the evaluation data that is not hostile.

`page_excerpts.json` was written by eye: each excerpt is what the rendered page (or the source file) shows.
"""

from __future__ import annotations

import datetime
import gzip
import io
import json
import zipfile
from email.message import EmailMessage
from pathlib import Path

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import DOCUMENT_CODES, DocumentError
from holdfast.retrieval.documents import Document, clean_text, read_document

EXCERPTS = json.loads((Path(__file__).parent / "page_excerpts.json").read_text(encoding="utf-8"))
ENDINGS = ["pdf", "docx", "pptx", "xlsx", "html", "md", "rst", "txt", "csv", "json", "epub", "eml", "bin"]
WORD = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
SLIDE = (
    'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" '
    'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" '
    'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
)
TYPES = {"[Content_Types].xml": "<Types/>"}


def package(parts: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def relations(*rows: tuple[str, str, str]) -> str:
    links = (f'<Relationship Id="{row}" Type="http://x/{kind}" Target="{target}"/>' for row, kind, target in rows)
    return f"<Relationships>{''.join(links)}</Relationships>"


def docx(body: str) -> bytes:
    return package(TYPES | {"word/document.xml": f"<w:document {WORD}><w:body>{body}</w:body></w:document>"})


def paragraph(text: str, style: str = "") -> str:
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{properties}<w:r><w:t>{text}</w:t></w:r></w:p>"


def assert_consistent(document: Document) -> None:
    previous = 0
    for section in document.sections:
        assert not document.text[previous : section.start].strip()
        assert section.start < section.end
        assert not document.text[section.start].isspace()
        previous = section.end
    assert not document.text[previous:].strip()
    assert document.text == clean_text(document.text)
    document.text.encode("utf-8")


def pdf(lines: list[str]) -> bytes:
    """One page with `lines` below each other in 12 point Helvetica."""
    shown = "\n".join(f"1 0 0 1 72 {700 - 14 * row} Tm ({line}) Tj" for row, line in enumerate(lines))
    content = f"BT /F1 12 Tf\n{shown}\nET"
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        "<</Type/Pages/Kids[3 0 R]/Count 1>>",
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        f"<</Length {len(content)}>>stream\n{content}\nendstream",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    body = "\n".join(f"{number} 0 obj{item}endobj" for number, item in enumerate(objects, start=1))
    return f"%PDF-1.4\n{body}\ntrailer<</Root 1 0 R>>\n%%EOF".encode()


def read(data: bytes | str, filename: str) -> Document:
    document = read_document(data.encode() if isinstance(data, str) else data, filename)
    assert_consistent(document)
    return document


def headings(document: Document) -> list[tuple[str | None, str]]:
    return [(section.heading, document.text[section.start : section.end]) for section in document.sections]


def assert_text_or_code(data: bytes, filename: str) -> None:
    try:
        document = read_document(data, filename)
    except DocumentError as error:
        code = error.code
    else:
        assert_consistent(document)
        return
    assert code in DOCUMENT_CODES


def code_of(data: bytes | str, filename: str) -> str:
    with pytest.raises(DocumentError) as caught:
        read(data, filename)
    assert len(caught.value.message) > 10
    return caught.value.code


def test_docx_keeps_headings_tables_boxes_and_leaves_deletions_out() -> None:
    styles = f'<w:styles {WORD}><w:style w:styleId="H"><w:name w:val="heading 1"/></w:style></w:styles>'
    body = (
        paragraph("Before")
        + paragraph("Title", "H")
        + "<w:p><w:del><w:r><w:delText>gone</w:delText></w:r></w:del>"
        + "<w:r><w:t>kept</w:t><w:tab/><w:t>here</w:t></w:r></w:p>"
        + f"<w:tbl><w:tr><w:tc>{paragraph('a')}</w:tc><w:tc>{paragraph('b')}</w:tc></w:tr></w:tbl>"
        + f"<w:sdt><w:sdtContent>{paragraph('control')}</w:sdtContent></w:sdt>"
        + f"<w:p><w:r><w:txbxContent>{paragraph('box')}</w:txbxContent></w:r></w:p>"
    )
    parts = {
        "_rels/.rels": relations(("r1", "officeDocument", "word/document.xml")),
        "word/_rels/document.xml.rels": relations(("r2", "styles", "styles.xml"), ("r3", "footnotes", "notes.xml")),
        "word/styles.xml": styles,
        "word/notes.xml": f"<w:footnotes {WORD}><w:footnote>{paragraph('a note')}</w:footnote></w:footnotes>",
        "word/document.xml": f"<w:document {WORD}><w:body>{body}</w:body></w:document>",
    }
    document = read(package(TYPES | parts), "a.docx")
    assert headings(document) == [
        (None, "Before"),
        ("Title", "Title\n\nkept\there\n\na | b\n\ncontrol\n\nbox"),
        ("Footnotes", "a note"),
    ]


def test_pptx_slides_are_pages_with_titles_and_notes() -> None:
    def shape(text: str, kind: str = "") -> str:
        placeholder = f'<p:nvSpPr><p:nvPr><p:ph type="{kind}"/></p:nvPr></p:nvSpPr>' if kind else ""
        return f"<p:sp>{placeholder}<p:txBody><a:p><a:r><a:t>{text}</a:t></a:r></a:p></p:txBody></p:sp>"

    parts = {
        "_rels/.rels": relations(("r1", "officeDocument", "ppt/presentation.xml")),
        "ppt/presentation.xml": f'<p:presentation {SLIDE}><p:sldIdLst><p:sldId id="256" r:id="b"/>'
        '<p:sldId id="257" r:id="a"/></p:sldIdLst></p:presentation>',
        "ppt/_rels/presentation.xml.rels": relations(("a", "slide", "slides/s1.xml"), ("b", "slide", "slides/s2.xml")),
        "ppt/slides/s1.xml": f"<p:sld {SLIDE}>{shape('last words')}</p:sld>",
        "ppt/slides/s2.xml": f"<p:sld {SLIDE}>{shape('body')}{shape('Plan', 'title')}</p:sld>",
        "ppt/slides/_rels/s2.xml.rels": relations(("n", "notesSlide", "../notes/n.xml")),
        "ppt/notes/n.xml": f"<p:notes {SLIDE}>{shape('say hello')}</p:notes>",
    }
    document = read(package(TYPES | parts), "a.pptx")
    assert headings(document) == [("Plan", "Plan\n\nbody\n\nsay hello"), (None, "last words")]
    assert [section.page for section in document.sections] == [1, 2]


def test_xlsx_sheets_are_pages_with_named_values() -> None:
    workbook = openpyxl.Workbook()
    first = workbook.active
    assert first is not None
    first.title = "Ducks"
    first.append(["Year", "Share", "Day"])
    first.append([2019, 0.25, datetime.datetime(2020, 1, 2)])  # noqa: DTZ001 (a cell has no time zone)
    first["B2"].number_format = "0%"
    workbook.create_sheet("Empty")
    workbook.create_sheet("Loose").append(["just one"])
    buffer = io.BytesIO()
    workbook.save(buffer)
    document = read(buffer.getvalue(), "a.xlsx")
    assert headings(document) == [
        ("Ducks", "Year | Share | Day\n\nYear: 2019; Share: 25%; Day: 2020-01-02"),
        ("Loose", "just one"),
    ]
    assert [section.page for section in document.sections] == [1, 3]


def test_html_drops_what_no_reader_sees() -> None:
    document = read(
        "<title>T</title><script>no()</script><p>One\n two<p hidden>no</p><p style='display: none'>no</p>"
        "<h2>Head <b>ing</b></h2><ul><li>x<li>y</ul><table><tr><th>a<th>b<tr><td>1<td><p>2</p></table>"
        "<pre>k\n  v</pre><!-- no -->",
        "a.html",
    )
    assert headings(document) == [("T", "One two"), ("Head ing", "Head ing\n\nx\ny\n\na | b\n1 | 2\n\nk\n  v")]


def test_markdown_keeps_its_source_and_knows_its_headings() -> None:
    source = (
        "intro\n\n# One #\ntext **bold**\n\n```\n# not a heading\n```\n\nTwo\n===\n\n| a |\n| --- |\n\n### Three\nend"
    )
    document = read(source, "a.md")
    assert document.text == source
    assert [section.heading for section in document.sections] == [None, "One", "Two", "Three"]


def test_rst_keeps_its_source_and_runs_no_directive(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    source = f"=====\nTitle\n=====\n\n.. include:: {secret}\n.. raw:: html\n   :file: {secret}\n\nPart\n----\n\ntext\n"
    document = read(source, "a.rst")
    assert document.text == source.strip()
    assert [section.heading for section in document.sections] == ["Title", "Part"]


def test_csv_rows_carry_their_column_names() -> None:
    assert read('name;age\n"Ada; L.";36\nBob;\n', "a.csv").text == "name | age\n\nname: Ada; L.; age: 36\n\nname: Bob"
    assert read("1,2\n3,4\n", "a.csv").text == "1 | 2\n\n3 | 4"


def test_json_values_carry_their_path() -> None:
    assert read('{"a": {"b": [1, {"c": "x"}]}, "d": ["p", "q"], "e": null}', "a.json").text == (
        "a.b: 1\na.b.c: x\nd: p, q"
    )
    assert read('{"a": 1}\n{"a": 2}\n', "a.jsonl").text == "a: 1\n\na: 2"
    assert read("not json", "a.json").format == "text"


def test_epub_follows_its_spine() -> None:
    opf = (
        '<package><manifest><item id="a" href="a.xhtml"/><item id="b" href="b%20c.xhtml"/></manifest>'
        '<spine><itemref idref="b"/><itemref idref="a"/></spine></package>'
    )
    parts = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": '<c><rootfiles><rootfile full-path="O/p.opf"/></rootfiles></c>',
        "O/p.opf": opf,
        "O/a.xhtml": "<html><body><h1>Two</h1></body></html>",
        "O/b c.xhtml": "<html><body><h1>One</h1><p>first</p></body></html>",
    }
    assert read(package(parts), "a.epub").text == "One\n\nfirst\n\nTwo"
    locked = parts | {"META-INF/encryption.xml": '<e><CipherReference URI="O/a.xhtml"/></e>'}
    assert code_of(package(locked), "a.epub") == "encrypted"


def test_eml_decodes_headers_bodies_and_forwarded_messages() -> None:
    inner = EmailMessage()
    inner["Subject"] = "inner"
    inner.set_content("deep")
    message = EmailMessage()
    message["Subject"] = "Grüße"
    message["From"] = "Zoë <z@example.org>"
    message.set_content("schön", charset="iso-8859-1")
    message.add_alternative("<p>not this</p>", subtype="html")
    message.add_attachment(b"\0", maintype="image", subtype="png", filename="p.png")
    message.add_attachment(inner)
    document = read(message.as_bytes(), "a.eml")
    assert headings(document) == [
        ("Grüße", "From: Zoë <z@example.org>\nSubject: Grüße\n\nschön\n\nAttachment: p.png"),
        ("inner", "Subject: inner\n\ndeep"),
    ]


RUSSIAN = "Мой дядя самых честных правил, когда не в шутку занемог, он уважать себя заставил и лучше выдумать не мог."
JAPANESE = "お早うございます。今日は良い天気ですね。散歩に行きましょう。"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [(RUSSIAN, name) for name in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1251")]
    + [(JAPANESE, name) for name in ("shift_jis", "utf-16")]
    + [("Müller fährt über die Straße.", "cp1252")],
)
def test_text_encodings_are_recognised(text: str, encoding: str) -> None:
    assert read(text.encode(encoding), "a.txt").text == text.strip()


def test_damaged_utf8_stays_utf8() -> None:
    assert read("naïve café ".encode() * 9 + b"\xff", "a.txt").text.startswith("naïve café")


def test_text_is_cleaned_so_that_offsets_are_stable() -> None:
    assert read(b"a\r\nb\rc\0d\x1be", "a.txt").text == "a\nb\ncde"
    assert clean_text("x\ud800y") == "xy"


def test_content_decides_where_the_name_lies(eval_data: Path) -> None:
    pdf = (eval_data / "docs/hostile_own/docx_is_a_pdf.docx").read_bytes()
    assert read(pdf, "a.docx").format == read(pdf, "a.txt").format == "pdf"
    assert read(docx(paragraph("hello")), "a.pdf").format == "docx"
    assert read("<!DOCTYPE html><p>hi", "page").format == "html"


@pytest.mark.parametrize(
    ("data", "filename", "code"),
    [
        (b"", "a.pdf", "empty"),
        (b" \n\0", "a.txt", "empty"),
        (b"hello", "a.pdf", "malformed"),
        (b"hello", "a.docx", "malformed"),
        (b"PK\x03\x04rest", "a.docx", "malformed"),
        (package({"a.txt": "x"}), "a.zip", "unsupported_format"),
        (package({"mimetype": "application/vnd.oasis.opendocument.text"}), "a.odt", "unsupported_format"),
        (gzip.compress(b"x"), "a.gz", "unsupported_format"),
        (b"\x89PNG\r\n\x1a\n", "a.png", "unsupported_format"),
        (b"\x7fELF\0\0", "a.bin", "unsupported_format"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "a.doc", "legacy_format"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le"), "a.docx", "encrypted"),
        (b"{\\rtf1 hello}", "a.rtf", "legacy_format"),
        (docx(""), "a.docx", "no_text"),
        (b"<p hidden>x</p>", "a.html", "no_text"),
        (b"[" * 100_000, "a.json", "too_large"),
        (b"<div>" * 20_000 + b"x", "a.html", "too_large"),
        (docx("<w:p>" * 3), "a.docx", "malformed"),
        (docx("<w:sdt>" * 300 + "</w:sdt>" * 300), "a.docx", "too_large"),
    ],
)
def test_each_failure_has_its_code(data: bytes, filename: str, code: str) -> None:
    assert code_of(data, filename) == code


def test_a_part_that_unpacks_without_end_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.retrieval.documents_zip.MAX_PART_BYTES", 1000)
    with pytest.raises(DocumentError) as caught:
        read_document(docx(paragraph("x")), "a.docx", max_chars=0)
    assert caught.value.code == "too_large"


def test_entities_are_not_expanded(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    xml = (
        f'<!DOCTYPE d [<!ENTITY x SYSTEM "file://{secret}">]>'
        f"<w:document {WORD}><w:body>{paragraph('[&x;]')}</w:body></w:document>"
    )
    assert "s3cret" not in read(package(TYPES | {"word/document.xml": xml}), "a.docx").text


@given(data=st.binary(max_size=400), ending=st.sampled_from(ENDINGS))
@settings(max_examples=300)
def test_random_bytes_give_text_or_a_code(data: bytes, ending: str) -> None:
    assert_text_or_code(data, f"a.{ending}")


@given(cut=st.integers(0, 3000), flips=st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 255)), max_size=4))
@settings(max_examples=150)
def test_damaged_packages_give_text_or_a_code(cut: int, flips: list[tuple[int, int]]) -> None:
    data = bytearray(docx("".join(paragraph(f"words {number}", "H") for number in range(50))))
    for place, mask in flips:
        data[place % len(data)] ^= mask
    assert_text_or_code(bytes(data[: len(data) - cut % len(data)]), "a.docx")


def test_a_hundred_pages_hold_what_the_eye_sees(eval_data: Path) -> None:
    documents: dict[str, Document] = {}
    missing = []
    for row in EXCERPTS:
        name = row["file"]
        if name not in documents:
            documents[name] = read((eval_data / "docs" / name).read_bytes(), name)
        document = documents[name]
        sections = [section for section in document.sections if section.page == row["page"]]
        page = " ".join(" ".join(document.text[s.start : s.end] for s in sections).split())
        if row["excerpt"] not in page:
            missing.append((name, row["page"], row["excerpt"]))
    assert not missing
    assert len(EXCERPTS) == len({(row["file"], row["page"]) for row in EXCERPTS}) == 100


def test_full_lines_of_a_pdf_run_on_and_short_ones_end() -> None:
    lines = [
        "The mission of the department is to help workers who look for",
        "a place in public service, in every state and in every one",
        "of the trades of the country, as the law of 1974 demands.",
        "Head: Ann Example",
        "Seats of the board: 12",
        "1. A first item of a list that is as long as the other lines",
        "2. A second item",
        "Contents of the annual report ......................... 14",
        "Index of names",
    ]
    assert read(pdf(lines), "a.pdf").text.splitlines() == [" ".join(lines[:3]), *lines[3:]]
