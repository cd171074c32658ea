"""A sealed vector store does what a plain one does, and neither disk nor store has anything readable of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdfast.errors import Conflict, DecryptionError, InvalidInput, KeyUnavailable, NotFound, TamperError
from holdfast.privacy.key_providers import LocalKeyProvider
from holdfast.privacy.keys import SecretKey
from holdfast.retrieval.chunks import Chunking
from holdfast.retrieval.store_filesystem import FilesystemStore
from holdfast.serving import ingestion, sealed_collections, sealed_index
from holdfast.serving.collection import NewFile
from tests.serving import sealing
from tests.serving.conftest import STORE, TENANT, Storage
from tests.serving.sealing import RecordingStore, files_below, float_forms, forms, open_sealed, residue, sealed_storage
from tests.untrusted_stores import OBJECT_STORES, MakeObjectStore

CANARY = "zanzibarite"
TEXT = f"# Heading of {CANARY}\n\nThe lighthouse keeper counts ships.\n\n# Bread\n\nThe baker hides {CANARY} in loaves."


@pytest.fixture(autouse=True)
def read_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingestion, "read_document_in_child", ingestion.read_document_in_child)
    sealing.read_here()


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    with sealed_storage(tmp_path / "data") as opened:
        yield opened


def passages(storage: Storage, query: str, **options: Any) -> list[tuple[str, str, float]]:
    return [(s.filename, s.text, s.score) for s in storage.search(query, **options)]


def reopened(storage: Storage) -> Storage:
    storage.database.close()
    return open_sealed(storage.data_dir)


# the main job


def test_it_finds_what_exact_search_finds(tmp_path: Path, storage: Storage) -> None:
    """The same texts, places and order as by a plain store's float vectors, and the same scores but for rounding."""
    rng = np.random.default_rng(1)
    words = [f"word{number}" for number in range(80)]
    texts = [" ".join(rng.choice(words, 700)) for _ in range(8)]
    plain = storage.collections.create(TENANT, vector_store_id="vs_plain", mode="plain")
    for number, text in enumerate(texts):
        file = storage.upload(f"{number}.txt", text)
        for store in (STORE, plain.id):
            attributes = {"number": float(number)}
            storage.collections.attach(TENANT, store, [NewFile(file.id, attributes, chunking=Chunking(100, 20))])
    storage.ingestion.run_until_idle()
    for store in (STORE, plain.id):
        assert storage.collections.get(TENANT, store).file_counts.completed == len(texts)
    few = {"type": "lt", "key": "number", "value": 3}
    for query in ("word1 word2", "word70", texts[3][:60]):
        vector = storage.embedder.encode([query])
        for options in ({}, {"filters": few}, {"filters": {"type": "eq", "key": "number", "value": 99}}):
            found = storage.collections.search(TENANT, STORE, vector, 20, **options)
            expected = storage.collections.search(TENANT, plain.id, vector, 20, exact=True, **options)
            assert [s.score for s in found] == pytest.approx([s.score for s in expected], abs=1e-5)
            assert found == [replace(s, score=f.score, is_sealed=True) for s, f in zip(expected, found, strict=True)]
            assert bool(found) == (options.get("filters", few) is few)
    for number in range(len(texts)):
        file_id = storage.collections.search(
            TENANT, STORE, vector, 1, filters={"type": "eq", "key": "number", "value": number}
        )[0].file_id
        assert storage.collections.file_text(TENANT, STORE, file_id) == texts[number]
    assert storage.collections.verify() == []


def test_offsets_pages_and_headings_survive_a_restart(storage: Storage) -> None:
    file = storage.ingest("a.md", TEXT)
    before = storage.search("baker loaves")
    assert before[0].heading == "Bread"
    again = reopened(storage)
    assert again.search("baker loaves") == before
    text = again.collections.file_text(TENANT, STORE, file.file_id)
    for source in before:
        assert text[source.start : source.end] == source.text
    assert again.collections.verify() == []
    again.database.close()


def test_texts_longer_than_a_block_are_cut_and_joined(storage: Storage) -> None:
    text = "\n\n".join(f"Paragraph {number} of the long report speaks of item{number}." for number in range(3000))
    file = storage.ingest("long.txt", text)
    assert len(text) > 3 * 32_768
    assert storage.collections.file_text(TENANT, STORE, file.file_id) == text
    for source in storage.search("item600 item1200 item2400", k=50):
        assert text[source.start : source.end] == source.text


