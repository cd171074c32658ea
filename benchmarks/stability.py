"""The same questions over the same passages, in ten orders, with one passage more, less or twice.

NQ-SetQA: questions of two public sets, each with its gold passage and BM25 distractors that do not hold an answer, from
four sets' passages. Invented facts: one sentence about each of several names, drawn from a seed that no training uses,
for readers that are too small for real questions. All modes run on the same weights: the model in the folder that
HOLDFAST_BENCHMARK_MODEL names. Without one a tiny random model runs, which tries the machinery and says nothing about
quality. `publishable` is false where the passages do not lift accuracy 15 points above what the model answers without
any: a model that always says the same is perfectly stable. On the CPU a fixed stratified sample of the questions is
asked.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.answers import normalised
from benchmarks.corpora import EVAL_DATA, read_rows
from benchmarks.results import Result, Target, Value
from holdfast.retrieval.agreement import (
    accuracy,
    any_flip_rate,
    best_case_accuracy,
    bootstrap_interval,
    changed_rate,
    modal_answer,
    permutation_agreement_rate,
    permutation_sensitivity,
    sampled_orders,
    worst_case_accuracy,
)
from holdfast.retrieval.order import canonical_order
from holdfast.serving.engine.document_cache import DocumentCache
from holdfast.serving.engine.hf import HfEngine, make_hf_engine
from holdfast.serving.engine.protocol import EngineRequest, Message, Reading, Sampling, Source
from holdfast.serving.engine.stable_rag import stable_rag
from tests.serving.tiny_llama import make_tiny_llama
from training.facts import FactShape, make_facts

QUESTION_SETS = ("nq_open_oracle", "qed_dev")
PASSAGE_SETS = (*QUESTION_SETS, "squad1_dev_a", "twowiki_corpus")
SIZES = {"NQ-SetQA": (5, 10, 20, 30), "invented facts": (4, 10)}
"""documents of a set, for each kind of question"""
MAX_SIZE = 30
NUM_ORDERS = 10
NUM_ON_CPU = 300
NUM_INVENTED = 1000
"""questions about invented facts, where not fewer"""
BASE_SIZE = 10
"""documents of the sets that get one more, one less, one twice"""
MAX_TOKENS = 16
GUARD = 0.15
CACHE_BYTES = 4 * 2**30
SEED = 0
WAYS: dict[str, Reading] = {
    "set": Reading(mode="set"),
    "set, T and S 0.9": Reading(mode="set", document_temperature=0.9, document_scale=0.9),
    "mixture": Reading(mode="mixture"),
    "sequence": Reading(mode="sequence"),
}


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its ranked passages, the gold one first."""

    text: str
    answers: tuple[str, ...]
    passages: tuple[str, ...]

    def is_answered_by(self, text: str) -> bool:
        """Whether a gold answer stands in `text`; never the other way round, so that saying little wins nothing."""
        return any(normalised(answer) in normalised(text) for answer in self.answers)


class Bm25:
    """BM25 over passages in memory, k1 = 0.9 and b = 0.4; ties by row."""

    def __init__(self, texts: Sequence[str]) -> None:
        counts = [Counter(normalised(text).split()) for text in texts]
        self._lens = np.array([sum(count.values()) for count in counts], dtype=np.float64)
        self._postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for row, count in enumerate(counts):
            for word, frequency in count.items():
                self._postings[word].append((row, frequency))

    def rank(self, question: str, k: int) -> list[int]:
        scores = np.zeros(len(self._lens))
        norm = 0.9 * (0.6 + 0.4 * self._lens / self._lens.mean())
        for word in sorted(set(normalised(question).split())):
            found = self._postings.get(word, [])
            idf = math.log(1 + (len(self._lens) - len(found) + 0.5) / (len(found) + 0.5))
            for row, frequency in found:
                scores[row] += idf * frequency * 1.9 / (frequency + norm[row])
        return [int(row) for row in np.lexsort((np.arange(len(scores)), -scores))[:k]]


