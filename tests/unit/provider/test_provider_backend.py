from dataclasses import replace
from typing import Any

import pytest

from infern.core.errors import ConfigError, UpstreamUnavailable
from infern.core.wire.bounds import bound
from infern.core.wire.endpoints import Endpoint, parse_request
from infern.core.wire.strict_json import loads_object
from infern.provider import backend as backend_module
from infern.provider.backend import ModelServerBackend, configured_identity
from infern.provider.config import parse_provider_config
from infern.testing.scripted_model import Script, ScriptedModel, Step

AGENT: Any = b"\x02" * 33
GENESIS = b"\x01" * 32
CONFIG = parse_provider_config(
    {
        "models": [
            {"name": name, "upstream_name": "up", "context_tokens": 100, "request_fee": fee,
             "max_completion_tokens": 50, "input_per_mtok": 1, "output_per_mtok": 2,
             "pinned": {"cache_prompt": False}}
            for name, fee in (("m", 1), ("n", 2))
        ]
    }
)  # fmt: skip


def backend(server: ScriptedModel, models: Any = CONFIG.models) -> ModelServerBackend:
    return ModelServerBackend(server, models, agent=AGENT, genesis_hash=GENESIS, created_s=5)


def test_listings_are_found_by_the_name_on_sale() -> None:
    made = backend(ScriptedModel())
    assert [listing.model for listing in made.listings()] == ["m", "n"]
    found = made.find("m")
    assert found is not None
    assert (found.model, found.created_s) == ("m", 5)
    assert made.find("up") is None
    assert found.listing_id == "0x" + found.identity.listing.hex()


def test_what_costs_nothing_cannot_be_sold() -> None:
    free = replace(CONFIG.models[0].price, request_fee=0, input_per_mtok=0)
    with pytest.raises(ConfigError, match="zero"):
        backend(ScriptedModel(), [replace(CONFIG.models[0], price=free)])


def test_a_configured_identity_names_what_it_is_made_of() -> None:
    model = CONFIG.models[0]

    def identity(model: Any = model, agent: Any = AGENT) -> Any:
        return configured_identity(model, agent=agent, genesis_hash=GENESIS)

    first = identity()
    assert first == identity()
    assert len({first.provider, first.listing, first.listing_data_hash, first.model_id}) == 4
    other_agent = identity(agent=b"\x03" * 33)
    assert other_agent.provider != first.provider
    assert other_agent.listing != first.listing
    dearer = identity(replace(model, price=replace(model.price, output_per_mtok=3)))
    assert (dearer.listing, dearer.model_id) == (first.listing, first.model_id)
    assert dearer.listing_data_hash != first.listing_data_hash
    renamed = identity(replace(model, name="o"))
    assert (renamed.listing != first.listing, renamed.model_id) == (True, first.model_id)
    swapped = identity(replace(model, upstream_name="other"))
    assert swapped.model_id != first.model_id


async def test_a_request_goes_out_as_it_was_priced() -> None:
    server = ScriptedModel()
    made = backend(server)
    listing = made.find("m")
    assert listing is not None
    request = parse_request(
        Endpoint.CHAT_COMPLETIONS,
        b'{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":9}',
    )
    reply = await made.send(listing, request, bound(request, listing.limits))
    await reply.aclose()
    (sent,) = server.requests
    body = loads_object(sent.body)
    assert (sent.method, sent.path) == ("POST", "/chat/completions")
    assert (body["model"], body["max_tokens"], body["cache_prompt"]) == ("up", 9, False)


async def test_ready_asks_and_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "READY_TIMEOUT_S", 0.01)
    for script, ready in (
        (Script(), True),
        (Script(status=404), False),
        (Script(fails=UpstreamUnavailable("no")), False),
        (Script(before=Step.HANG), False),
    ):
        server = ScriptedModel(script)
        assert await backend(server).ready() is ready
        assert server.running == 0


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
