"""Evaluation sets: texts, queries, and which texts answer which query, read from a folder.

Reads BEIR-style folders (corpus, queries, qrels), question sets whose rows name their gold documents, and sets whose
queries mark character spans: there the documents are cut into passages, and those that overlap a span are relevant.
Documents are otherwise taken as public benchmarks do: title and text, cut at the model's window, one vector each.

Source: Thakur et al., "BEIR" (arXiv 2104.08663).
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.errors import InvalidInput
from holdfast.retrieval.chunks import split_document
from holdfast.retrieval.documents import Document, Section
from holdfast.retrieval.embed import Embedder

SPLITS = ("test", "dev", "val", "train")


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """Texts to search, queries, and for each query its relevant texts."""

    name: str
    texts: list[str]
    queries: list[str]
    relevant: list[dict[int, int]]
    """one per query: row of a text -> gain, at least 1"""


def document_text(row: dict[str, Any]) -> str:
    """Title and text joined by a blank."""
    return f"{row.get('title') or ''} {row['text']}".strip()


def load_evaluation_set(
    folder: Path, embedder: Embedder, *, language: str = "en", split: str | None = None
) -> EvaluationSet:
    """Read a set from `folder`; queries without a relevant text are left out.

    Args:
        folder: holds `corpus.jsonl`, `queries.jsonl` or `qa.SPLIT.jsonl`, and `qrels/SPLIT.tsv`; each may end in .gz.
        embedder: its window bounds the texts.
        language: which of `corpus.LANGUAGE.jsonl` and `qa.LANGUAGE.jsonl`, where there are several.
        split: which part of the queries; None takes the first there is of test, dev, val and train.

    Raises:
        InvalidInput: a file is missing or not of this form.
    """
    try:
        splits = SPLITS if split is None else (split,)
        documents = _read_rows(_pick(folder, ["corpus", f"corpus.{language}"]))
        stems = ["queries", f"queries.{language}", f"qa.{language}", *(f"qa.{name}" for name in splits)]
        queries = _read_rows(_pick(folder, stems))
        if queries and "snippets" in queries[0]:
            texts, gold = _passages_by_spans(documents, queries, embedder)
        else:
            texts = [embedder.truncate(document_text(row)) for row in documents]
            gold = _documents_by_judgement(folder, splits, documents, queries)
    except (OSError, EOFError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"{folder} is not an evaluation set: {error!r}", param="folder") from error
    kept = [row for row, found in enumerate(gold) if found]
    if not kept:
        raise InvalidInput(f"{folder} has no query with a relevant document", param="folder")
    questions = [str(queries[row].get("question") or queries[row]["text"]) for row in kept]
    return EvaluationSet(folder.resolve().name, texts, questions, [gold[row] for row in kept])


def merge_sets(name: str, sets: Sequence[EvaluationSet], distractors: Sequence[str] = ()) -> EvaluationSet:
    """Return all queries over all texts and `distractors`; a text that occurs twice is one text."""
    rows: dict[str, int] = {}
    for texts in (*(each.texts for each in sets), distractors):
        for text in texts:
            rows.setdefault(text, len(rows))
    relevant = [
        {rows[each.texts[row]]: gain for row, gain in found.items()} for each in sets for found in each.relevant
    ]
    return EvaluationSet(name, list(rows), [query for each in sets for query in each.queries], relevant)


def _documents_by_judgement(
    folder: Path, splits: Sequence[str], documents: list[dict[str, Any]], queries: list[dict[str, Any]]
) -> list[dict[int, int]]:
    """Return each query's relevant documents, from `qrels` where there are any, else from the queries' own `gold`."""
    rows = {str(document["_id"]): row for row, document in enumerate(documents)}
    judged: dict[str, dict[int, int]] = {}
    tables = [folder / "qrels" / f"{split}.tsv" for split in splits]
    table = next((path for path in tables if path.exists()), None)
    if table is None:
        return [{rows[str(name)]: 1 for name in query.get("gold", ())} for query in queries]
    with table.open(encoding="utf-8", newline="") as lines:
        for query, document, score in list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]:
            if int(score) > 0 and document in rows:
                judged.setdefault(query, {})[rows[document]] = int(score)
    return [judged.get(str(query.get("_id", query.get("id"))), {}) for query in queries]


def _passages_by_spans(
    documents: list[dict[str, Any]], queries: list[dict[str, Any]], embedder: Embedder
) -> tuple[list[str], list[dict[int, int]]]:
    """Return the passages of `documents`, and each query's: those that overlap one of its spans."""
    texts: list[str] = []
    spans: dict[str, list[tuple[int, int, int]]] = {}
    for document in documents:
        text = document["text"]
        whole = Document(text, (Section(0, len(text)),), "text")
        for passage in split_document(whole, embedder.token_offsets):
            spans.setdefault(str(document["_id"]), []).append((passage.start, passage.end, len(texts)))
            texts.append(text[passage.start : passage.end])
    gold = [
        {
            row: 1
            for snippet in query["snippets"]
            for start, end, row in spans[snippet["doc"]]
            if start < snippet["end"] and snippet["start"] < end
        }
        for query in queries
    ]
    return texts, gold


def _pick(folder: Path, stems: Sequence[str]) -> Path:
    """Return the first file that exists of `STEM.jsonl` and `STEM.jsonl.gz`."""
    for stem in stems:
        for path in (folder / f"{stem}.jsonl", folder / f"{stem}.jsonl.gz"):
            if path.exists():
                return path
    raise InvalidInput(f"{folder} has none of {', '.join(f'{stem}.jsonl' for stem in stems)}", param="folder")


def _read_rows(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    return [json.loads(line) for line in text.split("\n") if line.strip()]
