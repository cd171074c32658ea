"""Stored responses: whose they are, how long they last, and what a deletion removes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import InvalidInput, NotFound
from holdfast.serving.database import Cursor, Database
from holdfast.serving.response_store import RETENTION_S, ResponseStore


class Clock:
    time = 1_000_000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[ResponseStore]:
    store = ResponseStore(Database(tmp_path, clock=clock))
    yield store
    store.database.close()


def message(text: str, role: str = "user") -> dict[str, Any]:
    return {"id": f"msg_{text}", "type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}


def save(store: ResponseStore, name: str, previous: str | None = None, tenant: str = "a") -> None:
    response = {"id": name, "previous_response_id": previous, "output": [message(f"answer to {name}", "assistant")]}
    store.save(tenant, response, [message(f"question of {name}")])


def texts(items: list[dict[str, Any]]) -> list[str]:
    return [item["content"][0]["text"] for item in items]


def test_another_tenants_responses_do_not_exist(store: ResponseStore) -> None:
    save(store, "r1")
    assert store.get("a", "r1")["id"] == "r1"
    for call in (store.get, store.delete):
        with pytest.raises(NotFound):
            call("b", "r1")
    with pytest.raises(NotFound):
        store.input_items("b", "r1", Cursor())
    with pytest.raises(InvalidInput):
        store.conversation("b", "r1")
    save(store, "r2", previous="r1", tenant="b")
    with pytest.raises(InvalidInput, match="'r1' not found"):
        store.conversation("b", "r2")


def test_a_conversation_is_told_from_its_beginning(store: ResponseStore) -> None:
    for name, previous in (("r1", None), ("r2", "r1"), ("branch", "r1"), ("r3", "r2")):
        save(store, name, previous)
    expected = [f"{kind} {name}" for name in ("r1", "r2", "r3") for kind in ("question of", "answer to")]
    assert texts(store.conversation("a", "r3")) == expected


def test_responses_expire(store: ResponseStore, clock: Clock, tmp_path: Path) -> None:
    save(store, "old")
    clock.time += RETENTION_S - 1
    save(store, "new", previous="old")
    assert store.get("a", "old")
    clock.time += 1
    with pytest.raises(NotFound):
        store.get("a", "old")
    with pytest.raises(InvalidInput):
        store.conversation("a", "new")
    store.delete_expired()
    rows = store.database.read().execute("SELECT id FROM responses ORDER BY id").fetchall()
    assert [row["id"] for row in rows] == ["new"]
    assert not [path.name for path in tmp_path.iterdir() if b"question of old" in path.read_bytes()]
    items = store.database.read().execute("SELECT id FROM response_input_items").fetchall()
    assert len(items) == 1


def test_deleted_text_is_in_no_file(store: ResponseStore, tmp_path: Path) -> None:
    save(store, "canary-71f3")
    save(store, "r2")
    assert any(b"canary-71f3" in path.read_bytes() for path in tmp_path.iterdir())
    store.delete("a", "canary-71f3")
    assert not [path.name for path in tmp_path.iterdir() if b"canary-71f3" in path.read_bytes()]
    assert store.get("a", "r2")


def test_responses_survive_a_restart(store: ResponseStore, tmp_path: Path) -> None:
    save(store, "r1")
    store.database.close()
    store.database = Database(tmp_path, clock=Clock())
    assert ResponseStore(store.database).get("a", "r1")["id"] == "r1"


def test_input_items_come_in_pages(store: ResponseStore) -> None:
    response: dict[str, Any] = {"id": "r", "previous_response_id": None, "output": []}
    store.save("a", response, [message(str(number)) for number in range(5)])
    first = store.input_items("a", "r", Cursor(limit=3, order="asc"))
    assert (texts(first.items), first.has_more) == (["0", "1", "2"], True)
    rest = store.input_items("a", "r", Cursor(after="msg_2", limit=3, order="asc"))
    assert (texts(rest.items), rest.has_more) == (["3", "4"], False)
