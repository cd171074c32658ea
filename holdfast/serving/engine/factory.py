"""Engines by name. A new engine is one more factory here."""

from __future__ import annotations

from collections.abc import Callable

from holdfast.errors import InvalidInput
from holdfast.retrieval.embed import Embedder
from holdfast.serving.config import Settings
from holdfast.serving.engine.document_cache import DocumentCache, read_secret
from holdfast.serving.engine.document_files import DocumentFiles
from holdfast.serving.engine.protocol import Engine


def _make_extract(settings: Settings, embedder: Embedder) -> Engine:
    from holdfast.serving.engine.extract import ExtractEngine
    from holdfast.serving.engine.spans import make_span_reader

    return ExtractEngine(embedder, make_span_reader())


def _make_hf(settings: Settings, embedder: Embedder) -> Engine:
    from holdfast.serving.engine.hf import KvDefaults, make_hf_engine

    if settings.model is None:
        raise InvalidInput("the hf engine needs a model: set --model to a folder or a hub name", param="model")
    folder = settings.data_dir / "document-cache"
    files = DocumentFiles(folder, settings.document_cache_disk_bytes) if settings.document_cache_disk_bytes else None
    return make_hf_engine(
        settings.model,
        device=settings.device,
        document_cache=DocumentCache(settings.document_cache_memory_bytes, files),
        secret=read_secret(settings.data_dir / "document-cache.key"),
        kv=KvDefaults(settings.kv, settings.kv_budget, settings.kv_memory_bytes, settings.data_dir),
    )


def _make_remote(settings: Settings, embedder: Embedder) -> Engine:
    from holdfast.serving.engine.remote import make_remote_engine

    if settings.upstream_url is None or settings.model is None:
        raise InvalidInput(
            "the remote engine needs --upstream-url (with /v1) and --model (its name there)",
            param="upstream_url" if settings.upstream_url is None else "model",
        )
    return make_remote_engine(settings.model, settings.upstream_url, settings.upstream_api_key)


ENGINES: dict[str, Callable[[Settings, Embedder], Engine]] = {
    "extract": _make_extract,
    "hf": _make_hf,
    "remote": _make_remote,
}


def make_engine(settings: Settings, embedder: Embedder) -> Engine:
    """Return the engine that `settings.engine` names, ready to answer.

    Raises:
        InvalidInput: a setting that the engine needs is missing, or its model cannot be loaded.
    """
    return ENGINES[settings.engine](settings, embedder)
