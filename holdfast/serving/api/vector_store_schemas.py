"""What the routes of vector stores take and give, and how stored objects become it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, StringConstraints, model_validator

from holdfast.retrieval.chunks import Chunking
from holdfast.serving.api.schemas import HybridSearch, ListedModel, ListQuery, Metadata, RequestModel, is_none
from holdfast.serving.collection import FileBatch, NewFile, StoredFile, VectorStore
from holdfast.serving.engine.protocol import Source
from holdfast.serving.ranked_rows import METRICS
from holdfast.serving.ranked_tables import DEFAULT_BUDGET
from holdfast.serving.ranked_tables import RankingOptions as StoreRanking
from holdfast.serving.rotations import Rotation
from holdfast.serving.vector_store import Mode

MAX_FILES = 500
MAX_BATCH_FILES = 2000
MAX_QUERIES = 32

Text = Annotated[str, StringConstraints(min_length=1)]
Attributes = Annotated[
    dict[
        Annotated[str, StringConstraints(max_length=64)],
        Annotated[str, StringConstraints(max_length=512)] | bool | float,
    ],
    Field(max_length=16, description="Up to 16 pairs: keys of up to 64, texts of up to 512 characters."),
]


class ExpiresAfter(RequestModel):
    """When a vector store is removed by itself."""

    anchor: Literal["last_active_at"]
    days: Annotated[int, Field(ge=1, le=365)]


class StaticChunking(RequestModel):
    """Lengths of passages in word-pieces of the embedding model."""

    max_chunk_size_tokens: Annotated[int, Field(ge=100, le=4096)]
    chunk_overlap_tokens: Annotated[int, Field(ge=0, description="At most half of the chunk size.")]

    @model_validator(mode="after")
    def check_overlap(self) -> Self:
        if 2 * self.chunk_overlap_tokens > self.max_chunk_size_tokens:
            raise ValueError("chunk_overlap_tokens must not exceed half of max_chunk_size_tokens")
        return self


class AutoStrategy(RequestModel):
    """The server's own choice: passages of up to 200 word-pieces, without overlap."""

    type: Literal["auto"]


class StaticStrategy(RequestModel):
    """Passages of a chosen length; those longer than the embedding model reads at once are embedded by windows."""

    type: Literal["static"]
    static: StaticChunking


ChunkingStrategy = Annotated[AutoStrategy | StaticStrategy, Field(discriminator="type")]


class Encryption(RequestModel):
    """How a vector store's contents are kept, for as long as it lives."""

    mode: Annotated[
        Mode,
        Field(
            description="`plain`: readable in the data directory. `sealed`: encrypted, and ranked here. `asym`, `sap`, "
            "`codes`, `caprise`: encrypted, and ranked by the store, which learns from it: see docs/privacy.md."
        ),
    ]
    key: Annotated[
        Text | None,
        Field(
            exclude_if=is_none,
            description="Public name of the operator's key that wraps the tenant's keys; the request is refused if it "
            "is another's turn. Root rotation may change it.",
        ),
    ] = None


class EncryptionRequest(Encryption):
    """How a new vector store shall be kept."""

    query_noise: Annotated[
        float | None,
        Field(gt=0, le=1, exclude_if=is_none, description="Deviation of the noise on questions that the store ranks."),
    ] = None
    query_budget: Annotated[
        float | None,
        Field(gt=0, exclude_if=is_none, description="mu the noise may let the store learn; then the gateway ranks."),
    ] = None
    unsafe: Annotated[
        bool | None, Field(exclude_if=is_none, description="`caprise` hides next to nothing: true says you know.")
    ] = None

    @model_validator(mode="after")
    def check_options(self) -> Self:
        if self.mode == "caprise" and not self.unsafe:
            raise ValueError("caprise hides next to nothing and is there to be measured: say `unsafe: true`")
        if self.query_noise is not None and self.mode not in METRICS:
            raise ValueError(f"query_noise is for the modes in which the store ranks, not for {self.mode}")
        if self.query_budget is not None and self.query_noise is None:
            raise ValueError("query_budget is for questions with query_noise")
        return self

    def ranking(self) -> StoreRanking:
        """Return the options of the modes in which the store ranks."""
        return StoreRanking(self.query_noise, self.query_budget or DEFAULT_BUDGET)


class VectorStoreExtension(RequestModel):
    """Holdfast's own options."""

    encryption: EncryptionRequest | None = None


class VectorStoreRequest(RequestModel):
    """A new vector store."""

    name: Annotated[str, Field(max_length=256)] | None = None
    description: Annotated[str, Field(max_length=512)] | None = None
    file_ids: Annotated[list[Text], Field(max_length=MAX_FILES)] | None = None
    metadata: Metadata | None = None
    expires_after: ExpiresAfter | None = None
    chunking_strategy: ChunkingStrategy | None = None
    holdfast: VectorStoreExtension | None = None


