"""How long a user waits: a real server with 1,000 passages of real reports, asked by the official client.

"Warm" means that the server has said it is ready; the first question after that is counted on its own, since it
compiles, maps and loads what later ones find done.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openai
from openai.types.responses import FileSearchToolParam

from benchmarks.corpora import EVAL_DATA
from benchmarks.results import Result, Target, Value
from tests.serving.server import running_server

REPORTS = ("EPA2022.pdf", "HHS2022.pdf", "DOL2022.pdf")
QUICK_REPORTS = ("DHS2020.pdf",)
NUM_CLIENTS = 8
QUESTIONS = (
    "What is the agency's mission?",
    "Who approved the strategic plan?",
    "How does the agency respond to climate change?",
    "What are the strategic goals?",
    "How is the workforce trained?",
    "Which partners does the agency work with?",
    "How is progress measured?",
    "What does the agency do about cybersecurity?",
    "How are grants managed?",
    "What is done to protect children?",
)


def check() -> None:
    """A small server answers, and quotes what its file says."""
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder)) as server:
        client = openai.OpenAI(base_url=server.base_url, api_key="none")
        store = client.vector_stores.create(name="check")
        text = b"The lighthouse of Arngrove was lit for the first time in 1871."
        client.vector_stores.files.upload_and_poll(vector_store_id=store.id, file=("lighthouse.txt", text))
        answer = client.responses.create(
            model="extract",
            input="When was the lighthouse of Arngrove lit?",
            tools=[{"type": "file_search", "vector_store_ids": [store.id]}],
        )
        assert "1871" in answer.output_text, answer.output_text


def run(quick: bool) -> Result:
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder)) as server:
        client = openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0)
        store = client.vector_stores.create(name="reports")
        started = time.perf_counter()
        num_passages = 0
        for name in QUICK_REPORTS if quick else REPORTS:
            path = EVAL_DATA / "docs" / "us_agency_reports" / name
            with path.open("rb") as data:
                file = client.vector_stores.files.upload_and_poll(vector_store_id=store.id, file=data)
            assert file.status == "completed", file.last_error
            num_passages += file.model_extra["holdfast"]["num_passages"] if file.model_extra else 0
        ingest_s = time.perf_counter() - started

        def respond(question: str) -> None:
            tool: FileSearchToolParam = {"type": "file_search", "vector_store_ids": [store.id]}
            client.responses.create(model="extract", input=question, tools=[tool], store=False)

        def search(question: str) -> None:
            client.vector_stores.search(store.id, query=question)

        first_s = _seconds(respond, QUESTIONS[0])
        answer_s = [_seconds(respond, question) for question in QUESTIONS]
        search_s = [_seconds(search, question) for question in QUESTIONS]
        together_s, elapsed_s = _together(respond)
    measured: dict[str, float] = {
        "passages in the store": num_passages,
        "ingestion, passages a second": round(num_passages / ingest_s, 1),
        "first answer, s": round(first_s, 2),
        "answer p50, s": round(float(np.median(answer_s)), 2),
        "answer slowest, s": round(max(answer_s), 2),
        "search p50, s": round(float(np.median(search_s)), 3),
        f"answer p50 with {NUM_CLIENTS} clients at once, s": round(float(np.median(together_s)), 2),
        f"answers a second with {NUM_CLIENTS} clients": round(len(together_s) / elapsed_s, 2),
    }
    rows: list[dict[str, Value]] = [{"what": what, "value": value} for what, value in measured.items()]
    targets = [
        Target("first_answer_s", "first answer of a ready server, s", first_s, must=5.0, aim=2.0, better="lower"),
        Target("passages", "passages in the store", num_passages, must=200 if quick else 1000, aim=1000),
    ]
    return Result(rows, targets)


def _seconds(action: Callable[[str], None], question: str) -> float:
    started = time.perf_counter()
    action(question)
    return time.perf_counter() - started


def _together(action: Callable[[str], None]) -> tuple[list[float], float]:
    """Return the seconds of each answer, and in all, when every client asks all questions."""
    seconds: list[float] = []

    def ask() -> None:
        seconds.extend(_seconds(action, question) for question in QUESTIONS)

    clients = [threading.Thread(target=ask) for _ in range(NUM_CLIENTS)]
    started = time.perf_counter()
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return seconds, time.perf_counter() - started
