"""Attacks with a copy of the store and some texts that are known to be in it, put there, or asked for.

Known pairs are the worst ordinary case: a public document in the collection, a mail one sent oneself. Whoever can have
documents ingested, or ask questions while watching the store, chooses the pairs, and no comparison encoding withstands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdfast.privacy.distance import PlainVector
from holdfast.privacy.leakage_linear import Map, fit_linear, fit_permutation, fit_rotation, fit_scaled_queries
from holdfast.privacy.leakage_view import Corpus, Floats, Mode, View, auc, encode_queries, to_numbers, unit
from holdfast.privacy.leakage_words import WordModel

NUM_REPEATS = 200
NUM_WORD_PAIRS = 100
NUM_MEMBER_PAIRS = 200
MAX_PERMUTATION_PAIRS = 400


@dataclass(frozen=True, slots=True)
class Reidentified:
    """R2 at one number of leaked pairs."""

    num_pairs: int
    cosine: float
    """mean cosine of reconstructed and true vectors, about the mean; chance 0"""
    share: float
    """share of rows whose text is picked out of 1000; chance 0.001"""


def reconstruct(view: View, corpus: Corpus, num_pairs: int, rows: NDArray[np.int64]) -> dict[str, Floats]:
    """Return what each known-pair attack makes of some rows: (rows, dim) by the attack's name.

    `as it is` reads an encoded row as a vector, which needs no pair. The others: a rotation, a permutation of
    coordinates, an affine map over all cells, and one for each cell from the pairs that fell into it.
    """
    known = corpus.order[:num_pairs]
    seen, plain, wanted = view.rows[known], corpus.vectors[known], view.rows[rows]
    found: dict[str, Floats] = {}
    if view.rows.shape[1] == corpus.vectors.shape[1]:
        found["as it is"] = wanted
        if num_pairs >= 5:
            found["rotation"] = fit_rotation(seen, plain)(wanted)
        if 5 <= num_pairs <= MAX_PERMUTATION_PAIRS:
            found["permutation"] = fit_permutation(seen, plain)(wanted)
    found["affine"] = fit_linear(seen, plain)(wanted)
    if view.num_cells > 1:
        each = np.empty_like(corpus.vectors[rows])
        for cell in np.unique(view.cells[rows]):
            mine, asked = known[view.cells[known] == cell], view.cells[rows] == cell
            each[asked] = fit_linear(view.rows[mine], corpus.vectors[mine])(wanted[asked])
        found["affine by cell"] = each
    return found


def reidentify(view: View, corpus: Corpus, num_pairs: int) -> Reidentified:
    """R2: known-plaintext regression; the best attack for each of the two measures.

    Source: Chen, Xu, Bjerva, "ALGEN" (arXiv 2502.11308): few pairs align two spaces of embeddings.
    """
    tested = corpus.tested
    truth = unit(corpus.vectors[tested] - corpus.mean)
    cosines, shares = [], []
    for vectors in reconstruct(view, corpus, num_pairs, tested).values():
        for shift in (corpus.mean, vectors.mean(axis=0)):
            guesses = unit(vectors - shift)
            cosines.append(float(np.einsum("nd,nd->n", guesses, truth).mean()))
            shares.append(float(((guesses @ truth.T).argmax(axis=1) == np.arange(len(tested))).mean()))
    return Reidentified(num_pairs, max(cosines), max(shares))


def words_found(view: View, corpus: Corpus, model: WordModel, more: Sequence[Floats] = ()) -> tuple[float, float]:
    """R1: words of a text read off its reconstructed vector, by 100 leaked pairs or the reconstructions in `more`.

    Stands in for a trained inverter: words a linear reader cannot find are not thereby safe from a better one, but
    what it does find is lost.

    Returns:
        mean AUC over words, chance 0.5; share of the ten likeliest words that occur.

    Source: Morris et al., "Text embeddings reveal (almost) as much as text" (arXiv 2310.06816), for the threat.
    """
    tested = corpus.tested
    present = model.presence([corpus.texts[row] for row in tested])
    attempts = [
        *reconstruct(view, corpus, NUM_WORD_PAIRS, tested).values(),
        *(vectors[tested] for vectors in more),
    ]
    results = [model.score(unit(vectors), present) for vectors in attempts]
    return max(result[0] for result in results), max(result[1] for result in results)


def membership(view: View, corpus: Corpus) -> tuple[float, float]:
    """R8: is this text in the store? By the rows reconstructed with 200 leaked pairs, or by having the text ingested.

    Returns: AUC, chance 0.5; share of members found at 1 % false alarms.
    """
    members = corpus.tested[: len(corpus.other_vectors)]
    strangers = corpus.other_vectors[-len(members) :]
    candidates = np.concatenate([corpus.vectors[members], strangers])
    is_member = np.arange(len(candidates)) < len(members)
    evidence = []
    every = np.arange(len(view.rows))
    for vectors in reconstruct(view, corpus, NUM_MEMBER_PAIRS, every).values():
        similarities = unit(candidates - corpus.mean) @ unit(vectors - corpus.mean).T
        evidence.append(similarities.max(axis=1))
    ids = [b"member" + row.to_bytes(10, "big") for row in range(len(candidates))]
    inserted = view.mode.encode_rows(ids, [1] * len(ids), PlainVector(candidates))
    numbers = to_numbers(inserted, view.mode.metric)
    nearest = np.full(len(candidates), -2.0, dtype=np.float32)
    for cell, rows in enumerate(view.members()):
        mine = np.flatnonzero(inserted.cells == cell)
        if len(mine) and len(rows):
            nearest[mine] = (unit(numbers[mine]) @ unit(view.rows[rows]).T).max(axis=1)
    evidence.append(nearest)
    found = [(auc(each[is_member], each[~is_member]), _found_at(each, is_member)) for each in evidence]
    return max(each[0] for each in found), max(each[1] for each in found)


def chosen_queries(view: View, corpus: Corpus, num_queries: int = 1000, num_cells: int = 2) -> float:
    """R10: mean cosine, about the mean, of rows reconstructed by one who may ask and watches the store; chance 0.

    With a few more questions than dimensions the map of a cell is known up to a factor, and every row up to its noise:
    1 / sqrt(1 + (noise_radius / |m - mean|)^2). A failure that is documented and asserted. Two cells stand for all.
    """
    if view.queries is None:
        return 0.0
    rng = np.random.default_rng(3)
    asked = unit(rng.standard_normal((num_queries, corpus.vectors.shape[1])).astype(np.float32))
    encoded = encode_queries(view.mode, asked, name="chosen")
    cosines: list[NDArray[np.floating]] = []
    for rows in view.members()[:num_cells]:
        cell = int(view.cells[rows[0]])
        mapped = _queries_to_rows(view.mode, asked, encoded[:, cell])(view.rows[rows])
        truth = unit(corpus.vectors[rows] - corpus.mean)
        tries = [np.einsum("nd,nd->n", unit(mapped - shift), truth) for shift in (0, mapped.mean(axis=0))]
        cosines.append(max(tries, key=lambda each: float(each.mean())))
    return float(np.concatenate(cosines).mean())


def varying_share(view: View, corpus: Corpus) -> float | None:
    """R12: what varies between 200 writings of one row, of its length. Above 0, averaging removes that much noise.

    None where there is no encoding to average: fresh ciphertext varies and says nothing.
    """
    if view.mode.metric is None:
        return None
    vectors = PlainVector(np.repeat(corpus.vectors[:1], NUM_REPEATS, axis=0))
    writings = view.mode.encode_rows(corpus.ids[:1] * NUM_REPEATS, [1] * NUM_REPEATS, vectors)
    written = to_numbers(writings, view.mode.metric)
    changes = np.linalg.norm(written[1:] - written[:-1], axis=1) / np.sqrt(2)
    return float(changes.mean() / np.linalg.norm(written.mean(axis=0)))


def _queries_to_rows(mode: Mode, asked: Floats, encoded: Floats) -> Map:
    """Return the map from encoded rows to vectors that queries and their encodings give away."""
    if mode.metric == "ip":
        matrix = fit_scaled_queries(asked, encoded).astype(np.float32)
        return lambda rows: rows @ matrix.T  # row . (A^T q) is the inner product with q, for every q
    return fit_linear(encoded, asked)


def _found_at(evidence: Floats, is_member: NDArray[np.bool_], false_alarms: float = 0.01) -> float:
    threshold = np.quantile(evidence[~is_member], 1 - false_alarms)
    return float((evidence[is_member] > threshold).mean())
