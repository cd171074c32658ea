"""How often the `extract` engine's answer holds the answer, end to end, and how well it knows when there is none.

Questions of three public sets over their own passages in memory: embed, search the binary index and the words, answer.
An answer counts when a gold answer stands in it, case, punctuation and articles aside. Asked are only questions whose
articles the span reader was not trained on (`training/splits.json`). The engine's weights, the relevance rule and the
reader's threshold were chosen on the held-out half of each sample (`part` "held out"); the other half ("test") is what
counts. Unanswerable questions are those of one set asked over another set's passages, and ClapNQ's own, whose passage
is on the subject but does not hold the answer. The engine is measured as served, with its span reader ("spans"), and
without ("sentences").
"""

from __future__ import annotations

import asyncio
import random
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.corpora import EMBEDDING_CACHE, EVAL_DATA, WordIndex, read_rows
from benchmarks.results import Result, Target, Value
from holdfast.retrieval.embed import Embedder, make_embedder
from holdfast.retrieval.embedding_cache import EmbeddingCache
from holdfast.retrieval.evaluation_sets import document_text
from holdfast.retrieval.index import BinaryIndex
from holdfast.serving.answer import Answerer, Done, FileSearch, Finished
from holdfast.serving.collection_search import POOL_SIZE, Candidate, best_fused, fuse_candidates
from holdfast.serving.config import Settings
from holdfast.serving.engine.extract import ExtractEngine
from holdfast.serving.engine.protocol import Message, Sampling, Source
from holdfast.serving.engine.sentences import choose_sentences, rank_sentences
from holdfast.serving.engine.spans import MIN_LOG_ODDS, Reading, SpanReader, is_answered, make_span_reader
from holdfast.serving.relevance import relevant_sources
from training.splits import kept_passages

SETS = ("nq_open_oracle", "squad1_dev_a", "qed_dev")
FOREIGN = (
    ("nq_open_oracle", "squad1_dev_a"),
    ("qed_dev", "squad1_dev_a"),
    ("squad1_dev_a", "nq_open_oracle"),
    ("squad1_dev_a", "qed_dev"),
)
UNANSWERABLE = "clapnq_dev"
THRESHOLDS = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45)
LOG_ODDS = (-4.0, -3.0, -2.0, -1.0, 0.0, 1.0)
PART_SIZE = 300
QUICK_SIZE = 10
SEED = 0
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


@dataclass(frozen=True)
class Question:
    text: str
    answers: tuple[str, ...]

    def is_answered_by(self, text: str) -> bool:
        return any(normalised(answer) in normalised(text) for answer in self.answers)


@dataclass(frozen=True)
class _Search:
    """What was found for a question, and what the reader made of the relevant part of it."""

    question: str
    sources: list[Source]
    readings: list[Reading]


@dataclass
class Corpus:
    """One set's passages, indexed; implements `Retriever`."""

    rows: Sequence[dict[str, Any]]
    index: BinaryIndex
    words: WordIndex
    encode: Callable[[Sequence[str]], NDArray[np.float32]]

    async def retrieve(
        self, tenant: str, vector_store_ids: Sequence[str], queries: Sequence[str], *, max_num_results: int, **_: Any
    ) -> list[Source]:
        return self.search(queries[0], max_num_results)

    def search(self, question: str, k: int) -> list[Source]:
        """Search as `serving/collection_search.py` does."""
        query = self.encode([question])
        text_scores = self.words.search(question, POOL_SIZE)
        found = [self.index.search(query, POOL_SIZE)]
        others = np.array(sorted(text_scores.keys() - set(found[0].ids[0].tolist())), dtype=np.uint64)
        if len(others):
            found.append(self.index.search(query, len(others), allowed_ids=others))
        candidates = [
            Candidate(self._source(row, score), text_scores.get(row, 0.0))
            for result in found
            for row, score in zip(result.ids[0].tolist(), result.scores[0].tolist(), strict=True)
        ]
        return [
            replace(source, rank=rank)
            for rank, source in enumerate(best_fused([fuse_candidates(candidates, None)], k))
        ]

    def _source(self, row: int, score: float) -> Source:
        text, title = self.rows[row]["text"], self.rows[row].get("title")
        return Source(row, f"file-{row}", f"{row}.txt", text, 0, len(text), None, title, max(0.0, score), {})


def normalised(text: str) -> str:
    """Lower case, no punctuation, no articles, single blanks, blanks around."""
    bare = _ARTICLES.sub(" ", re.sub(r"[^\w\s]", " ", text.lower()))
    return f" {' '.join(bare.split())} "


