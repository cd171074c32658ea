"""Ingest: every file of the evaluation data read in a child, and what a page costs from file to vector.

Which files ought to give text is decided by the manifest's own check of them and by `WITHOUT_TEXT`: files that were
looked at one by one (PDF pages rendered, Office parts opened), and hold none.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

from benchmarks.corpora import EVAL_DATA, read_rows
from benchmarks.results import Result, Target, Value
from holdfast.errors import DocumentError
from holdfast.retrieval.chunks import split_document
from holdfast.retrieval.documents import Document, read_document
from holdfast.retrieval.documents_format import detect_format
from holdfast.retrieval.embed import make_embedder
from holdfast.serving.parse_process import ParseUsage, measure_parse

DOCS = EVAL_DATA / "docs"
EXCERPTS = Path(__file__).parents[1] / "tests" / "retrieval" / "page_excerpts.json"
QUICK_STEP = 20
PICTURES = "pages are pictures: a scan, a photograph or a drawing"
BLANK = "pages are blank"
NOTHING = "holds no words: empty, or only embedded files or pictures"
WITHOUT_TEXT = {
    "hostile_own/empty.md": "no bytes",
    "pypdf_samples/007-imagemagick-images__imagemagick-ASCII85Decode.pdf": PICTURES,
    "pypdf_samples/007-imagemagick-images__imagemagick-CCITTFaxDecode.pdf": PICTURES,
    "pypdf_samples/007-imagemagick-images__imagemagick-lzw.pdf": PICTURES,
    "pypdf_samples/019-grayscale-image__grayscale-image.pdf": PICTURES,
    "pypdf_samples/023-cmyk-image__cmyk-image.pdf": PICTURES,
    **{
        f"docling_tests/{name}.pdf": PICTURES
        for name in (
            *("nemotron_multipage", "ocr_test", "ocr_test_rotated_180", "ocr_test_rotated_270", "ocr_test_rotated_90"),
            "sample_with_rotation_mismatch",
        )
    },
    "markitdown_tests/MEDRPT-2024-PAT-3847_medical_report_scan.pdf": PICTURES,
    **{f"tika_tests/{name}.pdf": PICTURES for name in ("testFlashInPDF", "testOCR", "testPDF_jpeg2000")},
    "tika_tests/testColorRendering.pdf": PICTURES,
    **{
        f"tika_tests/testPDF_{name}.pdf": BLANK
        for name in (
            *("Version.10.x", "Version.11.x.PDFA-1b", "Version.4.x", "Version.5.x", "Version.6.x", "Version.7.x"),
            *("Version.8.x", "Version.9.x", "diffTitles", "jsActionOnPage", "sigflags", "twoAuthors"),
        )
    },
    "tika_tests/testPDFFileEmbInAnnotation_noContents.pdf": BLANK,
    "tika_tests/testHTML_head.html": "an empty body",
    "tika_tests/testWORD_missing_ooxml_bean1.docx": "holds deleted words only",
    **{
        f"tika_tests/{name}": NOTHING
        for name in (
            *("headerPic.docx", "testWORD_multi_authors.docx", "testWPSAttachment.docx", "testWPSAttachment.pptx"),
            *("testWPSAttachment.xlsx", "testEXCEL_embeddedPDF_mac.xlsx", "testEXCEL_embeddedPDF_windows.xlsx"),
            *("testEXCEL_poi-61034.xlsx", "testExcel_embeddedPDF.xlsx", "testMSChart-govdocs-428996.xlsx"),
            *("testPPT_EmbeddedPDF.pptx", "testPPT_embeddedMP3.pptx"),
        )
    },
}

KNOWN_MISSES = {
    "hostile_own/html_deep_50000.html": "missed: nests 50,000 elements, and is refused for it",
    "pdf20examples/PDF_2.0_UTF-8_string_and_annotation.pdf": "missed: its text is in a note pinned to the page",
    "tika_tests/testPopupAnnotation.pdf": "missed: its text is in a note pinned to the page",
}


def check() -> None:
    """Assert that a page reads as it looks before anything is timed."""
    row = json.loads(EXCERPTS.read_text(encoding="utf-8"))[0]
    assert row["excerpt"] in _page(_read(row["file"]), row["page"])


def run(quick: bool) -> Result:
    """Read every file (quick: every twentieth), then time the stages on the agency reports (quick: the shortest)."""
    manifest = list(read_rows(DOCS / "manifest.jsonl.gz"))[:: QUICK_STEP if quick else 1]
    usages = {row["file"]: measure_parse(DOCS / row["file"], Path(row["file"]).name) for row in manifest}
    reports = sorted((DOCS / "us_agency_reports").glob("*.pdf"), key=lambda path: path.stat().st_size)
    costs = _costs(reports[:1] if quick else reports)
    expected = [row["file"] for row in manifest if _ought_to_give_text(row)]
    given = [name for name in expected if isinstance(usages[name].outcome, Document)]
    rows: list[dict[str, Value]] = [*_by_format(usages), *costs]
    rows += [
        {
            "table": "exceptions",
            "file": name,
            "code": _end(usages[name])[1],
            "why": (WITHOUT_TEXT | KNOWN_MISSES).get(name, "missed"),
        }
        for name in usages
        if name in WITHOUT_TEXT or name in set(expected) - set(given)
    ]
    rows += [_file_row(name, usage) for name, usage in usages.items()]
    crashed = sum(_end(usage)[1] == "crashed" for usage in usages.values())
    peak_gib = max(usage.peak_rss_bytes for usage in usages.values()) / 2**30
    longest_s = max(usage.wall_s for usage in usages.values())
    targets = [
        Target("text", "files with text that give it, share", len(given) / len(expected), must=0.98, aim=0.99),
        Target("pages", "hand-checked page excerpts found", _num_excerpts_found(), must=100, aim=100),
        Target("crashed", "files on which the reader dies", crashed, must=0, aim=0, better="lower"),
        Target("memory", "largest child, GiB", round(peak_gib, 3), must=1.5, aim=1.5, better="lower"),
        Target("time", "longest file, s", round(longest_s, 2), must=30, aim=10, better="lower"),
    ]
    return Result(rows, targets)


def _ought_to_give_text(row: dict[str, str]) -> bool:
    """Whether the manifest could open the file, it is of a format that we read, and it holds text."""
    if not row["check"].startswith("ok") or row["file"] in WITHOUT_TEXT:
        return False
    try:
        detect_format((DOCS / row["file"]).read_bytes(), row["file"])
    except DocumentError as error:
        return error.code not in ("unsupported_format", "legacy_format")
    return True


def _end(usage: ParseUsage) -> tuple[str, str]:
    """Return (format, "text") or ("", code)."""
    outcome = usage.outcome
    return (outcome.format, "text") if isinstance(outcome, Document) else ("", outcome.code)


def _file_row(name: str, usage: ParseUsage) -> dict[str, Value]:
    format_name, end = _end(usage)
    return {
        "table": "files",
        "file": name,
        "format": format_name or None,
        "result": end,
        "seconds": round(usage.wall_s, 2),
        "peak_mib": usage.peak_rss_bytes >> 20,
        "characters": len(usage.outcome.text) if isinstance(usage.outcome, Document) else 0,
    }


def _by_format(usages: dict[str, ParseUsage]) -> list[dict[str, Value]]:
    """Count by ending of the name; what ends without text is counted by its code."""
    rows: list[dict[str, Value]] = []
    endings = Counter(Path(name).suffix.lower().lstrip(".") or "(none)" for name in usages)
    for ending, count in endings.most_common():
        chosen = [u for n, u in usages.items() if (Path(n).suffix.lower().lstrip(".") or "(none)") == ending]
        codes = Counter(_end(usage)[1] for usage in chosen)
        num_texts = codes.pop("text", 0)
        rows.append(
            {
                "table": "by_ending",
                "ending": ending,
                "files": count,
                "text": num_texts,
                "otherwise": ", ".join(f"{code} {number}" for code, number in sorted(codes.items())) or "–",
                "median_s": round(sorted(usage.wall_s for usage in chosen)[len(chosen) // 2], 2),
                "longest_s": round(max(usage.wall_s for usage in chosen), 2),
                "largest_mib": max(usage.peak_rss_bytes for usage in chosen) >> 20,
            }
        )
    return rows


def _costs(reports: list[Path]) -> list[dict[str, Value]]:
    """Return the seconds of each stage per report."""
    embedder = make_embedder()
    embedder.encode(["warm up"])
    rows: list[dict[str, Value]] = []
    for path in reports:
        started = time.monotonic()
        document = measure_parse(path, path.name).outcome
        assert isinstance(document, Document), path
        parsed = time.monotonic()
        passages = split_document(document, embedder.token_offsets)
        split = time.monotonic()
        embedder.encode([document.text[passage.start : passage.end] for passage in passages])
        ended = time.monotonic()
        num_pages = document.sections[-1].page or 1
        rows.append(
            {
                "table": "cost",
                "report": path.name,
                "pages": num_pages,
                "passages": len(passages),
                "parse_s": round(parsed - started, 2),
                "split_s": round(split - parsed, 2),
                "embed_s": round(ended - split, 2),
                "pages_per_s": round(num_pages / (ended - started), 2),
            }
        )
    return rows


def _num_excerpts_found() -> int:
    rows = json.loads(EXCERPTS.read_text(encoding="utf-8"))
    documents = {name: _read(name) for name in {row["file"] for row in rows}}
    return sum(row["excerpt"] in _page(documents[row["file"]], row["page"]) for row in rows)


def _read(name: str) -> Document:
    return read_document((DOCS / name).read_bytes(), name)


def _page(document: Document, page: int | None) -> str:
    sections = [section for section in document.sections if section.page == page]
    return " ".join(" ".join(document.text[s.start : s.end] for s in sections).split())
