from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from holdfast.errors import Conflict, InvalidInput, NotFound, ShapeError
from holdfast.retrieval.chunks import Chunking
from holdfast.serving import collection_search
from holdfast.serving.collection import FileCounts, NewFile
from holdfast.serving.database import Cursor
from holdfast.serving.ingestion_queue import enqueue

pytestmark = pytest.mark.usefixtures("read_here")

DAY = 86_400
TEXT = "The lighthouse keeper counts ships. The baker counts loaves."


def eq(key: str, value: Any) -> dict[str, Any]:
    return {"type": "eq", "key": key, "value": value}


# vector stores


def test_a_vector_store_is_created_changed_listed_and_deleted(storage: Any) -> None:
    collections = storage.collections
    store = collections.create("default", name="reports", description="2024", metadata={"team": "a"})
    assert store.id.startswith("vs_")
    assert len(store.id) == 27
    assert (store.status, store.usage_bytes, store.expires_at) == ("completed", 0, None)
    assert store.file_counts == FileCounts(0, 0, 0, 0, 0)
    changed = collections.update("default", store.id, name="papers", expires_after_days=7)
    assert (changed.name, changed.metadata, changed.description) == ("papers", {"team": "a"}, "2024")
    assert changed.expires_at == changed.last_active_at + 7 * DAY
    assert collections.update("default", store.id, metadata={}).expires_after_days == 7
    assert collections.update("default", store.id, clear_expiry=True).expires_at is None
    assert collections.get("default", store.id).metadata == {}
    assert [item.id for item in collections.list("default", Cursor()).items] == [store.id, "vs_default"]
    collections.delete("default", store.id)
    with pytest.raises(NotFound):
        collections.get("default", store.id)


def test_ids_may_be_chosen_by_each_tenant_once(storage: Any) -> None:
    with pytest.raises(Conflict, match="vs_default"):
        storage.collections.create("default", vector_store_id="vs_default")
    assert storage.collections.create("other", vector_store_id="vs_default").tenant == "other"
    for faulty in ("default", "vs_", "vs_a/b", "vs_" + 65 * "a", "vs_a\n"):
        with pytest.raises(InvalidInput) as caught:
            storage.collections.create("default", vector_store_id=faulty)
        assert caught.value.param == "vector_store_id"


def test_another_tenant_finds_nothing(storage: Any) -> None:
    file = storage.ingest("a.txt", TEXT)
    _, batch = storage.collections.attach("default", "vs_default", [NewFile(file.file_id)], batch=True)
    assert batch is not None
    collections, vectors = storage.collections, storage.embedder.encode(["ships"])
    calls: tuple[Callable[[], object], ...] = (
        lambda: collections.get("other", "vs_default"),
        lambda: collections.update("other", "vs_default", name="x"),
        lambda: collections.delete("other", "vs_default"),
        lambda: collections.attach("other", "vs_default", []),
        lambda: collections.get_file("other", "vs_default", file.file_id),
        lambda: collections.list_files("other", "vs_default", Cursor()),
        lambda: collections.update_file("other", "vs_default", file.file_id, {}),
        lambda: collections.detach("other", "vs_default", file.file_id),
        lambda: collections.get_batch("other", "vs_default", batch.id),
        lambda: collections.cancel_batch("other", "vs_default", batch.id),
        lambda: collections.file_text("other", "vs_default", file.file_id),
        lambda: collections.search("other", "vs_default", vectors, 1),
    )
    for call in calls:
        with pytest.raises(NotFound):
            call()
    collections.create("other", vector_store_id="vs_other")
    with pytest.raises(NotFound):
        collections.attach("other", "vs_other", [NewFile(file.file_id)])
    assert len(storage.search("ships")) == 1


def test_an_expired_store_says_so_and_is_emptied(open_storage: Any) -> None:
    now = [1000.0]
    storage = open_storage(clock=lambda: now[0])
    storage.collections.update("default", "vs_default", expires_after_days=1)
    storage.ingest("a.txt", TEXT)
    now[0] += DAY - 1
    storage.collections.delete_expired()
    assert storage.search("ships")  # which makes the store active again
    now[0] += DAY - 1
    assert storage.collections.get("default", "vs_default").status == "completed"
    now[0] += 1
    assert storage.collections.get("default", "vs_default").status == "expired"
    with pytest.raises(Conflict) as caught:
        storage.search("ships")
    assert caught.value.code == "vector_store_expired"
    with pytest.raises(Conflict):
        storage.collections.update("default", "vs_default", name="risen from the dead")
    storage.collections.delete_expired()
    store = storage.collections.get("default", "vs_default")
    assert (store.status, store.file_counts.total, store.usage_bytes) == ("expired", 0, 0)


