"""Comparison encodings: the bytes are fixed by key, id, version and epoch; ranking survives; types keep plain apart."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.errors import InvalidInput, ShapeError
from holdfast.privacy.distance import (
    Asym,
    AsymEncoding,
    CapriseEncoding,
    CipherVector,
    CodesEncoding,
    Encoding,
    PlainVector,
    SapEncoding,
    centre_of,
)
from holdfast.privacy.keys import SecretKey
from holdfast.privacy.leakage_view import Floats, unit
from holdfast.privacy.overfetch import rank_encoded

ROOT = SecretKey(bytes(range(32)))
DIM = 48
NUM_ROWS = 1200
IDS = [b"row %d" % number for number in range(NUM_ROWS)]
ONES = [1] * NUM_ROWS
SMALL = Asym(num_cells=4)


@pytest.fixture(scope="module")
def vectors() -> Floats:
    rng = np.random.default_rng(3)
    return unit(rng.standard_normal((NUM_ROWS, DIM)).astype(np.float32) + 0.3)


@pytest.fixture(scope="module")
def centre(vectors: Floats) -> np.ndarray:
    return centre_of(PlainVector(vectors))


def make(name: str, centre: np.ndarray, root: SecretKey = ROOT, epoch: int = 1) -> Encoding:
    if name == "asym":
        return AsymEncoding(root, centre, epoch, SMALL)
    return SapEncoding(root, centre, epoch) if name == "sap" else CodesEncoding(root, centre, epoch, num_cells=4)


@pytest.mark.parametrize("name", ["asym", "sap", "codes"])
class TestEveryRecipe:
    def test_a_row_is_the_same_bytes_whenever_written(self, name: str, vectors: Floats, centre: np.ndarray) -> None:
        together = make(name, centre).encode_rows(IDS, ONES, PlainVector(vectors))
        order = np.random.default_rng(4).permutation(NUM_ROWS)[:300]
        again = make(name, centre).encode_rows(
            [IDS[row] for row in order], [1] * 300, PlainVector(vectors[order])
        )
        alone = make(name, centre).encode_rows(IDS[7:8], [1], PlainVector(vectors[7:8]))
        assert np.array_equal(together.values[order], again.values)
        assert np.array_equal(together.cells[order], again.cells)
        assert np.array_equal(together.values[7], alone.values[0])

    def test_root_epoch_and_id_change_the_bytes(self, name: str, vectors: Floats, centre: np.ndarray) -> None:
        plain = PlainVector(np.repeat(vectors[:1], 40, axis=0))
        first = make(name, centre).encode_rows(IDS[:40], [1] * 40, plain)
        other = make(name, centre, root=SecretKey(bytes(32))).encode_rows(IDS[:40], [1] * 40, plain)
        assert not (first.values == other.values).all(axis=1).any()
        if name != "codes":  # codes carry no noise
            later = make(name, centre, epoch=2).encode_rows(IDS[:40], [1] * 40, plain)
            newer = make(name, centre).encode_rows(IDS[:40], [2] * 40, plain)
            for changed in (later, newer):
                assert not (first.values == changed.values).all(axis=1).any()
            assert len(np.unique(first.values, axis=0)) == 40

    def test_the_store_finds_the_nearest_row(self, name: str, vectors: Floats, centre: np.ndarray) -> None:
        encoding = make(name, centre)
        rows = encoding.encode_rows(IDS, ONES, PlainVector(vectors))
        for wanted in range(0, NUM_ROWS, 100):
            [query] = encoding.encode_queries([PlainVector(vectors[[wanted]])])
            found = rank_encoded(encoding.metric, rows, query, 80)
            assert wanted in found
            assert len(found) == len(set(found)) == 80

    def test_a_query_has_one_row_a_cell(self, name: str, vectors: Floats, centre: np.ndarray) -> None:
        encoding = make(name, centre)
        query = encoding.encode_queries([PlainVector(vectors[:1])])[0]
        rows = encoding.encode_rows(IDS[:9], [1] * 9, PlainVector(vectors[:9]))
        assert query.cells.tolist() == list(range(encoding.num_cells))
        assert query.values.shape == (encoding.num_cells, rows.values.shape[1])
        assert query.values.dtype == rows.values.dtype
        with pytest.raises(ShapeError, match="must be"):
            encoding.encode_queries([PlainVector(vectors[:1, :-1])])[0]

    def test_what_is_not_of_length_one_is_refused(self, name: str, vectors: Floats, centre: np.ndarray) -> None:
        for wrong in (2 * vectors[:3], np.full((3, DIM), np.nan, np.float32), np.zeros((3, DIM), np.float32)):
            with pytest.raises(InvalidInput, match="length 1"):
                make(name, centre).encode_rows(IDS[:3], [1] * 3, PlainVector(wrong))

    def test_ids_versions_and_vectors_go_together(self, name: str, vectors: Floats, centre: np.ndarray) -> None:
        with pytest.raises(ShapeError, match="3 ids, 2 versions and 3 vectors"):
            make(name, centre).encode_rows(IDS[:3], [1] * 2, PlainVector(vectors[:3]))


class TestAsym:
    def test_scores_are_inner_products_up_to_the_noise(self, vectors: Floats, centre: np.ndarray) -> None:
        quiet = Asym(num_cells=4, noise_radius=0.0, query_padding=0.0)
        encoding = AsymEncoding(ROOT, centre, 1, quiet)
        rows = encoding.encode_rows(IDS, ONES, PlainVector(vectors))
        query = encoding.encode_queries([PlainVector(vectors[:1])])[0]
        exact = (vectors - centre) @ vectors[0]
        for cell in range(4):
            members = np.flatnonzero(rows.cells == cell)
            scores = rows.values[members] @ query.values[cell]
            factor = (scores @ exact[members]) / (exact[members] @ exact[members])
            assert 0.5 <= factor <= 2.0
            assert np.abs(scores - factor * exact[members]).max() < 1e-4

    def test_the_worst_case_bound_holds(self, vectors: Floats, centre: np.ndarray) -> None:
        """Order is kept where scores differ by more than twice the noise radius and a little padding."""
        encoding = AsymEncoding(ROOT, centre, 1, SMALL)
        rows = encoding.encode_rows(IDS, ONES, PlainVector(vectors))
        query = encoding.encode_queries([PlainVector(-unit(centre[None].astype(np.float32)))])[0]
        exact = vectors @ -unit(centre[None].astype(np.float32))[0]
        for cell in range(4):
            members = np.flatnonzero(rows.cells == cell)
            scores = rows.values[members] @ query.values[cell]
            low, high = exact[members][np.argmax(scores)], exact[members].max()
            assert high - low <= 2 * SMALL.noise_radius + 0.1

    def test_a_matrix_and_its_inverse_have_the_condition_number(self, centre: np.ndarray) -> None:
        encoding = AsymEncoding(ROOT, centre, 1, SMALL)
        for matrix, inverse in zip(encoding._row_matrices, encoding._query_matrices, strict=True):
            assert np.abs(matrix.T @ inverse.T - np.eye(len(matrix))).max() < 1e-5
            assert np.linalg.cond(matrix) <= SMALL.condition_number * 1.001

    def test_queries_differ_each_time_unless_their_randomness_is_given(
        self, vectors: Floats, centre: np.ndarray
    ) -> None:
        query = PlainVector(vectors[:1])
        encoding = AsymEncoding(ROOT, centre, 1, SMALL)
        first, second = encoding.encode_queries([query, query])
        assert not np.array_equal(first.values, second.values)
        seeded = AsymEncoding(ROOT, centre, 1, SMALL, random=bytes)
        assert np.array_equal(seeded.encode_queries([query])[0].values, seeded.encode_queries([query])[0].values)

    def test_a_query_may_have_a_row_for_each_cell(self, vectors: Floats, centre: np.ndarray) -> None:
        encoding = AsymEncoding(ROOT, centre, 1, SMALL, random=bytes)
        each = encoding.encode_queries([PlainVector(vectors[:4])])[0]
        assert np.array_equal(each.values[2], encoding.encode_queries([PlainVector(vectors[2:3])])[0].values[2])
        with pytest.raises(ShapeError, match="one for each of 4 cells, not 3"):
            encoding.encode_queries([PlainVector(vectors[:3])])[0]

    @pytest.mark.parametrize("wrong", [0.5, 65.0])
    def test_a_condition_number_beyond_the_grid_is_refused(self, wrong: float, centre: np.ndarray) -> None:
        with pytest.raises(InvalidInput, match="condition_number"):
            AsymEncoding(ROOT, centre, 1, Asym(condition_number=wrong))


def test_sap_keeps_distances_up_to_its_noise(vectors: Floats, centre: np.ndarray) -> None:
    encoding = SapEncoding(ROOT, centre, 1, approximation_factor=0.4)
    rows = encoding.encode_rows(IDS[:200], [1] * 200, PlainVector(vectors[:200])).values
    query = encoding.encode_queries([PlainVector(vectors[:1])])[0].values[0]
    moved = np.linalg.norm(rows - query, axis=1) - np.linalg.norm(vectors[:200] - vectors[0], axis=1)
    assert np.abs(moved).max() <= 0.2 + 1e-4
    assert not np.allclose(unit(rows), vectors[:200], atol=0.3), "the rotation is secret"


def test_codes_differ_in_the_share_of_bits_that_is_the_angle(vectors: Floats, centre: np.ndarray) -> None:
    encoding = CodesEncoding(ROOT, centre, 1, num_cells=1, num_bits=4096)
    rows = encoding.encode_rows(IDS[:50], [1] * 50, PlainVector(vectors[:50])).values
    bits = np.unpackbits(rows, axis=1)
    shares = (bits[0] != bits[1:]).mean(axis=1)
    centred = unit((vectors[:50] - centre).astype(np.float32))
    angles = np.arccos(np.clip(centred[1:] @ centred[0], -1, 1)) / np.pi
    assert np.abs(shares - angles).max() < 4 * 0.5 / np.sqrt(4096)
    assert rows.shape == (50, 512)


def test_caprise_as_published_draws_fresh_noise(vectors: Floats) -> None:
    encoding = CapriseEncoding(ROOT)
    first, again = (encoding.encode_rows(IDS[:9], [1] * 9, PlainVector(vectors[:9])).values for _ in range(2))
    assert not np.array_equal(first, again)
    assert np.einsum("nd,nd->n", unit(first), vectors[:9]).min() > 0.99


def test_a_centre_needs_many_vectors(vectors: Floats) -> None:
    with pytest.raises(InvalidInput, match="at least 1000 vectors, not 999"):
        centre_of(PlainVector(vectors[:999]))


def test_vectors_do_not_print(vectors: Floats) -> None:
    assert "0." not in repr(PlainVector(vectors[:2]))
    assert "0." not in repr(CipherVector(np.zeros(2, np.int32), vectors[:2]))
