"""The evaluation corpora, read from `HOLDFAST_EVAL_DATA`."""

from __future__ import annotations

import gzip
import json
import lzma
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

EVAL_DATA = Path(os.environ.get("HOLDFAST_EVAL_DATA", Path(__file__).parents[2] / "shared" / "data")).resolve()
EMBEDDING_CACHE = Path(os.environ.get("HOLDFAST_EVAL_CACHE", Path.home() / ".cache" / "holdfast")) / "embeddings.bin"


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a gzipped JSON-lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def book_paragraphs(limit: int) -> list[str]:
    """Return the first `limit` book paragraphs of 150 to 400 characters: distractors for a large merged corpus."""
    found: list[str] = []
    for path in sorted((EVAL_DATA / "lm_text").glob("books_*.txt.xz")):
        with lzma.open(path, "rt", encoding="utf-8") as lines:
            paragraph: list[str] = []
            for line in lines:
                if line.strip():
                    paragraph.append(line.strip())
                    continue
                text = " ".join(paragraph)
                paragraph = []
                if 150 <= len(text) <= 400:
                    found.append(text)
                    if len(found) == limit:
                        return found
    return found
