"""`/v1/embeddings`."""

from __future__ import annotations

import httpx
import numpy as np
import openai
import pytest
from openai.types import CreateEmbeddingResponse

from holdfast.retrieval.embed import Embedder
from holdfast.serving.api.embeddings import SLICE_TOKENS, cut_slices
from tests.serving.spec import Specification, check_type

MODEL = "all-MiniLM-L6-v2"


def test_floats_and_base64_hold_the_same_vectors(client: openai.OpenAI, embedder: Embedder) -> None:
    texts = ["a first text", "and a second, longer one"]
    from_base64 = client.embeddings.create(input=texts, model=MODEL)
    from_floats = client.embeddings.create(input=texts, model=MODEL, encoding_format="float")
    assert [item.embedding for item in from_base64.data] == [item.embedding for item in from_floats.data]
    assert [item.index for item in from_base64.data] == [0, 1]
    np.testing.assert_allclose([item.embedding for item in from_base64.data], embedder.encode(texts), atol=1e-5)


def test_the_response_is_openais(http: httpx.Client, specification: Specification) -> None:
    response = http.post("/v1/embeddings", json={"input": "one text", "model": MODEL, "user": "someone"}).json()
    specification.check("CreateEmbeddingResponse", response)
    check_type(CreateEmbeddingResponse, response)
    assert response["usage"] == {"prompt_tokens": 2, "total_tokens": 2}


def test_dimensions_may_only_be_the_models_own(client: openai.OpenAI) -> None:
    vector = client.embeddings.create(input="text", model=MODEL, dimensions=384).data[0].embedding
    assert len(vector) == 384
    with pytest.raises(openai.BadRequestError, match="384 numbers") as caught:
        client.embeddings.create(input="text", model=MODEL, dimensions=128)
    assert caught.value.param == "dimensions"


@pytest.mark.parametrize("tokens", [[1, 2, 3], [[1, 2], [3]]])
def test_token_ids_are_refused_with_the_reason(client: openai.OpenAI, tokens: list[int]) -> None:
    with pytest.raises(openai.BadRequestError, match="send the text itself"):
        client.embeddings.create(input=tokens, model=MODEL)


@pytest.mark.parametrize("empty", ["", [], [""], ["text", "  "]])
def test_empty_input_is_refused(client: openai.OpenAI, empty: str | list[str]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(input=empty, model=MODEL)
    assert caught.value.param == "input"


def test_other_models_are_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(input="text", model="text-embedding-3-small")
    assert caught.value.code == "model_not_found"


def test_a_text_longer_than_the_models_window_is_embedded_whole(client: openai.OpenAI) -> None:
    start = "The cat sat on the mat. " * 60
    one, other = client.embeddings.create(input=[start, start + "Quantum field theory. " * 60], model=MODEL).data
    assert float(np.dot(one.embedding, other.embedding)) < 0.95


def test_a_text_far_too_long_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="8192 are allowed"):
        client.embeddings.create(input="word " * 9000, model=MODEL)


def test_slices_cover_all_rows_within_the_budget() -> None:
    assert cut_slices([2 * SLICE_TOKENS, 1, 2, SLICE_TOKENS - 3, 1, 5]) == [(0, 1), (1, 4), (4, 6)]


def test_a_model_that_answers_cannot_embed(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=f"'extract' cannot do this: .* '{MODEL}' \\(embeddings\\)"):
        client.embeddings.create(input="a text", model="extract")
