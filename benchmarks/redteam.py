"""What does a store learn in each mode, and in what a user might take instead?

Every attack of `holdfast/privacy/leakage.py` against every mode, CAPRISE as published, ASPE, a secret rotation alone,
and IronCore Alloy at the noise of our `sap` (`pip install 'holdfast[peers]'`; AGPL, so only here). The texts are 16,000
of five sources; a quick run takes the small corpus that ships with the tests, and half of the modes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict

import numpy as np

from benchmarks.redteam_corpus import full_corpus, shipped_corpus
from benchmarks.results import Result, Target, Value
from holdfast.privacy.distance import Asym, CipherVector, PlainVector
from holdfast.privacy.hazard import make_unsafe_aspe_key, unsafe_aspe_encrypt_queries, unsafe_aspe_encrypt_rows
from holdfast.privacy.keys import EpochKeys, SecretKey
from holdfast.privacy.leakage import Leak, attack, curve
from holdfast.privacy.leakage_view import EPOCH, MODES, Corpus, Mode, View, look, make_mode, recall_at_10
from holdfast.privacy.leakage_words import WordModel
from holdfast.privacy.overfetch import recall_curve, row_deviation
from holdfast.privacy.seal import Kind, Place, Sealer
from holdfast.privacy.streams import NONCE_SIZE, haar_rotation
from holdfast.privacy.vector_bytes import pack_vectors

ROOT = SecretKey(bytes(range(32)))
QUICK = ("sealed", "asym", "caprise", "plain", "ASPE", "rotation")
"""modes and peers of a quick run"""
COSTED = ("asym", "asym 64", "codes", "sap", "Alloy")
NUM_PAIRS = (20, 50, 100, 200, 400, 800, 1600, 3200, 6400)
NUM_CANDIDATES = (16, 32, 64, 128, 256, 512)
NUM_TIMED = 2000
APPROXIMATION_FACTOR = 2.0
SIZES = {True: (300, NUM_PAIRS[:6]), False: (1000, NUM_PAIRS)}
"""quick or not -> queries that the store watches, leaked pairs of the curve"""


def check() -> None:
    """The attacks find what is there and nothing else: all of a plain store, nothing of random bytes."""
    corpus = shipped_corpus()
    model = WordModel(corpus.other_vectors, corpus.other_texts)
    views = [look(make_mode(name, ROOT, corpus), corpus) for name in ("plain", "sealed")]
    plain, sealed = (attack(view, corpus, model, 50) for view in views)
    assert plain.r2_reidentified == plain.r4_neighbours == plain.recall_at_10 == 1.0, plain
    assert sealed.r2_reidentified < 0.01, sealed
    assert sealed.r4_neighbours < 0.01, sealed
    assert abs(sealed.r1_words_auc - 0.5) < 0.03, sealed
    asyncio.run(_alloy_encrypt(corpus.vectors[:2]))  # the peer is there


def run(quick: bool) -> Result:
    corpus = shipped_corpus() if quick else full_corpus()
    num_queries, num_pairs = SIZES[quick]
    model = WordModel(corpus.other_vectors, corpus.other_texts)
    leaks: dict[str, Leak] = {}
    rows: list[dict[str, Value]] = []
    pairs: list[dict[str, Value]] = []
    costs: list[dict[str, Value]] = []
    overfetch: list[dict[str, Value]] = []
    for name, make in _makers(corpus, quick).items():
        start = time.thread_time()
        mode = make()
        view = look(mode, corpus)
        leaks[name] = attack(view, corpus, model, num_queries)
        if name not in ("sealed", "plain", "asym, noise"):
            shares = {str(point.num_pairs): round(point.share, 3) for point in curve(view, corpus, num_pairs)}
            pairs.append({"table": "pairs", "mode": name, **shares})
        if name == "asym":
            overfetch = _overfetch_rows(view, corpus)
        if name in COSTED:
            costs.append(_cost_row(mode, corpus))
        print(f"{name}: {time.thread_time() - start:.1f} s of one core", flush=True)
        rows += _rows(leaks[name])
    rows.sort(key=lambda row: str(row["table"]))
    return Result([*rows, *pairs, *overfetch, *costs], [*_targets(leaks), _cost_target(costs)])


def _makers(corpus: Corpus, quick: bool) -> dict[str, Callable[[], Mode]]:
    makers: dict[str, Callable[[], Mode]] = {name: lambda name=name: make_mode(name, ROOT, corpus) for name in MODES}
    makers |= {"Alloy": alloy_mode, "ASPE": lambda: aspe_mode(corpus), "rotation": lambda: rotation_mode(corpus)}
    return {name: make for name, make in makers.items() if not quick or name in QUICK}


def alloy_mode() -> Mode:
    """IronCore Alloy's vectors, its approximation factor that of our `sap`; queries are encrypted as rows are."""

    def encrypt(vectors: np.ndarray) -> np.ndarray:
        return asyncio.run(_alloy_encrypt(vectors))

    return Mode(
        "Alloy",
        lambda ids, versions, vectors: one_cell(encrypt(vectors.values)),
        lambda texts, queries: encrypt(queries)[:, None],
        "l2",
    )


