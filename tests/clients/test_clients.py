"""Both majors of the official client, each from its own environment, against one real server process.

`make test` builds the environments and names their interpreters in OPENAI2_PYTHON and OPENAI3_PYTHON.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.serving.http_fixtures import server  # noqa: F401 - a fixture
from tests.serving.server import Server

HERE = Path(__file__).parent
SCRIPTS = ("conformance.py", "conformance_generation.py")
TIMEOUT_S = 240


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("major", [2, 3])
def test_the_client_gets_what_it_expects(server: Server, major: int, script: str) -> None:  # noqa: F811 - the fixture
    interpreter = os.environ.get(f"OPENAI{major}_PYTHON")
    if not interpreter:
        pytest.skip(f"OPENAI{major}_PYTHON is not set; `make test` makes that environment")
    finished = subprocess.run(
        [interpreter, HERE / script, server.base_url], capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert f"openai {major}." in finished.stdout, finished.stdout
