import json
from collections.abc import Callable

import pytest

from infern.core.wire.bounds import Bound, ModelLimits, bound
from infern.core.wire.endpoints import Endpoint, InferenceRequest, parse_request


@pytest.fixture
def limits() -> ModelLimits:
    return ModelLimits(context_tokens=8192, max_completion_tokens=4096, max_n=4)


@pytest.fixture
def chat() -> Callable[..., InferenceRequest]:
    def make(**members: object) -> InferenceRequest:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **members}
        return parse_request(Endpoint.CHAT_COMPLETIONS, json.dumps(body).encode())

    return make


@pytest.fixture
def completion() -> Callable[..., InferenceRequest]:
    def make(**members: object) -> InferenceRequest:
        body = {"model": "m", "prompt": "hi", **members}
        return parse_request(Endpoint.COMPLETIONS, json.dumps(body).encode())

    return make


@pytest.fixture
def embedding() -> Callable[..., InferenceRequest]:
    def make(**members: object) -> InferenceRequest:
        body = {"model": "m", "input": "hi", **members}
        return parse_request(Endpoint.EMBEDDINGS, json.dumps(body).encode())

    return make


@pytest.fixture
def streamed(
    chat: Callable[..., InferenceRequest], limits: ModelLimits
) -> Callable[..., tuple[InferenceRequest, Bound]]:
    def make(**members: object) -> tuple[InferenceRequest, Bound]:
        request = chat(**{"stream": True, "max_tokens": 64, **members})
        return request, bound(request, limits)

    return make
