"""The public door: what may be imported from `holdfast` itself, and stays where it is.

Names are resolved on first use, so that `import holdfast` loads nothing else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.errors import HoldfastError
    from holdfast.retrieval.chunks import Chunking, Passage, split_document
    from holdfast.retrieval.documents import Document, read_document
    from holdfast.retrieval.embed import Embedder, make_embedder
    from holdfast.retrieval.index import BinaryIndex
    from holdfast.retrieval.segment_search import SearchResult
    from holdfast.serving.app import create_app
    from holdfast.serving.config import Settings

__all__ = [
    "BinaryIndex",
    "Chunking",
    "Document",
    "Embedder",
    "HoldfastError",
    "Passage",
    "SearchResult",
    "Settings",
    "__version__",
    "create_app",
    "make_embedder",
    "read_document",
    "split_document",
]

__version__ = "0.1.0"

_HOMES = {
    "BinaryIndex": "retrieval.index",
    "Chunking": "retrieval.chunks",
    "Document": "retrieval.documents",
    "Embedder": "retrieval.embed",
    "HoldfastError": "errors",
    "Passage": "retrieval.chunks",
    "SearchResult": "retrieval.segment_search",
    "Settings": "serving.config",
    "create_app": "serving.app",
    "make_embedder": "retrieval.embed",
    "read_document": "retrieval.documents",
    "split_document": "retrieval.chunks",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
    return getattr(importlib.import_module(f"holdfast.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
