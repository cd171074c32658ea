"""A transformers causal language model in this process.

One worker thread owns the model. It takes requests in the order they came, reads each prompt by itself, and decodes
all running choices together, one token a step; a request that is cancelled leaves before the next step.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import ContextTooLong, EngineError, HoldfastError, InvalidInput
from holdfast.serving.engine.hf_batch import DecodeBatch
from holdfast.serving.engine.hf_prompt import PromptEncoder
from holdfast.serving.engine.hf_sampling import Sampler, make_sampler
from holdfast.serving.engine.hf_stream import ChoiceStream
from holdfast.serving.engine.protocol import DEFAULT_MAX_TOKENS, Delta, EngineRequest
from holdfast.serving.prompts import prompt_messages

if TYPE_CHECKING:
    import torch

MAX_ROWS = 16
"""choices decoded at once"""


@dataclass(slots=True)
class _Job:
    """One request on its way through the worker."""

    request: EngineRequest
    prompt_ids: list[int]
    max_tokens: int
    emit: Callable[[Delta | HoldfastError], None]
    is_cancelled: bool = False


@dataclass(slots=True)
class _Row:
    """One choice being decoded."""

    job: _Job
    sampler: Sampler
    stream: ChoiceStream
    token_id: int = -1

    def take(self, logits: torch.Tensor) -> None:
        """Choose the next token from (vocab,) logits and send what it shows."""
        self.token_id = self.sampler.choose(logits)
        delta = self.stream.push(self.token_id, logits)
        if delta.text or delta.finish_reason:
            self.job.emit(delta)

    @property
    def is_done(self) -> bool:
        return self.stream.is_finished or self.job.is_cancelled


class HfEngine:
    """Implements `Engine` with a loaded model and its tokenizer."""

    can_follow_instructions = True

    def __init__(self, model: Any, tokenizer: Any, name: str, *, max_rows: int = MAX_ROWS) -> None:
        self.name = name
        config = model.config.get_text_config()
        self.context_len: int | None = getattr(config, "max_position_embeddings", None)
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._prompts = PromptEncoder(tokenizer)
        self._max_rows = max_rows
        eos = model.generation_config.eos_token_id
        eos_ids = [eos] if isinstance(eos, int) else list(eos or [])
        self._eos_ids = frozenset(token_id for token_id in [*eos_ids, tokenizer.eos_token_id] if token_id is not None)
        self._wakeup = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._is_closing = False
        self._rows: list[_Row] = []
        self._batch = DecodeBatch(model)
        self._worker = threading.Thread(target=self._run, name="hf-engine", daemon=True)
        self._worker.start()

    def count_tokens(self, text: str) -> int:
        return len(self._prompts.encode_plain(text))

    def count_prompt_tokens(self, request: EngineRequest) -> int:
        return len(self.prompt_ids(request))

    def prompt_ids(self, request: EngineRequest) -> list[int]:
        """Return the token ids that `request` is prefilled with."""
        if request.prompt is not None:
            return self._prompts.encode_completion(request.prompt)
        return self._prompts.encode_messages(prompt_messages(request))

    def check(self, request: EngineRequest) -> None:
        self._checked_prompt(request)

    def _checked_prompt(self, request: EngineRequest) -> list[int]:
        """Return the prompt's token ids; raise InvalidInput for what cannot be generated."""
        if request.sampling.n > self._max_rows:
            raise InvalidInput(f"n is {request.sampling.n}; at most {self._max_rows} choices are made", param="n")
        vocab_size = self._model.config.get_text_config().vocab_size
        for token_id, _ in request.sampling.logit_bias:
            if not 0 <= token_id < vocab_size:
                raise InvalidInput(f"logit_bias names token {token_id}; the model has {vocab_size}", param="logit_bias")
        prompt_ids = self.prompt_ids(request)
        num_prompt_tokens = len(prompt_ids)
        if num_prompt_tokens == 0:
            raise InvalidInput("the prompt is empty", param="prompt")
        num_tokens = num_prompt_tokens + (request.sampling.max_tokens or 1)
        if self.context_len is not None and num_tokens > self.context_len:
            raise ContextTooLong(
                f"the prompt has {num_prompt_tokens} tokens and the answer may have {num_tokens - num_prompt_tokens}, "
                f"but the model's context holds {self.context_len}",
                param="prompt" if request.prompt is not None else "messages",
            )
        return prompt_ids

    async def generate(self, request: EngineRequest) -> AsyncGenerator[Delta]:
        prompt_ids = await asyncio.to_thread(self._checked_prompt, request)
        loop = asyncio.get_running_loop()
        deltas: asyncio.Queue[Delta | HoldfastError] = asyncio.Queue()

        def emit(item: Delta | HoldfastError) -> None:
            try:
                loop.call_soon_threadsafe(deltas.put_nowait, item)
            except RuntimeError:  # the loop is closed: nobody listens any more
                job.is_cancelled = True

        job = _Job(request, prompt_ids, self._max_tokens(request, len(prompt_ids)), emit)
        with self._wakeup:
            if self._is_closing:
                raise EngineError("the engine is shutting down")
            self._waiting.append(job)
            self._wakeup.notify()
        num_running = request.sampling.n
        try:
            while num_running:
                item = await deltas.get()
                if isinstance(item, HoldfastError):
                    raise item
                num_running -= item.finish_reason is not None
                yield item
        finally:
            job.is_cancelled = True

    async def close(self) -> None:
        with self._wakeup:
            self._is_closing = True
            self._wakeup.notify()
        await asyncio.to_thread(self._worker.join)

    def _max_tokens(self, request: EngineRequest, prompt_len: int) -> int:
        if request.sampling.max_tokens is not None:
            return request.sampling.max_tokens
        context_len = self.context_len or prompt_len + DEFAULT_MAX_TOKENS
        return min(DEFAULT_MAX_TOKENS, context_len - prompt_len)

    def _run(self) -> None:
        """The worker: admit, step, until closed."""
        while True:
            with self._wakeup:
                while not (self._waiting or self._rows or self._is_closing):
                    self._wakeup.wait()
                if self._is_closing:
                    self._fail_all(EngineError("the engine is shutting down"))
                    return
            try:
                self._admit()
                self._step()
            except Exception as error:  # whatever the model raises must reach the requests, not end the worker
                self._fail_all(EngineError(f"the model failed: {type(error).__name__}: {error}"))

    def _admit(self) -> None:
        """Start waiting requests while rows are free, first come first served."""
        while True:
            with self._wakeup:
                if not self._waiting or len(self._rows) + self._waiting[0].request.sampling.n > self._max_rows:
                    return
                job = self._waiting.popleft()
            if not job.is_cancelled:
                self._start(job)

    def _start(self, job: _Job) -> None:
        sampling = job.request.sampling
        rows = [
            _Row(
                job,
                make_sampler(sampling, choice),
                ChoiceStream(self._tokenizer, sampling, choice, job.max_tokens, self._eos_ids),
            )
            for choice in range(sampling.n)
        ]
        self._rows += rows  # first, so that a failing prefill reaches this request too
        logits = self._batch.prefill(job.prompt_ids, len(rows))
        for row in rows:
            row.take(logits)

    def _step(self) -> None:
        running = [place for place, row in enumerate(self._rows) if not row.is_done]
        if len(running) < len(self._rows):
            self._batch.keep(running)
            self._rows = [self._rows[place] for place in running]
        if self._rows:
            logits = self._batch.step([row.token_id for row in self._rows])
            for row, row_logits in zip(self._rows, logits, strict=True):
                row.take(row_logits)

    def _fail_all(self, error: EngineError) -> None:
        with self._wakeup:
            jobs = list({id(row.job): row.job for row in self._rows}.values())
            if self._is_closing:
                jobs += self._waiting
                self._waiting.clear()
        self._rows = []
        self._batch.keep([])
        for job in jobs:
            job.emit(error)


def make_hf_engine(model: str, *, device: str | None = None) -> HfEngine:
    """Load a causal language model and its tokenizer.

    Args:
        model: a folder, or a hub name (downloaded, or from the local cache when offline).
        device: torch device; CUDA when there is one, else the CPU, when None. float32 on the CPU, else as stored.

    Raises:
        InvalidInput: it cannot be loaded, or cannot be decoded in a batch.
    """
    import torch  # heavy: loaded with the first model, not on import
    from transformers import AutoModelForCausalLM, AutoTokenizer

    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32 if chosen == "cpu" else "auto")
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InvalidInput(f"cannot load language model {model!r}: {error}", param="model") from error
    if getattr(loaded, "_is_stateful", False):
        raise InvalidInput(f"language model {model!r} is recurrent, which this engine cannot batch", param="model")
    name = Path(model).resolve().name if Path(model).exists() else model
    return HfEngine(loaded.to(chosen), tokenizer, name)
