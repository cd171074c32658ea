"""What deletion leaves, what searches see while ingestion goes on, and what a restart changes."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdfast.kernels.hadamard import make_rotation
from holdfast.retrieval import stored_index
from holdfast.retrieval.index import ROW_SEED, BinaryIndex
from holdfast.retrieval.rescore import encode_rows
from holdfast.serving.api_keys import ApiKeys
from holdfast.serving.collection import NewFile

pytestmark = pytest.mark.usefixtures("read_here")


def remains(data_dir: Path, needles: dict[str, bytes]) -> dict[str, list[str]]:
    """Return which of the byte strings are in which files."""
    contents = {path.name: path.read_bytes() for path in data_dir.rglob("*") if path.is_file()}
    found = {what: [name for name, data in contents.items() if needle in data] for what, needle in needles.items()}
    return {what: names for what, names in found.items() if names}


def traces(storage: Any, file_id: str, canary: str) -> dict[str, bytes]:
    """Return what the data directory holds of a file: its words, its float vectors, its int8 rows."""
    text = storage.collections.file_text("default", "vs_default", file_id)
    [vector] = storage.embedder.encode([text])
    rows, _ = encode_rows(vector[None], make_rotation(storage.embedder.dim, ROW_SEED))
    # the word index keeps of a word what it does not share with the one before
    return {"words": canary.encode()[4:], "floats": vector.tobytes(), "int8 row": rows.tobytes()}


def test_other_users_of_the_machine_can_read_nothing(storage: Any, tmp_path: Path) -> None:
    storage.ingest("a.txt", "Only for its owner.")
    storage.collections.close()
    ApiKeys(storage.data_dir).close()
    storage.data_dir.chmod(0o755)  # as where the folder was there before
    names = {path.name for path in storage.data_dir.iterdir() if path.stat().st_mode & 0o077}
    assert names == {"lock"}
    ApiKeys(tmp_path / "made").close()
    assert (tmp_path / "made").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("is_saved", [False, True])
@pytest.mark.parametrize("how", ["detach and delete", "delete", "delete store"])
def test_deletion_leaves_no_trace(storage: Any, how: str, is_saved: bool) -> None:
    for number in range(5):
        storage.ingest(f"other{number}.txt", f"Words that stay, number {number}.")
    file = storage.ingest("secret.txt", "The canarybird7 sings of what must be forgotten.")
    needles = traces(storage, file.file_id, "canarybird7")
    if is_saved:
        storage.collections.close()
    assert remains(storage.data_dir, needles).keys() >= ({*needles} if is_saved else {"words", "floats"})
    if how == "detach and delete":
        storage.collections.detach("default", "vs_default", file.file_id)
        storage.files.delete("default", file.file_id)
    elif how == "delete":
        storage.files.delete("default", file.file_id)
    else:
        storage.collections.delete("default", "vs_default")
        [upload] = remains(storage.data_dir, needles)["words"]
        assert (storage.files.content_path("default", file.file_id)).name == upload
        assert remains(storage.data_dir, needles).keys() == {"words"}
        storage.files.delete("default", file.file_id)
    assert remains(storage.data_dir, needles) == {}
    if how != "delete store":
        assert {source.filename for source in storage.search("canarybird7 sings", k=9)} == {
            f"other{number}.txt" for number in range(5)
        }
    assert storage.collections.verify() == []
    storage.close()
    assert remains(storage.data_dir, needles) == {}


def test_deletion_leaves_no_trace_after_any_history(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_index, "MIN_UNSAVED", 16)
    rng = random.Random(3)
    live: dict[str, str] = {}
    dead: list[str] = []
    for number in range(120):
        if live and rng.random() < 0.4:
            file_id = rng.choice(sorted(live))
            storage.files.delete("default", file_id)
            dead.append(live.pop(file_id))
        else:
            canary = f"canary{number:04d}"
            text = " ".join(f"{canary} w{rng.randrange(1000)}" for _ in range(rng.choice([2, 20, 300, 3000])))
            live[storage.ingest(f"{number}.txt", text).file_id] = canary
    assert remains(storage.data_dir, {canary: canary.encode() for canary in dead}) == {}
    assert len(remains(storage.data_dir, {canary: canary.encode() for canary in live.values()})) == len(live)
    assert storage.collections.verify() == []


def test_a_document_shared_by_stores_goes_with_the_last(storage: Any) -> None:
    storage.collections.create("default", vector_store_id="vs_second")
    file = storage.ingest("a.txt", "A shared canarybird8.")
    storage.collections.attach("default", "vs_second", [NewFile(file.file_id)])
    storage.ingestion.run_until_idle()
    vectors = storage.embedder.encode(["canarybird8"])
    storage.collections.detach("default", "vs_default", file.file_id)
    assert storage.search("canarybird8") == []
    assert len(storage.collections.search("default", "vs_second", vectors, 1)) == 1
    storage.files.delete("default", file.file_id)
    assert storage.collections.search("default", "vs_second", vectors, 1) == []
    assert remains(storage.data_dir, {"words": b"canarybird8"}) == {}


@pytest.mark.parametrize("how", ["detach", "cancel", "delete", "delete store"])
def test_what_is_unwanted_by_the_time_it_is_embedded_is_not_stored(storage: Any, how: str) -> None:
    file = storage.upload("a.txt", "A canarybird9 that came too late.")
    _, batch = storage.collections.attach("default", "vs_default", [NewFile(file.id)], batch=True)
    encode = storage.embedder.encode

    def encode_too_late(texts: Any, *, progress: Any = None) -> Any:
        vectors = encode(texts, progress=progress)
        if how == "detach":
            storage.collections.detach("default", "vs_default", file.id)
        elif how == "cancel":
            storage.collections.cancel_batch("default", "vs_default", batch.id)
        elif how == "delete":
            storage.files.delete("default", file.id)
        else:
            storage.collections.delete("default", "vs_default")
        return vectors

    storage.embedder.encode = encode_too_late
    storage.ingestion.run_until_idle()
    storage.embedder.encode = encode
    assert storage.database.read().execute("SELECT COUNT(*) FROM documents").fetchone()[0] == 0
    assert remains(storage.data_dir, {"floats": encode(["A canarybird9 that came too late."]).tobytes()}) == {}
    if how != "delete store":
        assert storage.search("canarybird9") == []
    assert storage.collections.verify() == []


def test_tenants_share_nothing(storage: Any) -> None:
    storage.collections.create("other", vector_store_id="vs_default")
    mine = storage.upload("a.txt", "The same words.")
    theirs = storage.upload("a.txt", "The same words.", tenant="other")
    storage.collections.attach("default", "vs_default", [NewFile(mine.id)])
    storage.collections.attach("other", "vs_default", [NewFile(theirs.id)])
    storage.ingestion.run_until_idle()
    assert storage.embedder.num_encoded == 2
    storage.files.delete("default", mine.id)
    [source] = storage.collections.search("other", "vs_default", storage.embedder.encode(["same words"]), 1)
    assert source.file_id == theirs.id


def test_results_are_the_same_after_a_restart(open_storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_index, "MIN_UNSAVED", 7)
    storage = open_storage()
    rng = random.Random(5)
    words = [f"word{number}" for number in range(40)]
    files = [storage.ingest(f"{n}.txt", " ".join(rng.choices(words, k=30))) for n in range(40)]
    for file in files[::5]:
        storage.files.delete("default", file.file_id)
    queries = [" ".join(rng.choices(words, k=4)) for _ in range(10)]
    before = [storage.search(query, k=7) for query in queries]
    storage.close()
    storage = open_storage()
    assert [storage.search(query, k=7) for query in queries] == before
    storage.database.close()  # as after a crash: nothing saved
    for path in (storage.data_dir / "segments").iterdir():
        path.unlink()
    storage = open_storage()
    assert [storage.search(query, k=7) for query in queries] == before


@pytest.mark.parametrize("damage", ["missing", "header", "body"])
def test_a_damaged_segment_is_made_again(open_storage: Any, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    storage = open_storage()
    for number in range(30):
        storage.ingest(f"{number}.txt", f"ships number{number}")
    before = storage.search("ships number3")
    storage.close()
    [path] = (storage.data_dir / "segments").iterdir()
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        at = 70 if damage == "header" else len(data) // 2
        data[at] ^= 1
        path.write_bytes(data)
    storage = open_storage()
    if damage != "missing":
        assert len(storage.collections.verify()) == 1
    assert storage.search("ships number3") == before
    assert "making" in caplog.text
    storage.collections.close()
    assert storage.collections.verify() == []


def test_opening_reads_no_index(open_storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage()
    storage.ingest("a.txt", "ships")
    storage.close()
    monkeypatch.setattr(BinaryIndex, "load", lambda path: pytest.fail("loaded on opening"))
    open_storage()


def test_searches_see_whole_files_only_while_others_come_and_go(storage: Any) -> None:
    """Each file has several passages that match; a search must never find some of them."""
    num_passages = 4
    sentence = " ".join(["tide"] * 180)
    text = "\n\n".join(f"{sentence} part {number}." for number in range(num_passages))
    faults: list[str] = []
    is_over = threading.Event()

    def search() -> None:
        while not is_over.is_set():
            for exact in (False, True):
                found = storage.search("tide", k=50, exact=exact)
                counts: dict[str, int] = {}
                for source in found:
                    counts[source.file_id] = counts.get(source.file_id, 0) + 1
                    if sentence not in source.text:
                        faults.append(source.text)
                faults.extend(json.dumps(counts) for count in counts.values() if count != num_passages)

    readers = [threading.Thread(target=search) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(12):
        file = storage.ingest(f"{number}.txt", f"{text}\n\nend{number}")
        assert file.num_passages == num_passages, file
        if number % 3 == 2:
            storage.files.delete("default", file.file_id)
    is_over.set()
    for reader in readers:
        reader.join(30)
    assert faults == []
    assert len(storage.search("tide", k=50)) == 8 * num_passages


def test_what_cannot_be_indexed_is_not_committed(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(storage.embedder), "encode", lambda self, texts, progress=None: np.zeros((1, 64), "f4"))
    file = storage.ingest("a.txt", "A text whose vector is no direction.")
    assert (file.status, file.error_code) == ("failed", "server_error")
    monkeypatch.undo()
    assert storage.database.read().execute("SELECT COUNT(*) FROM documents").fetchone()[0] == 0
    assert storage.search("vector") == []
    assert storage.collections.verify() == []
