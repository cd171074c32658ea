"""Bit order and block layout."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from holdfast.errors import ShapeError
from holdfast.kernels.packing import (
    BITS,
    BLOCK_SIZE,
    num_blocks,
    num_code_bytes,
    pack,
    pack_mask,
    take_codes,
    to_blocks,
    unpack,
    unpack_mask,
)

SIGNS = arrays(np.bool_, st.tuples(st.integers(0, 97), st.integers(1, 70)))


@st.composite
def leveled(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """Levels, and their bits."""
    bits = draw(st.sampled_from(BITS))
    shape = st.tuples(st.integers(0, 97), st.integers(1, 70))
    return draw(arrays(np.uint8, shape, elements=st.integers(0, 2**bits - 1))), bits


def test_bit_b_of_byte_row_j_is_dimension_8j_plus_b() -> None:
    bits = np.zeros((40, 24), dtype=np.bool_)
    bits[33, 8 * 2 + 5] = True
    blocks = pack(bits)
    assert blocks.shape == (2, 3, BLOCK_SIZE)
    assert blocks[1, 2, 1] == 1 << 5
    assert np.count_nonzero(blocks) == 1


@pytest.mark.parametrize("bits", BITS)
def test_levels_are_packed_from_the_least_significant_bit(bits: int) -> None:
    levels = np.random.default_rng(bits).integers(0, 2**bits, (3, 21)).astype(np.uint8)
    blocks = pack(levels, bits)
    for row in range(3):
        whole = sum(int(level) << (bits * d) for d, level in enumerate(levels[row]))
        assert blocks[0, :, row].tobytes() == whole.to_bytes(num_code_bytes(21, bits), "little")


def test_384_bits_make_blocks_of_48_by_32_bytes() -> None:
    assert pack(np.ones((33, 384), dtype=np.bool_)).shape == (2, 48, 32)


@given(leveled())
def test_unpacking_gives_back_what_was_packed(drawn: tuple[np.ndarray, int]) -> None:
    levels, bits = drawn
    blocks = pack(levels, bits)
    assert blocks.shape == (num_blocks(len(levels)), num_code_bytes(levels.shape[1], bits), BLOCK_SIZE)
    assert np.array_equal(unpack(blocks, *levels.shape, bits), levels)


@given(SIGNS)
def test_padding_is_zero(bits: np.ndarray) -> None:
    blocks = pack(bits)
    assert int(np.unpackbits(blocks).sum()) == int(bits.sum())


@given(SIGNS, st.randoms(use_true_random=False))
def test_codes_can_be_taken_and_laid_out_again_in_any_order(bits: np.ndarray, random: object) -> None:
    order = np.array(random.sample(range(len(bits)), len(bits)), dtype=np.int64)  # type: ignore[attr-defined]
    assert np.array_equal(to_blocks(take_codes(pack(bits), order)), pack(bits[order]))


@given(arrays(np.bool_, st.integers(0, 97)))
def test_masks_hold_their_members(members: np.ndarray) -> None:
    masks = pack_mask(members)
    assert masks.shape == (num_blocks(len(members)),)
    assert masks.dtype == np.uint32
    assert np.array_equal(unpack_mask(masks, len(members)), members)
    assert sum(int(mask).bit_count() for mask in masks) == int(members.sum())


def test_bit_i_of_a_mask_is_row_i() -> None:
    members = np.zeros(40, dtype=np.bool_)
    members[[3, 32]] = True
    assert pack_mask(members).tolist() == [8, 1]


def test_bits_of_another_shape_are_refused() -> None:
    with pytest.raises(ShapeError):
        pack(np.ones(8, dtype=np.bool_))


def test_three_bits_are_refused() -> None:
    with pytest.raises(ShapeError):
        pack(np.ones((1, 8), dtype=np.uint8), 3)
