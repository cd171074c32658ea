"""What an example is before it becomes tokens: documents, and questions with their answers."""

from __future__ import annotations

from dataclasses import dataclass, field

NONE = "<none>"
"""the answer where the documents do not say; a token of its own"""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, its answer, and the documents that hold it."""

    question: str
    answer: str
    evidence: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Context:
    """Documents in the order a sequential reader gets them; without questions it is plain text."""

    kind: str
    documents: list[str]
    asked: list[Asked] = field(default_factory=list)
