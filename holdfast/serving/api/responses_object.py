"""The Response object at its beginning: every key that clients and the Open Responses schema expect, never left out."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from holdfast.serving.answer import FileSearch
from holdfast.serving.api.answering import new_id
from holdfast.serving.api.responses_request import OtherTool, ResponseBody
from holdfast.serving.config import Settings


def new_response(body: ResponseBody, model: str, settings: Settings, created_at: int) -> dict[str, Any]:
    """Return the response to `body` before anything has happened, with what is in force where nothing was asked."""
    response = {
        "id": new_id("resp_"),
        "object": "response",
        "created_at": created_at,
        "completed_at": None,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "model": model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": body.store is not False,
        "temperature": body.sampling.temperature,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": tool_choice_object(body),
        "tools": [tool_object(search, settings) for search in [body.tool_search] if search],
        "top_logprobs": body.sampling.top_logprobs,
        "top_p": body.sampling.top_p,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "truncation": "disabled",
        "usage": None,
        "metadata": body.metadata or {},
    }
    return response if body.user is None else response | {"user": body.user}


def tool_choice_object(body: ResponseBody) -> str | dict[str, str]:
    if isinstance(body.tool_choice, OtherTool):
        return {"type": body.tool_choice.type}
    return body.tool_choice or "auto"


def tool_object(search: FileSearch, settings: Settings) -> dict[str, Any]:
    """The file_search tool with the limits that are in force."""
    threshold = settings.relevance_threshold if search.score_threshold is None else search.score_threshold
    weights = {"hybrid_search": asdict(search.ranking)} if search.ranking else {}
    return {
        "type": "file_search",
        "vector_store_ids": list(search.vector_store_ids),
        "filters": search.filters,
        "max_num_results": search.max_num_results or settings.num_passages,
        "ranking_options": {"ranker": "auto", "score_threshold": threshold, **weights},
    }
