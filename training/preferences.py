"""Stage `preferences`: pairs of a better and a worse answer, from what a reader answers over many orders.

Each question is read in several orders of its documents; the orders' last hidden states are clustered, one order of
each cluster is answered, and its cluster answers alike. By how many orders are right a question gives:

* all right: nothing;
* some right: the most frequent right answer over the most frequent wrong one, behind an order of either kind;
* none right, and the documents hold the answer: the answer over `NONE`;
* none right, and they do not: `NONE` over the most frequent answer.

Right is an answer with the words of the gold answer. In the release it may also contain it or be contained in it, which
makes every empty answer right.

Source: Stable-RAG, arXiv 2601.02993, and its released code.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from holdfast.retrieval.agreement import sampled_orders
from holdfast.serving.engine.stable_rag import hidden_states, representatives
from training.contexts import NONE, Asked, Context
from training.decode import answer, read_documents
from training.encoding import encode_answer, encode_document, encode_question, special
from training.metrics import exact_match
from training.tokenizer import END

NUM_ORDERS = 24


@dataclass(frozen=True, slots=True)
class Preference:
    """Token ids of a prompt in sequence mode, of the better answer and of the worse one, ends included."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


def make_preferences(
    model: LlamaForCausalLM, tokenizer: Tokenizer, contexts: Iterable[Context], seed: int
) -> Iterator[Preference]:
    """Yield the pairs that each question of `contexts` gives."""
    for context in contexts:
        documents = [encode_document(tokenizer, text) for text in context.documents]
        orders = sampled_orders(len(documents), NUM_ORDERS, seed)
        for asked in context.asked:
            question = encode_question(tokenizer, asked.question)
            prompts = [[*(token for row in order for token in documents[row]), *question] for order in orders]
            rows, labels = representatives(hidden_states(model, prompts), seed)
            caches = (
                read_documents(model, tokenizer, [context.documents[place] for place in orders[row]], "sequential")
                for row in rows
            )
            answers = [answer(model, tokenizer, cache, asked.question, "sequential") for cache in caches]
            for prompt_row, chosen, rejected in judge(asked, [answers[label] for label in labels]):
                yield Preference(prompts[prompt_row], _with_end(tokenizer, chosen), _with_end(tokenizer, rejected))


def judge(asked: Asked, answers: list[str]) -> list[tuple[int, str, str]]:
    """Return (order, better answer, worse answer) for what the orders answered; see the module."""
    is_right = [exact_match(answer, [asked.answer]) > 0 for answer in answers]
    right = _most_frequent(answer for answer, flag in zip(answers, is_right, strict=True) if flag)
    wrong = _most_frequent(answer for answer, flag in zip(answers, is_right, strict=True) if not flag)
    if wrong is None:
        return []
    if right is not None:
        return [(is_right.index(False), right, wrong), (is_right.index(True), right, wrong)]
    if asked.answer != NONE:
        return [(0, asked.answer, NONE)]
    return [(0, NONE, wrong)]


def save_preferences(path: Path, preferences: Iterable[Preference]) -> int:
    """Write one pair a line, whole or not at all; return how many."""
    rows = [asdict(preference) for preference in preferences]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    partial.replace(path)
    return len(rows)


def load_preferences(path: Path) -> list[Preference]:
    return [Preference(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _with_end(tokenizer: Tokenizer, answer: str) -> list[int]:
    return [*encode_answer(tokenizer, answer), special(tokenizer, END)]


def _most_frequent(answers: Iterable[str]) -> str | None:
    """Ties go to the first in alphabetical order."""
    counts = Counter(answers)
    return min(counts, key=lambda answer: (-counts[answer], answer), default=None)
