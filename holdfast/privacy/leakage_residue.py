"""R11: does anything plain stand in bytes that a store was given?

Each canary is looked for in every form in which code is likely to leave it: text raw, in base64 at any alignment, in
hexadecimal, percent-encoded and escaped as JSON; vectors as runs of float16, float32 and float64 in either byte
order, as printed decimals, and each of these in base64.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

MIN_CANARY_LEN = 8
"""shorter ones occur by chance: 8 bytes do in one of 10^13 megabytes"""
RUN_LEN = 4
"""consecutive numbers that count as a piece of a vector"""


class ResidueScanner:
    """Knows what must not be found.

    Args:
        texts: canaries by name: words, file names, filter values, of 8 bytes or more.
        vectors: vectors by name, each of one dimension; any 4 consecutive numbers of one are a hit.
        secrets: raw bytes by name, such as the 8-bit form of a vector.
    """

    def __init__(
        self,
        texts: Mapping[str, str] | None = None,
        vectors: Mapping[str, NDArray[np.floating]] | None = None,
        secrets: Mapping[str, bytes] | None = None,
    ) -> None:
        self._needles: dict[bytes, str] = {}
        for name, text in (texts or {}).items():
            for form, needle in _text_forms(text):
                self._add(needle, f"{name} ({form})")
        for name, vector in (vectors or {}).items():
            for form, needle in _vector_forms(vector):
                self._add(needle, f"{name} ({form})")
        for name, secret in (secrets or {}).items():
            for form, needle in _byte_forms(secret, "raw"):
                self._add(needle, f"{name} ({form})")

    def find(self, data: bytes) -> list[str]:
        """Return the names and forms of what stands in `data`, sorted. Cost: one search of `data` for each form."""
        lowered = data.lower()
        return sorted({name for needle, name in self._needles.items() if needle in data or needle in lowered})

    def find_in(self, pieces: Sequence[bytes]) -> list[str]:
        """Return what stands in any of `pieces`, such as the requests that a recording adapter kept."""
        return sorted({name for piece in pieces for name in self.find(piece)})

    def _add(self, needle: bytes, name: str) -> None:
        assert len(needle) >= MIN_CANARY_LEN, f"canary {name} is too short to be told from chance"
        self._needles.setdefault(needle, name)


def _text_forms(text: str) -> Iterator[tuple[str, bytes]]:
    yield from _byte_forms(text.encode(), "raw")
    yield "lower case", text.lower().encode()
    yield "UTF-16", text.encode("utf-16-le")
    yield "percent-encoded", quote(text, safe="").encode()
    yield "JSON", json.dumps(text)[1:-1].encode()


def _vector_forms(vector: NDArray[np.floating]) -> Iterator[tuple[str, bytes]]:
    for start in range(0, len(vector) - RUN_LEN + 1, RUN_LEN):
        run = vector[start : start + RUN_LEN]
        for dtype in ("<f4", ">f4", "<f8", ">f8", "<f2", ">f2"):
            raw = run.astype(dtype).tobytes()
            yield f"numbers {dtype}", raw
            if dtype == "<f4":
                yield from ((f"numbers {form}", needle) for form, needle in _byte_forms(raw, "raw"))
        for number in run:
            printed = repr(float(np.float32(number))).lstrip("-")
            if "e" not in printed and len(printed) > MIN_CANARY_LEN + 2:
                yield "decimal", printed[: MIN_CANARY_LEN + 1].encode()


def _byte_forms(data: bytes, name: str) -> Iterator[tuple[str, bytes]]:
    yield name, data
    yield "hexadecimal", data.hex().encode()
    for offset in range(3):
        # Of base64, only the characters are fixed that hold nothing of what stands before or after.
        encoded = base64.b64encode(bytes(offset) + data)
        inner = encoded[(0, 2, 3)[offset] : len(encoded) - (0, 3, 2)[(offset + len(data)) % 3 - 3]]
        if len(inner) >= MIN_CANARY_LEN:
            yield "base64", inner
            yield "base64", inner.replace(b"+", b"-").replace(b"/", b"_")
