"""How well the bundled reader reads: spans that answer, on questions whose articles it was never trained on.

The split is the one of `training/splits.json`: ten articles of SQuAD, half of the titles of the NQ family. Of
nq_multidoc10 the ten passages are read one by one and the best span of all is the answer; a distractor there may be a
passage that training saw with another question. Nothing was chosen on these questions.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence

from benchmarks.results import Result, Target, Value
from holdfast.retrieval.sentences import split_sentences
from holdfast.serving.engine.spans import Reading, SpanReader, make_span_reader
from training import metrics
from training.corpora import read_passages
from training.evaluate import multidoc_questions
from training.splits import kept_questions

QUICK_SIZE = 12
SETS = ("squad1_dev_a", "nq_open_oracle", "qed_dev")
Shown = tuple[str, tuple[str, ...], list[tuple[str, str]]]
"""question, answers, passages as (heading, text)"""


def check() -> None:
    """A passage that answers, and one that does not, read in either order."""
    reader = make_span_reader()
    texts = ["The Alder Bridge was opened in 1932 by the mayor.", "Bananas hold a good deal of potassium."]
    right, other = (reader.read_passage("When was the Alder Bridge opened?", "", text) for text in texts)
    span, best_elsewhere = right.best_span(), other.best_span()
    assert span is not None
    assert best_elsewhere is not None
    assert texts[0][span.start : span.end] == "1932", span
    assert span.score > 0 > best_elsewhere.score


def run(quick: bool) -> Result:
    """Measure spans on the questions kept for tests."""
    reader = make_span_reader()
    size = QUICK_SIZE if quick else None
    rows = [{"table": "spans", "set": name, "passages": 1} | _measure(reader, _alone(name, size)) for name in SETS]
    rows.append({"table": "spans", "set": "nq_multidoc10", "passages": 10} | _measure(reader, _among_ten(size)))
    rows.append(_measure_absence(reader, size))
    squad, multidoc = rows[0], rows[len(SETS)]
    exact, held = float(squad["exact"] or 0), float(multidoc["contains"] or 0)
    return Result(
        rows=rows,
        targets=[
            Target("squad-exact", "SQuAD, unseen articles: spans equal to a gold answer", exact, must=0.55, aim=0.65),
            Target("multidoc-contains", "nq_multidoc10: spans that hold a gold answer", held, must=0.40, aim=0.55),
        ],
    )


def _alone(name: str, size: int | None) -> list[Shown]:
    passages = read_passages(name)
    return [
        (question.text, question.answers, [("", passages[question.passage].text)])
        for question in kept_questions(name)[:size]
    ]


def _among_ten(size: int | None) -> list[Shown]:
    shown = [
        (text, answers, [_headed(document) for document in documents])
        for text, answers, documents, _ in multidoc_questions()
    ]
    return shown[:size]


def _headed(document: str) -> tuple[str, str]:
    heading, _, text = document.partition("\n")
    return heading, text


def _measure(reader: SpanReader, shown: Sequence[Shown]) -> dict[str, Value]:
    """Ask each question over its passages; the answer is the best span of all, as it is and with its sentence."""
    found: list[tuple[str, str, tuple[str, ...]]] = []
    seconds = []
    for question, answers, passages in shown:
        started = time.perf_counter()
        readings = [reader.read_passage(question, heading, text) for heading, text in passages]
        seconds.append(time.perf_counter() - started)
        span, sentence = _best(readings, [text for _, text in passages])
        found.append((span, sentence, answers))
    return {
        "questions": len(found),
        "exact": _mean(metrics.exact_match(span, gold) for span, _, gold in found),
        "f1": _mean(metrics.f1(span, gold) for span, _, gold in found),
        "contains": _mean(metrics.contains(span, gold) for span, _, gold in found),
        "sentence_contains": _mean(metrics.contains(sentence, gold) for _, sentence, gold in found),
        "median_ms": round(1000 * statistics.median(seconds)),
    }


def _best(readings: Sequence[Reading], texts: Sequence[str]) -> tuple[str, str]:
    """Return the best span's text, and that of the sentence it begins in."""
    spans = [(span.score, -row, span) for row, reading in enumerate(readings) if (span := reading.best_span())]
    _, row, span = max(spans, key=lambda found: found[:2])
    text = texts[-row]
    sentence = next((text[start:end] for start, end in split_sentences(text) if span.start < end), "")
    return text[span.start : span.end], sentence


def _measure_absence(reader: SpanReader, size: int | None) -> dict[str, Value]:
    """Compare the best span's log-odds where the passage answers with ClapNQ's passages that do not."""
    scores: dict[bool, list[float]] = {True: [], False: []}
    for name in ("nq_open_oracle", "clapnq_dev"):
        for question, answers, passages in _alone(name, size):
            span = reader.read_passage(question, *passages[0]).best_span()
            scores[bool(answers)].append(span.score if span else -1e9)
    pairs = [(present > absent) + (present == absent) / 2 for present in scores[True] for absent in scores[False]]
    return {
        "table": "absence",
        "answerable": len(scores[True]),
        "unanswerable": len(scores[False]),
        "told_apart": _mean(pairs),
        "answerable_above_0": _mean(score > 0 for score in scores[True]),
        "unanswerable_above_0": _mean(score > 0 for score in scores[False]),
    }


def _mean(values: Iterable[float]) -> float:
    return round(statistics.mean(map(float, values)), 4)
