"""What the red team attacks: real vectors of real texts."""

from __future__ import annotations

import json
import lzma
import re
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.corpora import EMBEDDING_CACHE, EVAL_DATA, book_paragraphs, read_rows
from holdfast.privacy.leakage_view import Corpus, Floats
from holdfast.retrieval.embed import make_embedder
from holdfast.retrieval.embedding_cache import EmbeddingCache
from holdfast.retrieval.evaluation_sets import document_text, load_evaluation_set

SHIPPED = Path(__file__).parents[1] / "tests" / "privacy" / "red_team"
NUM_STORED, NUM_OTHER, NUM_QUERIES, NUM_PARAPHRASES = 2400, 900, 300, 150
"""rows of `vectors.npy`: stored passages, the adversary's own, queries, the same queries as bare words"""

FULL_STORED, FULL_OTHER, FULL_QUERIES, FULL_PARAPHRASES = 16_000, 8_000, 1_200, 200


def shipped_corpus() -> Corpus:
    """Return the small corpus that ships with the tests: five public-domain sources, 2400 passages stored."""
    rows = np.load(SHIPPED / "vectors.npy").astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    lines = lzma.decompress((SHIPPED / "passages.jsonl.xz").read_bytes()).decode().splitlines()
    passages = [json.loads(line) for line in lines]
    stored, other, queries, paraphrases = np.split(rows, np.cumsum([NUM_STORED, NUM_OTHER, NUM_QUERIES]))
    return _corpus(passages, stored, other, queries, paraphrases)


def full_corpus() -> Corpus:
    """Return 16,000 texts of five sources, 8,000 more for the adversary, and a sentence of each of 1,200 as queries."""
    embedder = make_embedder()
    encode = EmbeddingCache(EMBEDDING_CACHE, embedder).encode
    articles = islice(read_rows(EVAL_DATA / "timeqa_human" / "corpus.jsonl.gz"), 6000)
    sources = {
        "abstracts": load_evaluation_set(EVAL_DATA / "scifact", embedder).texts,
        "contracts": load_evaluation_set(EVAL_DATA / "legalbench_rag_contractnli", embedder).texts,
        "encyclopedia": [document_text(row) for row in read_rows(EVAL_DATA / "twowiki_corpus" / "corpus.jsonl.gz")],
        "lives": [document_text(row) for row in articles],
        "books": book_paragraphs(6500),
    }
    passages = [
        {"text": embedder.truncate(text), "source": name}
        for name, texts in sources.items()
        for text in dict.fromkeys(texts)
    ]
    order = np.random.default_rng(5).permutation(len(passages))[: FULL_STORED + FULL_OTHER]
    passages = [passages[row] for row in order]
    sentences = list(islice(filter(None, (_sentence(each["text"]) for each in passages)), FULL_QUERIES))
    bare = [" ".join(word for word in re.findall(r"\w+", text.lower()) if len(word) > 3) for text in sentences]
    vectors = encode([passage["text"] for passage in passages])
    return _corpus(
        passages,
        vectors[:FULL_STORED],
        vectors[FULL_STORED:],
        encode(sentences),
        encode(bare[:FULL_PARAPHRASES]),
    )


def _corpus(
    passages: list[dict[str, str]], stored: Floats, other: Floats, queries: Floats, paraphrases: Floats
) -> Corpus:
    texts = [passage["text"] for passage in passages]
    names = sorted({passage["source"] for passage in passages})
    labels = np.array([names.index(passage["source"]) for passage in passages], dtype=np.int64)
    num_stored = len(stored)
    return Corpus(
        stored, texts[:num_stored], labels[:num_stored], other, texts[num_stored:], queries, paraphrases
    )


def _sentence(text: str) -> str | None:
    """Return the middle one of a text's sentences of 30 to 160 characters."""
    found = [each for each in re.split(r"(?<=[.!?]) ", text) if 30 <= len(each) <= 160]
    return found[len(found) // 2] if found else None
