"""`holdfast warm` and `holdfast stability`, on a data directory with a tiny model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.errors import InvalidInput
from holdfast.serving.api_keys import DEFAULT_TENANT
from holdfast.serving.cli_documents import show_stability, warm
from holdfast.serving.cli_ingest import find_files, ingest_files
from holdfast.serving.cli_output import err
from holdfast.serving.config import Settings
from holdfast.serving.service import Service
from tests.serving.conftest import HashEmbedder
from tests.serving.tiny_llama import make_tiny_llama

TEXTS = {"tower.txt": "The tower was built in 1889.", "bridge.txt": "The bridge was built in 1932 by the city."}
QUESTION = "The bridge was built in which year by the city?"


@pytest.fixture(params=["hf", "extract"])
def service(request: pytest.FixtureRequest, tmp_path: Path, read_here: None) -> Iterator[Service]:
    settings = Settings(
        data_dir=tmp_path / "data",
        engine=request.param,
        model=str(make_tiny_llama(tmp_path / "model")) if request.param == "hf" else None,
        device="cpu",
        relevance_threshold=0.0,
    )
    opened = Service(settings, embedder=HashEmbedder())  # type: ignore[arg-type]
    texts = tmp_path / "texts"
    texts.mkdir()
    for name, text in TEXTS.items():
        (texts / name).write_text(text)
    ingest_files(opened, "vs_default", find_files([texts]), err)
    yield opened
    asyncio.run(opened.close())


def test_warming_and_auditing(service: Service, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if service.settings.engine == "extract":
        with pytest.raises(InvalidInput, match="hf engine"):
            warm(service, "vs_default", as_json=True)
        show_stability(service, "vs_default", QUESTION, "auto", 2, 0, as_json=False)
        assert "distinct answers" in capsys.readouterr().out
        return
    for expected in (True, False):
        warm(service, "vs_default", as_json=True)
        result = json.loads(capsys.readouterr().out)
        assert result["passages"] == 2
        assert (result["tokens_written"] > 0) == expected
    assert len(list((tmp_path / "data" / "document-cache").glob("*/*"))) == 2
    show_stability(service, "vs_default", QUESTION, "set", 2, 0, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["guarantee"], found["max_logit_difference"]) == ("bitwise", 0.0)
    assert service.engine.document_cache.stats.found["new"] == 2  # type: ignore[attr-defined]
    with pytest.raises(InvalidInput, match="one of"):
        show_stability(service, "vs_default", QUESTION, "sideways", 2, 0, as_json=True)
    [file_id] = {
        source.file_id
        for source in service.collections.passages(DEFAULT_TENANT, "vs_default")
        if "bridge" in source.text
    }
    service.files.delete(DEFAULT_TENANT, file_id)
    assert len(list((tmp_path / "data" / "document-cache").glob("*/*"))) == 1