def test_an_empty_store_and_a_file_without_text(storage: Storage) -> None:
    assert storage.search("anything") == []
    failed = storage.ingest(f"{CANARY}.txt", "   ")
    assert (failed.status, failed.error_code) == ("failed", "empty")
    assert storage.search("anything") == []


def test_attributes_change_and_a_known_file_is_not_read_again(storage: Storage) -> None:
    first = storage.ingest("a.txt", TEXT, attributes={"team": "a"})
    num_encoded = storage.embedder.num_encoded
    second = storage.ingest("again.txt", TEXT)
    assert storage.embedder.num_encoded == num_encoded
    storage.collections.update_file(TENANT, STORE, first.file_id, {"team": "b"})
    assert len({s.filename for s in storage.search("baker")}) == 1
    assert storage.search("baker", filters={"type": "eq", "key": "team", "value": "a"}) == []
    storage.collections.detach(TENANT, STORE, first.file_id)
    assert {s.file_id for s in storage.search("baker")} == {second.file_id}


def test_two_sealed_stores_share_nothing(storage: Storage) -> None:
    other = storage.collections.create(TENANT, vector_store_id="vs_other", mode="sealed")
    file = storage.ingest("a.txt", TEXT)
    storage.collections.attach(TENANT, other.id, [NewFile(file.file_id)])
    storage.ingestion.run_until_idle()
    storage.collections.delete(TENANT, STORE)
    vector = storage.embedder.encode(["baker"])
    assert storage.collections.search(TENANT, other.id, vector, 3)
    with pytest.raises(NotFound):
        storage.collections.search(TENANT, STORE, vector, 3)
    assert storage.collections.verify() == []


def test_deleting_removes_objects_and_rows(storage: Storage) -> None:
    kept, gone = storage.ingest("kept.txt", "The keeper counts ships."), storage.ingest("gone.txt", TEXT)
    folder = storage.data_dir / "sealed"
    num_before = sum(path.is_file() for path in folder.rglob("*"))
    storage.files.delete(TENANT, gone.file_id)
    assert {s.filename for s in storage.search("baker keeper", k=50)} == {"kept.txt"}
    assert sum(path.is_file() for path in folder.rglob("*")) < num_before
    assert storage.collections.verify() == []
    storage.collections.detach(TENANT, STORE, kept.file_id)
    assert storage.search("keeper") == []
    storage.collections.delete(TENANT, STORE)
    assert not any(path.is_file() and path.name != ".lock" for path in folder.rglob("*"))


def test_many_documents_are_merged_and_found(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed_index, "MAX_PARTS", 4)
    files = [storage.ingest(f"{n}.txt", f"The secret of number{n} is told here.") for n in range(14)]
    sealed = storage.collections.sealed.find(1)
    assert sealed is not None
    assert len(sealed._opened.parts) <= 5
    storage.files.delete(TENANT, files[3].file_id)
    again = reopened(storage)
    for n in range(14):
        assert bool([s for s in again.search(f"number{n}", k=1) if s.filename == f"{n}.txt"]) == (n != 3)
    assert again.collections.verify() == []
    again.database.close()


# what others learn


