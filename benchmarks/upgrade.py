"""Do trained codes beat training-free ones, and can an index outlive its embedding model?

`codes`: vectors of the merged corpus, one half to fit on, the other to search; recall of the float top 10 by codes
alone. `upgrade`: the second model is the bundled one read otherwise (the first token's vector instead of the mean, and
the mean of an earlier layer); questions and passages that are searched are not among the texts of the fit. `old` is the
old model on its own index, `mapped` the new model's questions over the same index, and then as passages are replaced.
`found` columns are recall@10 of the texts that people marked; `top_10` columns of the old model's float top 10, though
the new model itself, by floats, agrees with those only so far; `of_new_index` of the new model's own index.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.corpora import EMBEDDING_CACHE, EVAL_DATA, book_paragraphs
from benchmarks.results import Result, Target, Value
from benchmarks.retrieval_quality import load_merged
from holdfast.kernels.packing import num_code_bytes, pack
from holdfast.retrieval.code_search import encode_queries, search_codes
from holdfast.retrieval.embed import Embedder, make_embedder
from holdfast.retrieval.embedding_cache import EmbeddingCache
from holdfast.retrieval.evaluate import recall, recall_at_k
from holdfast.retrieval.evaluation_sets import load_evaluation_set, merge_sets
from holdfast.retrieval.exact import nearest_rows
from holdfast.retrieval.index import BinaryIndex
from holdfast.retrieval.quantise import Encoded, Quantiser, find_scheme
from holdfast.retrieval.recurrent import RecurrentQuantiser
from holdfast.retrieval.upgrade import UpgradeMap, UpgradingIndex

SETS = ("scifact", "nq_open_oracle", "squad1_dev_a", "qed_dev", "xquad_r", "legalbench_rag_contractnli")
SEARCHED = ("nq_open_oracle", "qed_dev")
FITTED = ("squad1_dev_a", "scifact")
"""with book paragraphs, up to NUM_FITTED texts"""
NUM_FITTED = 10_000
NUM_QUERIES = 500
SIZES = (48, 96)
LAYER = 4
BATCH_SIZE = 16
MIB_MUST, UPGRADE_MUST = 0.0, 0.95

Floats = NDArray[np.float32]


def check() -> None:
    """A map of a rotation is exact, and codes of a rotated space read through it find the same."""
    rng = np.random.default_rng(0)
    old = _unit(rng.standard_normal((600, 32)))
    turn = np.linalg.qr(rng.standard_normal((32, 32)))[0]
    upgrade = UpgradeMap.fit(_unit(old @ turn)[:500], old[:500])
    assert (np.einsum("ij,ij->i", upgrade.to_old(_unit(old @ turn)[500:]), old[500:]) > 0.99).all()


def run(quick: bool) -> Result:
    embedder = make_embedder()
    rows = [*measure_codes(embedder, quick), *measure_upgrades(embedder, quick)]
    return Result(rows, _targets(rows))


def measure_codes(embedder: Embedder, quick: bool) -> list[dict[str, Value]]:
    """Fit each scheme on one half of the vectors, and search the other half's codes."""
    cache = EmbeddingCache(EMBEDDING_CACHE, embedder)
    sets = [load_evaluation_set(EVAL_DATA / name, embedder) for name in (SEARCHED if quick else SETS)]
    texts = [text for each in sets for text in each.texts] if quick else load_merged(sets, embedder).texts
    questions = [question for each in sets for question in each.queries]
    vectors = cache.encode(texts)
    order = np.random.default_rng(0).permutation(len(vectors))
    fitted, searched = vectors[order[::2]], vectors[order[1::2]]
    asked = np.linspace(0, len(questions) - 1, NUM_QUERIES).astype(int).tolist()
    queries = cache.encode([questions[row] for row in asked])
    truth, _ = nearest_rows(searched, queries, 10)
    rows: list[dict[str, Value]] = []
    for size in SIZES:
        for scheme in ("hadamard", "mib"):
            quantiser = find_scheme(scheme).fit(fitted, num_bits=8 * size)
            rows.append(_code_row(size, scheme, quantiser, searched, queries, truth, 0.0))
        for bits in (1, 2, 4):
            if 8 * size > bits * vectors.shape[1]:
                continue
            started = time.perf_counter()
            steps = {"num_steps": 40} if quick else {}
            trained = RecurrentQuantiser.fit(fitted, num_bits=8 * size, bits=bits, **steps)
            seconds = time.perf_counter() - started
            rows.append(_code_row(size, f"recurrent, {bits} bits", trained, searched, queries, truth, seconds))
    return rows


