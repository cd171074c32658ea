"""Request fields that chat completions and completions share, and how they become `Sampling`.

Each field of OpenAI's that is known here is obeyed, is harmless to leave without effect, or is refused with a sentence
that names it; docs/responses.md has the table. Fields unknown to OpenAI are refused by the models themselves.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from holdfast.errors import InvalidInput, NotFound
from holdfast.serving.answer import FileSearch
from holdfast.serving.api.schemas import HybridSearch, RequestModel, StoreIds
from holdfast.serving.engine.protocol import Kv, Mode, Reading, Sampling

StopString = Annotated[str, Field(min_length=1)]
ServiceTier = Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"]
INT64 = 2**63
TOKEN_ID = re.compile(r"[0-9]{1,18}")


class StreamOptions(RequestModel):
    """How a stream is to look."""

    include_obfuscation: bool | None = None


class CompletionStreamOptions(StreamOptions):
    """How a stream of chunks is to look."""

    include_usage: bool | None = None


class SamplingBody(RequestModel):
    """What both kinds of completions take."""

    model: str
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(None, ge=1, le=128)
    stop: StopString | Annotated[list[StopString], Field(max_length=4)] | None = None
    seed: int | None = Field(None, ge=-INT64, lt=INT64)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(None, max_length=300)
    stream: bool | None = None
    stream_options: CompletionStreamOptions | None = None
    user: str | None = None

    def to_sampling(self, *, max_tokens: int | None, logprobs: bool, top_logprobs: int) -> Sampling:
        """Return the sampling asked for; a field that is missing or null takes OpenAI's default."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Sampling(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=stop,
            n=self.n or 1,
            logprobs=logprobs,
            top_logprobs=top_logprobs,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=to_logit_bias(self.logit_bias),
        )

    @property
    def includes_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class ReadingOptions(RequestModel):
    """How to read the passages: the `holdfast` object of a responses request, and part of a chat's."""

    mode: Mode | None = None
    document_temperature: float | None = Field(None, gt=0, le=10)
    document_scale: float | None = Field(None, gt=0, le=10)
    kv: Kv | None = None
    kv_budget: int | None = Field(None, ge=1)


class CacheOptions(RequestModel):
    """OpenAI's `prompt_cache_options`; documents are cached in any case, and for as long as there is room."""

    mode: Literal["implicit", "explicit"] | None = None
    ttl: Literal["30m", "12h"] | None = None
    prewarm: bool | None = None
    comparison_response_id: str | None = None


class SearchOptions(ReadingOptions):
    """The `holdfast` object of a chat completion request: what to search before answering."""

    vector_store_ids: StoreIds
    filters: dict[str, Any] | None = None
    max_num_results: int | None = Field(None, ge=1, le=50)
    score_threshold: float | None = Field(None, ge=0, le=1)
    hybrid_search: HybridSearch | None = None

    def to_search(self) -> FileSearch:
        ranking = self.hybrid_search.to_ranking() if self.hybrid_search else None
        stores = tuple(self.vector_store_ids)
        return FileSearch(stores, self.filters, self.max_num_results, self.score_threshold, ranking)


def to_reading(options: ReadingOptions | None, cache: CacheOptions | None) -> Reading:
    """Return how the passages are to be read; a field that is missing or null takes its default."""
    options = options or ReadingOptions()
    default = Reading()
    return Reading(
        mode=options.mode or default.mode,
        document_temperature=options.document_temperature or default.document_temperature,
        document_scale=options.document_scale or default.document_scale,
        is_prewarm=bool(cache and cache.prewarm),
        kv=options.kv,
        kv_budget=options.kv_budget,
    )


def to_logit_bias(bias: dict[str, float] | None) -> tuple[tuple[int, float], ...]:
    """Token ids are the keys of a JSON object, hence strings."""
    for key in bias or {}:
        if not TOKEN_ID.fullmatch(key):
            raise InvalidInput(f"logit_bias has the key {key!r:.80}; keys are token ids.", param="logit_bias")
    return tuple(sorted((int(key), value) for key, value in (bias or {}).items()))


def check_stream_options(options: StreamOptions | None, *, is_stream: bool) -> None:
    """Refuse options of a stream where there is none, and padding against those who watch the network."""
    if options is not None and not is_stream:
        raise InvalidInput("stream_options is only allowed when stream is true.", param="stream_options")
    if options is not None and options.include_obfuscation:
        raise refused("stream_options.include_obfuscation", "true", "leave it out or send false")


def check_model(asked: str, served: str) -> None:
    """The process serves one model; any other name is unknown."""
    if asked != served:
        raise NotFound(
            f"The model {asked!r} does not exist here; this server answers with {served!r}.",
            code="model_not_found",
            param="model",
        )


def refused(param: str, value: str, remedy: str) -> InvalidInput:
    """The error for a field of OpenAI's that this server cannot obey."""
    return InvalidInput(
        f"{param}={value} is not supported by this server; {remedy}.", code="unsupported_parameter", param=param
    )


def refuse_given(body: BaseModel, *names: str) -> None:
    """Refuse each of these fields that the caller has set to anything but null."""
    for name in names:
        if getattr(body, name) is not None:
            raise InvalidInput(
                f"{name!r} is not supported by this server; leave it out.", code="unsupported_parameter", param=name
            )
