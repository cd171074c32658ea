"""Pieces that several resources' requests and responses share.

Requests are strict: an unknown field or a value of the wrong JSON type is an error, as OpenAI's API has it.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from holdfast.serving.collection_search import Ranking
from holdfast.serving.database import Cursor, Page


class ListedModel(BaseModel):
    """Base of objects that listings hold."""

    id: str


T = TypeVar("T", bound=ListedModel)


def is_none(value: Any) -> bool:
    """For `exclude_if`: leave a field that does not apply out of a response."""
    return value is None


class RequestModel(BaseModel):
    """Base of JSON bodies."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class QueryModel(BaseModel):
    """Base of query parameters; these are text, so numbers are read from it."""

    model_config = ConfigDict(extra="forbid")


class HybridSearch(RequestModel):
    """How much nearness and words count where their rankings are fused; a text weight of 0 leaves words out."""

    embedding_weight: Annotated[float, Field(ge=0)]
    text_weight: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def check_weights(self) -> Self:
        if not self.embedding_weight and not self.text_weight:
            raise ValueError("one of embedding_weight and text_weight must be above 0")
        return self

    def to_ranking(self) -> Ranking:
        return Ranking(self.embedding_weight, self.text_weight)


StoreIds = Annotated[list[str], Field(min_length=1, max_length=20)]
"""the vector stores that one answer searches"""

Metadata = Annotated[
    dict[Annotated[str, StringConstraints(max_length=64)], Annotated[str, StringConstraints(max_length=512)]],
    Field(max_length=16, description="Up to 16 pairs: keys of up to 64, values of up to 512 characters."),
]


class ListQuery(QueryModel):
    """Which page of a listing."""

    after: Annotated[str | None, Field(description="The last id of the page before.")] = None
    before: Annotated[str | None, Field(description="The first id of the page after.")] = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"

    def cursor(self) -> Cursor:
        return Cursor(after=self.after, before=self.before, limit=self.limit, order=self.order)


class ListObject(BaseModel, Generic[T]):
    """One page of a listing."""

    object: Literal["list"] = "list"
    data: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(BaseModel):
    """Says that an object is gone."""

    id: str
    object: str
    deleted: Literal[True] = True


def make_list(page: Page[Any], objects: list[T]) -> ListObject[T]:
    """Return the listing of `objects`, which were made from the items of `page`, in order; each has an `id`."""
    ids = [item.id for item in objects]
    return ListObject(
        data=objects, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None, has_more=page.has_more
    )
