"""The tiny Llama and the engine that runs it, made once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.serving.engine.hf import HfEngine, make_hf_engine
from tests.serving.tiny_llama import make_tiny_llama


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="session")
def hf_engine(tiny_llama: Path) -> Iterator[HfEngine]:
    engine = make_hf_engine(str(tiny_llama), device="cpu")
    yield engine
    asyncio.run(engine.close())
