"""`/v1/files`: upload, list, look at, download and delete files."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from holdfast.serving.api.context import RequestContext
from holdfast.serving.api.schemas import Deleted, ListedModel, ListObject, ListQuery, is_none, make_list
from holdfast.serving.api.uploads import FILE_FIELD, receive_upload
from holdfast.serving.database import storage_errors
from holdfast.serving.files import FileRecord

router = APIRouter(prefix="/v1/files", tags=["files"])

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]


class FileExpiry(BaseModel):
    """When an upload is removed by itself."""

    model_config = ConfigDict(extra="forbid")

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=2_592_000)]


class UploadFields(BaseModel):
    """The fields beside the file."""

    model_config = ConfigDict(extra="forbid")

    purpose: Purpose
    expires_after: FileExpiry | None = None


class FileObject(ListedModel):
    """An uploaded file."""

    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: Annotated[int | None, Field(exclude_if=is_none)] = None
    filename: str
    purpose: Purpose
    status: Literal["uploaded", "processed", "error"] = "processed"


class FilesQuery(ListQuery):
    """Which files to list."""

    limit: Annotated[int, Field(ge=1, le=10_000)] = 10_000
    purpose: Purpose | None = None


UPLOAD_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file", "purpose"],
                "additionalProperties": False,
                "properties": {
                    "file": {"type": "string", "format": "binary"},
                    "purpose": {"type": "string", "enum": list(Purpose.__args__)},  # type: ignore[attr-defined]
                    "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                    "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2_592_000},
                },
            }
        }
    },
}


@router.post("", openapi_extra={"requestBody": UPLOAD_BODY})
async def create_file(request: Request, context: RequestContext) -> FileObject:
    """Upload a file. The same bytes uploaded again take no more room."""
    files = context.service.files
    path = await asyncio.to_thread(files.upload_path)
    try:
        writer = await asyncio.to_thread(files.open_upload, context.tenant, path)
        with storage_errors(), closing(writer):
            upload = await receive_upload(request, writer, context.service.settings.max_file_bytes)
        fields = parse_fields(upload.fields)
        expires_after_s = fields.expires_after.seconds if fields.expires_after else None
        record = await asyncio.to_thread(
            files.create,
            context.tenant,
            upload.filename,
            fields.purpose,
            path,
            writer=writer,
            expires_after_s=expires_after_s,
        )
    finally:
        await asyncio.to_thread(path.unlink, missing_ok=True)
    return to_file_object(record)


@router.get("")
def list_files(context: RequestContext, query: Annotated[FilesQuery, Query()]) -> ListObject[FileObject]:
    """List the files, newest first unless asked otherwise."""
    page = context.service.files.list(context.tenant, query.cursor(), purpose=query.purpose)
    return make_list(page, [to_file_object(record) for record in page.items])


@router.get("/{file_id}")
def get_file(file_id: str, context: RequestContext) -> FileObject:
    """Return one file's description."""
    return to_file_object(context.service.files.get(context.tenant, file_id))


@router.delete("/{file_id}")
def delete_file(file_id: str, context: RequestContext) -> Deleted:
    """Delete a file, and its passages and vectors from every vector store."""
    context.service.files.delete(context.tenant, file_id)
    return Deleted(id=file_id, object="file")


@router.get(
    "/{file_id}/content",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}},
)
def get_file_content(file_id: str, context: RequestContext) -> Response:
    """Return the bytes that were uploaded."""
    record = context.service.files.get(context.tenant, file_id)
    if record.is_sealed:
        headers = {
            "x-content-type-options": "nosniff",
            "content-length": str(record.num_bytes),
            "content-disposition": f"attachment; filename*=utf-8''{quote(record.filename, safe='')}",
        }
        data = context.service.files.read(context.tenant, file_id)
        return StreamingResponse(data, media_type="application/octet-stream", headers=headers)
    path = context.service.files.content_path(context.tenant, file_id)
    headers = {"x-content-type-options": "nosniff"}
    return FileResponse(path, media_type="application/octet-stream", filename=record.filename, headers=headers)


def parse_fields(fields: dict[str, str]) -> UploadFields:
    """Return the checked fields; `expires_after[seconds]` is how a form spells a nested field."""
    nested: dict[str, Any] = {}
    for name, value in fields.items():
        outer, bracket, inner = name.partition("[")
        if bracket and inner.endswith("]") and isinstance(nested.setdefault(outer, {}), dict):
            nested[outer][inner[:-1]] = value
        else:
            nested[name] = value
    try:
        return UploadFields.model_validate(nested)
    except ValidationError as error:
        faults = [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors()]
        raise RequestValidationError(faults, body={**nested, FILE_FIELD: ""}) from error


def to_file_object(record: FileRecord) -> FileObject:
    """Return `record` as the API shows it."""
    return FileObject.model_validate(
        {
            "id": record.id,
            "bytes": record.num_bytes,
            "created_at": record.created_at,
            "expires_at": record.expires_at,
            "filename": record.filename,
            "purpose": record.purpose,
        }
    )
