"""What an engine is: something that turns a question and passages into streamed text.

Called by `serving/answer.py` only, in the server's event loop. `generate` is called once per choice set, may be called
concurrently, and must stop its work when its async generator is closed (the client went away). An engine never sees
HTTP, and passages reach it already in canonical order.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from holdfast.serving.engine.document_cache import DocumentCache
    from holdfast.serving.engine.kv_retrieval import KvStats

Role = Literal["system", "developer", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls"]

Mode = Literal["auto", "set", "sequence", "mixture"]
"""how passages are read: as a set, one behind another, or each alone with the answers' probabilities averaged; `auto`
is `set` for models trained for it, else `sequence`"""
Guarantee = Literal["bitwise", "exact-math", "none"]
"""what the order of passages can change: not one bit; rounding only; everything"""

Kv = Literal["full", "retrieval"]
"""what decoding reads of the KV cache: all of it, or what each head retrieves"""

DEFAULT_MAX_TOKENS = 512
"""tokens of an answer where the request names no limit and the context leaves room for them"""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of the conversation; content parts are already joined to text."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Source:
    """A passage as an answer sees it."""

    passage_id: int
    file_id: str
    filename: str
    text: str
    """equals `document_text[start:end]`"""
    start: int
    """characters into the extracted text of the file"""
    end: int
    page: int | None
    heading: str | None
    score: float
    """cosine of question and passage, in [0, 1]"""
    attributes: dict[str, Any]
    rank: int = 0
    """place among what was found, best first from 0: words count for it, too"""
    is_sealed: bool = False
    """from a sealed vector store: nothing made of it may lie on disk in clear"""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen; temperature 0 is greedy."""

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    logprobs: bool = False
    top_logprobs: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """How an engine is to read the passages."""

    mode: Mode = "auto"
    document_temperature: float = 1.0
    document_scale: float = 1.0
    """APE's T and S, for models not trained in set mode; both 1 changes nothing"""
    is_prewarm: bool = False
    """read the passages into the cache, and answer nothing"""
    has_logits: bool = False
    """report the first token's logits"""
    kv: Kv | None = None
    """None: as the server is set"""
    kv_budget: int | None = None
    """keys that each head reads exactly, with retrieval; None: as the server is set"""


@dataclass(frozen=True, slots=True)
class KvReport:
    """What retrieval did in decoding one request; means are over layers, heads and steps."""

    budget: int
    trigger_rate: float
    """share of decisions, one for each KV head, layer and step, in which keys were chosen anew"""
    sampled_mass: float
    """mean share of attention that lies with keys known by a sample only"""
    error: float
    """mean standard error of the sum of attention's weights, relative"""
    index_bytes: int
    memory_bytes: int
    """of keys and values in memory"""
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class ReadReport:
    """How an engine read the passages of one request."""

    mode: Mode
    guarantee: Guarantee
    prefilled_tokens: int
    """computed for this request before its first token"""
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    set_digest: str | None = None
    """SHA-256 of the documents' sorted digests; None in sequence mode"""
    documents: tuple[tuple[str, int], ...] = ()
    """digest and tokens of each document, in canonical order"""
    found: tuple[str, ...] = ()
    """where each document was, or why it was missing; see `document_cache.Found`"""
    first_logits: tuple[float, ...] = ()
    """of the first token, where `Reading.has_logits` asked for them"""
    kv: KvReport | None = None
    """once a choice decoded with retrieval is finished"""


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """All an engine needs to answer."""

    messages: tuple[Message, ...]
    question: str
    """the last user turn, made to stand alone"""
    sources: tuple[Source, ...]
    """in canonical order, already cut to what fits"""
    sampling: Sampling
    prompt: str | None = None
    """set for plain completions: continue exactly this text, no chat template, no sources"""
    reading: Reading = Reading()
    tenant: str = "default"
    """whose documents these are"""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Quote:
    """An engine's own citation: `source.text[start:end]` supports the answer's `text[answer_start:answer_end]`."""

    source: int
    """row in `EngineRequest.sources`"""
    start: int
    end: int
    answer_start: int
    answer_end: int


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of one choice's answer."""

    choice: int = 0
    text: str = ""
    num_tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    quotes: tuple[Quote, ...] = ()
    finish_reason: FinishReason | None = None
    """set on the last delta of a choice"""
    prompt_tokens: int | None = None
    """the engine's own count, where it is known only after the fact (an upstream's usage)"""
    report: ReadReport | None = None
    """on one delta of a request, by engines that read documents in more than one way"""


class Engine(Protocol):
    """See the module docstring for who calls what."""

    name: str
    """id under /v1/models"""
    context_len: int | None
    """tokens of prompt and answer together; None where nothing limits it"""
    can_follow_instructions: bool
    """True: can be asked to rewrite a follow-up question"""

    def count_tokens(self, text: str) -> int:
        """Return the tokens in `text`, for usage and for fitting passages."""
        ...

    def count_prompt_tokens(self, request: EngineRequest) -> int:
        """Return the prompt tokens that `request` costs with its sources."""
        ...

    def check(self, request: EngineRequest) -> None:
        """Raise InvalidInput for what this engine cannot do (logprobs, ...), before anything is streamed."""
        ...

    def generate(self, request: EngineRequest) -> AsyncGenerator[Delta]:
        """Yield deltas; closing the iterator stops the work."""
        ...

    async def close(self) -> None:
        """Free what the engine holds."""
        ...


@runtime_checkable
class DocumentEngine(Engine, Protocol):
    """An engine that can read passages as a set, and keeps what it has read."""

    document_cache: DocumentCache

    def count_context_tokens(self, request: EngineRequest) -> int:
        """Return how much of the context the prompt takes; a set takes as much as its longest document may."""
        ...


@runtime_checkable
class RetrievalEngine(Engine, Protocol):
    """An engine that can decode with KV retrieval."""

    def kv_totals(self) -> KvStats:
        """Return what retrieval did since the start, and the bytes that running requests hold."""
        ...
