from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.errors import Conflict, InvalidInput, NotFound
from holdfast.retrieval.embed import Embedder
from holdfast.serving.collection import NewFile
from holdfast.serving.config import Settings
from holdfast.serving.limits import MAX_QUERY_CHARS
from holdfast.serving.service import Service

TEXTS = {
    "harbour.md": "# Harbour\n\nThe harbour master is Ingrid Solberg. She has kept the harbour since 1987.",
    "bakery.md": "# Bakery\n\nThe bakery opens at five in the morning and sells rye bread.",
    "museum.md": "# Museum\n\nThe museum shows the bones of a whale that stranded in 1901.",
}


def add(service: Service, vector_store_id: str, *names: str) -> None:
    uploads = []
    for name in names:
        path = service.files.upload_path()
        path.write_text(TEXTS[name])
        uploads.append(service.files.create("default", name, "assistants", path))
    service.collections.create("default", vector_store_id=vector_store_id)
    service.collections.attach("default", vector_store_id, [NewFile(upload.id) for upload in uploads])
    service.ingestion.run_until_idle()


async def test_questions_find_their_passages_over_several_stores(tmp_path: Path, embedder: Embedder) -> None:
    service = Service(Settings(data_dir=tmp_path), embedder=embedder)
    try:
        add(service, "vs_town", "harbour.md", "bakery.md")
        add(service, "vs_sights", "museum.md", "harbour.md")
        stores = ["vs_town", "vs_sights"]
        found = await service.retrieve("default", stores, ["Who is the harbour master?"], max_num_results=10)
        assert found[0].filename == "harbour.md"
        assert found[0].score > 0.5
        assert len({source.passage_id for source in found}) == len(found) == 3
        assert found == sorted(found, key=lambda source: (-source.score, source.passage_id))
        queries = ["Who is the harbour master?", "When does the bakery open?", "Which animal's bones are shown?"]
        best = await service.retrieve("default", stores, queries, max_num_results=3, score_threshold=0.4)
        assert {source.filename for source in best} == set(TEXTS)
        with pytest.raises(InvalidInput, match="characters"):
            await service.retrieve("default", stores, ["x" * (MAX_QUERY_CHARS + 1)], max_num_results=3)
        with pytest.raises(NotFound):
            await service.retrieve("default", ["vs_town", "vs_none"], queries, max_num_results=3)
        with pytest.raises(NotFound):
            await service.retrieve("other", ["vs_town"], queries, max_num_results=3)
    finally:
        await service.close()
    service = Service(Settings(data_dir=tmp_path), embedder=embedder)
    again = await service.retrieve("default", stores, ["Who is the harbour master?"], max_num_results=10)
    assert again == found
    assert service.collections.verify() == []
    await service.close()


async def test_a_service_that_cannot_start_gives_the_directory_back(tmp_path: Path, embedder: Embedder) -> None:
    with pytest.raises(InvalidInput):
        Service(Settings(data_dir=tmp_path, engine="hf"), embedder=embedder)
    service = Service(Settings(data_dir=tmp_path), embedder=embedder)
    with pytest.raises(Conflict, match="in use"):
        Service(Settings(data_dir=tmp_path), embedder=embedder)
    await service.close()
