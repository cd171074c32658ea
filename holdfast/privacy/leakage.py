"""The red team: what a store learns in each mode, as numbers.

The attacks are in the files beside this one, by what they need: `leakage_snapshot.py` a copy of the store,
`leakage_pairs.py` also some known texts, `leakage_queries.py` also the queries, `leakage_residue.py` the bytes as they
were written. Each returns its most successful variant: a number is a lower bound of what leaks, never an upper one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.privacy.distance import PlainVector
from holdfast.privacy.leakage_pairs import (
    Reidentified,
    chosen_queries,
    membership,
    reidentify,
    varying_share,
    words_found,
)
from holdfast.privacy.leakage_queries import linkability, transcript_overlap
from holdfast.privacy.leakage_residue import ResidueScanner
from holdfast.privacy.leakage_snapshot import align_without_pairs, attribute_f1, duplicate_auc, neighbour_overlap
from holdfast.privacy.leakage_view import Corpus, Mode, View, recall_at_10
from holdfast.privacy.leakage_words import WordModel
from holdfast.privacy.noise import guessing_auc

LEAKED_PAIRS = 200
NUM_SCANNED = 5


@dataclass(frozen=True, slots=True)
class Leak:
    """What one mode lets its store learn. Chance and ceiling of each number: docs/privacy.md."""

    mode: str
    recall_at_10: float
    """share of the exact ten best that the caller gets, after over-fetching and reordering"""
    num_candidates: int
    """rows that the store returns"""
    r1_words_auc: float
    """words read with 100 leaked pairs"""
    r1_words_precision: float
    """share of the ten likeliest words that occur"""
    r2_cosine: float
    """of reconstructed vectors at 200 leaked pairs, about the mean"""
    r2_reidentified: float
    """rows whose text is picked out of 1000, at 200 leaked pairs"""
    r3_axes: float
    """correlation of the first principal coordinates, found without any pair"""
    r4_neighbours: float
    """true nearest neighbours visible in a copy of the store"""
    r4_duplicates_auc: float
    """texts stored twice told from others"""
    r5_transcript: float
    """true nearest neighbours known to a store that watched `num_queries` queries"""
    r5_attack: str
    """which attack that was"""
    num_queries: int
    r6_repeated_auc: float
    """a question asked twice told from two questions"""
    r6_paraphrased_auc: float | None
    """a question in other words told from two questions; None where the corpus has none"""
    r7_label_f1: float
    """attribute of a row, from 200 labelled rows"""
    r8_member_auc: float
    """is this text in the store?"""
    r8_member_found: float
    """members found at 1 % false alarms"""
    r9_guess_auc: float
    """which of two known questions, 0.1 apart, was asked, to one who knows the map"""
    r10_chosen_cosine: float
    """of vectors reconstructed by one who may ask and watches the store"""
    r11_residue: int
    """pieces of text or vectors that stand plain in what was written"""
    r12_varying: float | None
    """what varies between writings of one row, hence is averaged away; None where nothing is encoded"""


def attack(view: View, corpus: Corpus, model: WordModel, num_queries: int) -> Leak:
    """Run every attack on what the store sees of one mode.

    Args:
        view: of a mode, by `leakage_view.look`.
        corpus: 2000 rows or more; a number grows with the rows of a cell.
        model: a reader of words, learned on `corpus.other_texts`.
        num_queries: how many of the corpus's queries the store watches.

    Cost: for 16,000 rows of 384 dimensions about half a minute.
    """
    mode = view.mode
    pairs = reidentify(view, corpus, LEAKED_PAIRS)
    axes, aligned = align_without_pairs(view, corpus)
    words_auc, words_precision = words_found(view, corpus, model, [aligned])
    neighbours = neighbour_overlap(view, corpus)
    transcript = {"copy": neighbours, **transcript_overlap(view, corpus, num_queries)}
    repeated, paraphrased = linkability(view, corpus)
    member_auc, member_found = membership(view, corpus)
    best = max(transcript, key=lambda name: transcript[name])
    return Leak(
        mode=mode.name,
        recall_at_10=recall_at_10(view, corpus),
        num_candidates=mode.num_candidates,
        r1_words_auc=words_auc,
        r1_words_precision=words_precision,
        r2_cosine=pairs.cosine,
        r2_reidentified=pairs.share,
        r3_axes=axes,
        r4_neighbours=neighbours,
        r4_duplicates_auc=duplicate_auc(view, corpus),
        r5_transcript=transcript[best],
        r5_attack=best,
        num_queries=num_queries,
        r6_repeated_auc=repeated,
        r6_paraphrased_auc=paraphrased,
        r7_label_f1=attribute_f1(view, corpus),
        r8_member_auc=member_auc,
        r8_member_found=member_found,
        r9_guess_auc=_guess_auc(mode),
        r10_chosen_cosine=chosen_queries(view, corpus),
        r11_residue=residue(mode, corpus),
        r12_varying=varying_share(view, corpus),
    )


def curve(view: View, corpus: Corpus, num_pairs: Sequence[int]) -> list[Reidentified]:
    """Return how re-identification grows with the number of leaked pairs."""
    return [reidentify(view, corpus, number) for number in num_pairs]


def residue(mode: Mode, corpus: Corpus) -> int:
    """R11 for what an encoding writes: vectors that stand plain in it. Stores are scanned by their own tests."""
    rows = range(min(NUM_SCANNED, len(corpus.vectors)))
    scanner = ResidueScanner(vectors={str(row): corpus.vectors[row] for row in rows})
    written = mode.encode_rows(corpus.ids[: len(rows)], [1] * len(rows), PlainVector(corpus.vectors[: len(rows)]))
    return len(scanner.find(written.values.tobytes()))


def _guess_auc(mode: Mode) -> float:
    """R9: 1 without noise, since an encoding is a bijection to one who knows it; 0.5 where nothing is sent."""
    if mode.encode_queries is None:
        return 0.5
    return 1.0 if mode.query_mu is None else guessing_auc(mode.query_mu)