@pytest.mark.parametrize("kind", OBJECT_STORES)
def test_neither_the_store_nor_the_disk_has_anything_readable(
    kind: str, tmp_path: Path, object_stores: MakeObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    """R11: the text, heading, vectors and upload of a sealed file, in raw, hex, base64 and float form."""
    store = RecordingStore(object_stores(kind))
    data_dir = tmp_path / "data"
    with sealed_storage(data_dir, store=store) as storage:
        file = storage.ingest("a.md", TEXT)
        failing = storage.ingest("b.pdf", "%PDF-1.7 broken " + CANARY)
        assert failing.status == "failed"
        vectors = storage.embedder.encode([s.text for s in storage.search("baker", k=50)])
        storage.collections.file_text(TENANT, STORE, file.file_id)
        storage.collections.sealed.rotate(1)
        storage.search("baker")
        needles = [*forms(CANARY), *forms("lighthouse keeper"), *(f for v in vectors for f in float_forms(v))]
        assert residue(needles, [b"".join(forms(CANARY)), vectors.tobytes()])  # they would be found
        assert store.seen
        assert residue([*needles, b"a.md", b".txt", b"default", STORE.encode()], store.seen) == []
        assert residue(needles, files_below(data_dir)) == []
        assert residue([KEY_BYTES, KEY_BYTES.hex().encode()], [*store.seen, *files_below(data_dir)]) == []
    assert CANARY not in caplog.text
    assert KEY_BYTES.hex() not in caplog.text


KEY_BYTES = sealing.KEY.reveal()


def test_searching_asks_the_store_for_nothing_but_texts_it_has_not_seen(tmp_path: Path) -> None:
    """Not one request for vectors; and none at all once the texts are in memory."""
    store = RecordingStore(FilesystemStore(tmp_path / "objects"))
    with sealed_storage(tmp_path / "data", store=store) as storage:
        for number in range(5):
            storage.ingest(f"{number}.txt", f"{TEXT} Number{number}.")
    with sealed_storage(tmp_path / "data", store=store) as storage:
        storage.search("baker")
        store.calls.clear()
        storage.search("baker", k=50)
        assert set(store.calls) <= {"get"}
        assert len(store.calls) <= 2  # tables, then blocks
        store.calls.clear()
        storage.search("keeper ships", k=50)
        assert store.calls == []


# keys


def test_without_a_key_sealed_stores_are_refused_and_plain_ones_work(tmp_path: Path) -> None:
    with sealed_storage(tmp_path / "data", key=None, mode="plain") as storage:
        assert storage.collections.get(TENANT, STORE).mode == "plain"
        storage.ingest("early.txt", TEXT)
        with pytest.raises(KeyUnavailable, match="holdfast keys create"):
            storage.collections.create(TENANT, mode="sealed")
    with sealed_storage(tmp_path / "data") as storage:
        assert storage.search("baker")
        sealed = storage.collections.create(TENANT, mode="sealed")
        early = storage.search("baker")[0].file_id
        with pytest.raises(Conflict, match="upload it again"):
            storage.collections.attach(TENANT, sealed.id, [NewFile(early)])
        late = storage.upload("late.txt", "The late baker.")
        storage.collections.attach(TENANT, sealed.id, [NewFile(late.id)])
        storage.ingestion.run_until_idle()
        assert b"".join(storage.files.read(TENANT, late.id)) == b"The late baker."
        assert b"".join(storage.files.read(TENANT, early)) == TEXT.encode()
    with sealed_storage(tmp_path / "data", key=None) as storage:
        assert storage.search("baker")
        with pytest.raises(KeyUnavailable):
            storage.collections.search(TENANT, sealed.id, storage.embedder.encode(["baker"]), 1)
        with pytest.raises(KeyUnavailable):
            storage.files.read(TENANT, late.id)


def test_another_key_opens_nothing(tmp_path: Path) -> None:
    with sealed_storage(tmp_path / "data") as storage:
        storage.ingest("a.txt", TEXT)
    with sealed_storage(tmp_path / "data", key=SecretKey(bytes(32))) as storage, pytest.raises(KeyUnavailable):
        storage.search("baker")


def test_exact_search_is_refused(storage: Storage) -> None:
    with pytest.raises(InvalidInput, match="no float vectors"):
        storage.search("baker", exact=True)


def test_uploads_cannot_be_cut_or_swapped(storage: Storage) -> None:
    data = np.random.default_rng(0).bytes(2_500_000)
    file, other = storage.upload("big.bin", data), storage.upload("other.bin", data[::-1])
    assert file.num_bytes == len(data)
    assert b"".join(storage.files.read(TENANT, file.id)) == data
    assert storage.upload("same.bin", data).sha256 == file.sha256
    assert storage.files.content_hash(TENANT, [data]) == file.sha256
    path = storage.files.content_path(TENANT, file.id)
    whole = path.read_bytes()
    for faulty in (
        whole[:-40],
        whole[:1_100_000],
        whole[: len(whole) // 3],
        whole[:3],
        whole + b"x",
        whole[:-1] + b"x",
    ):
        path.write_bytes(faulty)
        with pytest.raises(DecryptionError):
            b"".join(storage.files.read(TENANT, file.id))
        assert len(storage.files.verify()) == 1
    path.write_bytes(storage.files.content_path(TENANT, other.id).read_bytes())
    assert len(storage.files.verify()) == 1


# rotation


def test_rotation_is_lossless_and_leaves_nothing_of_the_old_epoch(storage: Storage) -> None:
    for number in range(6):
        storage.ingest(f"{number}.txt", f"{TEXT} Number{number}.")
    before = storage.search("baker number3", k=50)
    folder = storage.data_dir / "sealed"
    old = {path.name for path in folder.rglob("objects/*")}
    assert storage.collections.sealed.rotate(1) == 2
    assert storage.search("baker number3", k=50) == before
    new = {path.name for path in folder.rglob("objects/*")}
    assert len(new) == len(old)
    assert not new & old
    sealed = storage.collections.sealed.find(1)
    assert sealed is not None
    assert sealed.epochs() == [2]
    storage.ingest("late.txt", "The late baker.")
    again = reopened(storage)
    after = again.search("baker number3", k=50)
    assert all(source in after for source in before)
    assert again.collections.verify() == []
    assert again.collections.sealed.rotate(1) == 3
    assert again.collections.verify() == []
    again.database.close()


def test_searches_ingestion_and_deletion_go_on_during_a_rotation(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [storage.ingest(f"{n}.txt", f"{TEXT} Number{n}.") for n in range(6)]
    before = {n: storage.search(f"number{n}", k=3) for n in range(6)}
    events = iter(range(10**6))
    monkeypatch.setattr(sealed_collections, "ROTATED_OBJECTS", 2)

    def meanwhile(num_left: int) -> None:
        assert all(storage.search(f"number{n}", k=3)[:1] == before[n][:1] for n in range(1, 6))
        if next(events) == 0:
            storage.ingest("new.txt", "A newcomer speaks of xylophones.")
            storage.files.delete(TENANT, files[0].file_id)

    storage.collections.sealed.rotate(1, meanwhile)
    assert next(events) > 2
    assert storage.search("xylophones", k=1)[0].filename == "new.txt"
    assert "0.txt" not in {s.filename for s in storage.search("number0", k=50)}
    assert storage.collections.verify() == []


def test_a_new_root_leaves_everything_readable(storage: Storage) -> None:
    file = storage.ingest("a.txt", TEXT)
    assert storage.collections.sealed.rotate_root(TENANT, LocalKeyProvider(sealing.KEY)) == 2
    again = reopened(storage)
    assert again.search("baker")
    assert b"".join(again.files.read(TENANT, file.file_id)) == TEXT.encode()
    assert again.collections.verify() == []
    again.database.close()


# backup and faults


def test_a_copy_of_the_folder_is_a_backup(tmp_path: Path) -> None:
    with sealed_storage(tmp_path / "data") as storage:
        storage.ingest("a.md", TEXT)
        expected = storage.search("baker")
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    with sealed_storage(tmp_path / "copy") as storage:
        assert storage.search("baker") == expected
        assert storage.collections.verify() == []


def test_a_rolled_back_store_is_refused(tmp_path: Path) -> None:
    with sealed_storage(tmp_path / "data") as storage:
        storage.ingest("a.md", TEXT)
    shutil.copytree(tmp_path / "data" / "sealed", tmp_path / "old")
    with sealed_storage(tmp_path / "data") as storage:
        storage.ingest("b.md", TEXT + " More.")
    shutil.rmtree(tmp_path / "data" / "sealed")
    shutil.copytree(tmp_path / "old", tmp_path / "data" / "sealed")
    with sealed_storage(tmp_path / "data") as storage:
        with pytest.raises(TamperError) as caught:
            storage.search("baker")
        assert caught.value.code == "rolled_back"
        assert len(storage.collections.verify()) == 1


# rows that stay in the store


def test_a_store_whose_rows_do_not_fit_the_memory_does_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Searched, merged, deleted from, rotated and reopened; grown from one kind into the other on the way."""
    monkeypatch.setattr(sealed_index, "MAX_PARTS", 4)
    rng = np.random.default_rng(2)
    words = [f"word{number}" for number in range(60)]
    texts = {n: f"Number{n} is told here. " + " ".join(rng.choice(words, 300)) for n in range(12)}
    room_for = {"some": 2 * 64 * 12, "none": 0, "all": 2**30}
    found: dict[str, list[Any]] = {}
    for name, rows_bytes in room_for.items():
        data_dir = tmp_path / name
        with sealed_storage(data_dir, rows_bytes=rows_bytes, num_decoys=2) as storage:
            files = {n: storage.ingest(f"{n}.txt", text) for n, text in texts.items()}
            sealed = storage.collections.sealed.find(1)
            assert sealed is not None
            with sealed.reading():
                assert sealed.index.has_rows == (name == "all")
            assert len(sealed._opened.parts) <= 5
            storage.files.delete(TENANT, files[3].file_id)
            assert storage.collections.sealed.rotate(1) == 2
            assert storage.collections.verify() == []
        with sealed_storage(data_dir, rows_bytes=rows_bytes) as storage:
            found[name] = [
                sorted((s.filename, s.text, s.score) for s in storage.search(query, k=30) if s.score > 0)
                for query in ("number3", "number7 word1 word2", texts[5][:60])
            ]
            assert "3.txt" not in {filename for filename, _, _ in found[name][0]}
            assert storage.collections.verify() == []
    assert found["some"] == found["none"] == found["all"]
