"""An index finds what is near; no result depends on history, threads, batches or whether it was saved."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import IntegrityError, InvalidInput, NotFound, ShapeError, StorageError
from holdfast.kernels.code_scores import best_codes_reference
from holdfast.kernels.hadamard import make_rotation
from holdfast.kernels.packing import pack
from holdfast.kernels.scan import scan_top_k_reference
from holdfast.retrieval import index_file, segment
from holdfast.retrieval.code_search import SCANNED, encode_queries
from holdfast.retrieval.evaluate import recall_at_k
from holdfast.retrieval.exact import nearest_rows
from holdfast.retrieval.index import ROW_SEED, BinaryIndex
from holdfast.retrieval.index_file import read_index_file
from holdfast.retrieval.quantise_rotated import HadamardQuantiser
from holdfast.retrieval.rescore import encode_rows
from holdfast.retrieval.segment_search import SearchResult
from tests.retrieval.quantiser_cases import fitted, text_like_vectors

DIM = 40


def unit_vectors(num_rows: int, dim: int = DIM, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((num_rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_index(ids: np.ndarray, vectors: np.ndarray) -> BinaryIndex:
    index = BinaryIndex(vectors.shape[1])
    index.add(ids, vectors)
    return index


def assert_same(found: SearchResult, expected: SearchResult) -> None:
    assert np.array_equal(found.ids, expected.ids)
    assert np.array_equal(found.scores, expected.scores)
    assert found.num_scanned == expected.num_scanned


def distinct_ids(num: int, seed: int = 0) -> np.ndarray:
    return np.unique(np.random.default_rng(seed).integers(0, 2**64, num, dtype=np.uint64))


def test_a_vector_finds_itself_first() -> None:
    vectors, ids = unit_vectors(500), distinct_ids(500)
    found = make_index(ids, vectors).search(vectors, 3)
    assert np.array_equal(found.ids[:, 0], ids)
    assert np.allclose(found.scores[:, 0], 1, atol=0.01)
    assert found.num_scanned == 500


def test_with_all_rows_as_candidates_the_order_is_nearly_exact() -> None:
    vectors, queries = unit_vectors(300, 384), unit_vectors(50, 384, seed=1)
    found = make_index(np.arange(300, dtype=np.uint64), vectors).search(queries, 10, oversampling=30)
    rows, scores = nearest_rows(vectors, queries, 10)
    assert np.abs(found.scores - scores).max() < 0.003
    overlap = [len(set(a) & set(b)) for a, b in zip(found.ids.tolist(), rows.tolist(), strict=True)]
    assert np.mean(overlap) > 9.7


def test_candidates_are_the_first_by_codes() -> None:
    vectors, queries = unit_vectors(300), unit_vectors(20, seed=1)
    ids = distinct_ids(300)
    index = make_index(ids, vectors)
    stored, encoded = index.quantiser.encode(vectors), encode_queries(index.quantiser, queries)
    codes = pack(stored.levels)
    _, scanned = scan_top_k_reference(codes, ids, encoded.coarse, SCANNED * 15)
    _, rows = best_codes_reference(codes, stored.factors, ids, scanned, encoded.fine, 15)
    found = index.search(queries, 10, oversampling=1.5, min_candidates=1)
    for line, candidates in zip(found.ids.tolist(), ids[rows].tolist(), strict=True):
        assert set(line) <= set(candidates)
        assert len(set(line)) == 10


@settings(max_examples=40)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_no_result_depends_on_the_history_of_an_index(data: st.DataObject, seed: int) -> None:
    """Shuffled, added in batches with others that are removed again, saved and loaded midway: one and the same."""
    random = np.random.default_rng(seed)
    num_kept, num_removed = data.draw(st.integers(1, 150)), data.draw(st.integers(0, 60))
    vectors = unit_vectors(num_kept + num_removed, seed=seed)
    vectors[1::3] = vectors[0]  # equal vectors, so that ids decide
    ids = random.permutation(distinct_ids(len(vectors), seed))
    kept = np.arange(num_kept)
    queries = np.concatenate([vectors[:3], unit_vectors(4, seed=seed + 1)])
    expected = make_index(ids[kept], vectors[kept]).search(queries, 7, num_threads=1)

    index = BinaryIndex(DIM)
    todo = random.permutation(len(vectors))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment, "SMALL_SIZE", data.draw(st.sampled_from([0, 4096])))
        while len(todo):
            size = data.draw(st.integers(1, len(todo)))
            index.add(ids[todo[:size]], vectors[todo[:size]])
            gone = todo[:size][todo[:size] >= num_kept]
            if data.draw(st.booleans()):
                assert index.remove(ids[gone]) == len(gone)
            if data.draw(st.booleans()):
                index = BinaryIndex.from_bytes(to_bytes(index))
            todo = todo[size:]
        index.remove(ids[num_kept:])
    assert np.array_equal(index.ids(), np.sort(ids[kept]))
    assert len(index) == num_kept
    assert_same(index.search(queries, 7, num_threads=data.draw(st.sampled_from([1, 2, None]))), expected)
    for row in range(len(queries)):
        assert np.array_equal(index.search(queries[row : row + 1], 7).scores[0], expected.scores[row])
    assert to_bytes(index) == to_bytes(make_index(ids[kept], vectors[kept]))


def to_bytes(index: BinaryIndex) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        index.save(Path(folder) / "index")
        return (Path(folder) / "index").read_bytes()


@settings(max_examples=40)
@given(share=st.floats(0, 1), seed=st.integers(0, 1000), parts=st.integers(1, 3))
def test_a_filter_gives_what_an_index_of_the_allowed_gives(share: float, seed: int, parts: int) -> None:
    vectors, ids = unit_vectors(200, seed=seed), distinct_ids(200, seed)
    is_allowed = np.random.default_rng(seed).random(200) < share
    index = BinaryIndex(DIM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment, "SMALL_SIZE", 0)
        for rows in np.array_split(np.arange(200), 2**parts - 1):
            index.add(ids[rows], vectors[rows])
    strangers = np.setdiff1d(distinct_ids(300, seed + 1), ids)
    allowed = np.random.default_rng(seed).permutation(np.concatenate([ids[is_allowed], strangers]))
    queries = unit_vectors(5, seed=seed + 2)
    expected = make_index(ids[is_allowed], vectors[is_allowed]).search(queries, 10)
    assert_same(index.search(queries, 10, allowed_ids=allowed), expected)


def test_fewer_rows_than_asked_for_leave_fewer_columns() -> None:
    index = make_index(np.arange(3, dtype=np.uint64), unit_vectors(3))
    assert index.search(unit_vectors(2), 10).ids.shape == (2, 3)
    assert index.search(unit_vectors(2), 10, allowed_ids=np.array([], dtype=np.uint64)).ids.shape == (2, 0)
    assert BinaryIndex(DIM).search(unit_vectors(2), 10).scores.shape == (2, 0)
    assert index.search(np.empty((0, DIM), dtype=np.float32), 10).ids.shape == (0, 3)


def test_an_id_that_is_there_is_refused_and_nothing_added() -> None:
    index = make_index(np.array([5, 6], dtype=np.uint64), unit_vectors(2))
    with pytest.raises(InvalidInput, match="id 6 is in the index already"):
        index.add(np.array([7, 6], dtype=np.uint64), unit_vectors(2))
    with pytest.raises(InvalidInput, match="id 8 is given twice"):
        index.add(np.array([8, 8], dtype=np.uint64), unit_vectors(2))
    assert index.ids().tolist() == [5, 6]


def test_a_removed_id_can_be_added_again() -> None:
    first, second = unit_vectors(2)
    index = make_index(np.array([5], dtype=np.uint64), first[None])
    assert index.remove(np.array([5, 5, 99], dtype=np.uint64)) == 1
    assert len(index) == 0
    index.add(np.array([5], dtype=np.uint64), second[None])
    assert index.search(second[None], 1).scores[0, 0] > 0.99


def test_small_additions_make_few_segments() -> None:
    index = BinaryIndex(DIM)
    vectors = unit_vectors(2000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment, "SMALL_SIZE", 8)
        for row in range(0, 2000, 4):
            index.add(np.arange(row, row + 4, dtype=np.uint64), vectors[row : row + 4])
    assert len(index) == 2000
    assert len(index._segments) <= 10


@pytest.mark.parametrize(
    ("ids", "num_vectors"), [(np.arange(3), 3), (np.arange(3, dtype=np.uint64), 2), (np.zeros((1, 1), np.uint64), 1)]
)
def test_ids_that_do_not_fit_are_refused(ids: np.ndarray, num_vectors: int) -> None:
    with pytest.raises(ShapeError):
        BinaryIndex(DIM).add(ids, unit_vectors(num_vectors))


def test_adding_nothing_changes_nothing() -> None:
    index = BinaryIndex(DIM)
    index.add(np.array([], dtype=np.uint64), np.empty((0, DIM), dtype=np.float32))
    assert len(index) == 0
    assert index.ids().dtype == np.uint64


def test_a_loaded_index_is_added_to_without_being_encoded_again(tmp_path: Path) -> None:
    vectors, ids = unit_vectors(300), np.arange(300, dtype=np.uint64)
    make_index(ids[:200], vectors[:200]).save(tmp_path / "index")
    index = BinaryIndex.load(tmp_path / "index")
    index.add(ids[200:], vectors[200:])
    index.remove(ids[:50])
    assert index._segments[0].is_on_disk
    assert_same(index.search(vectors[:9], 5), make_index(ids[50:], vectors[50:]).search(vectors[:9], 5))


def test_removed_rows_are_not_in_the_next_file(tmp_path: Path) -> None:
    vectors, ids = unit_vectors(100, 384), np.arange(100, dtype=np.uint64)
    index = make_index(ids, vectors)
    index.save(tmp_path / "index")
    secret = encode_rows(vectors[40:41], make_rotation(384, ROW_SEED))[0].tobytes()
    assert secret in (tmp_path / "index").read_bytes()
    index = BinaryIndex.load(tmp_path / "index")
    index.remove(ids[40:41])
    index.save(tmp_path / "index")
    assert secret not in (tmp_path / "index").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_the_quantiser_is_kept_in_the_file(tmp_path: Path) -> None:
    index = BinaryIndex(DIM, HadamardQuantiser(DIM, bits=2, seed=9))
    index.add(np.arange(50, dtype=np.uint64), unit_vectors(50))
    index.save(tmp_path / "index")
    loaded = BinaryIndex.load(tmp_path / "index")
    assert loaded.quantiser == index.quantiser
    assert_same(loaded.search(unit_vectors(5), 3), index.search(unit_vectors(5), 3))


def test_an_empty_index_can_be_saved(tmp_path: Path) -> None:
    BinaryIndex(DIM).save(tmp_path / "index")
    loaded = BinaryIndex.load(tmp_path / "index")
    loaded.verify()
    assert len(loaded) == 0


def test_searches_see_whole_states_while_others_write() -> None:
    """Rows come and go in pairs of one add or remove; a search that saw half of one would find an odd number."""
    index = make_index(np.arange(64, dtype=np.uint64), unit_vectors(64))
    pairs = unit_vectors(200, seed=3)
    failures: list[BaseException] = []
    stop = threading.Event()

    def write() -> None:
        for row in range(0, 200, 2):
            ids = np.array([1000 + row, 1001 + row], dtype=np.uint64)
            index.add(ids, pairs[row : row + 2])
            if row % 4:
                index.remove(ids)
        stop.set()

    def read() -> None:
        try:
            while not stop.is_set():
                found = index.search(pairs[:3], 300)
                assert found.num_scanned % 2 == 0
                assert found.ids.shape[1] == found.num_scanned
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=target) for target in (read, read, read, write)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(index) == 64 + 100


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        BinaryIndex.load(tmp_path / "nowhere")


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        make_index(np.arange(3, dtype=np.uint64), unit_vectors(3)).save(tmp_path / "no folder" / "index")


def test_codes_of_another_scheme_are_refused() -> None:
    data = bytearray(to_bytes(BinaryIndex(DIM)))
    about, _ = read_index_file(bytes(data), "index")
    name = about["quantiser"].encode()
    changed = bytes(data).replace(name, b"unheard" + name[7:])
    header_size = int.from_bytes(changed[12:16], "little")
    signed = index_file._sign(changed[64 : 64 + header_size])
    with pytest.raises(IntegrityError, match="does not know"):
        BinaryIndex.from_bytes(signed + changed[64:])


def fitted_index(vectors: np.ndarray, ids: np.ndarray) -> BinaryIndex:
    index = make_index(ids, vectors)
    return index.refitted(lambda: [(ids[:700], vectors[:700]), (ids[700:], vectors[700:])])


def test_equal_contents_give_equal_fitted_files() -> None:
    vectors, ids = text_like_vectors(1500), np.random.default_rng(5).permutation(1500).astype(np.uint64)
    shuffled = np.random.default_rng(6).permutation(1500)
    assert to_bytes(fitted_index(vectors, ids)) == to_bytes(fitted_index(vectors[shuffled], ids[shuffled]))


def test_a_fitted_index_finds_more_and_keeps_what_was_measured(tmp_path: Path) -> None:
    vectors, ids, queries = text_like_vectors(1500), np.arange(1500, dtype=np.uint64), text_like_vectors(100, seed=1)
    index = fitted_index(vectors, ids)
    index.save(tmp_path / "index")
    loaded = BinaryIndex.load(tmp_path / "index")
    loaded.verify()
    assert loaded.calibration == index.calibration
    assert loaded.describe() == index.describe()
    assert_same(loaded.search(queries, 10), index.search(queries, 10))
    truth, _ = nearest_rows(vectors, queries, 10)
    by_codes = [each.search(queries, 10, by_codes=True).ids for each in (loaded, make_index(ids, vectors))]
    recalls = [recall_at_k(found.astype(np.int64), truth) for found in by_codes]
    assert recalls[0] > recalls[1] + 0.05
    assert index.calibration is not None
    assert recalls[0] == pytest.approx(index.calibration.recall_by_codes, abs=0.1)


def test_stopping_early_loses_next_to_nothing() -> None:
    vectors, ids, queries = text_like_vectors(1500), np.arange(1500, dtype=np.uint64), text_like_vectors(100, seed=1)
    index = fitted_index(vectors, ids)
    early = index.search(queries, 10, oversampling=20)
    index.set_quantiser(index.quantiser)
    index._calibrations = {}
    full = index.search(queries, 10, oversampling=20)
    assert full.num_rescored.tolist() == [200] * 100
    assert early.num_rescored.mean() < 150
    assert recall_at_k(early.ids.astype(np.int64), full.ids.astype(np.int64)) > 0.995


def test_what_is_added_later_is_encoded_as_the_index_is_and_nothing_anew() -> None:
    vectors, ids = text_like_vectors(1600), np.arange(1600, dtype=np.uint64)
    index = fitted_index(vectors[:1500], ids[:1500])
    before = index.quantiser.id
    codes = [segment.codes.whole() for segment in index._segments]
    index = BinaryIndex.from_bytes(to_bytes(index))
    index.add(ids[1500:], vectors[1500:])
    assert index.quantiser.id == before
    assert {segment.quantiser.id for segment in index._segments} == {before}
    assert np.array_equal(index._segments[0].codes.whole(), codes[0])
    assert index.search(vectors[1500:], 1).ids[:, 0].tolist() == ids[1500:].tolist()


@settings(max_examples=15)
@given(st.integers(0, 1000))
def test_segments_of_several_quantisers_give_one_order(seed: int) -> None:
    random = np.random.default_rng(seed)
    vectors, ids = text_like_vectors(600, seed=seed % 7), distinct_ids(600, seed)
    vectors[1::5] = vectors[0]  # ties across segments
    quantisers = [fitted("mib", 64), fitted("hadamard", 64), fitted("hadamard", 128), fitted("sign", 64)]
    queries = text_like_vectors(6, seed=99)
    results, files = [], []
    for _ in range(2):
        index = BinaryIndex(64)
        for part in random.permutation(4).tolist():
            index.set_quantiser(quantisers[part])
            rows = random.permutation(np.arange(part * 150, (part + 1) * 150))
            index.add(ids[rows[:70]], vectors[rows[:70]])
            index.add(ids[rows[70:]], vectors[rows[70:]])
        index.set_quantiser(quantisers[0])
        index.remove(ids[::9])
        results += [index.search(queries, 7), BinaryIndex.from_bytes(to_bytes(index)).search(queries, 7)]
        results.append(index.search(queries, 7, num_threads=1))
        files.append(to_bytes(index))
        assert len(index) == len(ids) - len(ids[::9])
    for found in results:
        assert_same(found, results[0])
    assert files[0] == files[1]
    everything = index.search(queries, 7, oversampling=100)  # all rows are candidates: the rows alone decide
    plain = make_index(np.delete(ids, np.s_[::9]), np.delete(vectors, np.s_[::9], axis=0))
    assert np.array_equal(everything.ids, plain.search(queries, 7, oversampling=100).ids)


def test_vectors_that_are_not_those_of_the_index_are_refused() -> None:
    vectors, ids = text_like_vectors(50), np.arange(50, dtype=np.uint64)
    with pytest.raises(IntegrityError, match="not those of the index"):
        make_index(ids, vectors).encoded_anew(HadamardQuantiser(64, 2), [(ids[:49], vectors[:49])])


def test_a_quantiser_of_another_dimension_is_refused() -> None:
    with pytest.raises(ShapeError, match="of 40, not of 64"):
        BinaryIndex(DIM, HadamardQuantiser(64))


def test_an_index_of_parts_equals_the_whole(rng: np.random.Generator) -> None:
    """Bytes go back and forth, and what was encoded in parts is found as if it had been encoded together."""
    vectors = rng.standard_normal((300, 48), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = rng.permutation(300).astype(np.uint64)
    whole, parts = BinaryIndex(48), BinaryIndex(48)
    whole.add(ids, vectors)
    for first in range(0, 300, 70):
        part = BinaryIndex(48)
        part.add(ids[first : first + 70], vectors[first : first + 70])
        parts.absorb(BinaryIndex.from_bytes(part.to_bytes()))
    parts.absorb(BinaryIndex(48))
    assert np.array_equal(parts.ids(), whole.ids())
    assert parts.to_bytes() == whole.to_bytes()
    found, expected = parts.search(vectors[:9], 20), whole.search(vectors[:9], 20)
    assert np.array_equal(found.ids, expected.ids)
    assert np.array_equal(found.scores, expected.scores)
    parts.compact()
    assert parts.to_bytes() == whole.to_bytes()
    with pytest.raises(InvalidInput, match="is in the index already"):
        parts.absorb(whole)
    with pytest.raises(ShapeError, match="of 48, not of 40"):
        parts.absorb(BinaryIndex(DIM))
    assert len(parts) == 300


COMPILE = """
import sys
from pathlib import Path
import numpy as np
from holdfast.retrieval.index import BinaryIndex, warm_up
from holdfast.kernels import code_scores_cpu, hadamard_cpu, levels_cpu, rounding_cpu, row_scores_cpu, scan_vector
from holdfast.kernels import scan_cpu, selection_cpu

