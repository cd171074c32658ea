"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

Also the sentence for each kind of faulty request. Which HTTP status an error has is decided in `serving/app.py` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel

from holdfast.errors import Conflict, DocumentError, HoldfastError, InvalidInput, NotFound, Overloaded, Unauthenticated

CALLER_ERRORS = (InvalidInput, NotFound, Conflict, DocumentError, Unauthenticated)
MAX_FAULTS = 100
"""faults looked at for the one that is told: a body may hold a million"""
INTERNAL_MESSAGE = "The server had an error while processing your request."


class ErrorObject(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """The body of every response that is not a success."""

    error: ErrorObject


def error_body(error: BaseException) -> dict[str, Any]:
    """Return the response body, or the data of a stream's error event, for `error`.

    The message of anything but a HoldfastError could show internals, so it is replaced.
    """
    if not isinstance(error, HoldfastError):
        return make_error(INTERNAL_MESSAGE, "server_error", code="internal_error")
    if isinstance(error, Overloaded):
        return make_error(error.message, "rate_limit_error", error.param, error.code)
    error_type = "invalid_request_error" if isinstance(error, CALLER_ERRORS) else "server_error"
    return make_error(error.message, error_type, error.param, error.code)


def make_error(
    message: str, error_type: str = "invalid_request_error", param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """Return an error body from its parts."""
    return {"error": {"message": message, "type": error_type, "param": param, "code": code}}


def to_invalid_input(error: RequestValidationError) -> InvalidInput:
    """Return the one fault, out of all that pydantic found, that helps the caller most: the deepest, then the first."""
    faults = [(_param(fault, error.body), fault) for fault in error.errors()[:MAX_FAULTS]]
    param, fault = max(faults, key=lambda pair: pair[0].count(".") + pair[0].count("["))
    return _describe(fault, param or None)


def invalid_json() -> InvalidInput:
    """Return the error for a body that is not JSON."""
    return InvalidInput("We could not parse the JSON body of your request.", code="invalid_json")


def _describe(fault: dict[str, Any], param: str | None) -> InvalidInput:
    kind = fault["type"]
    if kind == "json_invalid":
        return invalid_json()
    if param is None:
        return InvalidInput("The body of this request must be a JSON object.", code="invalid_type")
    if kind == "extra_forbidden":
        return InvalidInput(f"Unknown parameter: '{param}'.", code="unknown_parameter", param=param)
    if kind == "missing":
        return InvalidInput(f"Missing required parameter: '{param}'.", code="missing_required_parameter", param=param)
    reason = str(fault["msg"]).removeprefix("Value error, ").rstrip(".")
    if kind.endswith("_type"):
        return InvalidInput(f"Invalid type for '{param}': {reason}.", code="invalid_type", param=param)
    return InvalidInput(f"Invalid value for '{param}': {reason}.", code="invalid_value", param=param)


def _param(fault: dict[str, Any], body: Any) -> str:
    """Return the place of a fault as `messages[0].content`.

    Pydantic's location also names the union members it tried; those are no part of the request, and left out.
    """
    place, *steps = fault["loc"]
    if place != "body":
        return ".".join(str(step) for step in steps)
    return _walk(steps, body, is_absent=fault["type"] == "missing")


def _walk(steps: Sequence[str | int], node: Any, *, is_absent: bool) -> str:
    path = ""
    for position, step in enumerate(steps):
        if isinstance(node, dict) and (step in node or (is_absent and position == len(steps) - 1)):
            path += f".{step}" if path else str(step)
            node = node.get(step)
        elif isinstance(node, list) and isinstance(step, int) and step < len(node):
            path += f"[{step}]"
            node = node[step]
    return path
