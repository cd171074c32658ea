"""The Triton scan equals the NumPy definition bit for bit, in Triton's interpreter where conftest.py asks for it."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import numpy as np
import pytest

from holdfast.errors import ShapeError
from holdfast.kernels.packing import pack, pack_mask
from holdfast.kernels.scan import scan_top_k_reference

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


@pytest.fixture(scope="module")
def scan_gpu() -> ModuleType:
    """The module, imported late because it imports torch."""
    pytest.importorskip("triton", reason="triton has no package for this platform")
    return importlib.import_module("holdfast.kernels.scan_gpu")


@pytest.mark.parametrize("num_rows", [1, 31, 33, 300])
@pytest.mark.parametrize(("dim", "bits"), [(100, 1), (384, 1), (63, 2), (40, 4)])
@pytest.mark.parametrize("is_shuffled", [False, True])
def test_the_triton_scan_equals_the_reference(
    scan_gpu: ModuleType, num_rows: int, dim: int, bits: int, is_shuffled: bool
) -> None:
    rng = np.random.default_rng(num_rows + dim)
    patterns = rng.integers(0, 2**bits, (max(1, num_rows // 3), dim)).astype(np.uint8)  # many equal codes
    blocks = pack(patterns[rng.integers(0, len(patterns), num_rows)], bits)
    ids = np.arange(num_rows, dtype=np.uint64) * np.uint64(2**63 // num_rows * 2 - 1)
    ids = rng.permutation(ids) if is_shuffled else ids
    queries = rng.integers(-128, 128, (3, dim)).astype(np.int8)
    allowed = pack_mask(rng.random(num_rows) < 0.6) if is_shuffled else None
    codes = scan_gpu.to_device(blocks, ids, DEVICE)
    for top_k in (1, 7):
        found = scan_gpu.scan_top_k_gpu(codes, queries, top_k, bits=bits, allowed=allowed)
        expected = scan_top_k_reference(blocks, ids, queries, top_k, bits=bits, allowed=allowed)
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == other.dtype
            assert np.array_equal(one, other)


def test_more_queries_than_one_program_takes_get_what_each_gets_alone(scan_gpu: ModuleType) -> None:
    rng = np.random.default_rng(0)
    blocks, ids = pack(rng.random((140, 64)) < 0.5), np.arange(140, dtype=np.uint64)
    queries = rng.integers(-128, 128, (70, 64)).astype(np.int8)
    codes = scan_gpu.to_device(blocks, ids, DEVICE)
    found = scan_gpu.scan_top_k_gpu(codes, queries, 5)
    expected = scan_top_k_reference(blocks, ids, queries, 5)
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_no_codes_give_no_rows(scan_gpu: ModuleType) -> None:
    codes = scan_gpu.to_device(pack(np.zeros((0, 16), dtype=np.bool_)), np.empty(0, dtype=np.uint64), DEVICE)
    _, rows = scan_gpu.scan_top_k_gpu(codes, np.zeros((2, 16), dtype=np.int8), 3)
    assert rows.tolist() == [[-1] * 3] * 2


def test_queries_of_another_length_are_refused(scan_gpu: ModuleType) -> None:
    codes = scan_gpu.to_device(pack(np.zeros((5, 16), dtype=np.bool_)), np.arange(5, dtype=np.uint64), DEVICE)
    with pytest.raises(ShapeError):
        scan_gpu.scan_top_k_gpu(codes, np.zeros((2, 24), dtype=np.int8), 3)
