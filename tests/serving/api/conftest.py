"""A server over a scripted engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serving.scripted import Scripted, running_scripted


@pytest.fixture(scope="session")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scripted]:
    with running_scripted(tmp_path_factory.mktemp("scripted")) as running:
        yield running
