"""`/v1/models`: the answering engine and the embedding model."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from holdfast.errors import NotFound
from holdfast.serving.api.context import Context, RequestContext

router = APIRouter(prefix="/v1/models", tags=["models"])


class Model(BaseModel):
    """A model that can be named in requests."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "holdfast"


class ModelList(BaseModel):
    """All models, on one page."""

    object: Literal["list"] = "list"
    data: list[Model]


@router.get("")
def list_models(request: Request, context: RequestContext) -> ModelList:
    """List the models: the one that answers, then the one that embeds."""
    names = (context.service.engine.name, context.service.embedder.name)
    return ModelList(data=[Model(id=name, created=request.app.state.started_at) for name in names])


@router.get("/{model:path}")
def get_model(model: str, request: Request, context: RequestContext) -> Model:
    """Return one model."""
    for known in list_models(request, context).data:
        if known.id == model:
            return known
    raise unknown_model(model, context)


def unknown_model(model: str, context: Context) -> NotFound:
    """Return the error for a model that this server does not have."""
    names = f"'{context.service.engine.name}' (answers) and '{context.service.embedder.name}' (embeddings)"
    is_here = model in (context.service.engine.name, context.service.embedder.name)
    fault = "cannot do this" if is_here else "does not exist"
    return NotFound(
        f"The model '{model}' {fault}: this server has {names}.", code="model_not_found", param="model"
    )
