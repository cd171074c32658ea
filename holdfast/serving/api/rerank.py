"""`/v1/rerank`: order given documents by how near they are to a query, in the shape that Jina and vLLM share."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from holdfast.errors import InvalidInput
from holdfast.serving.api.context import JsonOnly, RequestContext
from holdfast.serving.api.embeddings import MAX_INPUTS, embed
from holdfast.serving.api.models import unknown_model
from holdfast.serving.api.schemas import RequestModel, is_none

router = APIRouter(tags=["rerank"], dependencies=[JsonOnly])


class RerankDocument(RequestModel):
    """A document's text."""

    text: str


class RerankRequest(RequestModel):
    """A query, and what to order by it."""

    query: Annotated[str, Field(min_length=1)]
    documents: Annotated[list[str | RerankDocument], Field(min_length=1, max_length=MAX_INPUTS)]
    model: Annotated[str | None, Field(description="The embedding model; it may be left out.")] = None
    top_n: Annotated[int | None, Field(ge=1, description="How many results to return; all of them by default.")] = None
    return_documents: bool = True


class RerankResult(BaseModel):
    """One document's score."""

    index: Annotated[int, Field(description="The document's place in the request.")]
    relevance_score: Annotated[float, Field(ge=0, le=1, description="Cosine of the embeddings; below 0 counts as 0.")]
    document: Annotated[RerankDocument | None, Field(exclude_if=is_none)] = None


class RerankUsage(BaseModel):
    """Word-pieces of the embedding model."""

    total_tokens: int


class RerankResponse(BaseModel):
    """The documents, best first; equal scores stay in the order of the request."""

    id: str
    model: str
    usage: RerankUsage
    results: list[RerankResult]


@router.post("/v1/rerank")
@router.post("/rerank")
async def rerank(body: RerankRequest, context: RequestContext) -> RerankResponse:
    """Order documents by the similarity of their embeddings to the query's."""
    embedder = context.service.embedder
    if body.model not in (None, embedder.name):
        raise unknown_model(str(body.model), context)
    if not body.query.strip():
        raise InvalidInput("query must not be blank.", param="query")
    texts = [document if isinstance(document, str) else document.text for document in body.documents]
    vectors, num_tokens = await embed(context, [body.query, *texts], "documents")
    scores = np.clip(vectors[1:] @ vectors[0], 0.0, 1.0)
    rows = order_by_score(scores)[: body.top_n]
    return RerankResponse(
        id=context.request_id,
        model=embedder.name,
        usage=RerankUsage(total_tokens=num_tokens),
        results=[
            RerankResult(
                index=row,
                relevance_score=float(scores[row]),
                document=RerankDocument(text=texts[row]) if body.return_documents else None,
            )
            for row in rows
        ],
    )


def order_by_score(scores: NDArray[np.float32]) -> list[int]:
    """Return the rows of `scores`, best first, equal ones in their order."""
    return [int(row) for row in np.argsort(-scores, kind="stable")]
