"""The compiled scan equals its NumPy definition bit for bit, whatever the chunks, threads and batches."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import ShapeError
from holdfast.kernels import scan, scan_cpu, scan_vector
from holdfast.kernels.packing import pack, pack_mask, unpack
from holdfast.kernels.scan import NO_SCORE, scan_above, scan_above_reference, scan_top_k, scan_top_k_reference

ROOT = Path(__file__).parents[2]


def test_warming_up_compiles_the_kernel() -> None:
    code = (
        "from holdfast.kernels.scan import warm_up; warm_up();"
        "from holdfast.kernels.scan_cpu import scan_bytes;"
        "from holdfast.kernels.scan_vector import scan_tables;"
        "print(len(scan_bytes.signatures) + len(scan_tables.signatures))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def make_codes(
    num_rows: int, dim: int, seed: int, bits: int = 1, limit: int = 128
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes with many equal ones, ids in no order that reach over 2^63, and queries with the extreme values."""
    rng = np.random.default_rng(seed)
    patterns = rng.integers(0, 2**bits, (max(1, num_rows // 3), dim)).astype(np.uint8)
    levels = patterns[rng.integers(0, len(patterns), num_rows)]
    ids = rng.permutation(num_rows).astype(np.uint64) * np.uint64(2**63 // max(1, num_rows) * 2 - 1)
    queries = rng.integers(-limit, min(limit, 127) + 1, (rng.integers(1, 40), dim)).astype(np.int8)
    queries[0] = rng.choice([-limit, min(limit, 127)], dim)
    return pack(levels, bits), ids, queries


@settings(max_examples=150)
@given(
    num_rows=st.one_of(st.sampled_from([0, 1, 31, 32, 33]), st.integers(0, 300)),
    dim=st.sampled_from([1, 8, 63, 100, 384]),
    bits=st.sampled_from([1, 2, 4]),
    limit=st.sampled_from([1, 7, 15, 31, 63, 128]),
    top_k=st.integers(1, 60),
    num_threads=st.sampled_from([1, 2, 5, None]),
    min_work=st.sampled_from([1, 40, 1024]),
    is_vector=st.booleans(),
    is_filtered=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_the_compiled_scan_equals_the_reference(
    num_rows: int,
    dim: int,
    bits: int,
    limit: int,
    top_k: int,
    num_threads: int | None,
    min_work: int,
    is_vector: bool,
    is_filtered: bool,
    seed: int,
) -> None:
    blocks, ids, queries = make_codes(num_rows, dim, seed, bits, limit)
    members = np.random.default_rng(seed).random(num_rows) < 0.5
    allowed = pack_mask(members) if is_filtered else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "MIN_WORK", min_work)
        if not is_vector:
            patch.setattr(scan_vector, "look_up_instruction", lambda: None)
        scores, rows = scan_top_k(blocks, ids, queries, top_k, bits=bits, allowed=allowed, num_threads=num_threads)
    expected_scores, expected_rows = scan_top_k_reference(blocks, ids, queries, top_k, bits=bits, allowed=allowed)
    assert scores.dtype == np.int32
    assert rows.dtype == np.int64
    assert np.array_equal(scores, expected_scores)
    assert np.array_equal(rows, expected_rows)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("limit", [7, 24, 128])
def test_many_queries_over_many_chunks_equal_the_reference(bits: int, limit: int) -> None:
    """More queries than one pass holds, more codes than stay in the cache."""
    blocks, ids, queries = make_codes(12_000, 384, seed=bits, bits=bits, limit=limit)
    queries = np.concatenate([queries] * 3)[:50]
    found = [scan_top_k(blocks, ids, queries, 20, bits=bits, num_threads=threads) for threads in (1, 2)]
    for got, expected in zip(found[0], scan_top_k_reference(blocks, ids, queries, 20, bits=bits), strict=True):
        assert np.array_equal(got, expected)
    assert all(np.array_equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize(("dim", "bits", "limit"), [(384, 1, 128), (1100, 4, 128), (3000, 2, 60)])
def test_sums_beyond_bytes_and_beyond_16_bits_are_exact(dim: int, bits: int, limit: int) -> None:
    queries = np.full((2, dim), -limit, dtype=np.int8)
    queries[1] = min(limit, 127)
    levels = np.random.default_rng(2).integers(0, 2**bits, (70, dim)).astype(np.uint8)
    levels[3], levels[4] = 0, 2**bits - 1
    blocks, ids = pack(levels, bits), np.arange(70, dtype=np.uint64)
    scores, rows = scan_top_k(blocks, ids, queries, 70, bits=bits)
    expected_scores, expected_rows = scan_top_k_reference(blocks, ids, queries, 70, bits=bits)
    assert scores[0, 0] == limit * dim * (2**bits - 1)
    assert np.array_equal(scores, expected_scores)
    assert np.array_equal(rows, expected_rows)


def test_the_kernel_follows_from_the_queries_and_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks, ids, masks = np.zeros((1, 550, 32), np.uint8), np.arange(32, dtype=np.uint64), np.empty(0, np.uint32)

    def kernel(limit: int) -> object:
        return scan._make_scanner(blocks, ids, masks, np.full((1, 1100), limit, dtype=np.int8), 4).func

    has_vectors = scan_vector.look_up_instruction() is not None
    assert kernel(3) is (scan_vector.scan_tables if has_vectors else scan_cpu.scan_bytes)
    assert kernel(127) is scan_cpu.scan_bytes  # 1,100 numbers of 127 times 15 do not fit into 16 bits
    monkeypatch.setattr(scan_vector, "look_up_instruction", lambda: None)
    assert kernel(3) is scan_cpu.scan_bytes


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names processors of one family")
@pytest.mark.parametrize(("cpu", "lanes"), [("nehalem", 16), ("x86-64", 0)])
def test_older_processors_give_the_same_results(cpu: str, lanes: int, tmp_path: Path) -> None:
    """numba compiles for the processor named, in a process and a cache folder of their own."""
    blocks, ids, queries = make_codes(700, 100, seed=3, bits=2, limit=24)
    expected = scan_top_k(blocks, ids, queries, 9, bits=2)
    np.savez(tmp_path / "in.npz", blocks=blocks, ids=ids, queries=queries)
    code = """
import numpy as np
from holdfast.kernels.scan import scan_top_k
from holdfast.kernels.scan_vector import look_up_instruction
given = np.load("in.npz")
scores, rows = scan_top_k(given["blocks"], given["ids"], given["queries"], 9, bits=2)
np.savez("out.npz", scores=scores, rows=rows)
print((look_up_instruction() or (0,))[0])
"""
    chosen = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    if lanes:
        chosen["NUMBA_CPU_FEATURES"] = "+ssse3"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), **chosen},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [str(lanes)], done.stderr
    found = np.load(tmp_path / "out.npz")
    assert np.array_equal(found["scores"], expected[0])
    assert np.array_equal(found["rows"], expected[1])


def test_bits_of_a_mask_beyond_the_last_row_are_ignored() -> None:
    blocks, ids, queries = make_codes(33, 16, seed=1)
    scores, rows = scan_top_k(blocks, ids, queries, 64, allowed=np.full(2, 0xFFFFFFFF, dtype=np.uint32))
    assert int((rows >= 0).sum()) == 33 * len(queries)
    assert np.array_equal(scores, scan_top_k(blocks, ids, queries, 64)[0])


def test_scores_are_inner_products_with_signs() -> None:
    bits = np.array([[True, False, True], [False, False, True]])
    query = np.array([[10, -20, 3]], dtype=np.int8)
    scores, rows = scan_top_k(pack(bits), np.array([7, 8], dtype=np.uint64), query, 3)
    assert scores.tolist() == [[33, 13, NO_SCORE]]
    assert rows.tolist() == [[0, 1, -1]]


def test_equal_scores_go_by_id_also_at_the_cut() -> None:
    bits = np.ones((100, 16), dtype=np.bool_)
    ids = np.random.default_rng(1).permutation(100).astype(np.uint64)
    _, rows = scan_top_k(pack(bits), ids, np.ones((1, 16), dtype=np.int8), 10)
    assert ids[rows[0]].tolist() == list(range(10))


def test_a_query_alone_gets_what_it_gets_in_a_batch() -> None:
    blocks, ids, queries = make_codes(250, 384, seed=5)
    scores, rows = scan_top_k(blocks, ids, queries, 9)
    for row in range(len(queries)):
        alone = scan_top_k(blocks, ids, queries[row : row + 1], 9)
        assert np.array_equal(alone[0][0], scores[row])
        assert np.array_equal(alone[1][0], rows[row])


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"queries": np.zeros(384, dtype=np.int8)}, "queries"),
        ({"queries": np.zeros((1, 384), dtype=np.float32)}, "queries"),
        ({"queries": np.zeros((1, 392), dtype=np.int8)}, "blocks"),
        ({"ids": np.arange(65, dtype=np.uint64)}, "blocks"),
        ({"ids": np.arange(64)}, "ids"),
        ({"top_k": 0}, "top_k"),
        ({"bits": 3}, "bits"),
        ({"bits": 2}, "blocks"),
        ({"allowed": np.zeros(1, dtype=np.uint32)}, "allowed"),
        ({"allowed": np.zeros(2, dtype=np.int64)}, "allowed"),
    ],
)
def test_arrays_that_do_not_fit_are_named(changes: dict[str, object], param: str) -> None:
    fitting = {
        "blocks": np.zeros((2, 48, 32), dtype=np.uint8),
        "ids": np.arange(64, dtype=np.uint64),
        "queries": np.zeros((1, 384), dtype=np.int8),
        "top_k": 1,
    }
    with pytest.raises(ShapeError) as raised:
        scan_top_k(**{**fitting, **changes})  # type: ignore[arg-type]
    assert raised.value.param == param


