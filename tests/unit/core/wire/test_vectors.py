import json
from pathlib import Path
from typing import Any

import pytest

from infern.core.errors import InfernError
from infern.core.wire.bounds import ModelLimits, bound
from infern.core.wire.endpoints import Endpoint, parse_request
from infern.core.wire.rewrite import to_upstream
from infern.core.wire.sse import SseMeter
from infern.core.wire.usage import charge_usage

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[4] / "vectors" / "openai_wire.json").read_text()
)
STREAMED = parse_request(
    Endpoint.CHAT_COMPLETIONS,
    b'{"model":"m","messages":[{"role":"user","content":"x"}],"stream":true,"max_tokens":64}',
)


def named(section: str) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in VECTORS[section]]


@pytest.mark.parametrize("case", named("bounds"))
def test_bounds(case: dict[str, Any]) -> None:
    limits = ModelLimits(**VECTORS["limits"] | case.get("limits", {}))
    endpoint = Endpoint.from_path(case["path"])
    assert endpoint is not None
    if "refused" in case:
        with pytest.raises(InfernError) as caught:
            bound(parse_request(endpoint, case["body"].encode()), limits)
        assert {"code": caught.value.code, "param": caught.value.param} == case["refused"]
        return
    request = parse_request(endpoint, case["body"].encode())
    limit = bound(request, limits)
    found = (limit.prompt_tokens_max, limit.completion_tokens_max, limit.n)
    assert found == tuple(case["bound"].values())
    if "upstream" in case:
        assert to_upstream(request, limit, upstream_model="up") == case["upstream"].encode()


@pytest.mark.parametrize("case", named("streams"))
@pytest.mark.parametrize("step", [1, 5, 10_000])
def test_streams(case: dict[str, Any], step: int) -> None:
    limit = bound(STREAMED, ModelLimits(**VECTORS["limits"]))
    meter = SseMeter(STREAMED, limit)
    stream = case["stream"].encode()
    pieces = [stream[i : i + step] for i in range(0, len(stream), step)]
    events = [event for piece in pieces for event in meter.feed(piece)] + meter.finish()
    assert [event.kind.value for event in events] == case["kinds"]
    for event in events:
        meter.mark_sent(event)
    counted = meter.counted()
    assert {name: getattr(counted, name) for name in case["counted"]} == case["counted"]
    billed = charge_usage(meter.usage, counted, limit)
    assert {
        "prompt_tokens": billed.prompt_tokens,
        "completion_tokens": billed.completion_tokens,
        "flags": sorted(billed.flags),
    } == case["billed"]
