"""Background ingestion: read, split, embed, commit; one file at a time, each one transaction.

The queue is the rows with status `in_progress`, so it survives a crash: on start they are taken up again, at most
`MAX_ATTEMPTS` times each. Documents known by content are not parsed or embedded again.
"""

from __future__ import annotations

from collections.abc import Callable

from holdfast.serving.collection import Collections
from holdfast.serving.parse_process import ParseLimits

MAX_ATTEMPTS = 3


class Ingestion:
    """Worker threads over the queue; `wake` after attaching files."""

    def __init__(self, collections: Collections, limits: ParseLimits, *, num_workers: int = 1) -> None:
        raise NotImplementedError

    def start(self) -> None:
        raise NotImplementedError

    def wake(self) -> None:
        """Look at the queue now."""
        raise NotImplementedError

    def run_until_idle(self, progress: Callable[[str, str], None] | None = None) -> None:
        """Work the queue off in this thread (the command line); `progress(file_id, status)` after each file."""
        raise NotImplementedError

    def stop(self, timeout_s: float = 10.0) -> None:
        """Finish or abandon the current file (it is taken up again on the next start)."""
        raise NotImplementedError
