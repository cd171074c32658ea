"""A small OpenAI-compatible server over the tiny Llama: `python -m tests.serving.engine.upstream FOLDER PORT`.

`GET /running` tells how many streams are open, so that a test can see one being closed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from holdfast.serving.engine.hf import HfEngine, make_hf_engine
from holdfast.serving.engine.protocol import Delta, EngineRequest, Message, Sampling

API_KEY = "sk-upstream-7d1f"


def make_app(engine: HfEngine) -> FastAPI:
    app = FastAPI()
    num_running = 0

    @app.get("/running")
    def running() -> int:
        return num_running

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "tiny", "max_model_len": engine.context_len}]}

    @app.post("/v1/chat/completions")
    async def chat(http: Request) -> Response:
        if http.headers.get("authorization") != f"Bearer {API_KEY}":
            message = f"wrong key: {http.headers.get('authorization')}"
            return JSONResponse({"error": {"message": message, "type": "x"}}, 401)
        body = await http.json()
        if body["model"] != "tiny":
            return JSONResponse({"error": {"message": f"The model `{body['model']}` does not exist."}}, 404)
        messages = tuple(Message(turn["role"], turn["content"]) for turn in body["messages"])
        return StreamingResponse(
            events(EngineRequest(messages, "", (), sampling(body))), media_type="text/event-stream"
        )

    @app.post("/v1/completions")
    async def completions(http: Request) -> Response:
        body = await http.json()
        request = EngineRequest((), "", (), sampling(body), prompt=body["prompt"])
        return StreamingResponse(events(request), media_type="text/event-stream")

    async def events(request: EngineRequest) -> AsyncIterator[str]:
        nonlocal num_running
        num_running += 1
        num_tokens = 0
        try:
            async with aclosing(engine.generate(request)) as deltas:
                async for delta in deltas:
                    num_tokens += delta.num_tokens
                    yield event({"choices": [choice(delta, request)]})
            usage = {"prompt_tokens": engine.count_prompt_tokens(request), "completion_tokens": num_tokens}
            yield event({"choices": [], "usage": usage})
            yield "data: [DONE]\n\n"
        finally:
            num_running -= 1

    return app


def sampling(body: dict[str, Any]) -> Sampling:
    return Sampling(
        max_tokens=body["max_tokens"],
        temperature=body["temperature"],
        top_p=body.get("top_p", 1.0),
        seed=body.get("seed"),
        stop=tuple(body.get("stop", ())),
        n=body.get("n", 1),
        logprobs=bool(body.get("logprobs")),
        top_logprobs=body.get("top_logprobs", 0),
    )


def choice(delta: Delta, request: EngineRequest) -> dict[str, Any]:
    content = [
        {"token": row.token, "logprob": row.logprob, "top_logprobs": [{"token": t, "logprob": p} for t, p in row.top]}
        for row in delta.logprobs
    ]
    shown = {"text": delta.text} if request.prompt is not None else {"delta": {"content": delta.text}}
    logprobs = {"content": content} if content else None
    return {"index": delta.choice, "finish_reason": delta.finish_reason, "logprobs": logprobs, **shown}


def event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


if __name__ == "__main__":
    uvicorn.run(make_app(make_hf_engine(sys.argv[1], device="cpu")), port=int(sys.argv[2]), log_level="warning")
