"""An OpenAI-compatible server elsewhere (vLLM, llama.cpp, another Holdfast) as the language model.

Requests and streams pass through; errors come back in the upstream's words, without our key. Its tokenizer is not
here, so prompts are fitted by an estimate, and usage is the upstream's own count.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Any

import httpx

from holdfast.errors import EngineError
from holdfast.serving.engine.protocol import DEFAULT_MAX_TOKENS, Delta, EngineRequest, FinishReason, TokenLogprob
from holdfast.serving.prompts import prompt_messages

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 120.0
"""silence between two pieces of a stream"""
BYTES_PER_TOKEN = 3
"""cautious: English has about four"""
MAX_MESSAGE_CHARS = 2_000
_FINISH_REASONS: dict[str, FinishReason] = {"length": "length", "tool_calls": "tool_calls"}


class RemoteEngine:
    """Implements `Engine` over HTTP; streams are closed upstream when ours are."""

    can_follow_instructions = True

    def __init__(
        self,
        model: str,
        base_url: str,
        api_key: str | None,
        *,
        context_len: int | None = None,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        self.name = model
        self.context_len = context_len
        self._api_key = api_key
        self._host = httpx.URL(base_url).netloc.decode()
        self._client = httpx.AsyncClient(
            base_url=base_url.rstrip("/") + "/",
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(read_timeout_s, connect=CONNECT_TIMEOUT_S),
            limits=httpx.Limits(max_connections=None),
        )

    def count_tokens(self, text: str) -> int:
        """An estimate from the length."""
        return -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)

    def count_prompt_tokens(self, request: EngineRequest) -> int:
        if request.prompt is not None:
            return self.count_tokens(request.prompt)
        return sum(self.count_tokens(turn.content) for turn in prompt_messages(request))

    def check(self, request: EngineRequest) -> None:
        return None  # the upstream judges

    async def generate(self, request: EngineRequest) -> AsyncGenerator[Delta]:
        path = "completions" if request.prompt is not None else "chat/completions"
        usage: dict[str, int] = {}
        num_streamed = 0
        last: dict[int, Delta] = {}
        try:
            async with self._client.stream("POST", path, json=request_body(self.name, request)) as response:
                if response.status_code >= 400:
                    raise self._refusal(f"answered {response.status_code}", await response.aread())
                async for data in _events(response):
                    deltas, counts = self._parse(data, request.sampling.n)
                    usage = counts or usage
                    for delta in deltas:
                        num_streamed += delta.num_tokens
                        if delta.finish_reason is None:
                            yield delta
                        else:
                            last[delta.choice] = delta
        except httpx.HTTPError as error:
            raise self._failure(error) from error
        if len(last) < request.sampling.n:
            raise EngineError(f"the upstream at {self._host} ended its stream before the answer was finished")
        num_missing = max(0, usage.get("completion_tokens", num_streamed) - num_streamed)
        for delta in last.values():  # sent last, since upstreams report usage after the finish reasons
            prompt_tokens = usage.get("prompt_tokens")
            yield replace(delta, num_tokens=delta.num_tokens + num_missing, prompt_tokens=prompt_tokens)
            num_missing = 0

    async def close(self) -> None:
        await self._client.aclose()

    def _parse(self, data: str, num_choices: int) -> tuple[list[Delta], dict[str, int]]:
        """Return the deltas and the usage of one chunk."""
        try:
            chunk = json.loads(data)
        except ValueError as error:
            raise EngineError(f"the upstream at {self._host} sent something that is not JSON") from error
        if not isinstance(chunk, dict) or chunk.get("error"):
            raise self._refusal("failed", data.encode())
        try:
            deltas = [to_delta(choice) for choice in chunk.get("choices") or ()]
            usage = chunk.get("usage") or {}
            counts = {name: int(usage[name]) for name in ("prompt_tokens", "completion_tokens") if name in usage}
            if all(0 <= delta.choice < num_choices for delta in deltas):
                return deltas, counts
        except (AttributeError, KeyError, TypeError, ValueError):
            pass
        raise EngineError(f"the upstream at {self._host} sent a chunk that makes no sense")

    def _refusal(self, what: str, body: bytes) -> EngineError:
        """The upstream's own message, our key blotted out should it be repeated there."""
        text = body.decode(errors="replace")
        try:
            error = json.loads(text)["error"]
            text = str(error["message"] if isinstance(error, dict) else error)
        except (ValueError, KeyError, TypeError):
            pass
        if self._api_key:
            text = text.replace(self._api_key, "***")
        return EngineError(f"the upstream at {self._host} {what}: {text[:MAX_MESSAGE_CHARS]}")

    def _failure(self, error: httpx.HTTPError) -> EngineError:
        if isinstance(error, httpx.ConnectError):
            return EngineError(f"cannot reach the upstream at {self._host}: connection refused, or no such host")
        if isinstance(error, httpx.TimeoutException):
            return EngineError(f"the upstream at {self._host} did not answer in time")
        return EngineError(f"the connection to the upstream at {self._host} broke: {type(error).__name__}")