def load_corpus(name: str, embedder: Embedder, cache: EmbeddingCache) -> Corpus:
    """Index the passages of a set; questions are embedded as they are asked, so that their time counts."""
    rows = list(read_rows(EVAL_DATA / name / "corpus.jsonl.gz"))
    index = BinaryIndex(embedder.dim)
    vectors = cache.encode([embedder.truncate(document_text(row)) for row in rows])
    index.add(np.arange(len(rows), dtype=np.uint64), vectors)
    return Corpus(rows, index, WordIndex([document_text(row) for row in rows]), embedder.encode)


def load_questions(name: str, part: str, size: int) -> list[Question]:
    """Return a fixed sample of a set's questions; the two parts do not overlap. ClapNQ's are its unanswerable ones.

    None of them, and no passage that answers one, was trained on.
    """
    kept = kept_passages()
    rows = [
        row
        for row in read_rows(EVAL_DATA / name / "qa.test.jsonl.gz")
        if f"{name}/{row['gold'][0]}" in kept and not row.get("answerable", False)
    ]
    random.Random(SEED).shuffle(rows)
    first = 0 if part == "test" else PART_SIZE
    return [Question(row["question"], tuple(row["answers"])) for row in rows[first : first + size]]


def make_answerer(corpus: Corpus, embedder: Embedder, reader: SpanReader | None) -> Answerer:
    settings = Settings()
    return Answerer(
        ExtractEngine(embedder, reader),
        corpus,
        num_passages=settings.num_passages,
        relevance_threshold=settings.relevance_threshold,
    )


async def ask(answerer: Answerer, question: str) -> tuple[Finished, Done]:
    """Return what was answered; the citations are checked on the way."""
    messages, search = [Message("user", question)], FileSearch(("vs_1",))
    events = [event async for event in answerer.stream("t", messages, search=search, sampling=Sampling())]
    finished, done = events[-2:]
    assert isinstance(finished, Finished)
    assert isinstance(done, Done)
    return finished, done


def measure_answers(
    name: str, corpus: Corpus, embedder: Embedder, reader: SpanReader | None, size: int
) -> dict[str, Value]:
    """Ask a set's test questions over its own passages."""
    questions = load_questions(name, "test", size)
    answerer, num_passages = make_answerer(corpus, embedder, reader), Settings().num_passages
    found, held, declined, lengths, seconds = [], [], [], [], []
    by_sentences: dict[int, list[bool]] = {1: [], 2: [], 3: []}
    for question in questions:
        started = time.perf_counter()
        finished, done = asyncio.run(ask(answerer, question.text))
        seconds.append(time.perf_counter() - started)
        held.append(question.is_answered_by(finished.text))
        declined.append(not done.extra["is_answered"])
        lengths.append(len(finished.text.split()))
        sources = corpus.search(question.text, num_passages)
        found.append(any(question.is_answered_by(source.text) for source in sources))
        readings = reader.read(question.text, sources) if reader else None
        ranked = rank_sentences(question.text, sources, embedder, readings)
        for num_sentences, answered in by_sentences.items():
            chosen = choose_sentences(ranked, num_sentences)
            answered.append(question.is_answered_by(" ".join(sentence.text for sentence in chosen)))
    return {
        "table": "answers",
        "by": "spans" if reader else "sentences",
        "set": name,
        "questions": len(questions),
        "passages_hold_answer": _share(found),
        "answer_holds_answer": _share(held),
        **{f"with_{count}_sentences": _share(answered) for count, answered in by_sentences.items()},
        "declined": _share(declined),
        "words": round(statistics.mean(lengths), 1),
        "median_ms": round(1000 * statistics.median(seconds)),
        "p95_ms": round(1000 * sorted(seconds)[int(0.95 * (len(seconds) - 1))]),
    }


