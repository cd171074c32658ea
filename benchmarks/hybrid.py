"""What words add to nearness, what FTS5 costs beside bm25s, and what many vectors a passage bring.

Each set is searched by exact float vectors (`near`), by words (`words`: BM25 of FTS5, as a server does), and by both:
by ranks (reciprocal rank fusion, equal weights) and by scores (the server's default). The server's text weight of 0.2
was chosen after a look at four of these sets as a whole, so the odd-numbered queries that the tables count were not
unseen when it was; `weights` shows what other weights give on the even-numbered ones. `bm25s` is given the same words,
folded and stemmed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.corpora import EMBEDDING_CACHE, EVAL_DATA, WordIndex
from benchmarks.results import Result, Target, Value
from benchmarks.retrieval_quality import load_merged
from holdfast.retrieval.duplicates import distinct_rows, first_alike
from holdfast.retrieval.embed import Embedder, make_embedder
from holdfast.retrieval.embedding_cache import EmbeddingCache
from holdfast.retrieval.evaluate import ndcg, recall, recall_at_k
from holdfast.retrieval.evaluation_sets import EvaluationSet, load_evaluation_set
from holdfast.retrieval.exact import nearest_rows
from holdfast.retrieval.fde import FixedDimensionalEncoder, MultiVectorIndex, maxsim, to_token_rows
from holdfast.retrieval.fuse import TEXT_WEIGHT, fuse_rankings, fuse_scores
from holdfast.retrieval.words import content_words

SETS = ("scifact", "nq_open_oracle", "squad1_dev_a", "qed_dev", "xquad_r", "legalbench_rag_contractnli")
QUICK_SETS = ("xquad_r", "qed_dev")
MULTI_VECTOR_SETS = ("qed_dev", "xquad_r")
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
POOL_SIZE = 100
MAX_QUERIES = 1000
"""of a set, evenly spread"""
NUM_TIMED = 100

Rows = NDArray[np.int64]


def check() -> None:
    """Words, fusion and MaxSim find what they must in a corpus small enough to see through."""
    texts = ["the amber stone", "a heron by the river", "the stone bridge of amber"]
    assert list(WordIndex(texts).search("amber stone", 3)) == [0, 2]
    assert [row for row, _ in fuse_scores({0: 0.2, 1: 0.3}, {0: 2.0}, text_weight=0.5)] == [0, 1]
    rng = np.random.default_rng(0)
    tokens = [rng.standard_normal((5, 64)).astype(np.float32) for _ in range(20)]
    index = MultiVectorIndex(FixedDimensionalEncoder(64))
    index.add(np.arange(20, dtype=np.uint64), tokens)
    assert [index.search(each, 1)[0][0] for each in tokens] == list(range(20))


def run(quick: bool) -> Result:
    embedder = make_embedder()
    cache = EmbeddingCache(EMBEDDING_CACHE, embedder)
    sets = [load_evaluation_set(EVAL_DATA / name, embedder) for name in (QUICK_SETS if quick else SETS)]
    if not quick:
        sets.append(load_merged(sets, embedder))
    rows: list[dict[str, Value]] = []
    by_weight: dict[float, list[float]] = {weight: [] for weight in WEIGHTS}
    for each in sets:
        print(f"{each.name}: {len(each.texts)} texts", flush=True)
        rows += measure_set(_sample(each, 60 if quick else MAX_QUERIES), cache, by_weight)
    rows += [
        {"table": "weights", "text_weight": weight, "mean_nDCG@10": _round(statistics.mean(values))}
        for weight, values in by_weight.items()
    ]
    for name in MULTI_VECTOR_SETS[-1:] if quick else MULTI_VECTOR_SETS:
        (chosen,) = [each for each in sets if each.name == name]
        rows += measure_multi_vector(_sample(chosen, 40 if quick else 300), embedder)
    rows.append(measure_duplicates(sets[-1], cache))
    return Result(rows, _targets(rows))


def measure_set(
    each: EvaluationSet, cache: EmbeddingCache, by_weight: dict[float, list[float]]
) -> list[dict[str, Value]]:
    """Return the rows of quality and of lexical cost; nDCG of the chosen half by weight goes into `by_weight`."""
    vectors, queries = cache.encode(each.texts), cache.encode(each.queries)
    near, _ = nearest_rows(vectors, queries, POOL_SIZE)
    started = time.perf_counter()
    index = WordIndex(each.texts)
    build_s = time.perf_counter() - started
    found, query_ms = _timed(lambda question: index.search(question, POOL_SIZE), each.queries)
    peer, peer_build_s, peer_ms = _search_bm25s(each)
    pools = [list({*line.tolist(), *scores}) for line, scores in zip(near, found, strict=True)]
    scored = [
        (dict(zip(pool, (vectors[pool] @ query).tolist(), strict=True)), text_scores)
        for pool, query, text_scores in zip(pools, queries, found, strict=True)
    ]
    fused = {
        weight: _to_rows([[row for row, _ in fuse_scores(*pair, text_weight=weight)] for pair in scored])
        for weight in WEIGHTS
    }
    by_ranks = [
        [row for row, _ in fuse_rankings([line.tolist(), list(scores)], [1.0, 1.0])]
        for line, scores in zip(near, found, strict=True)
    ]
    for weight, values in by_weight.items():
        values.append(ndcg(fused[weight][::2], each.relevant[::2], 10))
    ways = {
        "near": near,
        "words": _to_rows([list(scores) for scores in found]),
        "bm25s": peer,
        "ranks": _to_rows(by_ranks),
        "scores": fused[TEXT_WEIGHT],
    }
    quality: dict[str, Value] = {"table": "quality", "set": each.name, "texts": len(each.texts)}
    recalls: dict[str, Value] = {"table": "recall", "set": each.name}
    for name, lines in ways.items():
        quality[f"{name}_nDCG@10"] = _round(ndcg(lines[1::2], each.relevant[1::2], 10))
        recalls[f"{name}_recall@10"] = _round(recall(lines[1::2], each.relevant[1::2], 10))
    cost: dict[str, Value] = {
        "table": "lexical",
        "set": each.name,
        "texts": len(each.texts),
        "FTS5_build_s": round(build_s, 2),
        "bm25s_build_s": round(peer_build_s, 2),
        "FTS5_query_p50_ms": round(query_ms, 2),
        "bm25s_query_p50_ms": round(peer_ms, 2),
    }
    return [quality, recalls, cost]


def measure_multi_vector(each: EvaluationSet, embedder: Embedder) -> list[dict[str, Value]]:
    """MaxSim over the bundled encoder's tokens: over all passages, and over what the encodings let through."""
    tokens, asked = embedder.encode_tokens(each.texts), embedder.encode_tokens(each.queries)
    documents, questions = [to_token_rows(one) for one in tokens], [to_token_rows(one) for one in asked]
    exact = _to_rows(
        [
            np.lexsort((np.arange(len(documents)), [-maxsim(question, one) for one in documents])).tolist()
            for question in questions
        ]
    )
    rows: list[dict[str, Value]] = []
    for num_repetitions, num_signs, width in ((8, 3, 16), (16, 4, 16)):
        encoder = FixedDimensionalEncoder(embedder.dim, num_repetitions, num_signs, width)
        index = MultiVectorIndex(encoder)
        index.add(np.arange(len(tokens), dtype=np.uint64), tokens)
        alone = index.candidates(asked, POOL_SIZE).ids.astype(np.int64)
        floats, _ = nearest_rows(encoder.encode_documents(tokens), encoder.encode_queries(asked), POOL_SIZE)
        rescored = _to_rows([[found for found, _ in index.search(one, 10)] for one in asked])
        ways = {"float": floats, "codes": alone, "codes_and_MaxSim": rescored}
        shares = {name: recall_at_k(lines[:, :10], exact[:, :10]) for name, lines in ways.items()}
        rows.append(
            {
                "table": "multi_vector",
                "set": each.name,
                "fde_dim": encoder.fde_dim,
                "code_bytes": encoder.fde_dim // 8,
                "MaxSim_nDCG@10": _round(ndcg(exact, each.relevant, 10)),
                "rescored_nDCG@10": _round(ndcg(rescored, each.relevant, 10)),
                **{f"MaxSim_top_10_in_{name}": _round(share) for name, share in shares.items()},
            }
        )
    return rows


