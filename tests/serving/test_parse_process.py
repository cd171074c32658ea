"""Parsing in a child: every file ends in text or a code, and no file costs more than one child."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import DOCUMENT_CODES, DocumentError
from holdfast.retrieval.documents import Document, Section, read_document
from holdfast.serving import parse_child, parse_process
from holdfast.serving.parse_process import FRAME, FRAME_MAGIC, ParseLimits, measure_parse, read_document_in_child

GIB = 2**30
HOSTILE_CODES = {
    "docx_billion_laughs.docx": "too_large",
    "docx_is_a_pdf.docx": "pdf",
    "docx_missing_document.docx": "malformed",
    "docx_one_run_200MB.docx": "too_large",
    "docx_path_traversal.docx": "docx",
    "empty.docx": "empty",
    "empty.md": "empty",
    "empty.pdf": "empty",
    "gzip_200MB_zeros.txt.gz": "unsupported_format",
    "html_deep_50000.html": "too_large",
    "html_script_injection.html": "html",
    "md_nested_quotes_10000.md": "markdown",
    "md_one_line_5MB.md": "markdown",
    "pdf_bad_xref.pdf": "pdf",
    "pdf_flate_192MB.pdf": "out_of_memory",
    "pdf_header_only.pdf": "malformed",
    "pdf_pages_cycle.pdf": "malformed",
    "pdf_tiny_ok.pdf": "pdf",
    "pdf_truncated.pdf": "malformed",
    "txt_bidi_zero_width.txt": "text",
    "txt_invalid_utf8.txt": "text",
    "txt_nul_bytes.txt": "text",
    "txt_utf16le_bom.txt": "text",
    "xml_billion_laughs.xml": "text",
    "xml_external_entity.xml": "text",
    "zip_nested_8x8x8_51GB.zip": "unsupported_format",
}


@pytest.fixture
def slow_file(tmp_path: Path) -> Path:
    """A table that keeps the reader busy for many seconds."""
    path = tmp_path / "wide.csv"
    path.write_text(",".join(f"c{number}" for number in range(100)) + "\n" + "1,\n" * 3_000_000)
    return path


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(condition: object, timeout_s: float = 10.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_the_child_returns_what_the_reader_returns(tmp_path: Path) -> None:
    path = tmp_path / "stored-under-another-name"
    path.write_text("# Ünï\n\n🏳️ text\n\n## Two\n\nmore")
    assert read_document_in_child(path, "a.md") == read_document(path.read_bytes(), "a.md")
    path.write_bytes(b"")
    with pytest.raises(DocumentError) as caught:
        read_document_in_child(path, "a.md")
    assert caught.value.code == "empty"


def test_every_hostile_file_ends_as_expected(eval_data: Path) -> None:
    folder = eval_data / "docs" / "hostile_own"
    ends = {}
    for path in sorted(folder.iterdir()):
        usage = measure_parse(path, path.name)
        assert usage.wall_s < 31
        assert usage.peak_rss_bytes < 1.5 * GIB
        ends[path.name] = usage.outcome.format if isinstance(usage.outcome, Document) else usage.outcome.code
    if ends["pdf_flate_192MB.pdf"] == "timeout":  # on a busy machine the time runs out before the memory
        ends["pdf_flate_192MB.pdf"] = "out_of_memory"
    assert ends == HOSTILE_CODES


def test_hidden_instructions_are_not_read(eval_data: Path) -> None:
    path = eval_data / "docs/hostile_own/html_script_injection.html"
    assert read_document_in_child(path, path.name).text == "Visible text."


def test_every_third_file_gives_text_or_one_clear_error(eval_data: Path) -> None:
    paths = [p for p in sorted((eval_data / "docs").glob("*/*")) if p.parent.name != "hostile_own"][::3]
    with ThreadPoolExecutor(2) as pool:
        for path, usage in zip(paths, pool.map(lambda p: measure_parse(p, p.name), paths), strict=True):
            assert usage.peak_rss_bytes < 1.5 * GIB, path
            if isinstance(usage.outcome, DocumentError):
                assert usage.outcome.code in DOCUMENT_CODES.keys() - {"crashed", "timeout"}, path
            else:
                assert usage.outcome.text.strip(), path


def test_a_slow_file_is_stopped_and_leaves_no_process(slow_file: Path) -> None:
    children, started = children_of(os.getpid()), time.monotonic()
    usage = measure_parse(slow_file, "wide.csv", ParseLimits(timeout_s=0.7))
    assert time.monotonic() - started < 3
    assert isinstance(usage.outcome, DocumentError)
    assert usage.outcome.code == "timeout"
    assert children_of(os.getpid()) == children


def test_a_greedy_file_runs_out_of_memory(tmp_path: Path) -> None:
    path = tmp_path / "big.json"
    path.write_text("[" + "1.5," * 4_000_000 + "1]")
    usage = measure_parse(path, path.name, ParseLimits(memory_bytes=150 * 2**20))
    assert isinstance(usage.outcome, DocumentError)
    assert usage.outcome.code == "out_of_memory"
    assert usage.peak_rss_bytes <= 150 * 2**20


def test_a_long_text_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("word " * 100)
    with pytest.raises(DocumentError) as caught:
        read_document_in_child(path, "a.txt", ParseLimits(max_text_chars=300))
    assert caught.value.code == "too_large"


def test_a_child_that_cannot_start_is_crashed(tmp_path: Path) -> None:
    with pytest.raises(DocumentError) as caught:
        read_document_in_child(tmp_path / "absent", "a.txt")
    assert caught.value.code == "crashed"


def test_the_child_sees_no_secret_and_dies_with_its_parent(slow_file: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from holdfast.serving.parse_process import measure_parse; "
        "measure_parse(Path(sys.argv[1]), 'wide.csv')"
    )
    environment = {**os.environ, "API_TOKEN": "s3cret", "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, "-c", program, os.fspath(slow_file)], env=environment)
    try:
        wait_until(lambda: children_of(parent.pid))
        (child,) = children_of(parent.pid)
        wait_until(lambda: b"parse_child" in Path(f"/proc/{child}/cmdline").read_bytes())
        assert b"s3cret" not in Path(f"/proc/{child}/environ").read_bytes()
        time.sleep(0.5)  # past its start, inside the parser
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2])


def test_parsing_from_many_threads_mixes_nothing_up(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.txt" for number in range(12)]
    for number, path in enumerate(paths):
        path.write_text(f"text {number} " * 2000)
    children, before = children_of(os.getpid()), threading.active_count()
    with ThreadPoolExecutor(6) as pool:
        texts = list(pool.map(lambda path: read_document_in_child(path, path.name).text, paths))
    assert texts == [path.read_text().strip() for path in paths]
    assert threading.active_count() == before
    assert children_of(os.getpid()) == children


@pytest.mark.parametrize(
    ("attempt", "error"),
    [
        ("os.write(kept, b'x')", "OSError"),
        ("open(sys.argv[1], 'w')", "PermissionError"),
        ("os.remove(sys.argv[2])", "PermissionError"),
        ("socket.create_connection(('127.0.0.1', 9))", "PermissionError"),
        ("subprocess.run(['true'])", "PermissionError"),
        ("os.system('true')", "PermissionError"),
        ("bytearray(600 * 2**20)", "MemoryError"),
    ],
)
def test_the_child_may_not(attempt: str, error: str, tmp_path: Path) -> None:
    program = (
        "import os, socket, subprocess, sys; kept = os.open(sys.argv[2], os.O_WRONLY); "
        "from holdfast.serving import parse_child as c; "
        f"c._set_limits(512 * 2**20, 5); sys.addaudithook(c._refuse)\ntry:\n {attempt}\n"
        "except Exception as error:\n print(type(error).__name__)"
    )
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    (tmp_path / "kept").write_text("")
    command = [sys.executable, "-c", program, os.fspath(tmp_path / "new"), os.fspath(tmp_path / "kept")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == error, done.stderr


def frame(header: object, text: bytes = b"") -> bytes:
    encoded = json.dumps(header).encode()
    return FRAME.pack(FRAME_MAGIC, len(encoded), len(text)) + encoded + text


def decode(answer: bytes) -> Document | DocumentError:
    return parse_process._decode_answer(answer, ParseLimits(max_text_chars=100))[0]


def test_an_honest_frame_is_read() -> None:
    header = {"format": "pdf", "sections": [[0, 2, 1, None], [3, 5, 2, "h"]], "peak_rss_bytes": 5}
    assert decode(frame(header, b"ab cd")) == Document("ab cd", (Section(0, 2, 1), Section(3, 5, 2, "h")), "pdf")


@pytest.mark.parametrize(
    "change",
    [
        {"format": "exe"},
        {"sections": [[0, 6, 1, None]]},
        {"sections": [[2, 1, 1, None]]},
        {"sections": [[0, 3, 1, None], [2, 4, 1, None]]},
        {"sections": [[0, 2, 0, None]]},
        {"sections": [[0, 2.0, 1, None]]},
        {"sections": [[0, True, 1, None]]},
        {"sections": [[0, 2, 1, "x" * 301]]},
        {"sections": [[0, 2, 1]]},
        {"sections": 7},
        {"peak_rss_bytes": None},
        {"code": "boom", "message": ""},
        {"code": "empty", "message": 3},
    ],
)
def test_a_dishonest_frame_is_a_crash(change: dict[str, object]) -> None:
    header = {"format": "pdf", "sections": [[0, 2, 1, None]], "peak_rss_bytes": 5, **change}
    answer = decode(frame(header, b"ab cd"))
    assert isinstance(answer, DocumentError)
    assert answer.code == "crashed"


@given(st.binary(max_size=200), st.booleans())
def test_noise_is_a_crash(noise: bytes, has_magic: bool) -> None:
    answer = decode(FRAME.pack(FRAME_MAGIC, len(noise), 0) + noise if has_magic else noise)
    assert isinstance(answer, DocumentError)
    assert answer.code == "crashed"


@pytest.mark.parametrize(
    ("exit_code", "peak_mib", "code"),
    [
        (-signal.SIGXCPU, 10, "timeout"),
        (-signal.SIGABRT, 1300, "out_of_memory"),
        (-signal.SIGSEGV, 50, "crashed"),
        (1, 1300, "crashed"),
    ],
)
def test_a_death_is_named_after_its_cause(exit_code: int, peak_mib: int, code: str) -> None:
    assert parse_process._death(exit_code, peak_mib * 2**20, ParseLimits()).code == code


def test_memory_is_limited_where_the_system_can() -> None:
    assert parse_process.is_memory_limited() == sys.platform.startswith("linux")
    assert parse_child._FORBIDDEN_EVENTS