def load_questions(num_questions: int | None) -> list[Question]:
    """Return the questions, or `num_questions` of them in proportion to the sets, drawn with a fixed seed."""
    passages: dict[str, None] = {}
    texts: dict[tuple[str, str], str] = {}
    for name in PASSAGE_SETS:
        for row in read_rows(EVAL_DATA / name / "corpus.jsonl.gz"):
            text = f"{row['title']}: {row['text']}" if row.get("title") else row["text"]
            texts[name, row["_id"]] = text
            passages.setdefault(text)
    rows = {name: list(read_rows(EVAL_DATA / name / "qa.test.jsonl.gz")) for name in QUESTION_SETS}
    total = sum(map(len, rows.values()))
    asked = []
    for name, found in rows.items():
        share = len(found) if num_questions is None else round(num_questions * len(found) / total)
        asked += [(name, row) for row in random.Random(SEED).sample(found, min(share, len(found)))]
    pool = list(passages)
    bm25 = Bm25(pool)
    normal = [normalised(text) for text in pool]
    questions = []
    for name, row in asked:
        gold = texts[name, row["gold"][0]]
        answers = [normalised(answer) for answer in row["answers"]]
        ranked = bm25.rank(row["question"], 20 * MAX_SIZE)
        others = [pool[i] for i in ranked if pool[i] != gold and not any(a and a in normal[i] for a in answers)]
        questions.append(Question(row["question"], tuple(row["answers"]), (gold, *others[: MAX_SIZE + 1])))
    return questions


def invent_questions(num_questions: int) -> list[Question]:
    """Return questions about one of many names, each with a sentence of its own."""
    num_documents = max(SIZES["invented facts"]) + 2
    shape = FactShape((num_documents, num_documents), (1, 1), (1, 1), 0.0, 0.0, 0.0, 1.0)
    questions = []
    for number in range(num_questions):
        context = make_facts(random.Random(f"stability/{number}"), shape)
        (asked,) = context.asked
        gold = context.documents[asked.evidence[0]]
        others = [text for text in context.documents if text != gold]
        questions.append(Question(asked.question, (asked.answer,), (gold, *others)))
    return questions


class Asker:
    """Asks one model in every way."""

    def __init__(self, engine: HfEngine) -> None:
        self.engine = engine

    def ask(self, question: Question, passages: Sequence[str], reading: Reading) -> str:
        return asyncio.run(self._ask(self.request(question, passages, reading)))

    def request(self, question: Question, passages: Sequence[str], reading: Reading) -> EngineRequest:
        sources = tuple(
            Source(row, "file", "passages.txt", text, 0, len(text), None, None, 1.0, {})
            for row, text in enumerate(passages)
        )
        sampling = Sampling(max_tokens=MAX_TOKENS, temperature=0.0)
        return EngineRequest((Message("user", question.text),), question.text, sources, sampling, reading=reading)

    def stable_rag(self, question: Question, passages: Sequence[str], orders: Sequence[Sequence[int]]) -> str:
        requests = [self.request(question, [passages[row] for row in order], WAYS["sequence"]) for order in orders]
        prompts = [self.engine.prompt_ids(request) for request in requests]
        token_ids, _ = stable_rag(self.engine._model, prompts, MAX_TOKENS, SEED)
        return str(self.engine._tokenizer.decode(token_ids, skip_special_tokens=True))

    async def _ask(self, request: EngineRequest) -> str:
        text = [delta.text async for delta in self.engine.generate(request)]
        return "".join(text).strip()


