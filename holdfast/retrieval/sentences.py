"""Where sentences end: by punctuation, blank lines, list marks and labels, in one pass and without a model.

A line break alone ends no sentence, since texts are broken anywhere; a blank line always does, and so does the line
break before a line like `Runway used: 18`. Full stops after titles, initials, abbreviations and list numbers do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_PARAGRAPH_BREAK = re.compile(r"\n[^\S\n]*\n\s*")
_LIST_MARK = re.compile(r"\n(?=[^\S\n]*(?:[-*+•‣▪◦●■–—·|#]|\(?(?:\d{1,3}|[A-Za-z]|[ivxIVX]{1,5})[.)])[^\S\n])")
_LABEL = re.compile(r"\n(?=[^\S\n]*[^\W\d_a-z][^\s:.!?|]*(?:[^\S\n][^\s:.!?|]+){0,5}:[^\S\n]+\S)")
_TERMINATOR = re.compile(r"[.!?…]+[\"'”’»)\]]*(?=\s)|[。！？｡]+[」』”’）]*")
_LAST_WORD = re.compile(r"[^\s(\[\"'“‘]+$")
_NEXT_WORD = re.compile(r"\s*[\"'“‘(\[]*(\S{0,40})")
_ACRONYM = re.compile(r"(?:[^\W\d_]\.)+")
_LIST_NUMBER = re.compile(r"\(?(?:\d{1,3}|[A-Za-z]|[ivxIVX]{1,5})\.")
_SECTION_NUMBER = re.compile(r"\d+(?:\.\d+){2,}\.")
_MAX_SENTENCE_CHARS = 1_000


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BEFORE_A_NAME = _words(
    "mr. mrs. ms. dr. prof. rev. hon. gen. col. maj. capt. lt. sgt. gov. sen. rep. pres. st. mt. messrs. vs. v. "
    "e.g. i.e. cf. viz. approx. ca. esp. incl. fig. figs. eq. eqs. sec. secs. ch. chap. vol. vols. no. nos. pp. p. "
    "al. art. para. ref. refs. ed. eds. pub. tab. app. nr. bzw. z.b. u.a."
)
_MAYBE_LAST = _words(
    "etc. inc. co. corp. ltd. llc. jr. sr. bros. dept. div. assn. univ. est. ave. blvd. rd. a.m. p.m. ph.d. jan. "
    "feb. mar. apr. jun. jul. aug. sep. sept. oct. nov. dec. mon. tue. wed. thu. fri. sat. sun. min. max. avg. hr. ft."
)
_OPENERS = _words(
    "The A An In On At It Its This That These Those He She They We You I His Her Their Our My There Here For From By "
    "As If When While After Before Since Because But And Or So However Although Though Also To With Under During Both "
    "Each All Some Many Most Such No Not What Who Where Why How Which"
)


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Return the (start, end) spans of the sentences of `text`, without blanks at either end, in order.

    Together they hold every non-blank character.
    """
    spans: list[tuple[int, int]] = []
    for start, end in _paragraphs(text):
        first = start
        for cut in _ends(text, start, end):
            spans += _stripped(text, first, cut)
            first = cut
        spans += _stripped(text, first, end)
    return [piece for span in spans for piece in _by_line_if_long(text, *span)]


def _paragraphs(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for found in _PARAGRAPH_BREAK.finditer(text):
        yield start, found.start()
        start = found.end()
    yield start, len(text)


def _ends(text: str, start: int, end: int) -> list[int]:
    """Return the positions in a paragraph, in order, where one sentence ends and the next begins."""
    marks = [found.start() for mark in (_LIST_MARK, _LABEL) for found in mark.finditer(text, start, end)]
    stops = [found.end() for found in _TERMINATOR.finditer(text, start, end) if _is_end(text, found, start)]
    return sorted({*marks, *stops})


def _is_end(text: str, found: re.Match[str], paragraph_start: int) -> bool:
    """Decide whether the punctuation in `found` ends a sentence."""
    if found[0][0] != "." or found[0].startswith(".."):
        return True
    following = _NEXT_WORD.match(text, found.end())
    next_word = following[1] if following else ""
    if next_word[:1].islower():
        return False
    last = _LAST_WORD.search(text, max(paragraph_start, found.start() - 40), found.start() + 1)
    word = last[0] if last else "."
    if word.lower() in _BEFORE_A_NAME:
        return word.lower() == "no." and not next_word[:1].isdigit()
    if _SECTION_NUMBER.fullmatch(word):
        return False
    if last is not None and _LIST_NUMBER.fullmatch(word):
        before = text[max(paragraph_start, last.start() - 80) : last.start()]
        if not before.rsplit("\n", 1)[-1].strip():
            return False
    if word.lower() in _MAYBE_LAST or _ACRONYM.fullmatch(word):
        return next_word.rstrip(",;:.") in _OPENERS
    return True


def _stripped(text: str, start: int, end: int) -> list[tuple[int, int]]:
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    return [(start, start + len(piece.strip()))] if piece.strip() else []


def _by_line_if_long(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Cut a run of lines without punctuation (code, logs, tables) into its lines."""
    if end - start <= _MAX_SENTENCE_CHARS:
        return [(start, end)]
    lines: list[tuple[int, int]] = []
    first = start
    while first < end:
        last = text.find("\n", first, end)
        last = end if last < 0 else last
        lines += _stripped(text, first, last)
        first = last + 1
    return lines
