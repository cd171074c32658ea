"""A stopped run resumes: what is in the cache is not embedded again, and a torn record is cut off."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from holdfast.retrieval.embed import Embedder
from holdfast.retrieval.embedding_cache import EmbeddingCache


def test_a_second_run_reads_what_the_first_embedded(embedder: Embedder, tmp_path: Path) -> None:
    path = tmp_path / "cache" / "vectors.bin"
    texts = ["alpha", "beta", "alpha", "gamma"]
    first = EmbeddingCache(path, embedder).encode(texts)
    size = path.stat().st_size
    assert size == 3 * (32 + 4 * embedder.dim)
    again = EmbeddingCache(path, embedder).encode(texts)
    assert np.array_equal(first, again)
    assert path.stat().st_size == size
    assert np.array_equal(first[0], first[2])
    assert np.allclose(first, embedder.encode(texts), atol=1e-5)


def test_a_torn_last_record_is_embedded_anew(embedder: Embedder, tmp_path: Path) -> None:
    path = tmp_path / "vectors.bin"
    whole = EmbeddingCache(path, embedder).encode(["alpha", "beta"])
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 7)
    assert np.allclose(EmbeddingCache(path, embedder).encode(["alpha", "beta"]), whole, atol=1e-5)
    assert path.stat().st_size == 2 * (32 + 4 * embedder.dim)
