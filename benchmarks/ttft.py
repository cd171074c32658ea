"""Time to the first token and tokens prefilled: documents as a set against the same documents in a row.

Speed needs no trained weights: the model is a random Llama of the bundled reader's shape, and both modes run in the
same engine on the same tokens. The peers get their best: a prefix cache that holds every prompt ever seen, which helps
when the same documents come in the same order (`same order`) and not when they are ranked otherwise (`other order`).
"""

from __future__ import annotations

import copy
import random
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from benchmarks.corpora import EVAL_DATA, read_rows
from benchmarks.results import Result, Target, Value
from holdfast.errors import HoldfastError
from holdfast.serving.engine.document_cache import DocumentCache, token_digest
from holdfast.serving.engine.hf_set import SetReader
from holdfast.serving.engine.hf_worker import Job, Worker
from holdfast.serving.engine.protocol import Delta, EngineRequest, Message, Mode, Reading, ReadReport, Sampling, Source
from holdfast.serving.engine.set_attention import SetModel
from holdfast.serving.engine.set_prompt import Document, SetPrompt

DOCUMENT_LEN = 512
QUESTION_LEN = 16
PREFIX_LEN = 32
VOCAB = 8192
CONTEXTS = (1024, 2048, 5120, 8192, 16384)
QUICK_CONTEXTS = (1024, 2048)
HEADLINE = 5120
"""10 documents of 512 tokens"""
REPEATS = 5
NUM_CONCURRENT = 32
MEMORY_BYTES = 8 * 2**30
SOURCE = Source(0, "file", "file", "", 0, 0, None, None, 1.0, {})


class _Ids:
    """A tokenizer for tokens that mean nothing."""

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "".join(chr(97 + token_id % 26) for token_id in ids)


class _Bench:
    """The engine's worker, with a model and a cache of its own."""

    def __init__(self, *, num_layers: int = 9, max_rows: int = NUM_CONCURRENT) -> None:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=512,
            intermediate_size=1408,
            num_hidden_layers=num_layers,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=32768,
            tie_word_embeddings=True,
        )
        self.model: Any = LlamaForCausalLM(config).train(False)
        self.cache = DocumentCache(MEMORY_BYTES)
        sets = SetReader(SetModel(self.model), self.cache, b"benchmark")
        sets.model.verify()
        self.worker = Worker(self.model, _Ids(), frozenset(), max_rows, sets)

    def ask(self, mode: Mode, documents: Sequence[Document], question: Sequence[int], *, max_tokens: int = 1) -> _Asked:
        prefix = tuple(range(PREFIX_LEN))
        prompt: SetPrompt | list[int]
        if mode == "set":
            ordered = tuple(sorted(documents, key=lambda document: document.digest))
            prompt = SetPrompt(prefix, ordered, tuple(question))
        else:
            prompt = [*prefix, *(token_id for document in documents for token_id in document.token_ids), *question]
        sampling = Sampling(max_tokens=max_tokens, temperature=0.0)
        request = EngineRequest((Message("user", "?"),), "?", (SOURCE,), sampling, reading=Reading(mode=mode))
        asked = _Asked()
        self.worker.submit(Job(request, mode, prompt, max_tokens, asked.take))
        return asked


class _Asked:
    """One request under way."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.first_s: float | None = None
        self.report: ReadReport | None = None
        self.error: HoldfastError | None = None
        self.done = threading.Event()

    def take(self, item: Delta | HoldfastError) -> None:
        if isinstance(item, HoldfastError):
            self.error = item
            self.done.set()
            return
        self.report = item.report or self.report
        if item.num_tokens and self.first_s is None:
            self.first_s = time.perf_counter() - self.started
        if item.finish_reason:
            self.done.set()

    def wait(self) -> tuple[float, ReadReport]:
        """Return the seconds to the first token, and how the prompt was read."""
        self.done.wait()
        if self.error is not None:
            raise self.error
        assert self.first_s is not None
        assert self.report is not None
        return self.first_s, self.report


def make_document(generator: random.Random, length: int = DOCUMENT_LEN) -> Document:
    ids = tuple(generator.randrange(100, VOCAB) for _ in range(length))
    return Document("file", ids, token_digest(ids))


def check() -> None:
    """Warm and cold give the same bits' token, and warm prefills the question alone."""
    bench = _Bench(num_layers=2)
    generator = random.Random(1)
    documents = [make_document(generator, 40) for _ in range(4)]
    question = [generator.randrange(100, VOCAB) for _ in range(QUESTION_LEN)]
    _, cold = bench.ask("set", documents, question).wait()
    _, warm = bench.ask("set", documents[::-1], question).wait()
    assert cold.prefilled_tokens == 4 * 40 + QUESTION_LEN
    assert warm.prefilled_tokens == QUESTION_LEN
    assert warm.set_digest == cold.set_digest
    assert warm.guarantee == "bitwise"
    bench.worker.close()