class VectorStoreUpdate(RequestModel):
    """What to change; a field that is left out stays, `null` clears `metadata` and `expires_after`."""

    name: Annotated[str, Field(max_length=256)] | None = None
    metadata: Metadata | None = None
    expires_after: ExpiresAfter | None = None


class VectorStoreFileRequest(RequestModel):
    """A file to attach."""

    file_id: Text
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None


class FileBatchRequest(RequestModel):
    """Files to attach: `file_ids`, which share attributes and chunking, or `files`, each with its own."""

    file_ids: Annotated[list[Text], Field(min_length=1, max_length=MAX_BATCH_FILES)] | None = None
    files: Annotated[list[VectorStoreFileRequest], Field(min_length=1, max_length=MAX_BATCH_FILES)] | None = None
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None

    @model_validator(mode="after")
    def check_files(self) -> Self:
        if (self.file_ids is None) == (self.files is None):
            raise ValueError("give either file_ids or files")
        if self.files is not None and (self.attributes is not None or self.chunking_strategy is not None):
            raise ValueError("with files, attributes and chunking_strategy belong to each file")
        return self


class FileAttributesRequest(RequestModel):
    """All attributes of the file from now on; `null` takes them away."""

    attributes: Attributes | None


class RankingOptions(RequestModel):
    """`ranker` is accepted for compatibility: there is one, exact and deterministic; `hybrid_search` weighs it."""

    ranker: Literal["none", "auto", "default-2024-11-15"] = "auto"
    score_threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    hybrid_search: HybridSearch | None = None


class SearchExtension(RequestModel):
    """Holdfast's own options."""

    evidence: Annotated[bool, Field(description="Say where in its file each passage stands.")] = False


class SearchRequest(RequestModel):
    """What to search for. `rewrite_query` is accepted; queries are searched as they are."""

    query: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_QUERIES)]
    filters: Annotated[dict[str, Any] | None, Field(description="OpenAI's comparison or compound filter.")] = None
    max_num_results: Annotated[int, Field(ge=1, le=50)] = 10
    ranking_options: RankingOptions | None = None
    rewrite_query: bool = False
    holdfast: SearchExtension | None = None


class StoreFilesQuery(ListQuery):
    """Which files of a vector store to list."""

    filter: Literal["in_progress", "completed", "failed", "cancelled"] | None = None


class FileCountsObject(BaseModel):
    """How far ingestion is."""

    in_progress: int
    completed: int
    failed: int
    cancelled: int
    total: int


class VectorStoreDetails(BaseModel):
    """What OpenAI's object has no field for."""

    encryption: Encryption
    codes: Annotated[str | None, Field(exclude_if=is_none)] = None
    """Which codes its passages have, and what was measured of them."""


class VectorStoreObject(ListedModel):
    """A vector store."""

    object: Literal["vector_store"] = "vector_store"
    created_at: int
    name: str
    description: Annotated[str | None, Field(exclude_if=is_none)] = None
    usage_bytes: int
    file_counts: FileCountsObject
    status: Literal["expired", "in_progress", "completed"]
    expires_after: Annotated[ExpiresAfter | None, Field(exclude_if=is_none)] = None
    expires_at: int | None
    last_active_at: int
    metadata: dict[str, str]
    holdfast: VectorStoreDetails


class FileError(BaseModel):
    """Why a file gives no passages; `holdfast.error_code` says it more precisely."""

    code: Literal["server_error", "unsupported_file", "invalid_file"]
    message: str


class FileExtension(BaseModel):
    """What OpenAI's object has no field for."""

    error_code: str | None
    num_passages: int


class VectorStoreFileObject(ListedModel):
    """A file in a vector store."""

    object: Literal["vector_store.file"] = "vector_store.file"
    created_at: int
    vector_store_id: str
    status: Literal["in_progress", "completed", "cancelled", "failed"]
    usage_bytes: int
    last_error: FileError | None
    attributes: dict[str, str | bool | float]
    chunking_strategy: StaticStrategy
    holdfast: FileExtension


class FileBatchObject(BaseModel):
    """Files that were attached together."""

    id: str
    object: Literal["vector_store.files_batch"] = "vector_store.files_batch"
    created_at: int
    vector_store_id: str
    status: Literal["in_progress", "completed", "cancelled", "failed"]
    file_counts: FileCountsObject


class TextContent(BaseModel):
    """A piece of text."""

    type: Literal["text"] = "text"
    text: str


class Place(BaseModel):
    """Where a passage stands: `file_text[start:end]` is its text."""

    page: int | None
    heading: str | None
    start: int
    end: int


class SearchResult(BaseModel):
    """One passage."""

    file_id: str
    filename: str
    score: float
    attributes: dict[str, Any]
    content: list[TextContent]
    holdfast: Annotated[Place | None, Field(exclude_if=is_none)] = None


