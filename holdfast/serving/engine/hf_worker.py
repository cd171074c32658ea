"""The thread that owns a transformers model: requests in, tokens out.

Requests start in the order they came, each prompt by itself; all running choices are decoded together, one token a
step, and one that is cancelled leaves before the next. Documents of set mode are read one at a time, and the running
choices get a token in between.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from holdfast.errors import EngineError, HoldfastError
from holdfast.serving.engine.document_cache import HITS, DocumentKV, Found
from holdfast.serving.engine.hf_batch import DecodeBatch
from holdfast.serving.engine.hf_retrieval import RetrievalReader
from holdfast.serving.engine.hf_sampling import Sampler, make_sampler
from holdfast.serving.engine.hf_set import SetBatch, SetReader
from holdfast.serving.engine.hf_stream import ChoiceStream
from holdfast.serving.engine.kv_retrieval import KvOptions, RetrievalSequence
from holdfast.serving.engine.protocol import Delta, EngineRequest, Mode, ReadReport
from holdfast.serving.engine.set_prompt import SetPrompt

if TYPE_CHECKING:
    import torch


@dataclass(slots=True)
class Job:
    """One request on its way through the worker."""

    request: EngineRequest
    mode: Mode
    """`set`, `sequence` or `mixture`"""
    prompt: list[int] | SetPrompt
    max_tokens: int
    kv: KvOptions | None = None
    """how to retrieve; None reads all of the cache"""
    emit: Callable[[Delta | HoldfastError], None] = lambda item: None
    is_cancelled: bool = False


@dataclass(slots=True)
class Row:
    """One choice being decoded."""

    job: Job
    sampler: Sampler
    stream: ChoiceStream
    token_id: int = -1
    finish: Callable[[], ReadReport] | None = None
    """says, in the end, how it was decoded"""

    def take(self, logits: torch.Tensor) -> None:
        """Choose the next token from (vocab,) logits and send what it shows."""
        self.token_id = self.sampler.choose(logits)
        delta = self.stream.push(self.token_id, logits)
        if delta.finish_reason and self.finish is not None:
            self.job.emit(Delta(report=self.finish()))
        if delta.text or delta.finish_reason:
            self.job.emit(delta)

    @property
    def is_done(self) -> bool:
        return self.stream.is_finished or self.job.is_cancelled


@dataclass(slots=True)
class Lane:
    """Choices that are decoded together."""

    batch: DecodeBatch | SetBatch
    rows: list[Row]

    def step(self) -> None:
        """Let those go that are done, and give the others a token."""
        running = [place for place, row in enumerate(self.rows) if not row.is_done]
        if len(running) < len(self.rows):
            self.batch.keep(running)
            self.rows = [self.rows[place] for place in running]
        if self.rows:
            logits = self.batch.step([row.token_id for row in self.rows])
            for row, row_logits in zip(self.rows, logits, strict=True):
                row.take(row_logits)

    def clear(self) -> None:
        self.rows = []
        self.batch.keep([])


class Worker:
    """Runs until closed.

    Args:
        model: the model and its tokenizer; nobody else runs it.
        eos_ids: tokens that end an answer.
        max_rows: choices decoded at once; no job may have more.
        sets: reads sets and mixtures with the same model, or None.
        retrieval: starts sequences with KV retrieval, which the steps of sets decode; None without `sets`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        eos_ids: frozenset[int],
        max_rows: int,
        sets: SetReader | None,
        retrieval: RetrievalReader | None,
    ) -> None:
        self.max_rows = max_rows
        self._tokenizer = tokenizer
        self._eos_ids = eos_ids
        self._sets = sets
        self._retrieval = retrieval
        self._wakeup = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._is_closing = False
        self._starting: tuple[Job, Iterator[None]] | None = None
        self._sequences = DecodeBatch(model)
        self._lanes = {"sequence": Lane(self._sequences, [])}
        if sets is not None:
            self._set_batch = SetBatch(sets.model)
            self._lanes["set"] = self._lanes["mixture"] = Lane(self._set_batch, [])
        self._thread = threading.Thread(target=self._run, name="hf-engine", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job; its deltas, or an error, are emitted from the worker's thread."""
        with self._wakeup:
            if self._is_closing:
                raise EngineError("the engine is shutting down")
            self._waiting.append(job)
            self._wakeup.notify()

    def close(self) -> None:
        """Fail what runs and waits, and return when the thread has ended."""
        with self._wakeup:
            self._is_closing = True
            self._wakeup.notify()
        self._thread.join()

    @property
    def rows(self) -> list[Row]:
        """The choices being decoded."""
        return [row for kind in ("sequence", "set") if kind in self._lanes for row in self._lanes[kind].rows]

    @property
    def retrieving(self) -> list[RetrievalSequence]:
        """The sequences being decoded with retrieval."""
        streams = [] if self._sets is None else list(self._set_batch.rows)
        return [sequence for row in streams for sequence in row if isinstance(sequence, RetrievalSequence)]

    def _run(self) -> None:
        """The worker: admit, step, until closed."""
        while True:
            with self._wakeup:
                while not (self._waiting or self._starting or self.rows or self._is_closing):
                    self._wakeup.wait()
                if self._is_closing:
                    self._fail_all(EngineError("the engine is shutting down"))
                    return
            try:
                self._admit()
                for kind in ("sequence", "set"):
                    if kind in self._lanes:
                        self._lanes[kind].step()
            except Exception as error:  # whatever the model raises must reach the requests, not end the worker
                self._fail_all(EngineError(f"the model failed: {type(error).__name__}: {error}"))

    def _admit(self) -> None:
        """Start waiting requests while rows are free, first come first served; return when running ones need a step."""
        while self._starting is not None or self._take_waiting():
            assert self._starting is not None
            job, reading = self._starting
            try:
                for _ in reading:
                    if job.is_cancelled:
                        break
                    if self.rows:
                        return
            except HoldfastError as error:
                job.emit(error)
            self._starting = None

    def _take_waiting(self) -> bool:
        """Begin the next request, if there is one and rows are free for it."""
        with self._wakeup:
            if not self._waiting or len(self.rows) + self._waiting[0].request.sampling.n > self.max_rows:
                return False
            job = self._waiting.popleft()
        self._starting = job, self._start(job)
        return True

    def _start(self, job: Job) -> Iterator[None]:
        """Read the prompt of `job` and add its choices; yield after each document that had to be read."""
        if job.is_cancelled:
            return
        num_rows = job.request.sampling.n
        if isinstance(job.prompt, list) and job.kv is not None:
            rows, logits, report = self._start_retrieval(job, job.prompt, job.kv)
        elif isinstance(job.prompt, list):
            rows = self._add_rows(job)  # first, so that a failing prefill reaches this request too
            logits = self._sequences.prefill(job.prompt, num_rows)
            report = ReadReport("sequence", "none", len(job.prompt))
        else:
            assert self._sets is not None
            self._sets.model.verify()
            read: list[tuple[DocumentKV, Found]] = []
            for document in job.prompt.documents:
                read.append(self._sets.fetch(job.request.tenant, job.prompt, document))
                if read[-1][1] not in HITS:
                    yield
            report = self._sets.report(job.prompt, [found for _, found in read], job.mode, job.request.reading)
            if job.request.reading.is_prewarm:
                job.emit(Delta(report=report))
                for choice in range(num_rows):
                    job.emit(Delta(choice, finish_reason="stop"))
                return
            streams, logits = self._sets.start(job.prompt, [kv for kv, _ in read], job.mode, job.request.reading)
            self._set_batch.add(streams, num_rows)
            rows = self._add_rows(job)
        if job.request.reading.has_logits:
            report = replace(report, first_logits=tuple(logits.tolist()))
        if job.request.sources:
            job.emit(Delta(report=report))
        for row in rows:
            row.take(logits)

    def _start_retrieval(
        self, job: Job, prompt_ids: list[int], options: KvOptions
    ) -> tuple[list[Row], torch.Tensor, ReadReport]:
        retrieval = self._retrieval
        assert retrieval is not None
        sequence, logits = retrieval.start(prompt_ids, job.max_tokens, options)
        report = ReadReport("sequence", "none", len(prompt_ids))
        rows = self._add_rows(job)
        for row, (stream,) in zip(rows, self._set_batch.add([sequence], len(rows)), strict=True):
            assert isinstance(stream, RetrievalSequence)
            row.finish = partial(_finish, retrieval, stream, report)
        return rows, logits, report

    def _add_rows(self, job: Job) -> list[Row]:
        sampling = job.request.sampling
        rows = [
            Row(
                job,
                make_sampler(sampling, choice),
                ChoiceStream(self._tokenizer, sampling, choice, job.max_tokens, self._eos_ids),
            )
            for choice in range(sampling.n)
        ]
        self._lanes["set" if job.kv else job.mode].rows += rows
        return rows

    def _fail_all(self, error: EngineError) -> None:
        jobs = {id(row.job): row.job for row in self.rows}
        if self._starting is not None:
            jobs[id(self._starting[0])] = self._starting[0]
        with self._wakeup:
            if self._is_closing:
                jobs |= {id(job): job for job in self._waiting}
                self._waiting.clear()
        self._starting = None
        for lane in self._lanes.values():
            lane.clear()
        for job in jobs.values():
            job.emit(error)


def _finish(retrieval: RetrievalReader, sequence: RetrievalSequence, report: ReadReport) -> ReadReport:
    return replace(report, kv=retrieval.finish(sequence))
