"""The embedded llama.cpp server still answers as `vectors/dialects/llama_cpp.json` has recorded."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from infern.adapters.model_http import HttpModelServer
from infern.core.wire.bounds import ModelLimits, bound
from infern.core.wire.dialects import DIALECTS, DialectName
from infern.core.wire.endpoints import Endpoint, parse_request
from infern.core.wire.rewrite import to_upstream
from infern.core.wire.strict_json import dumps
from infern.devnet.model import EmbeddedModel, EmbeddedModelConfig
from infern.provider.look import MAX_LOOK_BYTES, ServerAddress, look_at_server

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "dialects" / "llama_cpp.json").read_text("utf-8")
)
QUESTION = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
LIMITS = ModelLimits(context_tokens=8192, max_completion_tokens=400, max_n=3)


def recorded(section: str) -> list[Any]:
    found = [v for v in VECTORS[section] if v.get("recorded")]
    return [pytest.param(vector, id=vector["name"]) for vector in found]


@pytest.fixture(scope="module")
def model() -> Iterator[EmbeddedModel]:
    pytest.importorskip("xllamacpp", reason="the infern[demo] extra is not installed")
    with EmbeddedModel(EmbeddedModelConfig(context_tokens_per_slot=256, parallel_slots=2)) as it:
        yield it


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("vector", recorded("answers"))
def test_answers_have_the_recorded_shape(model: EmbeddedModel, vector: dict[str, Any]) -> None:
    endpoint = Endpoint.from_path(vector.get("path", "/v1/chat/completions"))
    assert endpoint is not None
    known = {"max_tokens": 16, **QUESTION} if endpoint is Endpoint.CHAT_COMPLETIONS else {}
    request = parse_request(endpoint, dumps({"model": "m", **known, **vector["request"]}))
    dialect = DIALECTS[DialectName(vector.get("dialect", VECTORS["dialect"]))]
    body = to_upstream(
        request, bound(request, LIMITS), upstream_model="upstream-m", dialect=dialect
    )
    answer = httpx2.post(
        model.base_url + endpoint.upstream_path,
        content=body,
        headers={"Authorization": f"Bearer {model.api_key}", "Content-Type": "application/json"},
        timeout=60,
    )
    assert answer.status_code == vector.get("status", 200)
    pieces = [piece if isinstance(piece, str) else piece["held"] for piece in vector["body"]]
    assert shapes(answer.text) == shapes("".join(pieces))


def shapes(body: str) -> Any:
    """What kinds of events or members there are, however many tokens they stand for."""
    events = re.findall(r"^data: (.*)\n\n", body, re.MULTILINE)
    if not events:
        return shape(json.loads(body))
    found = [
        event if event == "[DONE]" else json.dumps(shape(json.loads(event))) for event in events
    ]
    return list(dict.fromkeys(found))


def shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: shape(member) for name, member in sorted(value.items())}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "number" if isinstance(value, int | float) else type(value).__name__


@pytest.mark.parametrize("vector", recorded("looks"))
async def test_the_server_is_known_by_its_answers(
    model: EmbeddedModel, vector: dict[str, Any]
) -> None:
    address = ServerAddress.of(model.base_url)
    async with HttpModelServer(
        address.root, api_key=model.api_key, response_limit_bytes=MAX_LOOK_BYTES
    ) as server:
        look = await look_at_server(server, address)
    assert look.name == vector["expect"]["dialect"]
    assert look.contexts == vector["expect"]["contexts"]
