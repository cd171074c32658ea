"""What reading a file gives, before it is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdfast.retrieval.chunks import Passage
from holdfast.retrieval.documents import Document


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """A document read, split and embedded, not stored yet."""

    document: Document
    passages: Sequence[Passage]
    vectors: NDArray[np.float32]
    """(len(passages), dim), unit norm"""
