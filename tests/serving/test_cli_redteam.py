"""`holdfast redteam` on a folder of one's own."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.redteam_corpus import shipped_corpus
from holdfast.errors import InvalidInput
from holdfast.retrieval.embed import Embedder
from holdfast.serving import cli_redteam
from holdfast.serving.config import Settings


class ShippedEmbedder(Embedder):
    """Answers from the vectors that ship with the tests: embedding 2000 texts takes half a minute."""

    def __init__(self, vectors: dict[str, np.ndarray]) -> None:
        self.vectors = vectors

    def truncate(self, text: str) -> str:
        return text

    def encode(self, texts, *, progress=None):  # type: ignore[no-untyped-def]
        return np.stack([self.vectors[text] for text in texts])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    corpus = shipped_corpus()
    texts, vectors = corpus.texts[:1800], corpus.vectors[:1800]
    known = dict(zip(texts, vectors, strict=True)) | {f"question {row}": corpus.queries[row] for row in range(40)}
    monkeypatch.setattr(cli_redteam, "make_embedder", lambda model, device: ShippedEmbedder(known))
    with gzip.open(tmp_path / "corpus.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"_id": str(row), "text": text}) + "\n" for row, text in enumerate(texts))
    with gzip.open(tmp_path / "queries.jsonl.gz", "wt", encoding="utf-8") as file:
        rows = [{"_id": str(row), "text": f"question {row}", "gold": ["0"]} for row in range(40)]
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return tmp_path


def run(folder: Path, modes: list[str], *, as_json: bool = False) -> None:
    cli_redteam.attack_folder(
        Settings(), folder, modes=modes, language="en", split=None, cache=None, as_json=as_json
    )


def test_a_folder_is_attacked_in_each_mode(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, ["sealed", "caprise"], as_json=True)
    sealed, caprise = json.loads(capsys.readouterr().out)
    assert (sealed["mode"], caprise["mode"]) == ("sealed", "caprise")
    assert sealed["r4_neighbours"] < 0.03 < 0.9 < caprise["r4_neighbours"]
    assert sealed["r2_reidentified"] < 0.02 < 0.99 < caprise["r2_reidentified"]
    assert caprise["r7_label_f1"] > 0.5, "topics can be told apart"
    assert caprise["num_queries"] == 40
    run(folder, ["plain"])
    printed = capsys.readouterr().out
    assert "r4_neighbours" in printed
    assert "1.000" in printed


def test_mistakes_are_named(folder: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no mode 'open'; there are sealed, asym"):
        run(folder, ["open"])
    with gzip.open(folder / "corpus.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write('{"_id": "0", "text": "one"}\n')
    with pytest.raises(InvalidInput, match="has 1 texts"):
        run(folder, ["plain"])
