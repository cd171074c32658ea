"""A transformers causal language model in this process: requests checked, encoded, and handed to its worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.errors import ContextTooLong, HoldfastError, InvalidInput
from holdfast.serving.engine.document_cache import DocumentCache
from holdfast.serving.engine.hf_prompt import PromptEncoder
from holdfast.serving.engine.hf_retrieval import RetrievalReader
from holdfast.serving.engine.hf_set import SetReader
from holdfast.serving.engine.hf_worker import Job, Worker
from holdfast.serving.engine.kv_retrieval import KvOptions, KvStats, can_retrieve
from holdfast.serving.engine.prompt_formats import MarkedFormat, MessagesFormat, PromptFormat
from holdfast.serving.engine.protocol import DEFAULT_MAX_TOKENS, Delta, EngineRequest, Kv, Mode
from holdfast.serving.engine.set_attention import MAX_DOCUMENT_LEN, SetModel, can_read_sets
from holdfast.serving.engine.set_prompt import SetEncoder, SetPrompt

MAX_ROWS = 16
"""choices decoded at once"""
TRAINED_FOR_SETS = "holdfast_set_mode"
"""true in the config.json of models that were trained in set mode: mode `auto` is `set` for them"""
TRAINED_ON_MARKS = "holdfast_marks"
"""true in the config.json of models that read passages and a question between marks, see `MarkedFormat`"""


@dataclass(frozen=True, slots=True)
class KvDefaults:
    """How requests are decoded that do not say it themselves."""

    kv: Kv = "full"
    budget: int = 1024
    memory_bytes: int = 4 * 2**30
    folder: Path | None = None
    """for what needs more memory; None keeps everything in memory"""
    break_even: int = 16_384
    """cold tokens below which all of them are read"""


class HfEngine:
    """Implements `Engine` with a loaded model and its tokenizer."""

    can_follow_instructions = True

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str,
        *,
        max_rows: int = MAX_ROWS,
        document_cache: DocumentCache | None = None,
        secret: bytes = b"",
        kv: KvDefaults | None = None,
    ) -> None:
        """`document_cache` keeps what set mode has read, under names made with `secret`; None keeps nothing.

        `kv` says how requests are decoded that do not say it themselves; None reads all of the cache.
        """
        self.name = name
        self.document_cache = document_cache or DocumentCache(0)
        config = model.config.get_text_config()
        self.context_len: int | None = getattr(config, "max_position_embeddings", None)
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._prompts = PromptEncoder(tokenizer)
        self._format: PromptFormat = MessagesFormat(self._prompts)
        if getattr(model.config, TRAINED_ON_MARKS, False):
            self._format = MarkedFormat(tokenizer, self._prompts)
        self._set_encoder = SetEncoder(self._format, MAX_DOCUMENT_LEN)
        self._is_trained_for_sets = bool(getattr(model.config, TRAINED_FOR_SETS, False))
        sets = SetReader(SetModel(model), self.document_cache, secret) if can_read_sets(model) else None
        self._can_read_sets = sets is not None
        self._kv = kv or KvDefaults()
        self._retrieval = None
        if sets is not None and can_retrieve(model):
            self._retrieval = RetrievalReader(model, self._kv.memory_bytes, self._kv.folder, self._kv.break_even)
        eos = model.generation_config.eos_token_id
        eos_ids = [eos] if isinstance(eos, int) else list(eos or [])
        eos_ids = [token_id for token_id in [*eos_ids, tokenizer.eos_token_id] if token_id is not None]
        self._worker = Worker(model, tokenizer, frozenset(eos_ids), max_rows, sets, self._retrieval)

    def count_tokens(self, text: str) -> int:
        return len(self._prompts.encode_plain(text))

    def count_prompt_tokens(self, request: EngineRequest) -> int:
        if self.mode(request) != "sequence":
            return self._set_encoder.encode(request).num_tokens
        return len(self.prompt_ids(request))

    def count_context_tokens(self, request: EngineRequest) -> int:
        """Return how much of the context the prompt takes; a set takes as much as its longest document may."""
        if self.mode(request) != "sequence":
            return MAX_DOCUMENT_LEN + sum(map(len, self._set_encoder.encode_frame(request)))
        return len(self.prompt_ids(request))

    def mode(self, request: EngineRequest) -> Mode:
        """Return how the passages of `request` are read."""
        if not request.sources or request.prompt is not None:
            return "sequence"
        if request.reading.mode != "auto":
            return request.reading.mode
        return "set" if self._can_read_sets and self._is_trained_for_sets else "sequence"

    def prompt_ids(self, request: EngineRequest) -> list[int]:
        """Return the token ids that `request` is prefilled with."""
        if request.prompt is not None:
            return self._prompts.encode_completion(request.prompt)
        return self._format.encode_sequence(request)

    def check(self, request: EngineRequest) -> None:
        self._checked_job(request)

    def _checked_job(self, request: EngineRequest) -> Job:
        """Return what is to be done; raise InvalidInput for what cannot be."""
        if request.sampling.n > self._worker.max_rows:
            raise InvalidInput(
                f"n is {request.sampling.n}; at most {self._worker.max_rows} choices are made", param="n"
            )
        vocab_size = self._model.config.get_text_config().vocab_size
        for token_id, _ in request.sampling.logit_bias:
            if not 0 <= token_id < vocab_size:
                raise InvalidInput(f"logit_bias names token {token_id}; the model has {vocab_size}", param="logit_bias")
        mode = self.mode(request)
        prompt: list[int] | SetPrompt
        if request.reading.is_prewarm and request.sources and mode == "sequence":
            raise InvalidInput("only documents of a set can be read beforehand: set mode to 'set'", param="mode")
        if mode == "sequence":
            prompt = self.prompt_ids(request)
            num_prompt_tokens = len(prompt)
        else:
            if not self._can_read_sets:
                raise InvalidInput(f"mode {mode!r} needs a model with full attention in every layer", param="mode")
            prompt = self._set_encoder.encode(request)
            num_prompt_tokens = len(prompt.prefix_ids) + MAX_DOCUMENT_LEN + len(prompt.question_ids)
        if num_prompt_tokens == 0:
            raise InvalidInput("the prompt is empty", param="prompt")
        num_tokens = num_prompt_tokens + (request.sampling.max_tokens or 1)
        if self.context_len is not None and num_tokens > self.context_len:
            raise ContextTooLong(
                f"the prompt has {num_prompt_tokens} tokens and the answer may have {num_tokens - num_prompt_tokens}, "
                f"but the model's context holds {self.context_len}",
                param="prompt" if request.prompt is not None else "messages",
            )
        return Job(request, mode, prompt, self._max_tokens(request, num_prompt_tokens), self._kv_options(request, mode))

    def _kv_options(self, request: EngineRequest, mode: Mode) -> KvOptions | None:
        """Return how to retrieve, or None where the whole cache is read."""
        reading = request.reading
        if (reading.kv or self._kv.kv) == "full":
            return None
        if self._retrieval is None or mode != "sequence":
            if reading.kv is None:
                return None  # the server's wish, where it can be
            raise InvalidInput(
                "kv 'retrieval' needs a model with rotary embedding and full attention in every layer, and mode "
                "'sequence'",
                param="kv",
            )
        is_sealed = any(source.is_sealed for source in request.sources)
        return self._retrieval.options(reading.kv_budget or self._kv.budget, is_sealed=is_sealed)

    def kv_totals(self) -> KvStats:
        """Return what retrieval did since the start, and the bytes that running requests hold."""
        totals = KvStats()
        if self._retrieval is not None:
            totals.add(self._retrieval.totals)
        for sequence in self._worker.retrieving:
            held = sequence.report()
            totals.index_bytes += held.index_bytes
            totals.memory_bytes += held.memory_bytes
            totals.disk_bytes += held.disk_bytes
        return totals

    async def generate(self, request: EngineRequest) -> AsyncGenerator[Delta]:
        job = await asyncio.to_thread(self._checked_job, request)
        loop = asyncio.get_running_loop()
        deltas: asyncio.Queue[Delta | HoldfastError] = asyncio.Queue()

        def emit(item: Delta | HoldfastError) -> None:
            try:
                loop.call_soon_threadsafe(deltas.put_nowait, item)
            except RuntimeError:  # the loop is closed: nobody listens any more
                job.is_cancelled = True

        job.emit = emit
        self._worker.submit(job)
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
        await asyncio.to_thread(self._worker.close)

    def _max_tokens(self, request: EngineRequest, prompt_len: int) -> int:
        if request.sampling.max_tokens is not None:
            return request.sampling.max_tokens
        context_len = self.context_len or prompt_len + DEFAULT_MAX_TOKENS
        return min(DEFAULT_MAX_TOKENS, context_len - prompt_len)


def make_hf_engine(
    model: str,
    *,
    device: str | None = None,
    document_cache: DocumentCache | None = None,
    secret: bytes = b"",
    kv: KvDefaults | None = None,
) -> HfEngine:
    """Load a causal language model and its tokenizer.

    Args:
        model: a folder, or a hub name (downloaded, or from the local cache when offline).
        device: torch device; CUDA when there is one, else the CPU, when None. float32 on the CPU, else as stored.
        document_cache, secret, kv: see `HfEngine`.

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
    return HfEngine(loaded.to(chosen), tokenizer, name, document_cache=document_cache, secret=secret, kv=kv)
