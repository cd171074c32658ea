"""Fixtures of the HTTP tests: one server process for all of them, clients for it, and OpenAI's own schemas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.serving.server import Server, running_server
from tests.serving.spec import Specification

FACTS = {
    "moon.txt": "The Moon orbits the Earth every twenty-seven days. Its mean radius is 1737 kilometres.",
    "tea.md": "# Tea\n\nGreen tea is brewed at eighty degrees. Black tea needs boiling water.",
    "whales.txt": "The blue whale is the largest animal. An adult can weigh 150 tonnes and eats krill.",
}
"""Three small files that are easy to tell apart."""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An open server (no API keys) with the extract engine."""
    with running_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[openai.OpenAI]:
    """The installed official client; it does not retry, so that a test sees every answer."""
    with openai.OpenAI(base_url=server.base_url, api_key="unused", max_retries=0, timeout=60) as opened:
        yield opened


@pytest.fixture(scope="session")
def http(server: Server) -> Iterator[httpx.Client]:
    """Plain HTTP to the same server."""
    with httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened


@pytest.fixture(scope="session")
def upload(client: openai.OpenAI) -> Callable[[str, str], str]:
    """Return a function that uploads a text under a name and returns the file's id."""

    def upload_text(filename: str, text: str) -> str:
        return client.files.create(file=(filename, text.encode()), purpose="assistants").id

    return upload_text


@pytest.fixture(scope="session")
def facts(client: openai.OpenAI, upload: Callable[[str, str], str]) -> str:
    """The id of a vector store that holds `FACTS`, all ingested; tests must leave it as it is."""
    store = client.vector_stores.create(name="facts")
    file_ids = [upload(name, text) for name, text in FACTS.items()]
    batch = client.vector_stores.file_batches.create_and_poll(store.id, file_ids=file_ids, poll_interval_ms=100)
    assert batch.file_counts.completed == len(FACTS), batch
    return store.id


@pytest.fixture(scope="session")
def specification(eval_data: Path) -> Specification:
    """OpenAI's own schemas."""
    return Specification(eval_data / "openai_openapi" / "openapi.yaml.xz")
