"""The request log."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.serving.scripted import running_scripted


def test_a_path_cannot_forge_a_line_of_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "holdfast.requests")
    with running_scripted(tmp_path) as scripted:
        scripted.client.get("/v1/nothing%0AINFO%20holdfast:%20all%20is%20well", headers={"x-request-id": "a\tb"})
    [message] = [record.getMessage() for record in caplog.records if record.name == "holdfast.requests"]
    assert "\n" not in message
    assert "/v1/nothing%0AINFO" in message
