"""What a server refuses before it listens."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from holdfast.errors import InvalidInput
from holdfast.serving.api_keys import ApiKeys
from holdfast.serving.config import Settings
from holdfast.serving.server import bind, check_exposure, is_loopback


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


def test_a_port_in_use_is_named() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert port > 0
        with pytest.raises(InvalidInput, match=f"port {port}: Address already in use"):
            bind("127.0.0.1", port)


def test_a_port_is_free_again_after_use() -> None:
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    with bind("127.0.0.1", port) as again:
        assert again.family == socket.AF_INET
