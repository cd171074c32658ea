"""`prompt_cache_diagnostics` of a response: were its documents in the cache, and if not, why, in OpenAI's words.

OpenAI's reasons name what differs from the response given for comparison. The document cache knows more (a document
was new, evicted or damaged), which the response's own `holdfast.cache_misses` says.
"""

from __future__ import annotations

import asyncio
from typing import Any

from holdfast.errors import NotFound
from holdfast.serving.response_store import ResponseStore


async def find_comparison(store: ResponseStore, tenant: str, response_id: str) -> dict[str, Any] | None:
    """Return the stored response to compare with, or None if there is none."""
    try:
        return await asyncio.to_thread(store.get, tenant, response_id)
    except NotFound:
        return None


def cache_diagnostics(response: dict[str, Any], comparison: dict[str, Any] | None) -> dict[str, Any]:
    """Return the diagnostics of a finished `response`; `comparison` is an earlier one, or None if there is none."""
    if comparison is None:
        return {"type": "comparison_response_not_found"}
    evidence, earlier = response["holdfast"], comparison.get("holdfast") or {}
    if evidence.get("set_digest") is None or earlier.get("set_digest") is None:
        return {"type": "unavailable"}
    if not evidence["cache_misses"]:
        return {"type": "cache_hit"}
    known = {document["digest"] for document in earlier["documents"]}
    return {
        "type": "cache_miss",
        "reason": "model_changed" if comparison["model"] != response["model"] else "input_changed",
        "cache_missed_tokens": response["usage"]["input_tokens_details"]["cache_write_tokens"],
        "comparison_reusable_tokens": sum(
            document["tokens"] for document in evidence["documents"] if document["digest"] in known
        ),
    }