def measure_duplicates(each: EvaluationSet, cache: EmbeddingCache) -> dict[str, Value]:
    """Find near-duplicates among the codes of a whole corpus, and count those that their words confirm."""
    codes = np.packbits(cache.encode(each.texts) >= 0, axis=1, bitorder="little")
    started = time.perf_counter()
    alike = first_alike(codes)
    seconds = time.perf_counter() - started
    pairs = [(int(first), row) for row, first in enumerate(alike) if first != row]
    confirmed = sum(distinct_rows([each.texts[first], each.texts[row]]) == [0] for first, row in pairs)
    return {
        "table": "duplicates",
        "set": each.name,
        "texts": len(each.texts),
        "alike_by_code": len(pairs),
        "repetitions": confirmed,
        "seconds": round(seconds, 2),
    }


def _search_bm25s(each: EvaluationSet) -> tuple[Rows, float, float]:
    """Return bm25s' best rows, the seconds that indexing took, and the median of milliseconds a query."""
    import bm25s

    started = time.perf_counter()
    index = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    index.index([content_words(text) for text in each.texts], show_progress=False)
    build_s = time.perf_counter() - started
    k = min(POOL_SIZE, len(each.texts))

    def search(question: str) -> dict[int, float]:
        asked = content_words(question)
        if not asked:
            return {}
        rows, scores = index.retrieve([asked], k=k, show_progress=False, n_threads=1)
        return {int(row): float(score) for row, score in zip(rows[0], scores[0], strict=True) if score > 0}

    found, query_ms = _timed(search, each.queries)
    return _to_rows([sorted(scores, key=lambda row: (-scores[row], row)) for scores in found]), build_s, query_ms


