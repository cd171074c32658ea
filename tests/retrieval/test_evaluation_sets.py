"""Evaluation sets are read whatever form their folder has."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import InvalidInput
from holdfast.retrieval.embed import Embedder
from holdfast.retrieval.evaluation_sets import EvaluationSet, load_evaluation_set, merge_sets

CORPUS = [
    {"_id": "a", "title": "Apples", "text": "grow on trees."},
    {"_id": "b", "title": "", "text": "Boats float."},
    {"_id": "c", "text": "Cats sleep."},
]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def test_a_beir_folder_keeps_the_judged_queries_of_its_split(tmp_path: Path, embedder: Embedder) -> None:
    write_rows(tmp_path / "corpus.jsonl", CORPUS)
    write_rows(tmp_path / "queries.jsonl", [{"_id": str(row), "text": f"query {row}"} for row in range(4)])
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n0\ta\t1\n")
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\tc\t2\n1\ta\t1\n2\tb\t0\n3\tgone\t1\n")
    loaded = load_evaluation_set(tmp_path, embedder)
    assert loaded.texts == ["Apples grow on trees.", "Boats float.", "Cats sleep."]
    assert loaded.queries == ["query 1"]
    assert loaded.relevant == [{2: 2, 0: 1}]
    assert load_evaluation_set(tmp_path, embedder, split="train").queries == ["query 0"]


def test_questions_name_their_gold_where_there_are_no_judgements(tmp_path: Path, embedder: Embedder) -> None:
    write_rows(tmp_path / "corpus.en.jsonl.gz", CORPUS)
    write_rows(tmp_path / "corpus.de.jsonl.gz", [{"_id": "d", "text": "Dachse graben."}])
    write_rows(tmp_path / "qa.en.jsonl.gz", [{"id": "1", "question": "What floats?", "gold": ["b"]}])
    write_rows(tmp_path / "qa.de.jsonl.gz", [{"id": "1", "question": "Wer gräbt?", "gold": ["d"]}])
    assert load_evaluation_set(tmp_path, embedder).relevant == [{1: 1}]
    assert load_evaluation_set(tmp_path, embedder, language="de").queries == ["Wer gräbt?"]


def test_texts_are_cut_at_the_window_of_the_model(tmp_path: Path, embedder: Embedder) -> None:
    write_rows(tmp_path / "corpus.jsonl", [{"_id": "a", "title": "t", "text": "word " * 1000}])
    write_rows(tmp_path / "qa.test.jsonl", [{"id": "1", "question": "q", "gold": ["a"]}])
    text = load_evaluation_set(tmp_path, embedder).texts[0]
    assert text.startswith("t word")
    assert embedder.count_tokens(text) == embedder.max_tokens


def test_spans_make_the_passages_that_overlap_them_relevant(tmp_path: Path, embedder: Embedder) -> None:
    sentences = [f"Clause {row} says that the party of the {row}th part keeps its own secret." for row in range(200)]
    text = " ".join(sentences)
    start = text.index(sentences[100])
    snippet = {"doc": "a", "start": start, "end": start + len(sentences[100])}
    write_rows(tmp_path / "corpus.jsonl", [{"_id": "a", "text": text}])
    write_rows(tmp_path / "queries.jsonl", [{"_id": "1", "text": "clause 100?", "snippets": [snippet]}])
    loaded = load_evaluation_set(tmp_path, embedder)
    assert len(loaded.texts) > 5
    assert all(embedder.count_tokens(passage) <= 200 for passage in loaded.texts)
    assert sentences[100] in "".join(loaded.texts[row] for row in sorted(loaded.relevant[0]))
    assert len(loaded.relevant[0]) <= 2


@pytest.mark.parametrize("missing", ["corpus.jsonl", "queries.jsonl"])
def test_a_missing_file_is_named(tmp_path: Path, embedder: Embedder, missing: str) -> None:
    write_rows(tmp_path / "corpus.jsonl", CORPUS)
    write_rows(tmp_path / "queries.jsonl", [{"_id": "1", "text": "q"}])
    (tmp_path / missing).unlink()
    with pytest.raises(InvalidInput, match=missing):
        load_evaluation_set(tmp_path, embedder)


@pytest.mark.parametrize(
    ("corpus", "queries"),
    [
        ("not json", '{"_id": "1", "text": "q", "gold": ["a"]}'),
        ('{"text": "no id"}', '{"_id": "1", "text": "q", "gold": ["a"]}'),
        ('{"_id": "a", "text": "t"}', '{"_id": "1", "text": "q", "gold": ["other"]}'),
        ('{"_id": "a", "text": "t"}', '{"_id": "1", "text": "q", "gold": []}'),
        ('["a list"]', '{"_id": "1", "text": "q", "gold": ["a"]}'),
    ],
)
def test_what_is_no_evaluation_set_is_refused(tmp_path: Path, embedder: Embedder, corpus: str, queries: str) -> None:
    (tmp_path / "corpus.jsonl").write_text(corpus)
    (tmp_path / "queries.jsonl").write_text(queries)
    with pytest.raises(InvalidInput, match=str(tmp_path)):
        load_evaluation_set(tmp_path, embedder)


def test_merged_sets_hold_each_text_once() -> None:
    first = EvaluationSet("first", ["x", "y"], ["x?"], [{0: 1}])
    second = EvaluationSet("second", ["z", "y"], ["y?", "z?"], [{1: 1}, {0: 2}])
    merged = merge_sets("both", [first, second], ["x", "w"])
    assert merged == EvaluationSet("both", ["x", "y", "z", "w"], ["x?", "y?", "z?"], [{0: 1}, {1: 1}, {2: 2}])


def test_the_shared_sets_have_the_sizes_their_readme_states(eval_data: Path, embedder: Embedder) -> None:
    sizes = {"nq_open_oracle": (1305, 1328), "qed_dev": (681, 689), "xquad_r": (120, 549)}
    for name, size in sizes.items():
        loaded = load_evaluation_set(eval_data / name, embedder)
        assert (len(loaded.texts), len(loaded.queries)) == size
