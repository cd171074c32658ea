"""Whether the server lives and is ready, its version, and its metrics; none of these needs a key."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

import holdfast

router = APIRouter(tags=["operations"])


class Health(BaseModel):
    """All is well: whatever is not answers with an error status."""

    status: Literal["ok"] = "ok"


class Version(BaseModel):
    """The version of Holdfast."""

    version: str


@router.get("/health/live")
async def get_liveness() -> Health:
    """Answer if the process runs at all."""
    return Health()


@router.get("/health")
@router.get("/health/ready")
def get_readiness(request: Request) -> Health:
    """Answer if requests can be served: the data directory is open and the models are loaded."""
    request.app.state.service.database.read().execute("SELECT 1")
    return Health()


@router.get("/version")
async def get_version() -> Version:
    """Return the version of Holdfast."""
    return Version(version=holdfast.__version__)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def get_metrics(request: Request) -> Response:
    """Return the metrics in Prometheus's text format."""
    service, metrics = request.app.state.service, request.app.state.metrics
    metrics.ingestion_queue.set(service.ingestion.count_queued())
    [num_passages] = service.database.read().execute("SELECT COALESCE(SUM(num_passages), 0) FROM documents").fetchone()
    metrics.passages.set(num_passages)
    return Response(metrics.render(), media_type=CONTENT_TYPE_LATEST)