def measure_relevance(
    part: str, corpora: dict[str, Corpus], reader: SpanReader, size: int
) -> list[dict[str, Value]]:
    """Say how many questions are answered, from their own passages and from others.

    First by the passages' scores alone at several thresholds, then by what the reader finds in those that pass the
    default one, at several log-odds.
    """
    settings = Settings()

    def search(asked: str, over: str) -> list[_Search]:
        found = []
        for question in load_questions(asked, part, size):
            sources = corpora[over].search(question.text, settings.num_passages)
            relevant = relevant_sources(sources, question.text, settings.relevance_threshold)
            found.append(_Search(question.text, sources, reader.read(question.text, relevant)))
        return found

    groups = {
        "own_passages": [each for name in SETS for each in search(name, name)],
        "other_sets_passages": [each for asked, over in FOREIGN for each in search(asked, over)],
        "clapnq_unanswerable": search(UNANSWERABLE, UNANSWERABLE) if part == "test" else [],
    }
    rows: list[dict[str, Value]] = []
    for threshold in THRESHOLDS:
        row: dict[str, Value] = {"table": "relevance", "part": part, "by": "scores", "least": threshold}
        row["is_default"] = threshold == settings.relevance_threshold
        for group, searches in groups.items():
            answered = [bool(relevant_sources(each.sources, each.question, threshold)) for each in searches]
            row[group] = _share(answered) if answered else None
        rows.append(row)
    for least in LOG_ODDS:
        row = {"table": "relevance", "part": part, "by": "spans", "least": least, "is_default": least == MIN_LOG_ODDS}
        for group, searches in groups.items():
            answered = [is_answered(each.question, each.readings, least) for each in searches]
            row[group] = _share(answered) if answered else None
        rows.append(row)
    return rows


def check() -> None:
    """One question over three passages: found, quoted, cited, and declined where nothing is near."""
    embedder = make_embedder()
    texts = ["The Alder Bridge was opened in 1932.", "The tower holds 450 cubic metres.", "Bananas hold potassium."]
    index = BinaryIndex(embedder.dim)
    index.add(np.arange(len(texts), dtype=np.uint64), embedder.encode(texts))
    corpus = Corpus([{"text": text} for text in texts], index, WordIndex(texts), embedder.encode)
    answerer = make_answerer(corpus, embedder, make_span_reader())
    finished, _ = asyncio.run(ask(answerer, "When was the Alder Bridge opened?"))
    assert finished.text == texts[0], finished.text
    assert [citation.quote for citation in finished.citations] == [texts[0]]
    _, done = asyncio.run(ask(answerer, "Who wrote the opera about the king of Sweden?"))
    assert not done.extra["is_answered"]
    assert Question("", ("The Alder-Bridge!",)).is_answered_by("an ALDER bridge it is")


def run(quick: bool) -> Result:
    """Measure answers on the test part, and relevance on both."""
    size = QUICK_SIZE if quick else PART_SIZE
    embedder = make_embedder()
    cache = EmbeddingCache(EMBEDDING_CACHE, embedder)
    corpora = {name: load_corpus(name, embedder, cache) for name in (*SETS, UNANSWERABLE)}
    reader = make_span_reader()
    without = [measure_answers(name, corpora[name], embedder, None, size) for name in SETS]
    answers = [measure_answers(name, corpora[name], embedder, reader, size) for name in SETS]
    known = {name: replace(corpus, encode=cache.encode) for name, corpus in corpora.items()}
    relevance = [row for part in ("test", "held out") for row in measure_relevance(part, known, reader, size)]
    return Result(rows=[*without, *answers, *relevance], targets=_targets(answers, relevance))


def _targets(answers: Sequence[dict[str, Value]], relevance: Sequence[dict[str, Value]]) -> list[Target]:
    (chosen,) = [row for row in relevance if row["part"] == "test" and row["by"] == "spans" and row["is_default"]]
    own, foreign, clapnq = (
        float(chosen[group] or 0) for group in ("own_passages", "other_sets_passages", "clapnq_unanswerable")
    )
    held = _mean(answers, "answer_holds_answer")
    return [
        Target("answer-holds", "answers that hold a gold answer, mean of the sets", held, must=0.75, aim=0.85),
        Target(
            id="false-decline",
            what="answerable questions declined, share",
            value=round(1 - own, 4),
            must=0.05,
            aim=0.02,
            better="lower",
        ),
        Target(
            id="false-answer",
            what="questions asked over another set's passages and answered all the same, share",
            value=foreign,
            must=0.25,
            aim=0.05,
            better="lower",
        ),
        Target(
            id="near-miss",
            what="ClapNQ's unanswerable questions answered all the same, share",
            value=clapnq,
            must=0.6,
            aim=0.3,
            better="lower",
        ),
        Target("answer-words", "words of an answer, mean", _mean(answers, "words"), must=60, aim=40, better="lower"),
        Target(
            id="answer-ms",
            what="milliseconds for search and answer, 95th percentile of the slowest set",
            value=max(float(row["p95_ms"] or 0) for row in answers),
            must=1500,
            aim=500,
            better="lower",
        ),
    ]


def _share(flags: Sequence[bool]) -> float:
    return round(sum(flags) / len(flags), 4)


def _mean(rows: Sequence[dict[str, Value]], column: str) -> float:
    return round(statistics.mean(float(row[column] or 0) for row in rows), 4)