def _code_row(
    size: int,
    name: str,
    quantiser: Quantiser,
    searched: Floats,
    queries: Floats,
    truth: NDArray[np.int64],
    seconds: float,
) -> dict[str, Value]:
    found = _search(quantiser, quantiser.encode(searched), queries)
    return {
        "table": "codes",
        "bytes": size,
        "used_bytes": num_code_bytes(quantiser.code_dim, quantiser.bits),
        "codes": name,
        "recall@10": _round(recall_at_k(found[:, :10], truth)),
        "in_top_40": _round(recall_at_k(found[:, :40], truth)),
        "training_s": round(seconds, 1),
    }


def measure_upgrades(embedder: Embedder, quick: bool) -> list[dict[str, Value]]:
    """Search an old index with a new model's questions, at once and while passages are replaced."""
    searched = merge_sets("searched", [load_evaluation_set(EVAL_DATA / name, embedder) for name in SEARCHED])
    passages = searched.texts
    chosen = np.linspace(0, len(searched.queries) - 1, 100 if quick else 1000).astype(int).tolist()
    questions = [searched.queries[row] for row in chosen]
    relevant = [searched.relevant[row] for row in chosen]
    fitting = [text for name in FITTED for text in load_evaluation_set(EVAL_DATA / name, embedder).texts]
    fitting = [text for text in fitting + book_paragraphs(NUM_FITTED) if text not in {*passages, *questions}]
    fitting = fitting[: 800 if quick else NUM_FITTED]
    views = [embed_three_ways(embedder, texts) for texts in (passages, questions, fitting)]
    rows: list[dict[str, Value]] = []
    for name in ("first token", f"layer {LAYER}"):
        old, asked_old, fit_old = (view["mean"] for view in views)
        new, asked_new, fit_new = (view[name] for view in views)
        rows.append(_upgrade_row(name, old, asked_old, new, asked_new, relevant, UpgradeMap.fit(fit_new, fit_old)))
        steps = 40 if quick else None
        rows.append(_compatible_row(name, fit_old, fit_new, old, asked_old, new, asked_new, relevant, steps))
    return rows


def _upgrade_row(
    name: str,
    old: Floats,
    asked_old: Floats,
    new: Floats,
    asked_new: Floats,
    relevant: Sequence[dict[int, int]],
    upgrade: UpgradeMap,
) -> dict[str, Value]:
    ids = np.arange(len(old), dtype=np.uint64)
    truth, _ = nearest_rows(old, asked_old, 10)
    index, fresh = BinaryIndex(old.shape[1]), BinaryIndex(new.shape[1])
    index.add(ids, old)
    fresh.add(ids, new)
    own = fresh.search(asked_new, 10).ids.astype(np.int64)
    before = index.search(asked_old, 10).ids.astype(np.int64)
    raw = index.search(asked_new, 10).ids.astype(np.int64)
    upgrading = UpgradingIndex(index, BinaryIndex(new.shape[1]), upgrade)
    mapped = upgrading.search(asked_new, 10)[0].astype(np.int64)
    half = len(ids) // 2
    upgrading.backfill(ids[:half], new[:half])
    halfway = upgrading.search(asked_new, 10)[0].astype(np.int64)
    upgrading.backfill(ids, new)
    after = upgrading.search(asked_new, 10)[0].astype(np.int64)
    return {
        "table": "upgrade",
        "new_model": name,
        "passages": len(old),
        "penalty": str(upgrade.penalty),
        "old_found": _round(recall(before, relevant, 10)),
        "unmapped_found": _round(recall(raw, relevant, 10)),
        "mapped_found": _round(recall(mapped, relevant, 10)),
        "half_replaced_found": _round(recall(halfway, relevant, 10)),
        "new_found": _round(recall(own, relevant, 10)),
        "old_top_10": _round(recall_at_k(before, truth)),
        "mapped_top_10": _round(recall_at_k(mapped, truth)),
        "new_floats_top_10": _round(recall_at_k(nearest_rows(new, asked_new, 10)[0], truth)),
        "all_replaced,_of_new_index": _round(recall_at_k(after, own)),
    }


