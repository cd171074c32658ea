"""Citations are verbatim spans of the files, found by looking, and none where nothing supports the answer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from holdfast.serving.citations import attribute, cite
from holdfast.serving.engine.protocol import Quote
from holdfast.serving.prompts import NOT_IN_FILES
from tests.serving.engine.requests import make_source

FILE = "Preface. The Alder Bridge was opened in 1932. Maria Lindqvist designed the bridge. It is grey.\n\nIndex."
START, END = FILE.index("The Alder"), FILE.index("\n\n")
BRIDGE = make_source(FILE[START:END], start=START)
TOWER = make_source("The water tower holds 450 cubic metres. The tower is green.", name="b.txt")
SOURCES = [TOWER, BRIDGE]
PARTS = ("The", "bridge", "tower", "was opened", "1932", "1971", "green.", "Maria", "holds\n", "water.")


def test_each_sentence_is_cited_from_what_supports_it_best() -> None:
    answer = "The bridge was designed by Maria Lindqvist. The tower's water tank holds 450 cubic metres."
    citations = cite(attribute(answer, SOURCES), SOURCES)
    assert [citation.quote for citation in citations] == [
        "Maria Lindqvist designed the bridge.", "The water tower holds 450 cubic metres.",
    ]  # fmt: skip
    assert [answer[citation.answer_start : citation.answer_end] for citation in citations] == [
        "The bridge was designed by Maria Lindqvist.", "The tower's water tank holds 450 cubic metres.",
    ]  # fmt: skip
    assert FILE[citations[0].start : citations[0].end] == citations[0].quote
    assert citations[0].file_id == BRIDGE.file_id


def test_what_no_passage_supports_is_not_cited() -> None:
    assert attribute("Elephants sleep standing up in the savannah.", SOURCES) == ()
    assert attribute(NOT_IN_FILES, SOURCES) == ()
    assert attribute("", SOURCES) == ()
    assert attribute("The bridge was opened in 1932.", []) == ()


def test_citations_claimed_in_the_text_are_not_believed() -> None:
    answer = "Elephants sleep standing up [b.txt, page 3](file-b.txt)."
    assert attribute(answer, SOURCES) == ()


def test_ties_go_to_the_earlier_source_and_sentence() -> None:
    same = "It was opened in 1932. It was opened in 1932."
    quotes = attribute("It was opened in 1932.", [make_source(same), make_source(same, name="b.txt")])
    assert [(quote.source, quote.start) for quote in quotes] == [(0, 0)]


@given(st.lists(st.sampled_from(PARTS), max_size=30))
def test_every_citation_quotes_its_file_and_lies_in_the_answer(parts: list[str]) -> None:
    answer = " ".join(parts)
    files = {BRIDGE.file_id: FILE, TOWER.file_id: TOWER.text}
    citations = cite(attribute(answer, SOURCES), SOURCES)
    for citation in citations:
        assert files[citation.file_id][citation.start : citation.end] == citation.quote
        assert 0 <= citation.answer_start < citation.answer_end <= len(answer)
    assert list(citations) == sorted(citations, key=lambda citation: citation.answer_start)


def test_an_engines_own_quotes_become_citations_in_the_answers_order() -> None:
    quotes = [Quote(1, 0, 9, 20, 29), Quote(0, 4, 9, 0, 5)]
    citations = cite(quotes, SOURCES)
    assert [citation.quote for citation in citations] == [TOWER.text[4:9], BRIDGE.text[0:9]]
    assert (citations[1].start, citations[1].end) == (START, START + 9)
