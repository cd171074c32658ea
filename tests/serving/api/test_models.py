"""`/v1/models`."""

from __future__ import annotations

import httpx
import openai
import pytest
from openai.types import Model

from tests.serving.spec import Specification, check_type


def test_the_engine_and_the_embedding_model_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["extract", "all-MiniLM-L6-v2"]


def test_a_model_is_described_as_openai_describes_it(http: httpx.Client, specification: Specification) -> None:
    listed = http.get("/v1/models").json()
    specification.check("ListModelsResponse", listed)
    assert http.get("/v1/models/extract").json() == listed["data"][0]
    check_type(Model, listed["data"][0])


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="this server has 'extract'") as caught:
        client.models.retrieve("organisation/model")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