def _compatible_row(
    name: str,
    fit_old: Floats,
    fit_new: Floats,
    old: Floats,
    asked_old: Floats,
    new: Floats,
    asked_new: Floats,
    relevant: Sequence[dict[int, int]],
    num_steps: int | None,
) -> dict[str, Value]:
    """Codes of 48 bytes alone, by recurrent quantisers: the old one's own questions, and a compatible new one's."""
    steps = {} if num_steps is None else {"num_steps": num_steps}
    quantiser = RecurrentQuantiser.fit(fit_old, num_bits=384, **steps)
    compatible = RecurrentQuantiser.fit_compatible(fit_new, quantiser, fit_old, **steps)
    codes, fresh = quantiser.encode(old), compatible.encode(new)
    is_new = np.arange(len(old)) % 2 == 0
    mixed = Encoded(
        np.where(is_new[:, None], fresh.levels, codes.levels), np.where(is_new, fresh.factors, codes.factors)
    )
    ways = {
        "old_found": _search(quantiser, codes, asked_old),
        "compatible_on_old_codes_found": _search(compatible, codes, asked_new),
        "compatible_on_mixed_codes_found": _search(compatible, mixed, asked_new),
    }
    found = {name: _round(recall(rows, relevant, 10)) for name, rows in ways.items()}
    return {"table": "compatible", "new_model": name, **found}


def embed_three_ways(embedder: Embedder, texts: Sequence[str]) -> dict[str, Floats]:
    """Return unit-norm vectors: the model's own, its first token's, and an earlier layer's mean."""
    import torch

    model = embedder._model
    network = model[0].auto_model
    views: dict[str, list[Floats]] = {"mean": [], "first token": [], f"layer {LAYER}": []}
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    for first in range(0, len(order), BATCH_SIZE):
        features = model.preprocess([texts[row] for row in order[first : first + BATCH_SIZE]])
        features = {name: value for name, value in features.items() if isinstance(value, torch.Tensor)}
        with torch.inference_mode():
            layers = network(**features, output_hidden_states=True).hidden_states
        mask = features["attention_mask"][:, :, None]
        for name, layer in (("mean", -1), (f"layer {LAYER}", LAYER)):
            views[name].append(((layers[layer] * mask).sum(dim=1) / mask.sum(dim=1)).numpy())
        views["first token"].append(layers[-1][:, 0].numpy())
    places = np.argsort(order)
    return {name: _unit(np.concatenate(parts))[places] for name, parts in views.items()}


def _search(quantiser: Quantiser, codes: Encoded, queries: Floats) -> NDArray[np.int64]:
    ids = np.arange(len(codes.levels), dtype=np.uint64)
    blocks = pack(codes.levels, quantiser.bits)
    return search_codes(encode_queries(quantiser, queries), blocks, codes.factors, ids, 40)[1]


def _targets(rows: Sequence[dict[str, Value]]) -> list[Target]:
    targets = []
    for size in SIZES:
        found = {str(row["codes"]): float(row["recall@10"] or 0) for row in rows if row.get("bytes") == size}
        gain = max(recall for name, recall in found.items() if name.startswith("recurrent")) - max(
            found["mib"], found["hadamard"]
        )
        what = f"{size} bytes: recall@10 of trained less that of the best training-free codes"
        targets.append(Target(f"trained_{size}", what, _round(gain), MIB_MUST, 0.02))
    for row in rows:
        if row["table"] != "upgrade":
            continue
        kept = float(row["mapped_found"] or 0) / float(row["old_found"] or 1)
        name = str(row["new_model"])
        what = f"{name}: recall@10 of marked texts kept, mapped"
        targets.append(Target(f"mapped_{name}", what, _round(kept), UPGRADE_MUST, 0.98))
        agreed = float(row["mapped_top_10"] or 0) / float(row["old_top_10"] or 1)
        what = f"{name}: share of the old float top 10 kept, mapped"
        targets.append(Target(f"agreed_{name}", what, _round(agreed), UPGRADE_MUST, 0.98))
        after = float(row["all_replaced,_of_new_index"] or 0)
        targets.append(Target(f"backfill_{name}", f"{name}: recall after backfill, of a new index", after, 1, 1))
    return targets


def _unit(vectors: NDArray[np.floating]) -> Floats:
    unit: Floats = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _round(value: float) -> float:
    return round(value, 4)
