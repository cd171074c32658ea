"""Workers share what there is to do; a busy pool slows nothing down, and a failure reaches the caller."""

from __future__ import annotations

import threading

import pytest

from holdfast.kernels import threads
from holdfast.kernels.threads import MAX_THREADS, run_in_threads


def test_everything_is_done_once_whatever_the_number_of_workers() -> None:
    for num_workers in (1, 2, 7):
        todo, done = iter(range(1000)), []
        run_in_threads(lambda worker: done.extend(todo), num_workers)  # noqa: B023 - called before the next round
        assert sorted(done) == list(range(1000))


def test_worker_0_is_the_caller_and_workers_run_at_the_same_time() -> None:
    meeting, names = threading.Barrier(3, timeout=30), {}

    def work(worker: int) -> None:
        names[worker] = threading.current_thread()
        meeting.wait()

    run_in_threads(work, 3)
    assert sorted(names) == [0, 1, 2]
    assert names[0] is threading.current_thread()
    assert len(set(names.values())) == 3


def test_a_pool_full_of_other_work_is_not_waited_for() -> None:
    release = threading.Event()
    busy = [threads._pool().submit(release.wait, 30) for _ in range(MAX_THREADS)]
    try:
        ran = []
        run_in_threads(ran.append, 4)
        assert ran == [0]
    finally:
        release.set()
    assert all(future.result() for future in busy)


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failure_reaches_the_caller_after_all_have_stopped(failing: int) -> None:
    meeting, stopped = threading.Barrier(2, timeout=30), []

    def work(worker: int) -> None:
        meeting.wait()
        if worker == failing:
            raise ValueError("deliberate")
        stopped.append(worker)

    with pytest.raises(ValueError, match="deliberate"):
        run_in_threads(work, 2)
    assert stopped == [1 - failing]
