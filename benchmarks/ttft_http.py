"""Time to the first token over HTTP: ours in set mode beside `transformers serve`, with the same weights and documents.

Speed needs no trained weights: the model is a random Llama of the bundled reader's shape, written as training exports
it. Ten documents lie in a vector store, and each question is answered from all of them; a client of the peer sends them
in its message, ranked anew for each question ("other order") or always alike ("same order"), which is the best case of
its prefix cache (`--continuous-batching`, paged). Our time includes embedding the question, searching, and
checking that the passages are relevant. Both run one after the other on all cores. vLLM has no wheel for a CPU.
"""

from __future__ import annotations

import importlib.util
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import torch

from benchmarks.corpora import EVAL_DATA, read_rows
from benchmarks.results import Result, Target, Value
from tests.serving.server import running_server
from training.export import export
from training.sizes import SIZES, make_model
from training.tokenizer import train_tokenizer

SIZE = "r-30m"
NUM_DOCUMENTS = 10
DOCUMENT_CHARS = 1800
NUM_QUESTIONS = 6
MAX_TOKENS = 16
START_S = 300.0
QUESTION = "What is said about {}?"


@dataclass(frozen=True, slots=True)
class _Timed:
    """One streamed answer."""

    first_s: float
    prompt_tokens: int
    cached_tokens: int


def check() -> None:
    """Ours answers from the store's documents, and reads them once."""
    with tempfile.TemporaryDirectory() as folder:
        documents, questions = _material(3)
        times = _ours(Path(folder), _make_model(Path(folder), documents, "cpu-3m"), documents, questions[:3])
        assert times[0].cached_tokens < times[1].cached_tokens == times[2].cached_tokens
        assert times[1].prompt_tokens - times[1].cached_tokens < 64


def run(quick: bool) -> Result:
    documents, questions = _material(3 if quick else NUM_DOCUMENTS)
    with tempfile.TemporaryDirectory() as folder:
        model = _make_model(Path(folder), documents, "cpu-3m" if quick else SIZE)
        ours = _ours(Path(folder), model, documents, questions)
        found = {"holdfast, set, cold": ours[:1], "holdfast, set, warm": ours[1:]}
        if importlib.util.find_spec("accelerate"):
            found |= _theirs(model, documents, questions)
    rows: list[dict[str, Value]] = [
        {
            "table": "first_token",
            "way": way,
            "documents": len(documents),
            "prompt_tokens": times[0].prompt_tokens,
            "median_ms": round(1000 * statistics.median(each.first_s for each in times), 1),
            "fastest_ms": round(1000 * min(each.first_s for each in times), 1),
        }
        for way, times in found.items()
    ]
    peer = found.get("transformers serve, other order")
    if peer is None:
        return Result(rows)
    ratio = statistics.median(each.first_s for each in peer) / statistics.median(each.first_s for each in ours[1:])
    return Result(rows, [Target("http", "first token, transformers serve / ours, warm", round(ratio, 2), 10, 20)])


def _material(num_documents: int) -> tuple[list[str], list[str]]:
    """Return paragraphs of one article joined to documents, and questions on them."""
    rows = list(read_rows(EVAL_DATA / "squad1_dev_a" / "corpus.jsonl.gz"))
    article = rows[0]["title"]
    texts = [row["text"] for row in rows if row["title"] == article]
    documents: list[str] = []
    text = ""
    for paragraph in texts:
        text = f"{text} {paragraph}".strip()
        if len(text) >= DOCUMENT_CHARS:
            documents.append(text[:DOCUMENT_CHARS])
            text = ""
    words = sorted({word for word in " ".join(documents).split() if word.isalpha() and len(word) > 6})
    asked = [QUESTION.format(f"{article.replace('_', ' ')} and {word}") for word in words]
    return documents[:num_documents], random.Random(0).sample(asked, NUM_QUESTIONS + 1)


def _make_model(folder: Path, documents: Sequence[str], size: str) -> Path:
    target = folder / "model"
    shape = SIZES[size]
    model = make_model(shape, 0)
    for weight in model.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.1)  # as it is made, it would repeat the last mark, which nobody shows
    export(model, train_tokenizer(documents * 20, shape.vocab_size), target)
    return target


def _ours(folder: Path, model: Path, documents: Sequence[str], questions: Sequence[str]) -> list[_Timed]:
    settings = {"engine": "hf", "model": model, "relevance_threshold": 0.0, "num_passages": 40}
    with running_server(folder, **settings) as server:
        client = openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0)
        store = client.vector_stores.create(name="documents")
        for number, text in enumerate(documents):
            file = (f"{number}.txt", text.encode())
            client.vector_stores.files.upload_and_poll(vector_store_id=store.id, file=file)
        extra = {"holdfast": {"vector_store_ids": [store.id], "mode": "set"}}
        return [_ask(client, model.name, question, extra) for question in questions]


def _theirs(model: Path, documents: Sequence[str], questions: Sequence[str]) -> dict[str, list[_Timed]]:
    generator = random.Random(1)
    orders: dict[str, Callable[[], Sequence[str]]] = {
        "same order": lambda: documents,
        "other order": lambda: generator.sample(documents, len(documents)),
    }
    with _transformers_serve(model) as url:
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=START_S)
        found = {}
        for name, order in orders.items():
            texts = ["\n\n".join([*order(), question]) for question in questions]
            times = [_ask(client, str(model), text, {}) for text in texts]
            found[f"transformers serve, {name}"] = times[1:]  # the first one loads and compiles
        return found


def _ask(client: openai.OpenAI, model: str, text: str, extra: dict[str, Any]) -> _Timed:
    started = time.perf_counter()
    first_s = None
    usage = None
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": text}],
        stream=True,
        stream_options={"include_usage": True},
        max_tokens=MAX_TOKENS,
        temperature=0.0,
        extra_body=extra,
    )
    for chunk in stream:
        if first_s is None and chunk.choices and chunk.choices[0].delta.content:
            first_s = time.perf_counter() - started
        usage = chunk.usage or usage
    assert first_s is not None
    assert usage is not None
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0
    return _Timed(first_s, usage.prompt_tokens, cached or 0)


@contextmanager
def _transformers_serve(model: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--device", "cpu"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--continuous-batching"]
    with tempfile.TemporaryFile() as log:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + START_S
            while time.monotonic() < deadline and process.poll() is None:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(30)
