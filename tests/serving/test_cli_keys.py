"""`holdfast keys`: made, and rotated with everything still there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.errors import InvalidInput, NotFound
from holdfast.serving import cli_keys, ingestion
from holdfast.serving.config import Settings
from holdfast.serving.service import Service
from tests.serving import sealing
from tests.serving.conftest import STORE, TENANT, HashEmbedder, Storage


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", key_file=tmp_path / "keys", encryption="sealed")


@pytest.fixture
def service(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(ingestion, "read_document_in_child", ingestion.read_document_in_child)
    sealing.read_here()
    cli_keys.create_key(settings)
    opened = Service(settings, embedder=HashEmbedder())  # type: ignore[arg-type]
    yield opened
    opened.ingestion.stop()
    opened.collections.close()
    opened.database.close()


def storage_of(service: Service) -> Storage:
    parts = service.settings.data_dir, service.database, service.files, service.collections, service.ingestion
    return Storage(*parts, service.embedder)


def test_a_key_is_added_and_its_name_returned(settings: Settings) -> None:
    assert cli_keys.create_key(settings) != cli_keys.create_key(settings)
    assert settings.key_file is not None
    assert len(settings.key_file.read_text().split()) == 2
    with pytest.raises(InvalidInput, match="--key-file"):
        cli_keys.create_key(Settings())


def test_a_store_and_all_roots_are_rotated(service: Service, settings: Settings) -> None:
    service.collections.create(TENANT, vector_store_id=STORE)
    plain = service.collections.create(TENANT, mode="plain")
    storage = storage_of(service)
    storage.ingest("a.txt", "The keeper counts ships.")
    before = storage.search("keeper")
    assert cli_keys.rotate(service, STORE) == ["vs_default: epoch 2"]
    newest = cli_keys.create_key(settings)
    assert cli_keys.rotate(service, None) == ["default: root 2"]
    assert service.collections.get(TENANT, STORE).key_id == newest
    assert service.collections.get(TENANT, plain.id).key_id is None
    assert storage.search("keeper") == before
    assert service.collections.verify() == []
    with pytest.raises(InvalidInput, match="is plain"):
        cli_keys.rotate(service, plain.id)
    with pytest.raises(NotFound):
        cli_keys.rotate(service, "vs_none")
