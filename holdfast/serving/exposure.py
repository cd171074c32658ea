"""An open server, one without API keys, is for this machine only: where it may listen, and how it must be addressed."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from holdfast.errors import InvalidInput, Unauthenticated
from holdfast.serving.api_keys import ApiKeys
from holdfast.serving.config import Settings


def check_exposure(settings: Settings) -> None:
    """Refuse to serve other machines while everyone would be let in.

    Raises:
        InvalidInput: the address is open to others, there is no API key, and `allow_open` is not set.
    """
    if settings.allow_open or is_loopback(settings.host):
        return
    keys = ApiKeys(settings.data_dir)
    try:
        if keys.is_open():
            raise InvalidInput(
                f"host {settings.host!r} can be reached by other machines and there is no API key yet: make one with"
                " `holdfast api-key create`, or set `allow_open` if a proxy in front checks who calls",
                param="host",
            )
    finally:
        keys.close()


def check_host(host: str | None) -> None:
    """Refuse a request to an open server unless its `Host` header (None: there is none) names this machine.

    A web page may point a name of its own at 127.0.0.1 and let its visitor's browser ask (DNS rebinding): the header
    still has that name.

    Raises:
        Unauthenticated: it names another machine, or nothing.
    """
    try:
        name = urlsplit(f"//{host or ''}").hostname or ""
    except ValueError:
        name = ""
    if not is_loopback(name):
        raise Unauthenticated(
            f"While there is no API key, requests must be addressed to localhost, not to {host!r:.80}: make a key with"
            " `holdfast api-key create`, or set `allow_open` if a proxy in front checks who calls."
        )


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
