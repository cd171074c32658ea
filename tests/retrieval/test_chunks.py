"""Passages cover the text, fit the embedder, and keep to their page; the properties run on the real tokenizer."""

from __future__ import annotations

import itertools
import random
import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast.errors import InvalidInput
from holdfast.retrieval.chunks import MAX_CHARS_PER_TOKEN, Chunking, Passage, split_document
from holdfast.retrieval.documents import Document, Section
from holdfast.retrieval.embed import Embedder

PIECES = st.sampled_from(
    [
        *("word ", "Sentence end. ", "\n", "\n\n", "  ", "supercalifragilistic", "x" * 120, "---", "3.14 ", "Dr. Who "),
        *("\t", "가나다 ", "日本語。", "ﷺ ", "e\u0301\u0301", "\u200b", "\u00a0", "🏳️‍🌈 ", "a,b;c "),
    ]
)
TEXTS = st.lists(PIECES, min_size=1, max_size=150).map("".join).filter(str.strip)
CHUNKINGS = st.integers(1, 60).flatmap(lambda n: st.builds(Chunking, st.just(n), st.integers(0, n // 2)))


def one_section(text: str, page: int | None = 1) -> Document:
    start = len(text) - len(text.lstrip())
    return Document(text, (Section(start, len(text.rstrip()), page, None),), "text")


def assert_holds(document: Document, passages: list[Passage], embedder: Embedder, chunking: Chunking) -> None:
    text = document.text
    covered = bytearray(len(text))
    for passage in passages:
        piece = text[passage.start : passage.end]
        assert piece == piece.strip() != ""
        assert len(piece) <= MAX_CHARS_PER_TOKEN * chunking.max_tokens
        if len(piece) > 1:
            assert embedder.count_tokens(piece) <= chunking.max_tokens
        covered[passage.start : passage.end] = b"\1" * len(piece)
    assert all(covered[i] or char.isspace() for i, char in enumerate(text))
    assert all(a.start < b.start and a.end <= b.end for a, b in itertools.pairwise(passages))


@given(text=TEXTS, chunking=CHUNKINGS)
@example(text="x" * 500, chunking=Chunking(7, 3))
@example(text="가" * 300, chunking=Chunking(10, 5))
@settings(max_examples=150)
def test_passages_cover_the_text_in_order_and_fit(embedder: Embedder, text: str, chunking: Chunking) -> None:
    document = one_section(text)
    passages = split_document(document, embedder.token_offsets, chunking)
    assert_holds(document, passages, embedder, chunking)
    assert passages == split_document(document, embedder.token_offsets, chunking)


@given(texts=st.lists(TEXTS, min_size=1, max_size=5), chunking=CHUNKINGS)
@settings(max_examples=40)
def test_no_passage_crosses_a_page(embedder: Embedder, texts: list[str], chunking: Chunking) -> None:
    text, sections = "", []
    for page, part in enumerate((text.strip() for text in texts), 1):
        sections.append(Section(len(text), len(text) + len(part), page, f"heading {page}"))
        text += part + "\n\n"
    document = Document(text.rstrip(), tuple(sections), "pdf")
    passages = split_document(document, embedder.token_offsets, chunking)
    assert_holds(document, passages, embedder, chunking)
    for passage in passages:
        (home,) = [s for s in sections if s.start <= passage.start < s.end]
        assert passage.end <= home.end
        assert (passage.page, passage.heading) == (home.page, home.heading)


def test_paragraph_ends_come_before_sentence_ends(embedder: Embedder) -> None:
    paragraph = "This is a sentence of eight plain words here. " * 3
    document = one_section("\n\n".join([paragraph.strip()] * 6))
    for passage in split_document(document, embedder.token_offsets, Chunking(80)):
        assert (document.text + "\n\n")[passage.end : passage.end + 2] == "\n\n"


def test_sentence_ends_come_before_word_ends(embedder: Embedder) -> None:
    document = one_section("This is a sentence of eight plain words here. " * 40)
    for passage in split_document(document, embedder.token_offsets, Chunking(50)):
        assert document.text[passage.end - 1] == "."


def test_overlap_is_honoured_to_the_word(embedder: Embedder) -> None:
    document = one_section(" ".join(random.Random(3).choices(["house", "river", "stone", "light", "north"], k=2000)))
    passages = split_document(document, embedder.token_offsets, Chunking(100, 50))
    for before, after in itertools.pairwise(passages):
        assert embedder.count_tokens(document.text[after.start : before.end]) == 50


def test_the_last_passage_is_not_a_scrap(embedder: Embedder) -> None:
    document = one_section("plain words " * 103)
    lengths = [
        embedder.count_tokens(document.text[passage.start : passage.end])
        for passage in split_document(document, embedder.token_offsets)
    ]
    assert sum(lengths) == 206
    assert min(lengths) >= 50


def test_sections_join_only_where_the_heading_stays_true(embedder: Embedder) -> None:
    text = "# Guide\n\n## Install\n\nRun it.\n\n## Use\n\nAsk it."
    install, use = text.index("## Install"), text.index("## Use")
    sections = (
        Section(0, install - 2, None, "Guide"),
        Section(install, use - 2, None, "Install"),
        Section(use, len(text), None, "Use"),
    )
    passages = split_document(Document(text, sections, "markdown"), embedder.token_offsets)
    assert [(text[p.start : p.end], p.heading) for p in passages] == [
        ("# Guide\n\n## Install\n\nRun it.", "Install"),
        ("## Use\n\nAsk it.", "Use"),
    ]


@pytest.mark.parametrize(("max_tokens", "overlap"), [(0, 0), (100, 51), (100, -1)])
def test_impossible_chunkings_are_refused(max_tokens: int, overlap: int) -> None:
    with pytest.raises(InvalidInput):
        Chunking(max_tokens, overlap)


@pytest.mark.parametrize("text", ["word " * 200_000, "x" * 1_000_000, "a" + " " * 1_000_000 + "b", "-" * 50_000])
def test_a_megabyte_on_one_line_takes_seconds(embedder: Embedder, text: str) -> None:
    document = one_section(text)
    started = time.monotonic()
    passages = split_document(document, embedder.token_offsets, Chunking(800))
    assert time.monotonic() - started < 20
    assert passages[-1].end == len(document.text.rstrip())


def pieces_of_long_words(text: str) -> list[tuple[int, int]]:
    """A tokenizer under which part of a word can give more pieces than the whole."""
    offsets = []
    for word in re.finditer(r"\S+", text):
        size = 4 if len(word[0]) > 100 else 1
        offsets += [(place, min(place + size, word.end())) for place in range(word.start(), word.end(), size)]
    return offsets


@pytest.mark.parametrize("word_len", [400, 401, 1000])
def test_a_word_cut_in_two_is_counted_again(word_len: int) -> None:
    document = one_section("x" * word_len + " end")
    passages = split_document(document, pieces_of_long_words, Chunking(20))
    pieces = [document.text[passage.start : passage.end] for passage in passages]
    assert all(len(pieces_of_long_words(piece)) <= 20 for piece in pieces)
    assert "".join(pieces).replace(" ", "") == "x" * word_len + "end"
