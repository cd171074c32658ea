"""Whom an open server lets in."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from holdfast.errors import InvalidInput, Unauthenticated
from holdfast.serving.api_keys import ApiKeys
from holdfast.serving.config import Settings
from holdfast.serving.exposure import check_exposure, check_host, is_loopback
from tests.serving.server import running_server


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *[(host, True) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")],
        *[(host, False) for host in ("0.0.0.0", "::", "192.168.0.4", "example.org")],
    ],
)
def test_loopback_addresses_are_told_from_others(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_other_machines_are_served_with_keys_or_on_request_only(tmp_path: Path) -> None:
    everywhere = Settings(data_dir=tmp_path, host="0.0.0.0")
    with pytest.raises(InvalidInput, match="holdfast api-key create"):
        check_exposure(everywhere)
    check_exposure(Settings(data_dir=tmp_path))
    check_exposure(everywhere.model_copy(update={"allow_open": True}))
    ApiKeys(tmp_path).create()
    check_exposure(everywhere)


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "LOCALHOST"])
def test_this_machine_may_be_addressed_by_its_names(host: str) -> None:
    check_host(host)


@pytest.mark.parametrize(
    "host", [None, "", "evil.example", "localhost.evil.example:80", "127.0.0.1@evil.example", "10.0.0.1", "[::1", "a]b"]
)
def test_other_names_are_refused(host: str | None) -> None:
    with pytest.raises(Unauthenticated, match="addressed to localhost"):
        check_host(host)


def test_a_page_that_rebinds_its_name_reads_nothing(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        rebound = {"host": "evil.example"}
        refused = httpx.get(f"{server.url}/v1/files", headers=rebound)
        assert refused.status_code == 401
        assert "evil.example" in refused.json()["error"]["message"]
        assert httpx.get(f"{server.url}/health", headers=rebound).status_code == 200
        key = ApiKeys(server.data_dir).create()[1]
        named = httpx.get(f"{server.url}/v1/files", headers={**rebound, "authorization": f"Bearer {key}"})
        assert named.status_code == 200, named.text
