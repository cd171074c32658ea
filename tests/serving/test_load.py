"""Many clients at once, mixing everything: nothing fails, and what was acknowledged is there in the end."""

from __future__ import annotations

import os
import random
import threading
import time
from dataclasses import dataclass, field

import openai
import pytest

from tests.serving.server import Server

NUM_CLIENTS = 32
DURATION_S = float(os.environ.get("HOLDFAST_EVAL_LOAD_S", "60"))
SETTLE_S = 120.0
ANIMALS = ("otter", "heron", "lynx", "badger", "falcon", "beaver", "weasel", "marten")


@dataclass
class Worker:
    """One client: what it wrote and was told is stored, what it deleted, and what went wrong."""

    number: int
    store: str
    written: dict[str, str] = field(default_factory=dict)
    """file id to text"""
    deleted: set[str] = field(default_factory=set)
    num_calls: int = 0
    errors: list[str] = field(default_factory=list)

    def run(self, base_url: str, until: float) -> None:
        rng = random.Random(self.number)
        actions = (self.write, self.write, self.search, self.chat, self.stream, self.respond, self.delete)
        with openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0, timeout=120) as client:
            while time.monotonic() < until:
                action = rng.choice(actions)
                try:
                    action(client, rng)
                except Exception as error:
                    self.errors.append(f"{action.__name__}: {error!r}")
                self.num_calls += 1

    def write(self, client: openai.OpenAI, rng: random.Random) -> None:
        animal = rng.choice(ANIMALS)
        text = f"Note {self.num_calls} of client {self.number}: the {animal} was seen {rng.randrange(1000)} times."
        file = client.files.create(file=(f"{self.number}-{self.num_calls}.txt", text.encode()), purpose="assistants")
        client.vector_stores.files.create(self.store, file_id=file.id, attributes={"client": self.number})
        self.written[file.id] = text

    def search(self, client: openai.OpenAI, rng: random.Random) -> None:
        page = client.vector_stores.search(self.store, query=f"how often was the {rng.choice(ANIMALS)} seen")
        assert all(0 <= result.score <= 1 for result in page.data)

    def chat(self, client: openai.OpenAI, rng: random.Random) -> None:
        answer = client.chat.completions.create(
            model="extract",
            messages=[{"role": "user", "content": f"How often was the {rng.choice(ANIMALS)} seen?"}],
            extra_body={"holdfast": {"vector_store_ids": [self.store]}},
        )
        assert answer.choices[0].message.content

    def stream(self, client: openai.OpenAI, rng: random.Random) -> None:
        chunks = client.chat.completions.create(
            model="extract",
            messages=[{"role": "user", "content": f"Where was the {rng.choice(ANIMALS)} seen?"}],
            extra_body={"holdfast": {"vector_store_ids": [self.store]}},
            stream=True,
        )
        reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
        assert reasons[-1] == "stop"

    def respond(self, client: openai.OpenAI, rng: random.Random) -> None:
        answer = client.responses.create(
            model="extract",
            input=f"How often was the {rng.choice(ANIMALS)} seen?",
            tools=[{"type": "file_search", "vector_store_ids": [self.store]}],
        )
        assert answer.status == "completed"
        assert client.responses.retrieve(answer.id).output_text == answer.output_text

    def delete(self, client: openai.OpenAI, rng: random.Random) -> None:
        if len(self.written) > 3:
            file_id = rng.choice(sorted(self.written))
            client.files.delete(file_id)
            del self.written[file_id]
            self.deleted.add(file_id)


@pytest.mark.slow
def test_32_clients_see_no_error_and_lose_no_write(server: Server, client: openai.OpenAI) -> None:
    stores = [client.vector_stores.create(name=f"load {number}").id for number in range(4)]
    workers = [Worker(number, stores[number % len(stores)]) for number in range(NUM_CLIENTS)]
    until = time.monotonic() + DURATION_S
    threads = [threading.Thread(target=worker.run, args=(server.base_url, until)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [error for worker in workers for error in worker.errors] == []
    assert all(worker.num_calls > 0 for worker in workers)
    wait_for_ingestion(client, stores)
    for store in stores:
        own = [worker for worker in workers if worker.store == store]
        expected = {file_id for worker in own for file_id in worker.written}
        held = {file.id: file.status for file in client.vector_stores.files.list(store, limit=100)}
        assert held == dict.fromkeys(expected, "completed")
    for worker in workers:
        for file_id, text in worker.written.items():
            assert client.files.content(file_id).text == text
        for file_id, text in list(worker.written.items())[-1:]:
            found = client.vector_stores.search(worker.store, query=text, max_num_results=1).data[0]
            assert (found.file_id, found.content[0].text) == (file_id, text)


def wait_for_ingestion(client: openai.OpenAI, stores: list[str]) -> None:
    """Return once all files of `stores` are in; fail if that takes longer than `SETTLE_S`."""
    deadline = time.monotonic() + SETTLE_S
    while any(client.vector_stores.retrieve(store).file_counts.in_progress for store in stores):
        assert time.monotonic() < deadline, "ingestion does not come to an end"
        time.sleep(0.5)