def check() -> None:
    """Distractors hold no answer, gold passages do, and a set has one answer in every order."""
    questions = load_questions(12)
    for question in questions:
        assert question.is_answered_by(question.passages[0])
        assert not any(question.is_answered_by(text) for text in question.passages[1:])
        assert len(set(question.passages)) == len(question.passages) == MAX_SIZE + 2
    with tempfile.TemporaryDirectory() as folder:
        asker = Asker(make_hf_engine(str(make_tiny_llama(Path(folder))), document_cache=DocumentCache(CACHE_BYTES)))
        passages = [text[:120] for text in questions[0].passages[:4]]
        orders = sampled_orders(4, 3, SEED)
        answers = {asker.ask(questions[0], [passages[row] for row in order], WAYS["set"]) for order in orders}
        assert len(answers) == 1
        asyncio.run(asker.engine.close())


def run(quick: bool) -> Result:
    import torch

    folder = os.environ.get("HOLDFAST_BENCHMARK_MODEL")
    with tempfile.TemporaryDirectory() as made:
        model = folder or str(make_tiny_llama(Path(made)))
        asker = Asker(make_hf_engine(model, document_cache=DocumentCache(CACHE_BYTES)))
        number = 4 if quick else None if torch.cuda.is_available() else NUM_ON_CPU
        asked = {"NQ-SetQA": load_questions(number), "invented facts": invent_questions(number or NUM_INVENTED)}
        rows: list[dict[str, Value]] = []
        targets: list[Target] = []
        for kind, questions in asked.items():
            if folder is None:
                questions = [replace(one, passages=tuple(text[:60] for text in one.passages)) for one in questions[:8]]
            sizes = SIZES[kind][:1] if quick or folder is None else SIZES[kind]
            found = _measure(asker, questions, sizes, 3 if quick else NUM_ORDERS)
            head: dict[str, Value] = {"questions": kind, "model": Path(model).name if folder else "random weights"}
            rows += [{"table": row["table"]} | head | row for row in found[0]]
            named = kind.lower().replace(" ", "-")
            targets += [replace(each, id=f"{each.id}_{named}", what=f"{each.what}, {kind}") for each in found[1]]
        asyncio.run(asker.engine.close())
    return Result(rows, targets)


def _measure(
    asker: Asker, questions: Sequence[Question], sizes: Sequence[int], num_orders: int
) -> tuple[list[dict[str, Value]], list[Target]]:
    rows: list[dict[str, Value]] = []
    targets: list[Target] = []
    closed_book = float(np.mean([one.is_answered_by(asker.ask(one, (), WAYS["sequence"])) for one in questions]))
    for size in sizes:
        orders = sampled_orders(size, num_orders, SEED)
        answered: dict[str, list[list[str]]] = {}
        for way, reading in WAYS.items():
            answered[way] = [
                [asker.ask(one, [one.passages[row] for row in order], reading) for order in orders] for one in questions
            ]
        once: dict[str, Callable[[int], str]] = {
            "sequence, canonical order": lambda row, size=size: asker.ask(  # type: ignore[misc]
                questions[row], _canonical(questions[row].passages[:size]), WAYS["sequence"]
            ),
            "sequence, vote of all orders": lambda row, found=answered: str(modal_answer(found["sequence"][row])),  # type: ignore[misc]
            "Stable-RAG": lambda row, size=size, orders=orders: asker.stable_rag(  # type: ignore[misc]
                questions[row], questions[row].passages[:size], orders
            ),
        }
        for way, answer in once.items():
            answered[way] = [[answer(row)] for row in range(len(questions))]
        for way, answers in answered.items():
            head: dict[str, Value] = {"table": "orders", "documents": size, "way": way}
            rows.append(head | _row(questions, answers, closed_book))
        correct = _correct(questions, answered["sequence"])
        for place in sorted({order.index(0) for order in orders}):
            columns = [column for column, order in enumerate(orders) if order.index(0) == place]
            rows.append(
                {
                    "table": "gold_position",
                    "documents": size,
                    "gold_at": place + 1,
                    "sequence_accuracy": round(float(correct[:, columns].mean()), 4),
                    "set_accuracy": round(accuracy(_correct(questions, answered["set"])), 4),
                }
            )
        agreed = permutation_agreement_rate(answered["set"])
        targets.append(Target(f"par_{size}", f"agreement of orders, set mode, {size} documents", agreed, 1.0, 1.0))
        by_set = _correct(questions, answered["set"])
        if accuracy(by_set) - closed_book >= GUARD:
            ratio = accuracy(by_set) / max(accuracy(correct), 1e-9)
            gained = worst_case_accuracy(by_set) - worst_case_accuracy(correct)
            named = f"set over sequence mode, {size} documents"
            targets.append(Target(f"accuracy_{size}", f"accuracy, {named}", round(ratio, 4), 0.99, 1.0))
            targets.append(Target(f"worst_{size}", f"worst-case accuracy gained, {named}", round(gained, 4), 0.1, 0.2))
    flips, worst = _changes(asker, questions, min(BASE_SIZE, sizes[-1]))
    targets.append(Target("insertion", "flips by an inserted passage, set / sequence", worst, 0.5, 0.25, "lower"))
    return rows + flips, targets


