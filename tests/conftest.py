"""What every test gets: fixed seeds, a clean environment, no network, the evaluation data and one loaded embedder."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from benchmarks.corpora import EVAL_DATA
from holdfast.retrieval.embed import Embedder, make_embedder
from holdfast.serving.engine.spans import SpanReader, make_span_reader
from tests.untrusted_stores import (  # noqa: F401 - fixtures
    milvus_client,
    object_stores,
    postgres_dsn,
    ranking_stores,
    s3_client,
)

SEED = 20260923

settings.register_profile(
    "holdfast", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("holdfast")


def pytest_configure(config: pytest.Config) -> None:
    """Settings of the developer's own shell must not reach the tests or the servers they start."""
    for name in [name for name in os.environ if name.startswith("HOLDFAST_") and "_EVAL_" not in name]:
        del os.environ[name]
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before triton is first imported; set it to 0 where there is a GPU
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Connections leave for loopback and Unix sockets only."""
    connect = socket.socket.connect

    def connect_to_loopback(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to reach {address}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_to_loopback)
        yield


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Libraries that draw from the global generators draw the same in every run."""
    random.seed(SEED)
    np.random.seed(SEED)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(SEED)


@pytest.fixture(scope="session")
def eval_data() -> Path:
    """The evaluation data's folder; a test that needs it is skipped where it is absent."""
    if not EVAL_DATA.is_dir():
        pytest.skip(f"no evaluation data at {EVAL_DATA} (set HOLDFAST_EVAL_DATA)")
    return EVAL_DATA


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    """The bundled embedding model, loaded once."""
    return make_embedder(device="cpu")


@pytest.fixture(scope="session")
def span_reader() -> SpanReader:
    """The bundled span reader, loaded once."""
    return make_span_reader()