def test_vectors_of_another_model_are_refused(open_storage: Any, hash_embedder: Any) -> None:
    storage = open_storage()
    storage.ingest("a.txt", TEXT)
    storage.close()
    hash_embedder.model_id = "hash@1"
    with pytest.raises(Conflict, match=r"hash@0, not of hash@1"):
        open_storage()


# files in them


def test_an_attached_file_is_ingested_and_described(storage: Any) -> None:
    upload = storage.upload("a.txt", TEXT)
    [queued], batch = storage.collections.attach(
        "default", "vs_default", [NewFile(upload.id, {"year": 2024.0, "is_draft": False})]
    )
    assert batch is None
    assert (queued.status, queued.num_passages, queued.usage_bytes) == ("in_progress", 0, 0)
    assert storage.collections.get("default", "vs_default").status == "in_progress"
    with pytest.raises(Conflict, match="in_progress"):
        storage.collections.file_text("default", "vs_default", upload.id)
    assert storage.search("ships") == []
    storage.ingestion.run_until_idle()
    file = storage.collections.get_file("default", "vs_default", upload.id)
    assert (file.status, file.num_passages, file.error_code) == ("completed", 1, None)
    assert file.attributes == {"year": 2024.0, "is_draft": False}
    assert (file.chunking, file.is_chunking_chosen) == (Chunking(), False)
    assert storage.collections.file_text("default", "vs_default", upload.id) == TEXT
    store = storage.collections.get("default", "vs_default")
    assert (store.status, store.file_counts) == ("completed", FileCounts(0, 1, 0, 0, 1))
    assert store.usage_bytes == file.usage_bytes > len(TEXT) + 4 * storage.embedder.dim


def test_attaching_is_all_or_none(storage: Any) -> None:
    upload = storage.upload("a.txt", TEXT)
    with pytest.raises(NotFound, match="file-0"):
        storage.collections.attach("default", "vs_default", [NewFile(upload.id), NewFile("file-0")], batch=True)
    assert storage.collections.list_files("default", "vs_default", Cursor()).items == []


def test_a_batch_counts_its_files_until_none_is_in_progress(storage: Any) -> None:
    uploads = [storage.upload(f"{number}.txt", f"Text number {number}.") for number in range(3)]
    uploads.append(storage.upload("broken.pdf", b"this is no PDF"))
    _, batch = storage.collections.attach(
        "default", "vs_default", [NewFile(upload.id) for upload in (*uploads, uploads[0])], batch=True
    )
    assert batch is not None
    assert batch.id.startswith("vsfb_")
    assert batch.file_counts == FileCounts(4, 0, 0, 0, 4)
    storage.ingestion.run_until_idle()
    batch = storage.collections.get_batch("default", "vs_default", batch.id)
    assert batch.file_counts == FileCounts(0, 3, 1, 0, 4)
    page = storage.collections.list_files("default", "vs_default", Cursor(limit=1), batch_id=batch.id, status="failed")
    assert [file.file_id for file in page.items] == [uploads[3].id]
    assert page.items[0].error_code == "malformed"
    assert page.items[0].batch_id == batch.id
    storage.ingest("outside.txt", "In no batch.")
    assert len(storage.collections.list_files("default", "vs_default", Cursor(), batch_id=batch.id).items) == 4


def test_cancelling_a_batch_stops_what_is_not_finished(storage: Any) -> None:
    uploads = [storage.upload(f"{number}.txt", f"Text number {number}.") for number in range(3)]
    _, batch = storage.collections.attach(
        "default", "vs_default", [NewFile(upload.id) for upload in uploads], batch=True
    )
    cancelled = storage.collections.cancel_batch("default", "vs_default", batch.id)
    assert cancelled.is_cancelled
    assert cancelled.file_counts == FileCounts(0, 0, 0, 3, 3)
    storage.ingestion.run_until_idle()
    assert storage.search("text number") == []
    storage.collections.attach("default", "vs_default", [NewFile(uploads[0].id)])
    storage.ingestion.run_until_idle()
    assert len(storage.search("text number")) == 1


