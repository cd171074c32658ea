"""One epoch's rows in a store that ranks: what it is asked, and whether its answers can be whole.

The store returns the best few rows of every cell; the gateway opens them and orders them by their exact vectors. That a
row is genuine, its sealing says. That none was left out, nothing signed can say; what can be noticed is noticed: fewer
rows than a cell is known to hold, and a canary (`privacy/canaries.py`) that does not come back when a question made for
it is sent, which is done beside every search, in random order.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import TamperError
from holdfast.privacy.canaries import PROBE_COSINE
from holdfast.privacy.distance import CipherVector, PlainVector
from holdfast.privacy.noise import Gaussian, QueryNoise
from holdfast.privacy.overfetch import quota
from holdfast.retrieval.ranking_store import Hits, RankingStore
from holdfast.serving.ranked_rows import EpochRows, OpenedRow

NOISE_MARGIN = 0.3
"""no noise of any mode moves a row past another whose cosine is so much higher"""


@dataclass
class RankingStats:
    """What all ranked collections together asked and got. Read by metrics."""

    searches: int = 0
    rows_fetched: int = 0
    rows_returned: int = 0
    canaries_probed: int = 0
    omissions: int = 0
    """answers that cannot be whole: a canary or rows were missing"""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, **counts: int) -> None:
        """Count."""
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)


class EpochRanking:
    """The rows of one epoch, made by `rows`, in `store`.

    Args:
        deviation: of the noise on questions, drawn for each cell; None: none.
    """

    def __init__(self, rows: EpochRows, store: RankingStore, deviation: float | None, stats: RankingStats) -> None:
        self.rows = rows
        self._store = store
        self._stats = stats
        self._canary_cells = rows.count_cells(rows.parameters.canaries.row_ids)
        self._counts: dict[int, NDArray[np.int64]] = {}
        self.noise = None
        if deviation is not None:
            keys = rows.keys
            self.noise = QueryNoise(keys.vectors, keys.epoch, Gaussian(deviation), rows.encoding.num_cells)

    def add(self, number: int, ids: Sequence[bytes]) -> None:
        """Expect the rows of a document, which are in the store."""
        self._counts[number] = self.rows.count_cells(ids)

    def remove(self, number: int) -> None:
        """Expect the rows of a document no more; they may still be returned for a while."""
        self._counts.pop(number, None)

    @property
    def num_documents(self) -> int:
        return len(self._counts)

    def nearest(
        self, query: NDArray[np.float32], num_candidates: int, numbers: Collection[int] | None
    ) -> list[OpenedRow]:
        """Return the rows that the store ranks highest for `query` (dim,), canaries left out.

        Args:
            num_candidates: over all cells.
            numbers: documents whose rows count; None: all.

        Raises:
            TamperError: a row is not what was stored, or the answer cannot be whole.
        """
        own = self._counts if numbers is None else [number for number in numbers if number in self._counts]
        if not own:
            return []
        canaries = self.rows.parameters.canaries
        probed = secrets.randbelow(len(canaries.row_ids))
        vectors = [query, canaries.probes[probed]]
        asked, probe = self.rows.encoding.encode_queries([self._sent(vector) for vector in vectors])
        wanted = quota(num_candidates, self.rows.encoding.num_cells)
        tokens = None if numbers is None else sorted(self.rows.token(number) for number in own)
        questions = ((asked, tokens), (probe, None))
        order = (0, 1) if secrets.randbelow(2) else (1, 0)
        answers = {place: self._scan(*questions[place], wanted) for place in order}
        found, answered = answers[0], answers[1]
        expected = sum((self._counts[number] for number in own), np.zeros_like(self._canary_cells))
        self._stats.add(searches=1, canaries_probed=1, rows_fetched=sum(map(len, found.values())))
        try:
            self._check_counts(found, expected if tokens is not None else expected + self._canary_cells, wanted)
            self._check_canary(probed, answered)
        except TamperError:
            self._stats.add(omissions=1)
            raise
        opened = [self.rows.open(hit) for hits in found.values() for hit in hits]
        return [row for row in opened if row.number in self._counts]

    def release_id(self, query: NDArray[np.float32]) -> bytes:
        """Return what names the release of a question, where noise is added to it."""
        assert self.noise is not None
        return self.noise.release_id(_name(query))

    def _sent(self, query: NDArray[np.float32]) -> PlainVector:
        plain = PlainVector(query[None])
        return plain if self.noise is None else self.noise.perturb(_name(query), plain)

    def _scan(self, query: CipherVector, tokens: Sequence[str] | None, wanted: int) -> dict[int, Hits]:
        numbered = {self.rows.cell_number(cell): cell for cell in query.cells.tolist()}
        vectors = dict(zip(numbered, query.values, strict=True))
        answer = self._store.scan_topk(vectors, wanted, tokens=tokens)
        return {cell: answer.get(number, []) for number, cell in numbered.items()}

    def _check_counts(self, found: Mapping[int, Hits], expected: NDArray[np.int64], wanted: int) -> None:
        for cell, hits in found.items():
            least = min(wanted, int(expected[cell]))
            number = len({hit.id for hit in hits})
            if number < least:
                message = f"the store returns {number} rows of a cell where it has {least} or more"
                raise TamperError(message, code="omitted")

    def _check_canary(self, probed: int, answered: Mapping[int, Hits]) -> None:
        """Raise where a canary is missing although the store returned, in its cell, a row much farther from the probe.

        Where all rows that it returned are that near, texts are so much alike that they crowd the canary out.
        """
        canaries = self.rows.parameters.canaries
        row_id = canaries.row_ids[probed]
        [cell] = self.rows.encoding.cells([row_id]).tolist()
        returned = [self.rows.open(hit) for hit in answered[cell] if hit.id != row_id]
        if len(returned) < len(answered[cell]):
            return
        farthest = min((float(row.vector @ canaries.probes[probed]) for row in returned), default=-1.0)
        if farthest < PROBE_COSINE - NOISE_MARGIN:
            canaries.check([probed], [{row.id for row in returned}])


def _name(query: NDArray[np.float32]) -> str:
    """Return what a question is called when its noise is drawn: equal texts have equal vectors."""
    return query.astype("<f4").tobytes().hex()
