"""Stop strings in streamed text, also where one is spread over several tokens.

Text that could still turn out to be the beginning of a stop string is held back until it is known.
"""

from __future__ import annotations

from collections.abc import Sequence


def find_stop(text: str, stop: Sequence[str]) -> int | None:
    """Return where the first stop string begins in `text`, or None."""
    found = [position for position in (text.find(string) for string in stop if string) if position >= 0]
    return min(found, default=None)


class StopText:
    """Pass text on until a stop string appears; the stop string itself is never passed on."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(string for string in stop if string)
        self._held = ""
        self.is_stopped = False

    def feed(self, text: str) -> str:
        """Return what can be passed on now. After a stop string has appeared, nothing is."""
        if self.is_stopped:
            return ""
        self._held += text
        position = find_stop(self._held, self._stop)
        if position is not None:
            self.is_stopped = True
            passed, self._held = self._held[:position], ""
            return passed
        cut = len(self._held) - self._num_undecided()
        passed, self._held = self._held[:cut], self._held[cut:]
        return passed

    def flush(self) -> str:
        """Return what is still held back: the text ended, so it is no stop string."""
        held, self._held = self._held, ""
        return held

    def _num_undecided(self) -> int:
        """Characters at the end that begin some stop string."""
        longest = 0
        for string in self._stop:
            for size in range(min(len(string) - 1, len(self._held)), longest, -1):
                if self._held.endswith(string[:size]):
                    longest = size
                    break
        return longest
