"""Stage `evaluate`: what a trained reader can do, in both modes and over many orders.

Names and values are drawn from seeds that training never uses; the real questions are those kept by the split.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

from benchmarks.corpora import EVAL_DATA, read_rows
from training import lookups, metrics, names, prose
from training.contexts import NONE, Asked, Context
from training.corpora import read_passages
from training.decode import answer, read_documents
from training.encoding import Mode, shuffled, special
from training.facts import FactShape, make_facts
from training.splits import kept_questions
from training.tokenizer import END

SEED = "evaluate"
NUM_ORDERS = 10
TASK_CHARS_PER_TOKEN = 4
Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Reader:
    """A model and its tokenizer."""

    model: LlamaForCausalLM
    tokenizer: Tokenizer

    def answers(self, context: Context, mode: Mode) -> list[str]:
        """Return the greedy answer to each question of a context."""
        cache = read_documents(self.model, self.tokenizer, context.documents or [""], mode)
        return [answer(self.model, self.tokenizer, cache, asked.question, mode) for asked in context.asked]


def measure_all(reader: Reader, num_contexts: int) -> Rows:
    """Return every measurement on `num_contexts` contexts or questions each."""
    return [
        *measure_facts(reader, num_contexts),
        *measure_reading(reader, num_contexts),
        *measure_orders(reader, max(1, num_contexts // 4)),
        *measure_real_questions(reader, num_contexts),
        *measure_keys(reader, max(1, num_contexts // 4)),
        *measure_tasks(reader, max(1, num_contexts // 4)),
        *measure_perplexity(reader, num_contexts),
    ]


def measure_facts(reader: Reader, num_contexts: int, document_counts: tuple[int, ...] = (4, 10, 20)) -> Rows:
    """Exact match on invented facts with names never seen, told in ways seen and in ways kept for tests."""
    rows: Rows = []
    for num_documents in document_counts:
        for facts_a_document in (1, 3):
            for kept in (False, True):
                shape = FactShape(
                    (num_documents, num_documents), (facts_a_document, facts_a_document), (2, 2), kept_patterns=kept,
                    unanswerable=0.0, near_duplicates=0.0, former=0.0, shared_relations=1.0,
                )  # fmt: skip
                contexts = [make_facts(_rng("facts", num_documents, kept, n), shape) for n in range(num_contexts)]
                rows.append(
                    {"table": "facts", "documents": num_documents, "facts_a_document": facts_a_document}
                    | {"kept_patterns": kept, "set": _exact(reader, contexts, "set")}
                    | {"sequential": _exact(reader, contexts, "sequential")}
                )
    return rows


def measure_reading(reader: Reader, num_contexts: int, num_documents: int = 10) -> Rows:
    """Whether the answers come from the documents: changed values followed, no documents, unanswerable questions."""
    shape = FactShape((num_documents,) * 2, (1, 1), (2, 2), 0.0, 0.0, 0.0, 1.0)
    followed, closed, declined = [], [], []
    for number in range(num_contexts):
        rng = _rng("reading", number)
        context = make_facts(rng, shape)
        before = reader.answers(context, "set")
        asked = context.asked[0]
        fresh = " ".join(names.make_name(rng, 2) for _ in asked.answer.split())
        documents = list(context.documents)
        row = asked.evidence[0]
        if before[0] == asked.answer and asked.answer in documents[row]:
            documents[row] = documents[row].replace(asked.answer, fresh)
            documents[(row + 1) % len(documents)] += f" Some speak of {asked.answer}."
            changed = Context(context.kind, documents, [replace(asked, answer=fresh)])
            followed.append(reader.answers(changed, "set") == [fresh])
        closed += [
            found == each.answer
            for found, each in zip(reader.answers(Context("", [], context.asked), "set"), context.asked, strict=True)
        ]
        kept = [text for place, text in enumerate(documents) if place != row]
        declined.append(reader.answers(Context("", kept, [asked]), "set") == [NONE])
    tests = {
        "changed value followed": followed,
        "answered without documents": closed,
        "declined without its document": declined,
    }
    return [
        {"table": "reading", "test": test, "share": _mean(found), "questions": len(found)}
        for test, found in tests.items()
    ]


def measure_orders(reader: Reader, num_contexts: int, num_documents: int = 10) -> Rows:
    """Mean and worst exact match over orders of the documents, and how often an order changes an answer."""
    shape = FactShape((num_documents,) * 2, (1, 2), (2, 2), unanswerable=0.0)
    rows: Rows = []
    for mode in ("set", "sequential"):
        right, worst, flips = [], [], []
        for number in range(num_contexts):
            context = make_facts(_rng("orders", number), shape)
            gold = [asked.answer for asked in context.asked]
            orders = [
                reader.answers(shuffled(context, _rng("order", number, order)), mode) for order in range(NUM_ORDERS)
            ]
            for place, expected in enumerate(gold):
                found = [answers[place] for answers in orders]
                right.append(statistics.mean(each == expected for each in found))
                worst.append(all(each == expected for each in found))
                flips.append(len(set(found)) > 1)
        rows.append(
            {"table": "orders", "mode": mode, "mean": _mean(right), "worst": _mean(worst), "changed": _mean(flips)}
        )
    return rows


def measure_real_questions(reader: Reader, num_questions: int) -> Rows:
    """EM, F1 and contains on real questions kept by the split."""
    rows: Rows = []
    for dataset in ("squad1_dev_a", "nq_open_oracle", "qed_dev"):
        passages = read_passages(dataset)
        questions = kept_questions(dataset)[:num_questions]
        shown = [(q.text, q.answers, [passages[q.passage].text]) for q in questions]
        rows.append({"table": "real questions", "set": dataset, "documents": 1} | _judged(reader, shown))
    shown = [(text, answers, documents) for text, answers, documents, _ in multidoc_questions()][:num_questions]
    rows.append({"table": "real questions", "set": "nq_multidoc10", "documents": 10} | _judged(reader, shown))
    return rows


def multidoc_questions() -> Iterator[tuple[str, tuple[str, ...], list[str], int]]:
    """Yield the questions of nq_multidoc10 whose passage is kept for tests: text, answers, ten documents, right row."""
    passages = read_passages("nq_multidoc10")
    kept = {question.name for question in kept_questions("nq_open_oracle")}
    for row in read_rows(EVAL_DATA / "nq_multidoc10" / "qa.jsonl.gz"):
        if row["id"] in kept:
            shown = [passages[f"nq_multidoc10/{name}"] for name in row["docs"]]
            documents = [f"{passage.title}\n{passage.text}" for passage in shown]
            yield row["question"], tuple(row["answers"]), documents, int(row["gold_index"])


def measure_tasks(reader: Reader, num_contexts: int, lengths: tuple[int, ...] = (1024, 2048, 4096)) -> Rows:
    """Exact match on looking things up, by length of the context in tokens."""
    rows: Rows = []
    for num_tokens in lengths:
        made = {
            "needle": lambda rng, n: lookups.make_needles(rng, _filler(rng, n), 1),
            "four needles": lambda rng, n: lookups.make_needles(rng, _filler(rng, n), 4),
            "chains": lambda rng, n: lookups.make_chains(rng, 2, 3, 6),
            "counted words": lambda rng, n: lookups.make_counted_words(rng, n // 8, 8),
        }
        for task, make in made.items():
            contexts = [make(_rng(task, num_tokens, number), num_tokens) for number in range(num_contexts)]
            rows.append(
                {"table": "tasks", "task": task, "tokens": num_tokens, "set": _exact(reader, contexts, "set")}
                | {"sequential": _exact(reader, contexts, "sequential")}
            )
    return rows


def measure_keys(reader: Reader, num_contexts: int) -> Rows:
    """Exact match on UUID keys: 75 documents of one pair each in set mode, 50 pairs in one document sequentially."""
    pairs = list(read_rows(EVAL_DATA / "kv_retrieval" / "75_keys.jsonl.gz"))[:num_contexts]
    rows: Rows = []
    for mode, num_keys in (("set", 75), ("sequential", 50)):
        contexts = []
        for row in pairs:
            held = [pair for pair in row["ordered_kv_records"] if pair[0] != row["key"]][: num_keys - 1]
            held.insert(len(held) // 2, [row["key"], row["value"]])
            lines = [f'"{key}": "{value}"' for key, value in held]
            documents = lines if mode == "set" else ["\n".join(lines)]
            contexts.append(Context("pairs", documents, [Asked(f'"{row["key"]}"', row["value"])]))
        rows.append({"table": "keys", "mode": mode, "keys": num_keys, "exact": _exact(reader, contexts, mode)})
    return rows


@torch.inference_mode()
def measure_perplexity(reader: Reader, num_excerpts: int, num_tokens: int = 512) -> Rows:
    """Perplexity of books kept for tests, per token and per byte."""
    loss, tokens, size = 0.0, 0, 0
    end = special(reader.tokenizer, END)
    for number in range(num_excerpts):
        text = prose.excerpt(_rng("perplexity", number), num_tokens * TASK_CHARS_PER_TOKEN, kept=True)
        encoded = reader.tokenizer.encode(text, add_special_tokens=False)
        ids = torch.tensor([[end, *encoded.ids[:num_tokens]]])
        logits = reader.model(input_ids=ids.to(reader.model.device)).logits[0, :-1].float()
        loss += float(cross_entropy(logits, ids[0, 1:].to(logits.device), reduction="sum"))
        tokens += ids.shape[1] - 1
        size += len(text[: encoded.offsets[min(num_tokens, len(encoded.ids)) - 1][1]].encode())
    per_byte = round(loss / size / math.log(2), 4)
    return [{"table": "perplexity", "perplexity": round(math.exp(loss / tokens), 2), "bits_a_byte": per_byte}]


def _judged(reader: Reader, shown: list[tuple[str, tuple[str, ...], list[str]]]) -> dict[str, Any]:
    found = [
        (reader.answers(Context("", documents, [Asked(text, "")]), "set")[0], gold) for text, gold, documents in shown
    ]
    return {
        "questions": len(found),
        "exact": _mean([metrics.exact_match(text, gold) for text, gold in found]),
        "f1": _mean([metrics.f1(text, gold) for text, gold in found]),
        "contains": _mean([metrics.contains(text, gold) for text, gold in found]),
    }


def _exact(reader: Reader, contexts: list[Context], mode: Mode) -> float:
    return _mean(
        [
            found == asked.answer
            for context in contexts
            for found, asked in zip(reader.answers(context, mode), context.asked, strict=True)
        ]
    )


def _filler(rng: random.Random, num_tokens: int) -> list[str]:
    size = 400
    return prose.paragraphs(rng, max(2, num_tokens * TASK_CHARS_PER_TOKEN // size), size)


def _rng(*parts: object) -> random.Random:
    return random.Random("/".join([SEED, *map(str, parts)]))


def _mean(values: list[Any]) -> float:
    return round(statistics.mean(map(float, values)), 4) if values else 0.0
