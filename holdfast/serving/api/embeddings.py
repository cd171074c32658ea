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
MAX_INPUT_TOKENS = 8192
MAX_INPUT_CHARS = 200_000
SLICE_TOKENS = 4096

Tokens = Annotated[list[int], Field(min_length=1)]
Texts = Annotated[list[str], Field(min_length=1, max_length=MAX_INPUTS)]
TokenLists = Annotated[list[Tokens], Field(min_length=1, max_length=MAX_INPUTS)]


class EmbeddingsRequest(RequestModel):
    """Texts to embed. One longer than the model reads at once is embedded by windows."""

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
    vectors, num_tokens = await embed(context, texts, "input")
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


async def embed(context: Context, texts: list[str], param: str) -> tuple[NDArray[np.float32], int]:
    """Return the unit-norm vectors (N, dim) of `texts`, which came as `param`, and how many word-pieces they have.

    Works slice by slice, so that little is done for a client that has left.
    """
    await context.admit_search()
    embedder = context.service.embedder
    vectors: list[NDArray[np.float32]] = []
    sizes = await asyncio.to_thread(count_tokens, context, texts, param)
    for first, last in cut_slices(sizes):
        vectors.append(await asyncio.to_thread(embedder.encode, texts[first:last]))
    context.metrics.count_tokens(embedder.name, prompt=sum(sizes))
    return np.concatenate(vectors), sum(sizes)


def count_tokens(context: Context, texts: list[str], param: str) -> list[int]:
    """Return the word-pieces of each text; blocking."""
    if any(len(text) > MAX_INPUT_CHARS for text in texts):
        raise InvalidInput(f"{param} holds a text of more than {MAX_INPUT_CHARS} characters: send parts.", param=param)
    sizes = [context.service.embedder.count_tokens(text) for text in texts]
    if max(sizes) > MAX_INPUT_TOKENS:
        raise InvalidInput(f"{param} holds a text of {max(sizes)} tokens; {MAX_INPUT_TOKENS} are allowed.", param=param)
    if sum(sizes) > MAX_TOTAL_TOKENS:
        raise InvalidInput(f"{param} has {sum(sizes)} tokens in all; {MAX_TOTAL_TOKENS} are allowed.", param=param)
    return sizes


def cut_slices(sizes: list[int]) -> list[tuple[int, int]]:
    """Return the (first, last) rows, `last` excluded, of slices that each take a moment to embed."""
    slices, first, num_tokens = [], 0, 0
    for row, size in enumerate(sizes):
        if num_tokens + size > SLICE_TOKENS and row > first:
            slices.append((first, row))
            first, num_tokens = row, 0
        num_tokens += size
    return [*slices, (first, len(sizes))]


def to_floats(vector: NDArray[np.float32]) -> list[float]:
    """Return the numbers of `vector`."""
    return [float(number) for number in vector]


def to_base64(vector: NDArray[np.float32]) -> str:
    """Return the bytes of `vector` as OpenAI's client reads them."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
