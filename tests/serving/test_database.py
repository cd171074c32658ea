from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import Conflict, IntegrityError, InvalidInput, StorageError
from holdfast.serving.database import Cursor, Database, fetch_page

HOLDER = """
import sys, time
from pathlib import Path
from holdfast.serving.database import Database
database = Database(Path(sys.argv[1]))
print("open", flush=True)
time.sleep(60)
"""
ROWS = "SELECT position, 'id' || position AS id FROM numbers WHERE position % ? = 0"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path)
    with database.write() as connection:
        connection.execute("CREATE TABLE numbers (position INTEGER PRIMARY KEY, text TEXT)")
    yield database
    database.close()


def count(database: Database) -> int:
    return int(database.read().execute("SELECT COUNT(*) FROM numbers").fetchone()[0])


def test_a_second_process_is_told_who_holds_the_directory_until_that_dies(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(Conflict, match=f"in use by process {holder.pid};"):
            Database(tmp_path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    Database(tmp_path).close()


def test_one_process_cannot_open_a_directory_twice(database: Database, tmp_path: Path) -> None:
    with pytest.raises(Conflict, match=str(os.getpid())):
        Database(tmp_path)


def test_another_schema_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    database = Database(tmp_path)
    with database.write() as connection:
        connection.execute("UPDATE schema_version SET version = 99")
    database.close()
    for _ in range(2):  # the refusal gives the lock back
        with pytest.raises(Conflict, match="schema version 99"):
            Database(tmp_path)


def test_a_file_that_is_no_database_is_an_integrity_error(tmp_path: Path) -> None:
    (tmp_path / "holdfast.sqlite3").write_bytes(b"not a database" * 1000)
    with pytest.raises(IntegrityError, match="damaged"):
        Database(tmp_path)


def test_the_promised_settings_hold_on_the_writer(database: Database) -> None:
    with database.write() as connection:
        values = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "secure_delete")]
        assert values == [2, 1]
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert connection.execute("PRAGMA foreign_keys").fetchone()[0] == 1


def test_an_exception_rolls_back(database: Database) -> None:
    def fail() -> None:
        with database.write() as connection:
            connection.execute("INSERT INTO numbers VALUES (1, 'a')")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert count(database) == 0


def test_readers_cannot_write(database: Database) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        database.read().execute("INSERT INTO numbers VALUES (1, 'a')")


def test_a_snapshot_sees_one_commit(database: Database) -> None:
    with database.snapshot():
        assert count(database) == 0

        def write() -> None:
            with database.write() as connection:
                connection.execute("INSERT INTO numbers VALUES (1, 'a')")

        thread = threading.Thread(target=write)
        thread.start()
        thread.join(10)
        assert count(database) == 0
    assert count(database) == 1


def test_writers_take_turns(database: Database) -> None:
    def work(worker: int) -> None:
        for number in range(20):
            with database.write() as connection:
                before = connection.execute("SELECT COUNT(*) FROM numbers").fetchone()[0]
                connection.execute("INSERT INTO numbers VALUES (?, '')", (worker * 1000 + number,))
                assert connection.execute("SELECT COUNT(*) FROM numbers").fetchone()[0] == before + 1

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert count(database) == 80


def test_purge_leaves_nothing_of_deleted_rows(database: Database, tmp_path: Path) -> None:
    with database.write() as connection:
        connection.execute("INSERT INTO numbers VALUES (1, ?)", ("canary" * 2000,))
    with database.write() as connection:
        connection.execute("DELETE FROM numbers")
    assert any(b"canary" in path.read_bytes() for path in tmp_path.iterdir())
    database.purge()
    assert not any(b"canary" in path.read_bytes() for path in tmp_path.iterdir())


def test_a_full_disk_commits_nothing_and_says_so(database: Database) -> None:
    with database.write() as connection:
        connection.execute("INSERT INTO numbers VALUES (1, 'a')")

    def fill() -> None:
        with database.write() as connection:
            connection.executemany("INSERT INTO numbers VALUES (?, ?)", [(row, "x" * 100_000) for row in range(2, 200)])

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))  # writes beyond it fail as on a full disk
    try:
        with pytest.raises(StorageError, match="cannot write"):
            fill()
        assert count(database) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with database.write() as connection:
        connection.execute("INSERT INTO numbers VALUES (2, 'b')")
    assert count(database) == 2
    assert database.check() == []


def test_damage_is_found(tmp_path: Path) -> None:
    database = Database(tmp_path)
    with database.write() as connection:
        connection.execute("CREATE TABLE filled (text TEXT)")
        connection.executemany("INSERT INTO filled VALUES (?)", [("x" * 1000,)] * 1000)
    database.close()
    path = tmp_path / "holdfast.sqlite3"
    data = bytearray(path.read_bytes())
    data[-200_000:-190_000] = bytes(10_000)
    path.write_bytes(data)
    database = Database(tmp_path)
    assert database.check() != []
    database.close()


@given(
    st.integers(0, 12),
    st.integers(1, 3),
    st.integers(1, 5),
    st.sampled_from(["asc", "desc"]),
)
def test_pages_in_either_direction_join_up_to_the_whole_listing(
    num_rows: int, step: int, limit: int, order: Any
) -> None:
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    connection.execute("CREATE TABLE numbers (position INTEGER PRIMARY KEY)")
    connection.executemany("INSERT INTO numbers VALUES (?)", [(number,) for number in range(1, num_rows + 1)])
    expected = [f"id{number}" for number in range(1, num_rows + 1) if number % step == 0]
    if order == "desc":
        expected.reverse()
    forwards: list[str] = []
    after, has_more = None, True
    while has_more:
        page = fetch_page(connection, ROWS, (step,), Cursor(after=after, limit=limit, order=order))
        forwards += [row["id"] for row in page.items]
        after, has_more = (forwards[-1] if forwards else None), page.has_more
    assert forwards == expected
    backwards: list[str] = expected[-1:]
    has_more = bool(expected)
    while has_more:
        page = fetch_page(connection, ROWS, (step,), Cursor(before=backwards[0], limit=limit, order=order))
        backwards = [row["id"] for row in page.items] + backwards
        has_more = page.has_more
    assert backwards == expected
    connection.close()


@pytest.mark.parametrize(
    ("cursor", "param"),
    [
        (Cursor(limit=0), "limit"),
        (Cursor(limit=10_001), "limit"),
        (Cursor(after="id7"), "after"),
        (Cursor(before="id7"), "before"),
    ],
)
def test_a_faulty_cursor_is_named(database: Database, cursor: Cursor, param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        fetch_page(database.read(), ROWS, (1,), cursor)
    assert caught.value.param == param
