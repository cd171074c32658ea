"""Each engine by its name, and plain words for a setting that is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.errors import InvalidInput
from holdfast.retrieval.embed import Embedder
from holdfast.serving.config import Settings
from holdfast.serving.engine.factory import ENGINES, make_engine


async def test_every_engine_of_the_settings_can_be_made(embedder: Embedder, tiny_llama: Path) -> None:
    for name in ENGINES:
        settings = Settings(engine=name, model=str(tiny_llama), upstream_url="http://127.0.0.1:9/v1", device="cpu")
        engine = make_engine(settings, embedder)
        assert engine.name == {"extract": "extract", "hf": tiny_llama.name, "remote": str(tiny_llama)}[name]
        await engine.close()


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        (Settings(engine="hf"), "model"),
        (Settings(engine="remote", model="m"), "upstream_url"),
        (Settings(engine="remote", upstream_url="http://127.0.0.1:9/v1"), "model"),
    ],
)
def test_a_missing_setting_is_named(embedder: Embedder, settings: Settings, param: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        make_engine(settings, embedder)
    assert raised.value.param == param
