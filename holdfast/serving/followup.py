"""A follow-up question made to stand alone, by rules.

A last question that leans on the conversation ("and when was it built?") is searched for together with the content
words of the user's earlier turns; one that stands by itself is left as it is. Deterministic, and no model is needed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from holdfast.retrieval.words import FUNCTION_WORDS, content_words, stem
from holdfast.serving.engine.protocol import Message

MAX_ADDED_WORDS = 12
MAX_ADDED_NAMES = 4
_PERSONS = frozenset({"he", "him", "his", "she", "her", "hers", "they", "them", "their", "theirs"})
_POINTERS = _PERSONS | {"it", "its", "this", "that", "these", "those", "there", "one", "ones", "former", "latter"}
_OPENINGS = re.compile(r"\s*(?:and|but|or|so|also|then|what about|how about|what else|who else)\b", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+(?:[-'’.][^\W_]+)*")
MIN_CONTENT_WORDS = 2


def user_question(messages: Sequence[Message]) -> str:
    """Return the last user turn, or an empty string where there is none."""
    return next((turn.content for turn in reversed(messages) if turn.role == "user"), "")


def is_follow_up(question: str) -> bool:
    """Say whether `question` leans on what was said before."""
    spoken = {word.lower() for word in _WORD.findall(question)}
    return (
        bool(spoken & _POINTERS)
        or _OPENINGS.match(question) is not None
        or len(content_words(question)) < MIN_CONTENT_WORDS
    )


def standalone_question(messages: Sequence[Message]) -> str:
    """Return the last user turn, with what it leans on added behind it.

    Added are content words of earlier user turns, the latest turn first, and, where the question speaks of a person,
    names from the first sentence of the last answer.
    """
    question = user_question(messages)
    earlier = _earlier_turns(messages)
    if not earlier or not is_follow_up(question):
        return question
    known = set(content_words(question))
    added: list[str] = []
    if {word.lower() for word in _WORD.findall(question)} & _PERSONS:
        answers = [turn.content for turn in earlier if turn.role == "assistant"]
        first_sentence = re.split(r"(?<=[.!?])\s", answers[-1], maxsplit=1)[0] if answers else ""
        added += _new_words(first_sentence, known, MAX_ADDED_NAMES, names_only=True)
    for turn in reversed([turn for turn in earlier if turn.role == "user"]):
        added += _new_words(turn.content, known, MAX_ADDED_WORDS - len(added))
    return f"{question} {' '.join(added)}" if added else question


def _earlier_turns(messages: Sequence[Message]) -> list[Message]:
    last = max((row for row, turn in enumerate(messages) if turn.role == "user"), default=0)
    return list(messages[:last])


def _new_words(text: str, known: set[str], limit: int, *, names_only: bool = False) -> list[str]:
    """Return up to `limit` content words of `text` whose stems are not in `known`, and add the stems to it."""
    found: list[str] = []
    for word in _WORD.findall(text):
        folded = word.lower()
        if len(found) >= limit or folded in FUNCTION_WORDS or folded in _POINTERS or stem(folded) in known:
            continue
        if names_only and not word[0].isupper():
            continue
        known.add(stem(folded))
        found.append(word)
    return found
