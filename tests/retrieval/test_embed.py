"""The bundled encoder gives its published similarities, and long texts are never cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from holdfast.errors import IntegrityError, InvalidInput
from holdfast.retrieval import embed
from holdfast.retrieval.embed import Embedder, make_embedder


def test_the_model_cards_two_sentences_have_their_published_similarity(embedder: Embedder) -> None:
    vectors = embedder.encode(["This is an example sentence", "Each sentence is converted"])
    assert vectors.dtype == np.float32
    assert vectors.shape == (2, 384)
    assert float(vectors[0] @ vectors[1]) == pytest.approx(0.40456, abs=1e-4)


def test_a_text_beyond_the_window_is_averaged_over_windows(embedder: Embedder) -> None:
    filler = "The committee met on Tuesday and read the minutes of the last meeting. " * 30
    needle = "The reactor was shut down after the coolant pump failed."
    assert embedder.count_tokens(filler) > embedder.max_tokens
    without, tail = embedder.encode([filler, filler + needle])
    question = embedder.encode(["Why was the reactor shut down?"])[0]
    assert float(question @ tail) > float(question @ without) + 0.02
    assert np.linalg.norm(tail) == pytest.approx(1.0, abs=1e-5)


def test_windows_count_by_their_length(embedder: Embedder) -> None:
    size = embedder.max_tokens * 15 // 16
    long, short = " ".join(["river"] * size), " ".join(["money"] * 20)
    parts = embedder.encode([long, short])
    [whole] = embedder.encode([f"{long} {short}"])
    expected = size * parts[0] + 20 * parts[1]
    assert np.allclose(whole, expected / np.linalg.norm(expected), atol=1e-5)


def test_a_texts_vector_does_not_depend_on_calls_before_it(embedder: Embedder) -> None:
    texts = [f"Sentence number {number} of a small document." for number in range(5)]
    first = embedder.encode(texts)
    embedder.encode(["something else entirely"] * 20)
    assert np.array_equal(first, embedder.encode(texts))


def test_token_offsets_point_into_the_text(embedder: Embedder) -> None:
    text = "Überraschung: naïve café — 3.14!"
    offsets = embedder.token_offsets(text)
    assert len(offsets) == embedder.count_tokens(text)
    assert text[offsets[0][0] : offsets[-1][1]] == text
    assert all(start < end for start, end in offsets)


def test_truncate_keeps_exactly_the_first_window(embedder: Embedder) -> None:
    text = "word " * 1000
    kept = embedder.truncate(text)
    assert embedder.count_tokens(kept) == embedder.max_tokens
    assert embedder.truncate("short") == "short"


def test_progress_counts_every_text_once(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "SLICE_SIZE", 3)
    seen: list[int] = []
    embedder.encode(["a", "b " * 700, "c", "d"], progress=seen.append)
    assert sum(seen) == 4
    assert len(seen) > 1
    assert embedder.encode([]).shape == (0, 384)


def test_weights_that_are_not_the_official_file_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "DEFAULT_WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(IntegrityError, match="not the official"):
        make_embedder()


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InvalidInput, match="cannot load embedding model"):
        make_embedder(str(tmp_path))


def test_tokens_average_to_the_texts_vector(embedder: Embedder) -> None:
    """The bundled model averages its tokens' vectors before they have length 1, so directions are close, not equal."""
    texts = ["The harbour master keeps the lighthouse.", "Tea."]
    tokens = embedder.encode_tokens(texts)
    assert [len(each) for each in tokens] == [len(embedder.token_offsets(text)) + 2 for text in texts]
    for each, vector in zip(tokens, embedder.encode(texts), strict=True):
        assert np.allclose(np.linalg.norm(each, axis=1), 1, atol=1e-5)
        mean = each.mean(axis=0)
        assert mean @ vector / np.linalg.norm(mean) > 0.95