def run(quick: bool) -> Result:
    bench = _Bench()
    rows, targets = _contexts(bench, QUICK_CONTEXTS if quick else CONTEXTS)
    memory_rows, memory_targets = _memory(bench)
    bench.worker.close()
    return Result(rows + memory_rows + _replay(quick), targets + memory_targets)


def _contexts(bench: _Bench, contexts: Sequence[int]) -> tuple[list[dict[str, Value]], list[Target]]:
    rows: list[dict[str, Value]] = []
    generator = random.Random(2)
    measured: dict[int, dict[str, float]] = {}
    for context in contexts:
        documents = [make_document(generator) for _ in range(context // DOCUMENT_LEN)]
        questions = [[generator.randrange(100, VOCAB) for _ in range(QUESTION_LEN)] for _ in range(REPEATS + 1)]
        cold_s, cold = bench.ask("set", documents, questions[0]).wait()
        warm = [
            bench.ask("set", generator.sample(documents, len(documents)), question).wait() for question in questions
        ]
        num_sequences = 2 if context <= HEADLINE else 1
        sequence = [bench.ask("sequence", documents, question).wait() for question in questions[:num_sequences]]
        same_s = _prefix_cached_s(bench, documents, questions)
        ways: list[tuple[str, float, int]] = [
            ("set, warm", _median([seconds for seconds, _ in warm]), warm[-1][1].prefilled_tokens),
            ("set, cold", cold_s, cold.prefilled_tokens),
            ("sequence", min(seconds for seconds, _ in sequence), sequence[0][1].prefilled_tokens),
            ("prefix cache, same order", same_s, QUESTION_LEN),
            ("prefix cache, other order", min(seconds for seconds, _ in sequence), sequence[0][1].prefilled_tokens),
        ]
        kv = [kv.tensor for kv in bench.cache._kept.values()][-len(documents) :]
        read_s = min(_read_s(kv) for _ in range(REPEATS))
        multiply_s = min(_multiply_s(bench, kv) for _ in range(REPEATS))
        for way, seconds, prefilled in ways:
            rows.append(
                {
                    "table": "contexts",
                    "context_tokens": context,
                    "way": way,
                    "first_token_ms": round(1000 * seconds, 1),
                    "prefilled_tokens": prefilled,
                    "KV_MB": round(sum(tensor.nbytes for tensor in kv) / 1e6, 1),
                    "reading_the_KV_once_ms": round(1000 * read_s, 1),
                    "multiplying_by_it_ms": round(1000 * multiply_s, 1),
                }
            )
        measured[context] = {"warm": ways[0][1], "sequence": ways[2][1], "read": read_s, "prefilled": ways[0][2]}
        measured[context]["multiply"] = multiply_s
    headline = measured.get(HEADLINE, measured[contexts[-1]])
    first, last = measured[contexts[0]], measured[contexts[-1]]
    growth, over_products = ((last["warm"] - first["warm"]) / (last[of] - first[of]) for of in ("read", "multiply"))
    return rows, [
        Target("ttft", "sequence / warm set, first token, 10 x 512", headline["sequence"] / headline["warm"], 10, 20),
        Target("prefilled", "tokens prefilled, warm set", headline["prefilled"], QUESTION_LEN, QUESTION_LEN, "lower"),
        Target("growth", "growth of the warm first token / of reading the KV once", growth, 1.5, 1.2, "lower"),
        Target(
            id="growth_products",
            what="growth of the warm first token / of the products alone",
            value=over_products,
            must=1.5,
            aim=1.2,
            better="lower",
        ),
    ]


def _prefix_cached_s(bench: _Bench, documents: Sequence[Document], questions: Sequence[Sequence[int]]) -> float:
    """Return the seconds of prefilling a question behind KV that is at hand, in transformers alone."""
    before = [*range(PREFIX_LEN), *(token_id for document in documents for token_id in document.token_ids)]
    cache = DynamicCache()
    with torch.inference_mode():
        bench.model(torch.tensor([before]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        seconds = []
        for question in questions:
            own = copy.deepcopy(cache)  # as every request would need one, it is not counted
            started = time.perf_counter()
            logits = bench.model(torch.tensor([question]), past_key_values=own, use_cache=True, logits_to_keep=1).logits
            int(logits[0, -1].argmax())
            seconds.append(time.perf_counter() - started)
    return _median(seconds)


def _memory(bench: _Bench) -> tuple[list[dict[str, Value]], list[Target]]:
    """How many copies of 10 documents' KV exist while many requests decode over them."""
    generator = random.Random(3)
    documents = [make_document(generator, 128) for _ in range(10)]
    asked = [
        bench.ask("set", generator.sample(documents, 10), [row + 100] * QUESTION_LEN, max_tokens=64)
        for row in range(NUM_CONCURRENT)
    ]
    most_bytes = most_rows = 0
    own_bytes = 0
    while not all(one.done.is_set() for one in asked):
        streams = list(bench.worker._set_batch._rows)
        shared = {kv.tensor.data_ptr(): kv.num_bytes for row in streams for one in row for kv in one.documents}
        if len(streams) >= most_rows:
            most_rows = len(streams)
            own_bytes = max((one.own.nbytes for row in streams for one in row), default=0) * len(streams)
        most_bytes = max(most_bytes, sum(shared.values()))
        time.sleep(0.002)
    one_copy = sum(bench.cache._alive[key].num_bytes for key in list(bench.cache._kept)[-len(documents) :])
    copies = most_bytes / one_copy
    row: dict[str, Value] = {
        "table": "memory",
        "requests": most_rows,
        "documents": len(documents),
        "one_copy_MB": round(one_copy / 1e6, 2),
        "documents_held_MB": round(most_bytes / 1e6, 2),
        "own_tokens_MB": round(own_bytes / 1e6, 2),
        "copies": round(copies, 3),
    }
    return [row], [Target("copies", "copies of the documents' KV, 32 requests", copies, 1.1, 1.0, "lower")]


def _replay(quick: bool) -> list[dict[str, Value]]:
    """Blocks of a real conversation trace as documents that retrieval ranks anew for every request."""
    generator = random.Random(4)
    rows: list[dict[str, Value]] = []
    for blocks_kept in (1_000, 10_000, 1_000_000):
        known: dict[int, None] = {}
        prefixes: dict[tuple[int, ...], None] = {}
        num_blocks = num_set = num_prefix = num_same_order = 0
        trace = read_rows(EVAL_DATA / "mooncake_traces" / "conversation_trace.jsonl.gz")
        for number, request in enumerate(trace):
            if number == (500 if quick else 3000):
                break
            blocks = request["hash_ids"][:32]
            ranked = generator.sample(blocks, len(blocks))
            num_blocks += len(blocks)
            num_set += sum(block in known for block in blocks)
            num_same_order += _common(blocks, lambda part, seen=known: part[-1] in seen)
            num_prefix += _common(ranked, lambda part, seen=prefixes: part in seen)
            for block in blocks:
                known.pop(block, None)
                known[block] = None
            for length in range(1, len(ranked) + 1):
                prefixes.pop(tuple(ranked[:length]), None)
                prefixes[tuple(ranked[:length])] = None
            for kept in (known, prefixes):
                while len(kept) > blocks_kept:
                    del kept[next(iter(kept))]  # type: ignore[arg-type]
        rows.append(
            {
                "table": "replay",
                "blocks_kept": blocks_kept,
                "blocks_asked_for": num_blocks,
                "found_by_a_set_cache": round(num_set / num_blocks, 4),
                "found_by_a_prefix_cache_ranked_anew": round(num_prefix / num_blocks, 4),
                "found_by_a_prefix_cache_same_order": round(num_same_order / num_blocks, 4),
            }
        )
    return rows


def _common(blocks: Sequence[int], is_known: Any) -> int:
    """Return how many blocks from the beginning on are known."""
    for length in range(1, len(blocks) + 1):
        if not is_known(tuple(blocks[:length])):
            return length - 1
    return len(blocks)


def _read_s(tensors: Sequence[torch.Tensor]) -> float:
    started = time.perf_counter()
    for tensor in tensors:
        tensor.sum()
    return time.perf_counter() - started


def _multiply_s(bench: _Bench, tensors: Sequence[torch.Tensor]) -> float:
    """Return the seconds of attention's two products alone, which every token of a question needs with every key.

    On a CPU a question of sixteen tokens computes longer than it reads.
    """
    config = bench.model.config
    rows = QUESTION_LEN * config.num_attention_heads // config.num_key_value_heads
    query = torch.ones(config.num_key_value_heads, rows, config.head_dim)
    started = time.perf_counter()
    with torch.inference_mode():
        for tensor in tensors:
            for keys, values in tensor:
                query @ keys.transpose(1, 2) @ values
    return time.perf_counter() - started


def _median(seconds: Sequence[float]) -> float:
    return float(np.median(seconds))
