"""Attacks with a copy of the store and nothing else: neighbours, duplicates, alignment without pairs, attributes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from holdfast.privacy.distance import PlainVector
from holdfast.privacy.leakage_linear import fit_linear
from holdfast.privacy.leakage_view import Corpus, Floats, View, auc, nearest, overlap, to_numbers, unit

NUM_DUPLICATES = 200
NUM_AXES = 8
NUM_LABELLED = 200
WHITENINGS = ((1e-3, 0), (0.03, 0), (0.3, 0), (0.03, 64), (0.3, 128))
"""ridge, and how many of the strongest directions are left out, which takes off wide padding"""


def neighbour_overlap(view: View, corpus: Corpus) -> float:
    """R4: the share of the true ten nearest rows that a copy of the store shows. Chance is 10 / N.

    Rows are compared as they are, by angle, and whitened, which undoes any matrix; with cells, also within each.
    """
    truth, anchors = corpus.neighbours, corpus.anchors
    found = [nearest(view.rows, anchors, by_distance=True), nearest(unit(view.rows), anchors)]
    cells = None if view.num_cells == 1 else view.cells
    if cells is not None:
        found.append(nearest(view.rows, anchors, cells, by_distance=True))
    found += [nearest(features, anchors, cells) for features in whitened(view)]
    return max(overlap(each, truth) for each in found)


def duplicate_auc(view: View, corpus: Corpus) -> float:
    """R4: how well a text stored twice, under two ids, is told from two texts. Chance is 0.5."""
    rows = corpus.order[: min(NUM_DUPLICATES, len(corpus.order) // 2)]
    ids = [b"again" + corpus.ids[row][5:] for row in rows]
    again = view.mode.encode_rows(ids, [1] * len(rows), PlainVector(corpus.vectors[rows]))
    numbers = to_numbers(again, view.mode.metric)
    others = corpus.order[-len(rows) :]
    first, other = view.rows[rows], view.rows[others]
    same = np.where(view.cells[rows] == again.cells, _similarity(first, numbers), -2.0)
    different = np.where(view.cells[others] == again.cells, _similarity(other, numbers), -2.0)
    return auc(same, different)


def align_without_pairs(view: View, corpus: Corpus) -> tuple[float, Floats]:
    """R3: principal axes of the store matched with those of the adversary's own texts, by order and skewness.

    Cells are aligned one by one, and together as if they shared a key.

    Returns:
        the mean absolute correlation of the first 8 principal coordinates with the true ones, chance near 0;
        (N, dim) the vectors so reconstructed.

    Source: Jha et al., "Harnessing the universal geometry of embeddings" (arXiv 2505.12540), for the threat.
    """
    axes, variances = _principal(corpus.other_vectors - corpus.mean)
    truth = (corpus.vectors - corpus.mean) @ axes[:, :NUM_AXES]
    best, reconstructed = -1.0, np.zeros_like(corpus.vectors)
    groups = [[np.arange(len(view.rows))]] + ([view.members()] if view.num_cells > 1 else [])
    reference = _skewness((corpus.other_vectors - corpus.mean) @ axes)
    for members in groups:
        coordinates = np.zeros((len(view.rows), len(variances)), dtype=np.float32)
        for rows in members:
            if len(rows) < 2:
                continue
            centred = view.rows[rows] - view.rows[rows].mean(axis=0)
            own, _ = _principal(centred)
            projected = np.asarray(centred @ own[:, : len(variances)], dtype=np.float32)
            projected *= np.where(_skewness(projected) * reference[: projected.shape[1]] < 0, -1, 1)
            scale = np.sqrt(variances[: projected.shape[1]]) / np.maximum(projected.std(axis=0), 1e-9)
            coordinates[rows, : projected.shape[1]] = projected * scale
        correlations = [abs(_correlation(coordinates[:, axis], truth[:, axis])) for axis in range(NUM_AXES)]
        if float(np.mean(correlations)) > best:
            best, reconstructed = float(np.mean(correlations)), (coordinates @ axes.T).astype(np.float32)
    return best, reconstructed


def attribute_f1(view: View, corpus: Corpus) -> float:
    """R7: macro-F1 of the label of a row, from 200 rows whose labels are known, over all cells and within each."""
    known, tested = corpus.order[:NUM_LABELLED], corpus.tested
    classes = np.unique(corpus.labels)
    targets = (corpus.labels[:, None] == classes).astype(np.float32)
    everything = fit_linear(view.rows[known], targets[known])(view.rows[tested])
    guesses = [everything]
    if view.num_cells > 1:
        each = np.empty_like(everything)
        for cell in range(view.num_cells):
            rows, mine = known[view.cells[known] == cell], view.cells[tested] == cell
            each[mine] = fit_linear(view.rows[rows], targets[rows])(view.rows[tested[mine]])
        guesses.append(each)
    return max(_macro_f1(classes[guess.argmax(axis=1)], corpus.labels[tested], classes) for guess in guesses)


def whitened(view: View, whitenings: Sequence[tuple[float, int]] = WHITENINGS) -> Iterator[Floats]:
    """Yield for each whitening every row whitened among the rows of its cell, as unit vectors."""
    spectra = [(rows, Spectrum(view.rows[rows])) for rows in view.members() if len(rows) > 1]
    for ridge, num_dropped in whitenings:
        features: Floats = np.zeros_like(view.rows)
        for rows, spectrum in spectra:
            part = unit(spectrum.whiten(ridge, num_dropped))
            features[rows, : part.shape[1]] = part
        yield features


class Spectrum:
    """The principal axes of (n, width) rows, found once, in which they are whitened in several ways."""

    def __init__(self, rows: Floats) -> None:
        centred = (rows - rows.mean(axis=0)).astype(np.float64)
        is_wide = len(rows) < rows.shape[1]
        values, vectors = np.linalg.eigh(centred @ centred.T if is_wide else centred.T @ centred)
        self._values = np.maximum(values, 0)
        self._projected = vectors * np.sqrt(self._values) if is_wide else centred @ vectors

    def whiten(self, ridge: float, num_dropped: int = 0) -> Floats:
        """Return (n, at most width) rows with all directions of equal weight.

        Weak directions are damped by `ridge`, relative to the mean variance; the `num_dropped` strongest are left out.
        """
        kept = max(len(self._values) - num_dropped, 1)
        values = self._values[:kept]
        damped = np.sqrt(values + ridge * values.mean() + 1e-30)
        return np.asarray(self._projected[:, :kept] / damped, dtype=np.float32)


def _similarity(left: Floats, right: Floats) -> Floats:
    return np.asarray((unit(left) * unit(right)).sum(axis=1), dtype=np.float32)


def _principal(centred: Floats) -> tuple[Floats, Floats]:
    """Return (width, r) axes and (r,) variances, the largest first; r is the smaller of rows and width."""
    num_rows, width = centred.shape
    plain = centred.astype(np.float64)
    if num_rows < width:
        values, left = np.linalg.eigh(plain @ plain.T / num_rows)
        vectors = plain.T @ left / np.sqrt(num_rows * np.maximum(values, 1e-12))
    else:
        values, vectors = np.linalg.eigh(plain.T @ plain / num_rows)
    return np.asarray(vectors[:, ::-1], np.float32), np.asarray(np.maximum(values[::-1], 0), np.float32)


def _skewness(coordinates: NDArray[np.floating]) -> Floats:
    return np.asarray((coordinates**3).mean(axis=0), dtype=np.float32)


def _correlation(left: NDArray[np.floating], right: NDArray[np.floating]) -> float:
    left, right = left - left.mean(), right - right.mean()
    length = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / length if length > 0 else 0.0


def _macro_f1(guesses: NDArray[np.int64], truth: NDArray[np.int64], classes: NDArray[np.int64]) -> float:
    scores = []
    for each in classes:
        both = np.sum((guesses == each) & (truth == each))
        scores.append(2 * both / max(np.sum(guesses == each) + np.sum(truth == each), 1))
    return float(np.mean(scores))