async def _alloy_encrypt(vectors: np.ndarray) -> np.ndarray:
    import ironcore_alloy as alloy

    secret = alloy.StandaloneSecret(1, alloy.Secret(bytes(range(64))))
    vectors_key = alloy.VectorSecret(APPROXIMATION_FACTOR, alloy.RotatableSecret(secret, None))
    sdk = alloy.Standalone(alloy.StandaloneConfiguration(alloy.StandardSecrets(None, []), {}, {"": vectors_key}))
    metadata = alloy.AlloyMetadata.new_simple("tenant")
    plain = {
        str(row): alloy.PlaintextVector(plaintext_vector=vector.tolist(), secret_path="", derivation_path="")
        for row, vector in enumerate(vectors)
    }
    result = await sdk.vector().encrypt_batch(plain, metadata)
    assert not result.failures, result.failures
    encrypted = [result.successes[str(row)].encrypted_vector for row in range(len(vectors))]
    return np.array(encrypted, dtype=np.float32)


def aspe_mode(corpus: Corpus) -> Mode:
    """ASPE, scheme 1: exact ranking by matrices that hide from nobody who knows a few hundred rows."""
    key = make_unsafe_aspe_key(ROOT, corpus.vectors.shape[1])
    rng = np.random.default_rng(6)

    return Mode(
        "ASPE",
        lambda ids, versions, vectors: one_cell(unsafe_aspe_encrypt_rows(key, vectors.values)),
        lambda texts, queries: unsafe_aspe_encrypt_queries(key, queries, rng.uniform(0.5, 2, len(queries)))[:, None],
        "ip",
    )


def rotation_mode(corpus: Corpus) -> Mode:
    """A secret rotation and nothing else."""
    rotation = haar_rotation(ROOT.derive("rotation"), bytes(NONCE_SIZE), corpus.vectors.shape[1]).astype(np.float32)

    return Mode(
        "rotation",
        lambda ids, versions, vectors: one_cell(vectors.values @ rotation),
        lambda texts, queries: (queries @ rotation)[:, None],
        "ip",
    )


def one_cell(values: np.ndarray) -> CipherVector:
    """Return rows that all share one key."""
    return CipherVector(np.zeros(len(values), np.int32), values)


TABLES = {
    "copy": "recall_at_10 num_candidates r3_axes r4_neighbours r4_duplicates_auc r11_residue r12_varying",
    "known_texts": (
        "r1_words_auc r1_words_precision r2_cosine r2_reidentified r7_label_f1 r8_member_auc r8_member_found"
    ),
    "watched_queries": "r5_transcript r5_attack r6_repeated_auc r6_paraphrased_auc r9_guess_auc r10_chosen_cosine",
}


def _rows(leak: Leak) -> list[dict[str, Value]]:
    values = {key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(leak).items()}
    return [
        {"table": table, "mode": leak.mode, **{_heading(key): values[key] for key in keys.split()}}
        for table, keys in TABLES.items()
    ]


def _heading(key: str) -> str:
    number, _, rest = key.partition("_")
    return f"{number.upper()} {rest.replace('auc', 'AUC')}" if number[1:].isdigit() else key.replace("_at_", "@")


def _overfetch_rows(view: View, corpus: Corpus) -> list[dict[str, Value]]:
    """Recall of `asym` by rows fetched: measured, and foretold from plain vectors."""
    foretold = recall_curve(
        PlainVector(corpus.queries), PlainVector(corpus.vectors), view.cells, NUM_CANDIDATES, k=10,
        row_deviation=row_deviation(Asym(), corpus.vectors.shape[1]),
    )
    return [
        {"table": "overfetch", "rows_fetched": number, "recall@10": round(recall_at_10(view, corpus, number), 4),
         "foretold": round(recall, 4)}
        for number, recall in zip(NUM_CANDIDATES, foretold, strict=True)
    ]


