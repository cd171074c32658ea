"""What an answer rests on: the `holdfast` object of a response, and log probabilities in OpenAI's shapes.

OpenAI's citations name a file and a position only. The `holdfast` object adds the proof: for every citation the quote
and where it stands in the file, and every passage that was found, with its score.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from holdfast.serving.answer import Citation, Done, Finished, Searched
from holdfast.serving.engine.document_cache import HITS
from holdfast.serving.engine.protocol import ReadReport, Source, TokenLogprob


def citation_object(citation: Citation, choice: int) -> dict[str, Any]:
    """The full evidence for one citation; `index` is the position in the answer where it belongs."""
    return {
        "choice": choice,
        "index": citation.answer_end,
        "file_id": citation.file_id,
        "filename": citation.filename,
        "page": citation.page,
        "heading": citation.heading,
        "start": citation.start,
        "end": citation.end,
        "quote": citation.quote,
        "answer_start": citation.answer_start,
        "answer_end": citation.answer_end,
    }


def annotation_object(citation: Citation) -> dict[str, Any]:
    """The same citation as OpenAI's `file_citation` annotation."""
    return {
        "type": "file_citation",
        "index": citation.answer_end,
        "file_id": citation.file_id,
        "filename": citation.filename,
    }


def source_object(source: Source) -> dict[str, Any]:
    """One passage that the search found."""
    return {
        "file_id": source.file_id,
        "filename": source.filename,
        "page": source.page,
        "heading": source.heading,
        "start": source.start,
        "end": source.end,
        "score": source.score,
        "text": source.text,
    }


def result_object(source: Source) -> dict[str, Any]:
    """One passage as a result of OpenAI's `file_search_call`; where it stands is under `holdfast`."""
    return {
        "file_id": source.file_id,
        "filename": source.filename,
        "score": source.score,
        "text": source.text,
        "attributes": source.attributes,
        "holdfast": {"page": source.page, "heading": source.heading, "start": source.start, "end": source.end},
    }


def evidence_object(searched: Searched | None, finished: Iterable[Finished], done: Done | None) -> dict[str, Any]:
    """The `holdfast` object of a response; without a search its lists are empty."""
    citations = [citation_object(citation, choice.choice) for choice in finished for citation in choice.citations]
    return {
        "citations": citations,
        "sources": [source_object(source) for source in searched.sources] if searched else [],
        "search_queries": list(searched.queries) if searched else [],
        "num_dropped": searched.num_dropped if searched else 0,
        "num_repeated": searched.num_repeated if searched else 0,
        **(done.extra if done else {}),
        **(report_object(done.report) if done and done.report else {}),
    }


def report_object(report: ReadReport) -> dict[str, Any]:
    """How the passages were read, what their order could change, and what the document cache did."""
    misses = [found for found in report.found if found not in HITS]
    return {
        "mode": report.mode,
        "guarantee": report.guarantee,
        "set_digest": report.set_digest,
        "documents": [{"digest": digest, "tokens": num_tokens} for digest, num_tokens in report.documents],
        "prefilled_tokens": report.prefilled_tokens,
        "cache_hits": len(report.found) - len(misses),
        "cache_misses": {reason: misses.count(reason) for reason in sorted(set(misses))},
        **({"kv": asdict(report.kv)} if report.kv else {}),
    }


def logprob_object(token: TokenLogprob) -> dict[str, Any]:
    """One token with its alternatives, as in chat completions and in a finished Responses text."""
    return {
        "token": token.token,
        "logprob": token.logprob,
        "bytes": list(token.token.encode()),
        "top_logprobs": [
            {"token": text, "logprob": logprob, "bytes": list(text.encode())} for text, logprob in token.top
        ],
    }


def delta_logprob_object(token: TokenLogprob) -> dict[str, Any]:
    """One token as the events of a streamed Responses text have it."""
    return {
        "token": token.token,
        "logprob": token.logprob,
        "top_logprobs": [{"token": text, "logprob": logprob} for text, logprob in token.top],
    }
