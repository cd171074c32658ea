"""Input items of the Responses API: what may be sent, the turns of conversation they stand for, and how they are kept.

Text is all that is read. Earlier `file_search_call` items may be sent back; what was found then is not part of the
conversation, since every answer searches anew.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from holdfast.errors import InvalidInput
from holdfast.serving.api.answering import new_id
from holdfast.serving.api.schemas import RequestModel
from holdfast.serving.engine.protocol import Message


class InputText(RequestModel):
    """A piece of what the user or the developer says."""

    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: dict[str, Any] | None = None


class OutputText(RequestModel):
    """A piece of what the assistant said."""

    type: Literal["output_text"]
    text: str
    annotations: list[dict[str, Any]] | None = None
    logprobs: list[dict[str, Any]] | None = None


class Refusal(RequestModel):
    """What the assistant said instead of an answer."""

    type: Literal["refusal"]
    refusal: str


class MediaPart(RequestModel, extra="allow"):
    """Anything but text; known, so that the refusal can say so."""

    type: Literal["input_image", "input_file", "input_audio"]


Part = Annotated[InputText | OutputText | Refusal | MediaPart, Field(discriminator="type")]


class MessageItem(RequestModel):
    """One turn, in any of the forms that OpenAI accepts."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Part]
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    phase: str | None = None


class FileSearchCallItem(RequestModel):
    """An earlier search."""

    type: Literal["file_search_call"]
    id: str
    queries: list[str]
    status: Literal["in_progress", "searching", "completed", "incomplete", "failed"]
    results: list[dict[str, Any]] | None = None


class OtherItem(RequestModel, extra="allow"):
    """Any other kind of item; refused with its name."""

    type: str


def kind_of(item: Any) -> str:
    """Name the kind of an input item; a message need not say that it is one."""
    kind = item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", "message")
    return kind if kind in ("message", "file_search_call") else "other"


InputItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FileSearchCallItem, Tag("file_search_call")]
    | Annotated[OtherItem, Tag("other")],
    Discriminator(kind_of),
]


def to_stored_items(given: str | list[InputItem]) -> list[dict[str, Any]]:
    """Return the input as OpenAI lists it: items with ids, messages with content parts.

    Raises:
        InvalidInput: an item or part that is not text.
    """
    items = [MessageItem(role="user", content=given)] if isinstance(given, str) else given
    return [stored_item(item, f"input[{row}]") for row, item in enumerate(items)]


def stored_item(item: MessageItem | FileSearchCallItem | OtherItem, param: str) -> dict[str, Any]:
    if isinstance(item, FileSearchCallItem):
        return item.model_dump()
    if isinstance(item, OtherItem):
        raise InvalidInput(
            f"{param} is of type {item.type!r}; this server takes messages and file_search_call items.",
            code="unsupported_value",
            param=f"{param}.type",
        )
    return {
        "id": item.id or new_id("msg_"),
        "type": "message",
        "role": item.role,
        "status": item.status or "completed",
        "content": stored_content(item, param),
    }


def stored_content(item: MessageItem, param: str) -> list[dict[str, Any]]:
    if isinstance(item.content, str):
        if item.role == "assistant":
            return [output_text(item.content)]
        return [{"type": "input_text", "text": item.content}]
    parts = []
    for row, part in enumerate(item.content):
        if isinstance(part, MediaPart):
            raise InvalidInput(
                f"{param}.content[{row}] is of type {part.type!r}; this server reads text only. Upload files to a"
                " vector store instead.",
                code="unsupported_value",
                param=f"{param}.content[{row}].type",
            )
        if isinstance(part, Refusal):
            parts.append({"type": "refusal", "refusal": part.refusal})
        elif item.role == "assistant":
            parts.append(output_text(part.text, getattr(part, "annotations", None), getattr(part, "logprobs", None)))
        else:
            parts.append({"type": "input_text", "text": part.text})
    return parts


def output_text(
    text: str, annotations: list[dict[str, Any]] | None = None, logprobs: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """A piece of the assistant's text, as OpenAI shows it."""
    return {"type": "output_text", "text": text, "annotations": annotations or [], "logprobs": logprobs or []}


def to_messages(items: list[dict[str, Any]]) -> list[Message]:
    """Return the turns of conversation among stored items."""
    return [
        Message(item["role"], "\n".join(part.get("text") or part.get("refusal") or "" for part in item["content"]))
        for item in items
        if item["type"] == "message"
    ]
