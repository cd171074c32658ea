"""From an address to the store that ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from holdfast.errors import InvalidInput
from holdfast.retrieval.ranking_store import RankedRow
from holdfast.serving.config import Settings
from holdfast.serving.untrusted_ranking import make_ranking_tables, no_tables


@pytest.mark.parametrize("option", ["ranking_store", "object_store", None])
def test_rows_lie_where_the_settings_say(option: str | None, tmp_path: Path) -> None:
    path = tmp_path / ("chosen.sqlite3" if option else "ranked.sqlite3")
    settings = Settings(data_dir=tmp_path, **({option: f"sqlite:{path}"} if option else {}))
    table = make_ranking_tables(settings)("rows", "l2", 2)
    table.upsert_rows([RankedRow(bytes(16), 1, np.ones(2, np.float32), b"sealed", "token")])
    assert table.count() == 1
    table.close()
    assert path.stat().st_size > 0


@pytest.mark.parametrize("address", ["s3://bucket/prefix", "/srv/objects", "redis://here"])
def test_a_store_that_does_not_rank_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="does not rank; set ranking_store") as caught:
        make_ranking_tables(Settings(data_dir=tmp_path, object_store=address))
    assert caught.value.param == "ranking_store"
    with pytest.raises(InvalidInput, match="choose the mode `sealed`"):
        no_tables()
