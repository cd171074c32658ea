"""`/v1/embeddings`: vectors of texts, as floats or as base64 of little-endian float32."""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from holdfast.errors import InvalidInput
from holdfast.serving.api.context import Context, JsonOnly, RequestContext
from holdfast.serving.api.models import unknown_model
from holdfast.serving.api.schemas import RequestModel

router = APIRouter(prefix="/v1/embeddings", tags=["embeddings"], dependencies=[JsonOnly])

MAX_INPUTS = 2048
MAX_TOTAL_TOKENS = 300_000

Tokens = Annotated[list[int], Field(min_length=1)]
Texts = Annotated[list[str], Field(min_length=1, max_length=MAX_INPUTS)]
TokenLists = Annotated[list[Tokens], Field(min_length=1, max_length=MAX_INPUTS)]


class EmbeddingsRequest(RequestModel):
    """Texts to embed. One longer than the model reads at once is embedded by windows, never cut."""

    input: str | Texts | Tokens | TokenLists
    model: str
    dimensions: Annotated[int | None, Field(ge=1, description="Must be the model's own.")] = None
    encoding_format: Literal["float", "base64"] | None = "float"
    user: str | None = None


class Embedding(BaseModel):
    """The vector of one text."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(BaseModel):
    """Word-pieces of the embedding model."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    """One vector for each text, in order."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage


@router.post("")
async def create_embeddings(body: EmbeddingsRequest, context: RequestContext) -> EmbeddingsResponse:
    """Embed texts into unit-norm vectors."""
    texts = to_texts(body, context)
    await context.admit_search()
    num_tokens = await asyncio.to_thread(count_tokens, context, texts, "input")
    vectors = await asyncio.to_thread(context.service.embedder.encode, texts)
    context.metrics.count_tokens(context.service.embedder.name, prompt=num_tokens)
    encode = to_base64 if body.encoding_format == "base64" else to_floats
    return EmbeddingsResponse(
        data=[Embedding(index=row, embedding=encode(vector)) for row, vector in enumerate(vectors)],
        model=context.service.embedder.name,
        usage=EmbeddingsUsage(prompt_tokens=num_tokens, total_tokens=num_tokens),
    )


def to_texts(body: EmbeddingsRequest, context: Context) -> list[str]:
    """Return the texts to embed; refuse what this model cannot do."""
    embedder = context.service.embedder
    if body.model != embedder.name:
        raise unknown_model(body.model, context)
    if body.dimensions not in (None, embedder.dim):
        raise InvalidInput(
            f"dimensions is {body.dimensions}, but the model '{embedder.name}' has vectors of {embedder.dim} numbers"
            " that cannot be shortened.",
            param="dimensions",
        )
    texts = [body.input] if isinstance(body.input, str) else body.input
    strings = [text for text in texts if isinstance(text, str)]
    if len(strings) < len(texts):
        raise InvalidInput(
            "input holds token ids, and tokens mean different texts to different models: send the text itself.",
            param="input",
        )
    if not all(text.strip() for text in strings):
        raise InvalidInput("input must not be, or contain, an empty string.", param="input")
    return strings


def count_tokens(context: Context, texts: list[str], param: str) -> int:
    """Return the word-pieces in all `texts`, which came as `param`; blocking."""
    num_tokens = sum(context.service.embedder.count_tokens(text) for text in texts)
    if num_tokens > MAX_TOTAL_TOKENS:
        raise InvalidInput(f"{param} has {num_tokens} tokens; one request may embed {MAX_TOTAL_TOKENS}.", param=param)
    return num_tokens


def to_floats(vector: NDArray[np.float32]) -> list[float]:
    """Return the numbers of `vector`."""
    return [float(number) for number in vector]


def to_base64(vector: NDArray[np.float32]) -> str:
    """Return the bytes of `vector` as OpenAI's client reads them."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
