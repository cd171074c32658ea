"""The residue scanner finds every form in which plain data leaves, and nothing in random bytes."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from urllib.parse import quote

import numpy as np
import pytest

from holdfast.privacy.leakage_residue import ResidueScanner

TEXT = "Übermorgen's canary-7731"
VECTOR = np.linspace(-0.113, 0.219, 24).astype(np.float32)
SCANNER = ResidueScanner({"note": TEXT}, {"row 1": VECTOR}, {"codes": b"\x01\x99\xfe\x00\x42\x17\x33\x80\x55"})


@pytest.mark.parametrize(
    "hide",
    [
        lambda text: text.encode(),
        lambda text: text.lower().encode(),
        lambda text: text.upper().encode()[-11:].lower() + text.encode(),
        lambda text: text.encode("utf-16-le"),
        lambda text: text.encode().hex().encode(),
        lambda text: text.encode().hex().upper().encode(),
        lambda text: quote(text, safe="").encode(),
        lambda text: json.dumps({"note": text}).encode(),
        *[
            lambda text, offset=offset, variant=variant: variant(b"x" * offset + text.encode() + b"more")
            for offset in range(4)
            for variant in (base64.b64encode, base64.urlsafe_b64encode)
        ],
    ],
)
def test_text_is_found_in_every_form(hide: Callable[[str], bytes]) -> None:
    found = SCANNER.find(b"\x00\xffGET /" + hide(TEXT) + b"\x80 HTTP")
    assert found
    assert all(name.startswith("note (") for name in found)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8", "<f2", ">f2"])
def test_part_of_a_vector_is_found_in_every_type(dtype: str) -> None:
    assert SCANNER.find(b"abc" + VECTOR[4:13].astype(dtype).tobytes())


@pytest.mark.parametrize("offset", range(4))
def test_a_vector_is_found_in_base64(offset: int) -> None:
    assert SCANNER.find(base64.b64encode(b"x" * offset + VECTOR[:12].astype("<f4").tobytes() + b"tail"))


@pytest.mark.parametrize("show", [lambda v: str(v.tolist()), lambda v: "[" + ",".join(map(str, v)) + "]"])
def test_a_printed_vector_is_found(show: Callable[[np.ndarray], str]) -> None:
    assert SCANNER.find(show(VECTOR).encode())


def test_raw_bytes_are_found() -> None:
    assert SCANNER.find_in([b"nothing", b"..\x01\x99\xfe\x00\x42\x17\x33\x80\x55.."]) == ["codes (raw)"]


def test_random_bytes_hold_nothing() -> None:
    noise = np.random.default_rng(0).bytes(4_000_000)
    assert SCANNER.find(noise) == []
    assert SCANNER.find(base64.b64encode(noise)) == []


def test_a_short_canary_is_refused() -> None:
    with pytest.raises(AssertionError, match="too short"):
        ResidueScanner({"word": "rain"})
