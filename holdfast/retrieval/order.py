"""The order in which passages are shown: by what they say, never by where they came from or how they ranked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def canonical_order(texts: Sequence[str]) -> list[int]:
    """Return the positions of `texts` by SHA-256 of their UTF-8 bytes.

    Permuting `texts` permutes the positions only: the texts, read in this order, are the same. Equal texts keep their
    order among themselves.
    """
    digests = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
    return sorted(range(len(texts)), key=digests.__getitem__)