def _timed(search: Callable[[str], dict[int, float]], questions: Sequence[str]) -> tuple[list[dict[int, float]], float]:
    found, elapsed_ms = [], []
    for question in questions:
        started = time.perf_counter()
        found.append(search(question))
        elapsed_ms.append(1000 * (time.perf_counter() - started))
    return found, statistics.median(elapsed_ms[:NUM_TIMED])


def _sample(each: EvaluationSet, size: int) -> EvaluationSet:
    rows = np.unique(np.linspace(0, len(each.queries) - 1, min(size, len(each.queries))).astype(int)).tolist()
    return EvaluationSet(
        each.name, each.texts, [each.queries[row] for row in rows], [each.relevant[row] for row in rows]
    )


def _to_rows(lines: Sequence[Sequence[int]]) -> Rows:
    """Return (Q, POOL_SIZE) rows, -1 where a line is shorter."""
    rows = np.full((len(lines), POOL_SIZE), -1, dtype=np.int64)
    for target, line in zip(rows, lines, strict=True):
        target[: len(line[:POOL_SIZE])] = line[:POOL_SIZE]
    return rows


def _targets(rows: Sequence[dict[str, Value]]) -> list[Target]:
    quality = [row for row in rows if row["table"] == "quality"]
    gaps = [
        float(row["scores_nDCG@10"] or 0) - max(float(row["near_nDCG@10"] or 0), float(row["words_nDCG@10"] or 0))
        for row in quality
    ]
    gains = [float(row["scores_nDCG@10"] or 0) - float(row["near_nDCG@10"] or 0) for row in quality]
    lexical = [float(row["words_nDCG@10"] or 0) - float(row["bm25s_nDCG@10"] or 0) for row in quality]
    shares = [float(row["MaxSim_top_10_in_codes_and_MaxSim"] or 0) for row in rows if row["table"] == "multi_vector"]
    at_least = sum(gap >= 0 for gap in gaps) / len(gaps)
    return [
        Target("hybrid_sets", "sets where both are at least as good as the better one, share", at_least, 0.8, 1),
        Target("hybrid_gain", "nDCG@10 of both less that of nearness alone, mean", statistics.mean(gains), 0.01, 0.02),
        Target("fts5", "nDCG@10 of FTS5 less that of bm25s, mean", statistics.mean(lexical), -0.005, 0),
        Target("fde", "share of the MaxSim top 10 found by codes and rescoring, least", min(shares), 0.9, 0.98),
    ]


def _round(value: float) -> float:
    return round(value, 4)
