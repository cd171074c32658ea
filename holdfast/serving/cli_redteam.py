"""`holdfast redteam`: what a store would learn of one's own texts, mode by mode, on a BEIR-style folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import InvalidInput
from holdfast.privacy.keys import SecretKey
from holdfast.privacy.leakage import Leak, attack
from holdfast.privacy.leakage_view import MODES, Corpus, look, make_mode
from holdfast.privacy.leakage_words import WordModel
from holdfast.retrieval.embed import make_embedder
from holdfast.retrieval.embedding_cache import EmbeddingCache
from holdfast.retrieval.evaluation_sets import load_evaluation_set
from holdfast.serving.cli_output import err, loading, make_progress, print_json, print_table
from holdfast.serving.config import Settings

MIN_TEXTS = 1500
MAX_STORED = 16_000
MAX_QUERIES = 1000
NUM_TOPICS = 5
SEED = 0


def attack_folder(
    settings: Settings,
    folder: Path,
    *,
    modes: Sequence[str],
    language: str,
    split: str | None,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Embed the set, keep two thirds of it in each mode, attack that with the rest, and print what leaks."""
    unknown = sorted(set(modes) - set(MODES))
    if unknown:
        raise InvalidInput(f"no mode {unknown[0]!r}; there are {', '.join(MODES)}", param="mode")
    with loading():
        embedder = make_embedder(settings.embedding_model, device=settings.device)
        chosen = load_evaluation_set(folder, embedder, language=language, split=split)
    texts = list(dict.fromkeys(chosen.texts))
    if len(texts) < MIN_TEXTS:
        message = f"{folder} has {len(texts)} texts: numbers mean little below {MIN_TEXTS}, use a larger set"
        raise InvalidInput(message, param="folder")
    queries = chosen.queries[:MAX_QUERIES]
    encode = EmbeddingCache(cache, embedder).encode if cache else embedder.encode
    with make_progress(err) as progress:
        task = progress.add_task("Embedding", total=len(texts) + len(queries))
        vectors = encode([*texts, *queries], progress=lambda n: progress.advance(task, n))
    corpus = split_corpus(texts, vectors[: len(texts)], vectors[len(texts) :])
    model = WordModel(corpus.other_vectors, corpus.other_texts)
    root = SecretKey.generate()
    leaks = []
    with make_progress(err) as progress:
        task = progress.add_task("Attacking", total=len(modes))
        for name in modes:
            leaks.append(attack(look(make_mode(name, root, corpus), corpus), corpus, model, len(queries)))
            progress.advance(task)
    if as_json:
        print_json([asdict(leak) for leak in leaks])
    else:
        print_leaks(leaks)


def split_corpus(texts: Sequence[str], vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> Corpus:
    """Return two thirds of the texts as stored, the rest as the adversary's; a text's label is its topic."""
    order = np.random.default_rng(SEED).permutation(len(texts))
    num_stored = min(2 * len(texts) // 3, MAX_STORED)
    stored, other = order[:num_stored], order[num_stored : num_stored + MAX_STORED // 2]
    return Corpus(
        vectors=vectors[stored],
        texts=[texts[row] for row in stored],
        labels=topics(vectors[stored], NUM_TOPICS),
        other_vectors=vectors[other],
        other_texts=[texts[row] for row in other],
        queries=queries,
        paraphrases=queries[:0],
    )


def topics(vectors: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return for each vector the nearest of `count` of them, each chosen as the one farthest from those before it."""
    chosen = [0]
    for _ in range(count - 1):
        chosen.append(int((vectors @ vectors[chosen].T).max(axis=1).argmin()))
    return np.asarray((vectors @ vectors[chosen].T).argmax(axis=1))


def print_leaks(leaks: Sequence[Leak]) -> None:
    """Print one column a mode, one line a number."""
    names = [name for name in asdict(leaks[0]) if name != "mode"]
    rows = [(name, *(_show(asdict(leak)[name]) for leak in leaks)) for name in names]
    print_table(("what leaks", *(leak.mode for leak in leaks)), rows)


def _show(value: object) -> object:
    return f"{value:.3f}" if isinstance(value, float) else value