def test_an_installation_without_any_writable_cache_folder_still_compiles(tmp_path: Path) -> None:
    kernels = tmp_path / "holdfast" / "kernels"
    kernels.mkdir(parents=True)
    for name in ("__init__.py", "errors.py", "kernels/__init__.py", "kernels/packing.py", "kernels/scan_cpu.py"):
        shutil.copy(ROOT / "holdfast" / name, tmp_path / "holdfast" / name)
    (kernels / "__pycache__").write_text("a file where the cache folder would be")  # holds also for the superuser
    code = """
import numpy as np
from holdfast.kernels.scan_cpu import fill_table
table = np.zeros((1, 256), dtype=np.int16)
print(fill_table(table, np.arange(8, dtype=np.int8), 1), table[0, 6])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["28", "3"], done.stderr


@settings(max_examples=80)
@given(
    num_rows=st.one_of(st.sampled_from([0, 1, 31, 32, 33]), st.integers(0, 300)),
    dim=st.sampled_from([1, 15, 60, 128, 384]),
    bits=st.sampled_from([1, 2, 4]),
    limit=st.sampled_from([1, 7, 31, 128]),
    is_vector=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_rows_above_thresholds_equal_the_definition(
    num_rows: int, dim: int, bits: int, limit: int, is_vector: bool, seed: int
) -> None:
    blocks, _, queries = make_codes(num_rows, dim, seed, bits, limit)
    queries = queries[:5]
    values = 2 * unpack(blocks, num_rows, dim, bits).astype(np.int64) - (2**bits - 1)
    rng = np.random.default_rng(seed)
    scores = (queries.astype(np.int64) @ values.T).ravel() if num_rows else np.zeros(1, dtype=np.int64)
    thresholds = rng.choice(scores, (len(queries), len(blocks))) + rng.integers(0, 2)
    extremes = rng.random(thresholds.shape)
    thresholds[extremes < 0.2] = 2**62
    thresholds[extremes > 0.95] = -(2**62)
    with pytest.MonkeyPatch.context() as patch:
        if not is_vector:
            patch.setattr(scan_vector, "look_up_instruction", lambda: None)
        found = scan_above(blocks, num_rows, queries, thresholds, bits=bits)
    np.testing.assert_array_equal(found, scan_above_reference(blocks, num_rows, queries, thresholds, bits=bits))


def test_a_block_out_of_reach_is_not_read_and_one_in_reach_gives_all_its_rows() -> None:
    blocks, _, _ = make_codes(96, 16, 0)
    query = np.ones((1, 16), dtype=np.int8)
    thresholds = np.array([[-16, 17, -16]])
    np.testing.assert_array_equal(scan_above(blocks, 96, query, thresholds), [*range(32), *range(64, 96)])


@pytest.mark.parametrize(
    ("num_rows", "queries", "thresholds"),
    [
        (33, np.ones((1, 16), dtype=np.int8), np.zeros((1, 1), dtype=np.int64)),
        (32, np.ones((1, 16), dtype=np.int16), np.zeros((1, 1), dtype=np.int64)),
        (32, np.ones((1, 16), dtype=np.int8), np.zeros((1, 2), dtype=np.int64)),
        (32, np.ones((1, 16), dtype=np.int8), np.zeros((1, 1), dtype=np.int32)),
    ],
)
def test_thresholds_and_codes_that_do_not_fit_are_refused(
    num_rows: int, queries: np.ndarray, thresholds: np.ndarray
) -> None:
    blocks, _, _ = make_codes(32, 16, 0)
    with pytest.raises(ShapeError):
        scan_above(blocks, num_rows, queries, thresholds)