def _cost_row(mode: Mode, corpus: Corpus) -> dict[str, Value]:
    """What encoding costs; rows in one batch, queries one by one."""
    row_s, query_s, written = _cost(mode, corpus)
    seal_s = 0.0 if mode.name == "Alloy" else _seal_s(corpus)
    return {
        "table": "cost",
        "mode": mode.name,
        "encode_us": round(1e6 * row_s, 1),
        "seal_us": round(1e6 * seal_s, 1),
        "query_ms": round(1e3 * query_s, 3),
        "bytes_a_row": written,
    }


def _cost_target(costs: list[dict[str, Value]]) -> Target:
    [asym] = [row for row in costs if row["mode"] == "asym"]
    spent = float(asym["encode_us"] or 0) + float(asym["seal_us"] or 0)
    return Target("encode_seal", "asym: encode and seal a row, us", spent, must=100, aim=25, better="lower")


def _cost(mode: Mode, corpus: Corpus) -> tuple[float, float, int]:
    """Return the seconds of a row and of a query, and the bytes of a row."""
    assert mode.encode_queries is not None
    count = NUM_TIMED // 10 if mode.name == "Alloy" else NUM_TIMED  # its rows take milliseconds each, in any number
    vectors = PlainVector(corpus.vectors[:count])
    row_s, query_s = [], []
    for _ in range(3):
        start = time.perf_counter()
        encoded = mode.encode_rows(corpus.ids[:count], [1] * count, vectors)
        row_s.append((time.perf_counter() - start) / count)
    for number in range(20):
        start = time.perf_counter()
        mode.encode_queries([f"question {number}"], corpus.queries[:1])
        query_s.append(time.perf_counter() - start)
    return min(row_s), float(np.median(query_s)), encoded.values.nbytes // count


def _seal_s(corpus: Corpus) -> float:
    """Return the seconds in which a row's exact vector is sealed."""
    sealer = Sealer(EpochKeys("tenant", "collection", EPOCH, ROOT))
    packed = pack_vectors(corpus.vectors[:NUM_TIMED])
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        for each, row in zip(corpus.ids, packed, strict=False):
            sealer.seal(row.tobytes(), Place(Kind.VECTOR, each, 1))
        seconds.append((time.perf_counter() - start) / NUM_TIMED)
    return min(seconds)


def _targets(leaks: dict[str, Leak]) -> list[Target]:
    """What must not leak, then what must be seen to leak: a claim that nobody may make by accident."""
    targets = [
        Target("sealed_recall", "sealed: recall@10", leaks["sealed"].recall_at_10, 0.995, 1.0),
        Target("sealed_copy", "sealed: neighbours in a copy", leaks["sealed"].r4_neighbours, 0.01, 0.001, "lower"),
        Target("asym_recall", "asym: recall@10, 128 rows fetched", leaks["asym"].recall_at_10, 0.99, 0.995),
    ]
    if "asym, noise" in leaks:
        found = leaks["asym, noise"].recall_at_10
        targets.append(Target("noisy_recall", "asym, noise: recall@10, 256 rows", found, 0.965, 0.985))
    for name, leak in leaks.items():
        if name in ("asym", "asym 64"):
            copied, known = leak.r4_neighbours, leak.r2_reidentified
            targets += [
                Target(f"{name}_copy", f"{name}: neighbours in a copy", copied, 0.04, 0.015, "lower"),
                Target(f"{name}_pairs", f"{name}: re-identified by 200 pairs", known, 0.03, 0.01, "lower"),
            ]
    copied, watched = leaks["caprise"].r4_neighbours, leaks["asym"].r5_transcript
    chosen = leaks["asym"].r10_chosen_cosine
    targets += [
        Target("caprise_copy", "seen to leak: caprise, neighbours in a copy", copied, 0.9, 0.95),
        Target("asym_watched", "seen to leak: asym, neighbours after watching queries", watched, 0.4, 0.5),
        Target("asym_chosen", "seen to leak: asym, cosine after chosen queries", chosen, 0.7, 0.8),
    ]
    for name in ("caprise", "rotation", "ASPE"):
        share = leaks[name].r2_reidentified
        targets.append(Target(f"{name}_pairs", f"seen to leak: {name}, re-identified by 200 pairs", share, 0.99, 1.0))
    return targets