def request_body(model: str, request: EngineRequest) -> dict[str, Any]:
    """Return the JSON to send; settings left at their defaults are left out, for upstreams that know few."""
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": sampling.temperature,
        "max_tokens": DEFAULT_MAX_TOKENS if sampling.max_tokens is None else sampling.max_tokens,
    }
    if request.prompt is not None:
        body["prompt"] = request.prompt
    else:
        body["messages"] = [
            {"role": "user" if turn.role == "tool" else turn.role, "content": turn.content}
            for turn in prompt_messages(request)
        ]
    if sampling.logprobs:
        chat = {"logprobs": True, "top_logprobs": sampling.top_logprobs}
        body |= chat if request.prompt is None else {"logprobs": sampling.top_logprobs}
    optional: dict[str, tuple[Any, Any]] = {
        "top_p": (sampling.top_p, 1.0),
        "seed": (sampling.seed, None),
        "stop": (list(sampling.stop), []),
        "n": (sampling.n, 1),
        "presence_penalty": (sampling.presence_penalty, 0.0),
        "frequency_penalty": (sampling.frequency_penalty, 0.0),
        "logit_bias": ({str(token_id): bias for token_id, bias in sampling.logit_bias}, {}),
    }
    return body | {name: value for name, (value, default) in optional.items() if value != default}


def to_delta(choice: dict[str, Any]) -> Delta:
    """Return one choice of a chat or completions chunk as a delta; errors of any kind where it is malformed."""
    text = (choice.get("delta") or {}).get("content") or choice.get("text") or ""
    if not isinstance(text, str):
        raise TypeError(text)
    logprobs = _logprobs(choice.get("logprobs") or {})
    finish_reason = choice.get("finish_reason")
    return Delta(
        choice=int(choice.get("index", 0)),
        text=text,
        num_tokens=len(logprobs) or int(bool(text)),
        logprobs=logprobs,
        finish_reason=_FINISH_REASONS.get(finish_reason, "stop") if finish_reason else None,
    )


def _logprobs(found: dict[str, Any]) -> tuple[TokenLogprob, ...]:
    if "content" in found:
        return tuple(
            TokenLogprob(
                token["token"],
                float(token["logprob"]),
                tuple((top["token"], float(top["logprob"])) for top in token.get("top_logprobs") or ()),
            )
            for token in found["content"] or ()
        )
    tokens = found.get("tokens") or []
    tops = found.get("top_logprobs") or [None] * len(tokens)
    return tuple(
        TokenLogprob(token, float(logprob or 0.0), tuple((top or {}).items()))
        for token, logprob, top in zip(tokens, found.get("token_logprobs") or [], tops, strict=False)
    )


async def _events(response: httpx.Response) -> AsyncIterator[str]:
    """Yield the data of the stream's events until it says that it is done.

    Lines end at line feeds only: `aiter_lines` would also cut at the separators that JSON strings may hold.
    """
    buffered = b""
    async for part in response.aiter_bytes():
        *lines, buffered = (buffered + part).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                data = line.removeprefix(b"data:").strip().decode(errors="replace")
                if data == "[DONE]":
                    return
                yield data


def make_remote_engine(model: str, base_url: str, api_key: str | None) -> RemoteEngine:
    """Make the engine for an upstream, and ask it for the model's context length where it says so (vLLM does).

    An upstream that is not up yet is no error: nothing is then cut to fit, and the upstream judges the length.
    """
    context_len: int | None = None
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        response = httpx.get(f"{base_url.rstrip('/')}/models", headers=headers, timeout=CONNECT_TIMEOUT_S)
        served = {row["id"]: row.get("max_model_len") for row in response.json()["data"]}
        context_len = served.get(model)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError):
        pass
    return RemoteEngine(model, base_url, api_key, context_len=context_len)