def test_attaching_again_takes_new_attributes_and_stays_searchable(storage: Any) -> None:
    file = storage.ingest("a.txt", TEXT, attributes={"year": 2023.0})
    storage.collections.attach("default", "vs_default", [NewFile(file.file_id, {"year": 2024.0})])
    assert [source.attributes for source in storage.search("ships")] == [{"year": 2024.0}]
    assert storage.collections.get("default", "vs_default").file_counts == FileCounts(0, 1, 0, 0, 1)


def test_attaching_again_with_another_chunking_cuts_anew(storage: Any) -> None:
    text = " ".join(f"Sentence number {number} ends here." for number in range(100))
    file = storage.ingest("a.txt", text)
    again = storage.ingest("other.txt", "Something else.")
    before = {source.text for source in storage.search("sentence", k=50)}
    storage.collections.attach("default", "vs_default", [NewFile(file.file_id, chunking=Chunking(50, 10))])
    assert {source.file_id for source in storage.search("sentence", k=50)} <= {again.file_id}
    storage.ingestion.run_until_idle()
    changed = storage.collections.get_file("default", "vs_default", file.file_id)
    assert changed.is_chunking_chosen
    assert changed.num_passages > file.num_passages
    assert not before & {source.text for source in storage.search("sentence", k=50)} - {"Something else."}
    assert storage.collections.verify() == []


def test_a_file_ingested_meanwhile_with_another_chunking_is_not_taken_for_the_wanted_one(storage: Any) -> None:
    file = storage.ingest("a.txt", TEXT)
    position = storage.database.read().execute("SELECT position FROM vector_stores").fetchone()["position"]
    with pytest.raises(Conflict, match="another chunking"), storage.database.write() as connection:
        enqueue(connection, "default", position, NewFile(file.file_id, chunking=Chunking(50, 10)), None, 0)
    assert storage.collections.get_file("default", "vs_default", file.file_id) == file


def test_attributes_are_replaced(storage: Any) -> None:
    file = storage.ingest("a.txt", TEXT, attributes={"year": 2023.0, "author": "x"})
    changed = storage.collections.update_file("default", "vs_default", file.file_id, {"year": 2024.0})
    assert changed.attributes == {"year": 2024.0}
    assert storage.search("ships", filters=eq("author", "x")) == []


# search


