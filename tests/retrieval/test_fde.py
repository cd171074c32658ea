from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from holdfast.errors import InvalidInput, ShapeError
from holdfast.kernels.hadamard import make_rotation, rotate
from holdfast.retrieval.fde import FixedDimensionalEncoder, MultiVectorIndex, maxsim, to_token_rows

DIM = 64


def make_tokens(rng: np.random.Generator, num_tokens: int) -> NDArray[np.float32]:
    tokens = rng.standard_normal((num_tokens, DIM)).astype(np.float32)
    return (tokens / np.linalg.norm(tokens, axis=1, keepdims=True)).astype(np.float32)


def encode_plainly(
    encoder: FixedDimensionalEncoder, tokens: NDArray[np.float32], *, is_query: bool
) -> NDArray[np.float64]:
    """One token, repetition and partition after the other."""
    num_signs, width = encoder.num_simhash_projections, encoder.projection_dim
    blocks = []
    for repetition in range(encoder.num_repetitions):
        rotated = rotate(tokens, make_rotation(encoder.dim, encoder.seed + repetition))
        signs = [[int(value > 0) for value in row[:num_signs]] for row in rotated]
        for partition in range(1 << num_signs):
            wanted = [partition >> place & 1 for place in range(num_signs)]
            held = zip(rotated, signs, strict=True)
            inside = [row[num_signs : num_signs + width] for row, own in held if own == wanted]
            block = np.sum(inside, axis=0, dtype=np.float64) if inside else np.zeros(width)
            if not is_query and inside:
                block /= len(inside)
            elif not is_query and encoder.fill_empty_partitions:
                differing = [sum(a != b for a, b in zip(own, wanted, strict=True)) for own in signs]
                block = rotated[int(np.argmin(differing)), num_signs : num_signs + width].astype(np.float64)
            blocks.append(block)
    flat = np.concatenate(blocks)
    return flat / np.linalg.norm(flat)


@pytest.mark.parametrize("fills", [True, False])
@pytest.mark.parametrize("num_signs", [0, 1, 3])
def test_encodings_are_what_the_definition_says(rng: np.random.Generator, num_signs: int, fills: bool) -> None:
    encoder = FixedDimensionalEncoder(DIM, 3, num_signs, 8, fill_empty_partitions=fills, seed=4)
    texts = [make_tokens(rng, count) for count in (1, 2, 17)]
    for is_query, encoded in ((False, encoder.encode_documents(texts)), (True, encoder.encode_queries(texts))):
        assert encoded.shape == (3, encoder.fde_dim) == (3, 3 * 8 << num_signs)
        expected = np.stack([encode_plainly(encoder, tokens, is_query=is_query) for tokens in texts])
        assert np.allclose(encoded, expected, atol=1e-6)


def test_an_encoding_depends_on_its_own_text_only(rng: np.random.Generator) -> None:
    encoder = FixedDimensionalEncoder(DIM, 4, 2, 8)
    texts = [make_tokens(rng, count) for count in (5, 9, 300, 1)]
    together = encoder.encode_documents(texts)
    assert all(np.array_equal(encoder.encode_documents([text])[0], together[row]) for row, text in enumerate(texts))
    again = FixedDimensionalEncoder(DIM, 4, 2, 8).encode_documents(texts)
    assert np.array_equal(again, together)
    assert not np.array_equal(FixedDimensionalEncoder(DIM, 4, 2, 8, seed=9).encode_documents(texts), together)


def test_maxsim_is_the_sum_of_the_best_products(rng: np.random.Generator) -> None:
    query, document = make_tokens(rng, 7), make_tokens(rng, 40)
    expected = float((query.astype(np.float64) @ document.T).max(axis=1).sum())
    score = maxsim(to_token_rows(query), to_token_rows(document))
    assert score == pytest.approx(expected, abs=7 * 0.02)
    assert maxsim(to_token_rows(query), to_token_rows(document[::-1])) == score
    assert maxsim(to_token_rows(document), to_token_rows(document)) == pytest.approx(40, rel=0.01)


def test_passages_that_share_tokens_are_found(rng: np.random.Generator) -> None:
    """Each question is some tokens of its passage, disturbed, among unrelated passages."""
    texts = [make_tokens(rng, int(rng.integers(5, 30))) for _ in range(200)]
    index = MultiVectorIndex(FixedDimensionalEncoder(DIM, 12, 3, 16))
    ids = rng.permutation(10_000)[:200].astype(np.uint64)
    index.add(ids[:120], texts[:120])
    index.add(ids[120:], texts[120:])
    found = []
    for row in range(0, 200, 5):
        query = texts[row][:4] + 0.05 * rng.standard_normal((len(texts[row][:4]), DIM)).astype(np.float32)
        result = index.search(query, 3)
        assert result == sorted(result, key=lambda pair: (-pair[1], pair[0]))
        found.append(result[0][0] == int(ids[row]))
    assert np.mean(found) >= 0.95
    assert index.remove(ids[:1]) == 1
    assert len(index) == 199
    assert int(ids[0]) not in [found for found, _ in index.search(texts[0], 199)]


def test_equal_passages_go_by_id(rng: np.random.Generator) -> None:
    tokens = make_tokens(rng, 6)
    index = MultiVectorIndex(FixedDimensionalEncoder(DIM))
    index.add(np.array([9, 2, 5], dtype=np.uint64), [tokens, tokens, tokens])
    assert [found for found, _ in index.search(tokens, 2)] == [2, 5]


def test_faulty_settings_and_tokens_are_named() -> None:
    with pytest.raises(InvalidInput, match="at least 1"):
        FixedDimensionalEncoder(DIM, num_repetitions=0)
    with pytest.raises(InvalidInput, match="at most dim"):
        FixedDimensionalEncoder(DIM, projection_dim=DIM)
    encoder = FixedDimensionalEncoder(DIM)
    for tokens in (np.zeros((0, DIM)), np.zeros((2, DIM - 1)), np.zeros(DIM)):
        with pytest.raises(ShapeError, match=r"texts\[0\]"):
            encoder.encode_queries([tokens.astype(np.float32)])
    with pytest.raises(InvalidInput, match="zero"):
        encoder.encode_queries([np.zeros((2, DIM), dtype=np.float32)])
    assert encoder.encode_documents([]).shape == (0, encoder.fde_dim)
    with pytest.raises(InvalidInput, match="oversampling"):
        MultiVectorIndex(encoder).search(np.ones((1, DIM), dtype=np.float32), 1, oversampling=0.5)
