from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import ShapeError
from holdfast.retrieval.duplicates import distinct_rows, first_alike, first_alike_reference, is_repetition

CLAUSE = (
    "The lessee shall keep the premises in good repair, shall not sublet them without written consent of the lessor, "
    "and shall return them at the end of the lease in the state in which they were taken over, wear excepted. "
    "The rent is 1,200 a month."
)


def test_what_differs_in_case_blanks_or_a_word_repeats() -> None:
    assert is_repetition(CLAUSE, CLAUSE.upper().replace(" ", "\n"))
    assert is_repetition(CLAUSE, CLAUSE.replace("wear excepted", "normal wear excepted"))
    assert is_repetition("", "")


def test_a_negation_tells_two_clauses_apart() -> None:
    for said, changed in (("shall keep", "shall not keep"), ("without", "with"), ("and shall return", "won't return")):
        assert said in CLAUSE
        assert not is_repetition(CLAUSE, CLAUSE.replace(said, changed))


def test_a_figure_tells_two_clauses_apart() -> None:
    assert not is_repetition(CLAUSE, CLAUSE.replace("1,200", "1,300"))
    assert not is_repetition(CLAUSE, CLAUSE + " Clause 7.")
    assert not is_repetition(CLAUSE, CLAUSE.replace("premises", "vehicle").replace("lessor", "bank"))
    assert not is_repetition("a b c d", "w x y z")


def test_the_first_of_each_kind_is_kept() -> None:
    texts = [CLAUSE, "Something else.", CLAUSE.lower(), "Something else!", "A third."]
    assert distinct_rows(texts) == [0, 1, 4]
    assert distinct_rows([]) == []


@given(st.integers(0, 2**32 - 1), st.integers(1, 120), st.sampled_from([0, 1, 3, 7]))
def test_banded_search_finds_what_comparing_all_does(seed: int, num_rows: int, max_hamming: int) -> None:
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 256, (max(1, num_rows // 6), 9), dtype=np.uint8)
    codes = kinds[rng.integers(0, len(kinds), num_rows)]
    for _ in range(int(rng.integers(0, 10))):
        codes ^= (rng.random(codes.shape) < 0.05).astype(np.uint8) << rng.integers(0, 8, codes.shape, dtype=np.uint8)
    expected = first_alike_reference(codes, max_hamming)
    assert np.array_equal(first_alike(codes, max_hamming), expected)
    assert (expected <= np.arange(num_rows)).all()


def test_the_edge_of_the_distance_counts() -> None:
    codes = np.zeros((3, 48), dtype=np.uint8)
    codes[1, :23] = 1
    codes[2, :24] = 1
    assert first_alike(codes).tolist() == [0, 0, 1]
    assert first_alike(np.empty((0, 48), dtype=np.uint8)).tolist() == []


def test_faulty_codes_are_named() -> None:
    with pytest.raises(ShapeError, match="codes"):
        first_alike(np.zeros((2, 8), dtype=np.int64))  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="max_hamming"):
        first_alike(np.zeros((2, 8), dtype=np.uint8), 8)