def test_a_search_sees_attributes_as_they_were_when_it_began(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = storage.ingest("a.txt", TEXT, attributes={"year": 2023.0})
    merge = collection_search._merge

    def change_and_merge(*arguments: Any) -> Any:
        storage.collections.update_file("default", "vs_default", file.file_id, {"year": 2024.0})
        return merge(*arguments)

    monkeypatch.setattr(collection_search, "_merge", change_and_merge)
    [source] = storage.search("ships", filters=eq("year", 2023.0))
    assert source.attributes == {"year": 2023.0}
    assert storage.search("ships", filters=eq("year", 2023.0)) == []


def test_results_are_cited_exactly(storage: Any) -> None:
    file = storage.ingest("a.md", f"# Harbour\n\n{TEXT}")
    [source] = storage.search("lighthouse ships")
    text = storage.collections.file_text("default", "vs_default", file.file_id)
    assert source.text == text[source.start : source.end]
    assert (source.file_id, source.filename, source.heading) == (file.file_id, "a.md", "Harbour")
    assert 0 < source.score <= 1


def test_the_same_bytes_are_found_once_and_cited_from_the_first_matching_file(storage: Any) -> None:
    first = storage.ingest("a.txt", TEXT, attributes={"shelf": "low"})
    second = storage.ingest("b.txt", TEXT, attributes={"shelf": "high"})
    oldest = min((first, second), key=lambda file: (file.created_at, file.file_id))
    assert [source.file_id for source in storage.search("ships")] == [oldest.file_id]
    for file in (first, second):
        [source] = storage.search("ships", filters=eq("shelf", file.attributes["shelf"]))
        assert (source.file_id, source.attributes) == (file.file_id, file.attributes)
    storage.collections.detach("default", "vs_default", oldest.file_id)
    [source] = storage.search("ships")
    assert source.file_id == ({first.file_id, second.file_id} - {oldest.file_id}).pop()


def test_filters_limit_what_is_searched_not_what_was_found(storage: Any) -> None:
    for number in range(30):
        storage.ingest(f"{number}.txt", f"ships ships number {number}", attributes={"number": float(number)})
    filters = {"type": "and", "filters": [{"type": "gte", "key": "number", "value": 27}, eq("number", 28)]}
    assert [source.filename for source in storage.search("ships", k=3, filters=filters)] == ["28.txt"]
    assert storage.search("ships", filters=eq("number", 99)) == []
    with pytest.raises(InvalidInput) as caught:
        storage.search("ships", filters={"type": "or", "filters": [{"type": "eq", "key": "number"}]})
    assert caught.value.param == "filters.filters[0].value"


def test_several_queries_merge_by_best_score(storage: Any) -> None:
    for name, text in (("ship", "ships sail"), ("loaf", "loaves rise"), ("cat", "cats purr")):
        storage.ingest(f"{name}.txt", text)
    vectors = storage.embedder.encode(["ships sail", "loaves rise"])
    found = storage.collections.search("default", "vs_default", vectors, 2)
    assert {source.filename for source in found} == {"ship.txt", "loaf.txt"}
    assert all(source.score > 0.99 for source in found)
    one = storage.search("ships sail", k=3)
    both = storage.collections.search("default", "vs_default", vectors, 3)
    assert {source.passage_id for source in one} == {source.passage_id for source in both}
    assert all(b.score >= a.score for a in one for b in both if a.passage_id == b.passage_id)


def test_scores_are_cosines_in_order_and_cut_at_the_threshold(storage: Any) -> None:
    for number in range(20):
        storage.ingest(f"{number}.txt", " ".join(["ships"] * 5 + [f"word{number}"] * number))
    exact = storage.search("ships", k=20, exact=True)
    codes = storage.search("ships", k=20)
    for found in (exact, codes):
        assert found == sorted(found, key=lambda source: (-source.score, source.passage_id))
        assert len(found) == 20
    [query] = storage.embedder.encode(["ships"])
    for source in exact:
        [vector] = storage.embedder.encode([source.text])
        assert source.score == pytest.approx(max(0.0, float(query @ vector)), abs=1e-5)
    scores = {source.passage_id: source.score for source in exact}
    assert all(source.score == pytest.approx(scores[source.passage_id], abs=0.01) for source in codes)
    high = storage.search("ships", k=20, score_threshold=0.8)
    assert high == [source for source in codes if source.score >= 0.8]
    assert 0 < len(high) < 20


def test_the_order_of_ingestion_does_not_change_results(open_storage: Any) -> None:
    storage = open_storage()
    texts = [f"ships and {word}" for word in ("sails", "oars", "ropes", "sails", "masts", "decks")]
    names = ["vs_forwards", "vs_backwards"]
    uploads = [storage.upload(f"{number}.txt", text) for number, text in enumerate(texts)]
    for name, order in zip(names, (uploads, uploads[::-1]), strict=True):
        storage.collections.create("default", vector_store_id=name)
        for upload in order:
            storage.collections.attach("default", name, [NewFile(upload.id)])
            storage.ingestion.run_until_idle()
    vectors = storage.embedder.encode(["ships and sails"])
    results = [storage.collections.search("default", name, vectors, 4) for name in names]
    keys = [[(source.passage_id, source.score) for source in found] for found in results]
    assert keys[0] == keys[1]


def test_an_empty_store_and_a_wrong_dimension(storage: Any) -> None:
    assert storage.search("ships") == []
    assert storage.search("ships", exact=True) == []
    with pytest.raises(ShapeError, match="64"):
        storage.collections.search("default", "vs_default", np.zeros((1, 3), dtype=np.float32), 5)


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        ("UPDATE store_files SET document = NULL", "its document is not in the store"),
        ("UPDATE store_files SET status = 'failed'", "its document is not in the store"),
        ("DELETE FROM collection_documents", "its document is not in the store"),
        ("DELETE FROM store_files", "without a file"),
        ("UPDATE passages SET text = 'forged'", "passage 0 is not what was written"),
    ],
)
def test_verify_reports_rows_that_do_not_fit(storage: Any, damage: str, fault: str) -> None:
    storage.ingest("a.txt", TEXT)
    assert storage.collections.verify() == []
    with storage.database.write() as connection:
        connection.execute(damage)
    assert any(fault in line for line in storage.collections.verify())
