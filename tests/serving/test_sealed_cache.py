"""What was used last is kept, up to a number of bytes."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from holdfast.serving.sealed_cache import OpenedCache


def test_the_longest_unused_goes_first() -> None:
    cache: OpenedCache[str] = OpenedCache(30)
    for key in "abc":
        cache.put(key, key.upper(), 10)
    assert cache.get("a") == "A"
    cache.put("d", "D", 10)
    assert [cache.get(key) for key in "abcd"] == ["A", None, "C", "D"]


def test_what_is_larger_than_the_cache_is_not_kept_and_drops_what_it_replaces() -> None:
    cache: OpenedCache[str] = OpenedCache(10)
    cache.put("a", "old", 5)
    cache.put("a", "new", 11)
    assert cache.get("a") is None
    cache.put("b", "B", 10)
    assert cache.get("b") == "B"
    cache.clear()
    assert cache.get("b") is None


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 12)), max_size=60))
def test_it_holds_what_a_plain_list_would(puts: list[tuple[int, int]]) -> None:
    cache: OpenedCache[int] = OpenedCache(20)
    expected: list[tuple[int, int]] = []
    for key, size in puts:
        cache.put(key, size, size)
        expected = [(other, its_size) for other, its_size in expected if other != key] + [(key, size)]
        while sum(its_size for _, its_size in expected) > 20:
            expected.pop(0)
    assert {key: value for key in range(9) if (value := cache.get(key)) is not None} == dict(expected)


def test_threads_share_it() -> None:
    cache: OpenedCache[int] = OpenedCache(100)

    def work(seed: int) -> None:
        for number in range(2000):
            key = (seed * 7 + number) % 13
            cache.put(key, key, 10)
            assert cache.get(number % 13) in (None, number % 13)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(cache.get(key) is not None for key in range(13)) == 10
