from __future__ import annotations

import threading
import time

from holdfast.retrieval.read_write_lock import ReadWriteLock


def test_readers_run_together() -> None:
    lock = ReadWriteLock()
    together = threading.Barrier(3, timeout=10)

    def read() -> None:
        with lock.reading():
            together.wait()

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not together.broken


def test_a_writer_is_alone_and_goes_before_later_readers() -> None:
    lock = ReadWriteLock()
    order: list[str] = []
    is_written = threading.Event()

    def write() -> None:
        with lock.writing():
            order.append("writer")
            is_written.set()

    def read() -> None:
        with lock.reading():
            order.append("reader")

    with lock.reading():
        writer = threading.Thread(target=write)
        writer.start()
        while not lock._num_waiting_writers:
            time.sleep(0.001)
        reader = threading.Thread(target=read)
        reader.start()
        time.sleep(0.05)
        assert order == []
    writer.join(10)
    reader.join(10)
    assert order == ["writer", "reader"]


def test_counts_survive_threads_that_fight() -> None:
    lock = ReadWriteLock()
    state = {"value": 0, "num_writing": 0}

    def work() -> None:
        for _ in range(300):
            with lock.writing():
                state["num_writing"] += 1
                assert state["num_writing"] == 1
                state["value"] += 1
                state["num_writing"] -= 1
            with lock.reading():
                assert state["num_writing"] == 0

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert state["value"] == 1200
