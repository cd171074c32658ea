"""What kind of answer a question asks for, and whether a sentence holds one: numbers, dates, names.

Surface cues of English questions; a question of no known kind, or in another language, has none.
"""

from __future__ import annotations

import re
from typing import Literal

AnswerKind = Literal["number", "date", "name", "other"]

_ASKS_NUMBER = re.compile(
    r"\bhow (?:many|much|long|old|tall|far|big|large|high|fast|often|deep|wide|heavy)\b"
    r"|\bwhat (?:percent\w*|number|age)\b"
)
_ASKS_DATE = re.compile(r"\bwhen\b|\b(?:what|which) (?:year|date|day|month|decade|century)\b")
_ASKS_NAME = re.compile(
    r"\bwho(?:m|se)?\b|\bwhere\b|\b(?:what|which) (?:city|country|state|place|location|county|river|town|region)\b"
)
_NUMBER = re.compile(
    r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty|hundred|thousand"
    r"|million|billion|dozen)\b",
    re.IGNORECASE,
)
_DATE = re.compile(
    r"\b(?:1\d{3}|20\d\d)\b|\bcentury\b"
    r"|\b(?:January|February|March|April|May|June|July|August|September|October|November|December)\b"
)
_NAME = re.compile(r"(?<!^)(?<![.!?]\s)\b[A-Z]\w+")


def answer_kind(question: str) -> AnswerKind:
    """Return what `question` asks for; how many goes before when, when before who."""
    asked = question.lower()
    if _ASKS_NUMBER.search(asked):
        return "number"
    if _ASKS_DATE.search(asked):
        return "date"
    return "name" if _ASKS_NAME.search(asked) else "other"


def holds_answer(kind: AnswerKind, sentence: str, question: str) -> bool:
    """Say whether `sentence` has something of that kind; a name counts only if the question does not hold it."""
    if kind == "number":
        return _NUMBER.search(sentence) is not None
    if kind == "date":
        return _DATE.search(sentence) is not None
    asked = question.lower()
    return kind == "name" and any(name.lower() not in asked for name in _NAME.findall(sentence))
