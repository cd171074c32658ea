"""Vectors kept on disk by the text they came from, so that a long embedding run resumes where it was stopped.

One append-only file of fixed-size records: SHA-256 of (model id, text), then the float32 vector. A torn last record,
left by a crash, is cut off when the file is next opened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from holdfast.retrieval.embed import SLICE_SIZE, Embedder

DIGEST_SIZE = 32


class EmbeddingCache:
    """`encode` like the embedder's, answered from `path` where the text was embedded before."""

    def __init__(self, path: Path, embedder: Embedder) -> None:
        self._embedder = embedder
        self._record = np.dtype([("digest", f"V{DIGEST_SIZE}"), ("vector", np.float32, (embedder.dim,))])
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            size = file.seek(0, 2)
            file.truncate(size - size % self._record.itemsize)
            file.seek(0)
            self._records = np.frombuffer(file.read(), dtype=self._record)
        self._rows = {digest.tobytes(): row for row, digest in enumerate(self._records["digest"])}

    def encode(self, texts: Sequence[str], *, progress: Callable[[int], None] | None = None) -> NDArray[np.float32]:
        """Return (len(texts), dim) float32 unit-norm vectors; `progress` is told of texts as they are done."""
        digests = [hashlib.sha256(f"{self._embedder.model_id}\0{text}".encode()).digest() for text in texts]
        missing = {digest: text for digest, text in zip(digests, texts, strict=True) if digest not in self._rows}
        if progress is not None:
            progress(len(texts) - len(missing))
        todo = sorted(missing.items(), key=lambda item: (len(item[1]), item[0]))
        for first in range(0, len(todo), SLICE_SIZE):
            part = todo[first : first + SLICE_SIZE]
            records = np.empty(len(part), dtype=self._record)
            records["digest"] = [np.void(digest) for digest, _ in part]
            records["vector"] = self._embedder.encode([text for _, text in part])
            with self._path.open("ab") as file:
                file.write(records.tobytes())
            self._rows.update({digest: len(self._records) + row for row, (digest, _) in enumerate(part)})
            self._records = np.concatenate([self._records, records])
            if progress is not None:
                progress(len(part))
        return np.ascontiguousarray(self._records["vector"][[self._rows[digest] for digest in digests]])
