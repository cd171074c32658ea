"""`/v1/vector_stores/{id}/files` and `/file_batches`: what a vector store holds, and how far its ingestion is."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from holdfast.serving.api.context import JsonOnly, RequestContext
from holdfast.serving.api.schemas import Deleted, ListObject, make_list
from holdfast.serving.api.vector_store_schemas import (
    FileAttributesRequest,
    FileBatchObject,
    FileBatchRequest,
    FileContentPage,
    StoreFilesQuery,
    TextContent,
    VectorStoreFileObject,
    VectorStoreFileRequest,
    to_batch_object,
    to_chunking,
    to_new_files,
    to_store_file_object,
)
from holdfast.serving.collection import NewFile

router = APIRouter(prefix="/v1/vector_stores/{vector_store_id}", tags=["vector store files"], dependencies=[JsonOnly])


@router.post("/files")
def create_vector_store_file(
    vector_store_id: str, body: VectorStoreFileRequest, context: RequestContext
) -> VectorStoreFileObject:
    """Attach a file; it is ingested in the background."""
    file = NewFile(body.file_id, body.attributes, to_chunking(body.chunking_strategy))
    stored, _ = context.service.collections.attach(context.tenant, vector_store_id, [file])
    context.service.ingestion.wake()
    return to_store_file_object(stored[0])


@router.get("/files")
def list_vector_store_files(
    vector_store_id: str, context: RequestContext, query: Annotated[StoreFilesQuery, Query()]
) -> ListObject[VectorStoreFileObject]:
    """List the files of a vector store."""
    page = context.service.collections.list_files(context.tenant, vector_store_id, query.cursor(), status=query.filter)
    return make_list(page, [to_store_file_object(file) for file in page.items])


@router.get("/files/{file_id}")
def get_vector_store_file(vector_store_id: str, file_id: str, context: RequestContext) -> VectorStoreFileObject:
    """Return one file of a vector store."""
    return to_store_file_object(context.service.collections.get_file(context.tenant, vector_store_id, file_id))


@router.post("/files/{file_id}")
def update_vector_store_file(
    vector_store_id: str, file_id: str, body: FileAttributesRequest, context: RequestContext
) -> VectorStoreFileObject:
    """Replace a file's attributes."""
    file = context.service.collections.update_file(context.tenant, vector_store_id, file_id, body.attributes or {})
    return to_store_file_object(file)


@router.delete("/files/{file_id}")
def delete_vector_store_file(vector_store_id: str, file_id: str, context: RequestContext) -> Deleted:
    """Take a file out of a vector store; the upload itself stays."""
    context.service.collections.detach(context.tenant, vector_store_id, file_id)
    return Deleted(id=file_id, object="vector_store.file.deleted")


@router.get("/files/{file_id}/content")
def get_vector_store_file_content(vector_store_id: str, file_id: str, context: RequestContext) -> FileContentPage:
    """Return the text that was read from a file, into which all offsets point."""
    text = context.service.collections.file_text(context.tenant, vector_store_id, file_id)
    return FileContentPage(data=[TextContent(text=text)])


@router.post("/file_batches")
def create_file_batch(vector_store_id: str, body: FileBatchRequest, context: RequestContext) -> FileBatchObject:
    """Attach many files at once, all or none."""
    _, batch = context.service.collections.attach(context.tenant, vector_store_id, to_new_files(body), batch=True)
    assert batch is not None
    context.service.ingestion.wake()
    return to_batch_object(batch)


@router.get("/file_batches/{batch_id}")
def get_file_batch(vector_store_id: str, batch_id: str, context: RequestContext) -> FileBatchObject:
    """Return one batch."""
    return to_batch_object(context.service.collections.get_batch(context.tenant, vector_store_id, batch_id))


@router.post("/file_batches/{batch_id}/cancel")
def cancel_file_batch(vector_store_id: str, batch_id: str, context: RequestContext) -> FileBatchObject:
    """Stop ingesting the files of a batch that are not done yet."""
    return to_batch_object(context.service.collections.cancel_batch(context.tenant, vector_store_id, batch_id))


@router.get("/file_batches/{batch_id}/files")
def list_file_batch_files(
    vector_store_id: str, batch_id: str, context: RequestContext, query: Annotated[StoreFilesQuery, Query()]
) -> ListObject[VectorStoreFileObject]:
    """List the files of a batch."""
    page = context.service.collections.list_files(
        context.tenant, vector_store_id, query.cursor(), status=query.filter, batch_id=batch_id
    )
    return make_list(page, [to_store_file_object(file) for file in page.items])