def _row(questions: Sequence[Question], answers: Sequence[Sequence[str]], closed_book: float) -> dict[str, Value]:
    correct = _correct(questions, answers)
    low, high = bootstrap_interval(correct.mean(axis=1), SEED)
    entropy = Counter(normalised(row[0]) for row in answers)
    shares = np.array(list(entropy.values())) / len(answers)
    has_orders = len(answers[0]) > 1
    same = [[normalised(text) for text in row] for row in answers]
    return {
        "accuracy": round(accuracy(correct), 4),
        "95%_from": round(low, 4),
        "95%_to": round(high, 4),
        "worst_case": round(worst_case_accuracy(correct), 4) if has_orders else None,
        "best_case": round(best_case_accuracy(correct), 4) if has_orders else None,
        "agreement": round(permutation_agreement_rate(same), 4) if has_orders else None,
        "any_flip": round(any_flip_rate(same), 4) if has_orders else None,
        "PSR": round(permutation_sensitivity(correct), 4) if has_orders else None,
        "closed_book": round(closed_book, 4),
        "answer_entropy_bits": round(float(-(shares * np.log2(shares)).sum()), 2),
        "publishable": accuracy(correct) - closed_book >= GUARD,
    }


def _changes(asker: Asker, questions: Sequence[Question], size: int) -> tuple[list[dict[str, Value]], float]:
    """How many answers change when the set changes by what does not matter, as served: in canonical order."""
    rows: list[dict[str, Value]] = []
    rates: dict[str, float] = {}
    for way in ("set", "sequence"):
        base = [_asked(asker, one, one.passages[:size], way) for one in questions]
        changed: dict[str, Callable[[Question], Sequence[str]]] = {
            "one more": lambda one: one.passages[: size + 1],
            "one less": lambda one: one.passages[: size - 1],
            "one twice": lambda one: (*one.passages[:size], one.passages[1]),
            "one replaced": lambda one: (*one.passages[: size - 1], one.passages[size]),
        }
        found = {
            change: changed_rate(base, [_asked(asker, one, make(one), way) for one in questions])
            for change, make in changed.items()
        }
        rates[way] = found["one more"]
        head: dict[str, Value] = {"table": "changes", "documents": size, "way": way}
        rows.append(head | {change: round(rate, 4) for change, rate in found.items()})
    return rows, rates["set"] / rates["sequence"] if rates["sequence"] else float(rates["set"] > 0)


def _asked(asker: Asker, question: Question, passages: Sequence[str], way: str) -> str:
    return normalised(asker.ask(question, _canonical(passages), WAYS[way]))


def _canonical(passages: Sequence[str]) -> list[str]:
    return [passages[row] for row in canonical_order(passages)]


def _correct(questions: Sequence[Question], answers: Sequence[Sequence[str]]) -> np.ndarray:
    return np.array(
        [[one.is_answered_by(text) for text in row] for one, row in zip(questions, answers, strict=True)], dtype=bool
    )