kernels = [code_scores_cpu.select_codes, hadamard_cpu.rotate_rows, levels_cpu.level_rows, rounding_cpu.round_into]
kernels += [row_scores_cpu.select_rows, selection_cpu.gather_pools]
kernels.append(scan_cpu.scan_bytes if scan_vector.look_up_instruction() is None else scan_vector.scan_tables)
warm_up()
print([len(kernel.signatures) for kernel in kernels])
vectors = np.eye(70, 384, dtype=np.float32)
index = BinaryIndex(384)
index.add(np.arange(70, dtype=np.uint64), vectors)
index.save(Path(sys.argv[1]))
index = BinaryIndex.load(Path(sys.argv[1]))
index.search(vectors, 10)
index.add(np.arange(70, 140, dtype=np.uint64), vectors)
index.search(vectors, 10, allowed_ids=np.arange(20, 90, dtype=np.uint64))
print([len(kernel.signatures) for kernel in kernels])
"""


def test_warming_up_compiles_all_that_searches_will_need(tmp_path: Path) -> None:
    command = [sys.executable, "-c", COMPILE, str(tmp_path / "index")]
    before, after = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert before == after == str([1, 1, 1, 2, 1, 1, 1])  # rounding is to 8 and to 16 bits


MEASURE_MEMORY = """
import sys
from pathlib import Path
import numpy as np
from holdfast.retrieval.index import BinaryIndex

small, large = map(Path, sys.argv[1:])

def anonymous_bytes():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

queries = np.eye(4, 384, dtype=np.float32)
BinaryIndex.load(small).search(queries, 10, num_threads=2)  # compiles, and starts the threads
before = anonymous_bytes()
index = BinaryIndex.load(large)
index.search(queries, 10, num_threads=2)
index.remove(np.arange(0, 100, dtype=np.uint64))
index.search(queries, 10, num_threads=2)
print(len(index), anonymous_bytes() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the process's memory from /proc")
def test_an_open_index_takes_no_memory_that_is_not_mapped_but_a_byte_a_vector(tmp_path: Path) -> None:
    vectors = unit_vectors(100_000, 384)
    for name, count in (("small", 2000), ("large", len(vectors))):
        make_index(np.arange(count, dtype=np.uint64), vectors[:count]).save(tmp_path / name)
    printed = subprocess.run(
        [sys.executable, "-c", MEASURE_MEMORY, str(tmp_path / "small"), str(tmp_path / "large")],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    num_live, added_bytes = map(int, printed.split())
    assert num_live == 99_900
    assert added_bytes < 25 * len(vectors)
