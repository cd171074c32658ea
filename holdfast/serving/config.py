"""The settings, and the only reader of the environment.

Every field can be set as `HOLDFAST_<NAME>` or by the option of the same name of `holdfast serve`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """One frozen tree of settings."""

    model_config = SettingsConfigDict(env_prefix="HOLDFAST_", frozen=True, extra="forbid")

    data_dir: Path = Field(Path("holdfast-data"), description="Folder that holds files, passages and indexes.")
    key_file: Path | None = Field(
        None, description="File of keys, readable by its owner only: uploads, stored answers and sealed stores need it."
    )
    encryption: Literal["plain", "sealed"] | None = Field(
        None, description="How new vector stores are kept; `sealed` when unset and `object_store` is set, else `plain`."
    )
    object_store: str | None = Field(
        None,
        repr=False,
        description="Where sealed stores keep their objects: a folder, `sqlite:FILE`, `s3://BUCKET/PREFIX` or "
        "`postgresql://...`; the data directory when unset.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    engine: Literal["extract", "hf", "remote"] = Field(
        "extract", description="What answers: `extract` quotes the files, `hf` runs a model here, `remote` asks one."
    )
    model: str | None = Field(
        None, description="`hf`: folder or hub name of a causal language model. `remote`: its name upstream."
    )
    upstream_url: str | None = Field(None, description="`remote`: base URL of an OpenAI-compatible server, with /v1.")
    upstream_api_key: str | None = Field(None, repr=False, description="`remote`: key for the upstream.")
    document_cache_memory_bytes: int = Field(
        2**30, ge=0, description="`hf`: memory for what set mode has read of documents."
    )
    document_cache_disk_bytes: int = Field(
        8 * 2**30, ge=0, description="`hf`: disk for the same, in the data directory; 0 keeps nothing there."
    )
    kv: Literal["full", "retrieval"] = Field(
        "full", description="`hf`: decode over the whole KV cache, or over what each head retrieves from a long one."
    )
    kv_budget: int = Field(1024, ge=1, description="`hf`: keys that each head reads exactly, with retrieval.")
    kv_memory_bytes: int = Field(
        4 * 2**30,
        ge=0,
        description="`hf`: memory for keys and values of one request with retrieval; more goes to disk.",
    )
    embedding_model: str = Field(
        "all-MiniLM-L6-v2", description="sentence-transformers folder or hub name; the default is bundled."
    )
    device: str | None = Field(None, description="Torch device for models; chosen automatically when unset.")
    num_passages: int = Field(8, ge=1, le=50, description="Passages retrieved for an answer.")
    relevance_threshold: float = Field(
        0.3,
        ge=0.0,
        le=1.0,
        description="Below this score (0.15 less where a passage has all words of the question) the files do not say.",
    )
    max_file_bytes: int = Field(512 * 2**20, gt=0, description="Largest upload.")
    max_body_bytes: int = Field(16 * 2**20, gt=0, description="Largest JSON request.")
    parse_memory_bytes: int = Field(1_400 * 2**20, gt=0, description="Memory one parse may use.")
    parse_timeout_s: float = Field(30.0, gt=0, description="Seconds one parse may take.")
    max_concurrent_requests: int = Field(8, ge=1, description="Answers generated at once.")
    max_queued_requests: int = Field(64, ge=0, description="Requests that may wait for their turn; more get 429.")
    request_timeout_s: float = Field(300.0, gt=0, description="Seconds one request may take.")
    shutdown_timeout_s: float = Field(10.0, ge=0, description="Seconds running requests get to finish on shutdown.")
    allow_open: bool = Field(
        False, description="Serve other machines even though there is no API key, so that anyone may call."
    )