class SearchPage(BaseModel):
    """The passages found, best first; there is one page."""

    object: Literal["vector_store.search_results.page"] = "vector_store.search_results.page"
    search_query: list[str]
    data: list[SearchResult]
    has_more: Literal[False] = False
    next_page: None = None


class FileContentPage(BaseModel):
    """The text that was read from a file, whole."""

    object: Literal["vector_store.file_content.page"] = "vector_store.file_content.page"
    data: list[TextContent]
    has_more: Literal[False] = False
    next_page: None = None


def to_chunking(strategy: AutoStrategy | StaticStrategy | None) -> Chunking | None:
    """Return the chosen chunking, or None for the server's own."""
    if not isinstance(strategy, StaticStrategy):
        return None
    return Chunking(strategy.static.max_chunk_size_tokens, strategy.static.chunk_overlap_tokens)


def to_new_files(body: FileBatchRequest) -> list[NewFile]:
    """Return the files of a batch."""
    if body.files is not None:
        return [NewFile(file.file_id, file.attributes, to_chunking(file.chunking_strategy)) for file in body.files]
    chunking = to_chunking(body.chunking_strategy)
    return [NewFile(file_id, body.attributes, chunking) for file_id in body.file_ids or ()]


def to_store_object(store: VectorStore) -> VectorStoreObject:
    """Return `store` as the API shows it."""
    days = store.expires_after_days
    return VectorStoreObject(
        id=store.id,
        created_at=store.created_at,
        name=store.name,
        description=store.description,
        usage_bytes=store.usage_bytes,
        file_counts=FileCountsObject.model_validate(store.file_counts, from_attributes=True),
        status=store.status,
        expires_after=None if days is None else ExpiresAfter(anchor="last_active_at", days=days),
        expires_at=store.expires_at,
        last_active_at=store.last_active_at,
        metadata=store.metadata,
        holdfast=VectorStoreDetails(encryption=Encryption(mode=store.mode, key=store.key_id), codes=store.codes),
    )


class RotationObject(BaseModel):
    """How far the rotation of a sealed vector store is."""

    object: Literal["vector_store.rotation"] = "vector_store.rotation"
    vector_store_id: str
    status: Literal["in_progress", "completed", "failed"]
    num_left: int | None
    """Documents and parts of the index still to be sealed again."""
    error: str | None


def to_rotation_object(vector_store_id: str, rotation: Rotation) -> RotationObject:
    """Return `rotation` as the API shows it."""
    return RotationObject(
        vector_store_id=vector_store_id, status=rotation.status, num_left=rotation.num_left, error=rotation.error
    )


def to_store_file_object(file: StoredFile) -> VectorStoreFileObject:
    """Return `file` as the API shows it."""
    return VectorStoreFileObject(
        id=file.file_id,
        created_at=file.created_at,
        vector_store_id=file.vector_store_id,
        status=file.status,
        usage_bytes=file.usage_bytes,
        last_error=to_file_error(file),
        attributes=file.attributes,
        chunking_strategy=StaticStrategy.model_construct(
            type="static",
            static=StaticChunking.model_construct(
                max_chunk_size_tokens=file.chunking.max_tokens, chunk_overlap_tokens=file.chunking.overlap_tokens
            ),
        ),
        holdfast=FileExtension(error_code=file.error_code, num_passages=file.num_passages),
    )


def to_file_error(file: StoredFile) -> FileError | None:
    """Return why the file failed, in OpenAI's three codes."""
    if file.error_code is None:
        return None
    message = file.error_message or file.error_code
    if file.error_code == "server_error":
        return FileError(code="server_error", message=message)
    is_unsupported = file.error_code in ("unsupported_format", "legacy_format")
    return FileError(code="unsupported_file" if is_unsupported else "invalid_file", message=message)


def to_batch_object(batch: FileBatch) -> FileBatchObject:
    """Return `batch` as the API shows it."""
    counts = batch.file_counts
    status: Literal["in_progress", "completed", "cancelled", "failed"] = "completed"
    if batch.is_cancelled:
        status = "cancelled"
    elif counts.in_progress:
        status = "in_progress"
    elif counts.total and counts.failed == counts.total:
        status = "failed"
    return FileBatchObject(
        id=batch.id,
        created_at=batch.created_at,
        vector_store_id=batch.vector_store_id,
        status=status,
        file_counts=FileCountsObject.model_validate(counts, from_attributes=True),
    )


def to_search_result(source: Source, *, with_place: bool) -> SearchResult:
    """Return one passage as the API shows it."""
    return SearchResult(
        file_id=source.file_id,
        filename=source.filename,
        score=source.score,
        attributes=source.attributes,
        content=[TextContent(text=source.text)],
        holdfast=Place.model_validate(source, from_attributes=True) if with_place else None,
    )
