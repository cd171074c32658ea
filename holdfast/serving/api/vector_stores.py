"""`/v1/vector_stores`: the stores themselves, and searching them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from holdfast.serving.api.context import JsonOnly, RequestContext
from holdfast.serving.api.schemas import Deleted, ListObject, ListQuery, make_list
from holdfast.serving.api.vector_store_schemas import (
    RankingOptions,
    RotationObject,
    SearchPage,
    SearchRequest,
    VectorStoreObject,
    VectorStoreRequest,
    VectorStoreUpdate,
    to_chunking,
    to_rotation_object,
    to_search_result,
    to_store_object,
)
from holdfast.serving.collection import NewFile
from holdfast.serving.ranked_tables import RankingOptions as StoreRanking

router = APIRouter(prefix="/v1/vector_stores", tags=["vector stores"], dependencies=[JsonOnly])


@router.post("")
def create_vector_store(body: VectorStoreRequest, context: RequestContext) -> VectorStoreObject:
    """Make a vector store, and attach files to it."""
    collections = context.service.collections
    encryption = body.holdfast.encryption if body.holdfast else None
    store = collections.create(
        context.tenant,
        name=body.name or "",
        description=body.description,
        metadata=body.metadata,
        expires_after_days=body.expires_after.days if body.expires_after else None,
        mode=encryption.mode if encryption else None,
        key_id=encryption.key if encryption else None,
        ranking=encryption.ranking() if encryption else StoreRanking(),
    )
    if body.file_ids:
        chunking = to_chunking(body.chunking_strategy)
        files = [NewFile(file_id, chunking=chunking) for file_id in body.file_ids]
        try:
            collections.attach(context.tenant, store.id, files)
        except Exception:
            collections.delete(context.tenant, store.id)
            raise
        context.service.ingestion.wake()
    return to_store_object(collections.get(context.tenant, store.id))


@router.get("")
def list_vector_stores(context: RequestContext, query: Annotated[ListQuery, Query()]) -> ListObject[VectorStoreObject]:
    """List the vector stores, newest first unless asked otherwise."""
    page = context.service.collections.list(context.tenant, query.cursor())
    return make_list(page, [to_store_object(store) for store in page.items])


@router.get("/{vector_store_id}")
def get_vector_store(vector_store_id: str, context: RequestContext) -> VectorStoreObject:
    """Return one vector store."""
    return to_store_object(context.service.collections.get(context.tenant, vector_store_id))


@router.post("/{vector_store_id}")
def update_vector_store(vector_store_id: str, body: VectorStoreUpdate, context: RequestContext) -> VectorStoreObject:
    """Change a vector store's name, metadata or expiry."""
    is_cleared = {name for name in body.model_fields_set if getattr(body, name) is None}
    store = context.service.collections.update(
        context.tenant,
        vector_store_id,
        name=body.name,
        metadata={} if "metadata" in is_cleared else body.metadata,
        expires_after_days=body.expires_after.days if body.expires_after else None,
        clear_expiry="expires_after" in is_cleared,
    )
    return to_store_object(store)


@router.delete("/{vector_store_id}")
def delete_vector_store(vector_store_id: str, context: RequestContext) -> Deleted:
    """Delete a vector store with its passages and vectors; the uploaded files stay."""
    context.service.collections.delete(context.tenant, vector_store_id)
    return Deleted(id=vector_store_id, object="vector_store.deleted")


@router.post("/{vector_store_id}/rotation")
def start_rotation(vector_store_id: str, context: RequestContext) -> RotationObject:
    """Seal all of a sealed vector store again under fresh keys; searches, ingestion and deletion go on meanwhile."""
    position = context.service.collections.sealed_position(context.tenant, vector_store_id)
    context.service.rotations.start(position)
    return to_rotation_object(vector_store_id, context.service.rotations.describe(position))


@router.get("/{vector_store_id}/rotation")
def get_rotation(vector_store_id: str, context: RequestContext) -> RotationObject:
    """Say how far a rotation is."""
    position = context.service.collections.sealed_position(context.tenant, vector_store_id)
    return to_rotation_object(vector_store_id, context.service.rotations.describe(position))


@router.post("/{vector_store_id}/search")
async def search_vector_store(vector_store_id: str, body: SearchRequest, context: RequestContext) -> SearchPage:
    """Return the passages nearest to the query, or to any of several queries."""
    queries = [body.query] if isinstance(body.query, str) else body.query
    options = body.ranking_options or RankingOptions()
    await context.admit_search()
    sources = await context.service.retrieve(
        context.tenant,
        [vector_store_id],
        queries,
        max_num_results=body.max_num_results,
        filters=body.filters,
        score_threshold=options.score_threshold,
        ranking=options.hybrid_search.to_ranking() if options.hybrid_search else None,
    )
    with_place = body.holdfast is not None and body.holdfast.evidence
    return SearchPage(
        search_query=queries, data=[to_search_result(source, with_place=with_place) for source in sources]
    )
