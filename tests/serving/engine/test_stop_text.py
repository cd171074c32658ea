"""Stop strings are found wherever the stream is cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from holdfast.serving.engine.stop_text import StopText, find_stop

LETTERS = st.text(alphabet="ab\n", max_size=24)


@given(LETTERS, st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=3), st.integers(1, 5))
def test_text_passed_on_ends_before_the_first_stop_string_however_it_is_cut(
    text: str, stop: list[str], size: int
) -> None:
    stream = StopText(stop)
    passed = "".join(stream.feed(text[first : first + size]) for first in range(0, len(text), size)) + stream.flush()
    end = find_stop(text, stop)
    assert stream.is_stopped == (end is not None)
    if end is None:
        assert passed == text
    else:  # cut differently, another stop string may be complete first; none is ever passed on
        assert text.startswith(passed)
        assert find_stop(passed, stop) is None


def test_what_could_begin_a_stop_string_is_held_back_until_it_does_not() -> None:
    stream = StopText(["</end>"])
    assert stream.feed("one </e") == "one "
    assert stream.feed("lse") == "</else"
    assert stream.feed("</end> two") == ""
    assert stream.feed("three") == ""


def test_text_without_stop_strings_is_passed_on_at_once() -> None:
    assert StopText(()).feed("word") == "word"
