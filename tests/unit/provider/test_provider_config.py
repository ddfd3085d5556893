import tomllib
from typing import Any

import pytest

from infern.core.errors import ConfigError
from infern.core.units import Network
from infern.core.wire.dialects import DIALECTS, DialectName
from infern.core.wire.endpoints import Endpoint
from infern.core.wire.rewrite import Dialect, EarlyUsage, TokenLimit
from infern.provider.config import EXAMPLE, ProviderConfig, parse_provider_config

MODEL: dict[str, Any] = {
    "name": "m",
    "context_tokens": 100,
    "max_completion_tokens": 50,
    "input_per_mtok": 1,
    "output_per_mtok": 2,
}


def model(**changes: Any) -> dict[str, Any]:
    return {"models": [{k: v for k, v in {**MODEL, **changes}.items() if v is not None}]}


def test_the_example_is_a_configuration() -> None:
    config = parse_provider_config(tomllib.loads(EXAMPLE))
    assert (config.listen_host, config.listen_port) == ("127.0.0.1", 9402)
    assert config.network is Network.DEV
    (only,) = config.models
    assert only.price.request_fee == 1_000
    assert only.endpoints == {Endpoint.CHAT_COMPLETIONS}


def test_everything_but_price_and_size_has_a_default() -> None:
    config = parse_provider_config(model())
    assert config.public_url == "http://127.0.0.1:9402"
    assert config.upstream is None
    assert config.models[0].upstream_name == "m"
    assert not config.require_preimage


def elsewhere(dialect: str | None = None, **changes: Any) -> ProviderConfig:
    """A model on a server that is not the embedded one."""
    provider = {"upstream": "http://127.0.0.1:1/v1", **({"dialect": dialect} if dialect else {})}
    return parse_provider_config({"provider": provider, **model(**changes)})


def test_the_embedded_model_speaks_its_dialect() -> None:
    embedded = parse_provider_config(model())
    assert embedded.dialect is DialectName.LLAMA_CPP
    assert embedded.models[0].dialect == DIALECTS[DialectName.LLAMA_CPP]
    off = parse_provider_config(model(early_usage="none"))
    assert off.models[0].dialect.early_usage is EarlyUsage.NONE


def test_a_dialect_is_found_out_unless_it_is_named() -> None:
    for config in (elsewhere(), elsewhere("auto")):
        assert config.dialect is None
        assert config.models[0].dialect == DIALECTS[DialectName.OPENAI]
    named = elsewhere("vllm")
    assert named.dialect is DialectName.VLLM
    assert named.models[0].dialect == DIALECTS[DialectName.VLLM]
    found = elsewhere().spoken_to(DialectName.VLLM)
    assert (found.dialect, found.models) == (named.dialect, named.models)


def test_single_settings_win_over_the_dialect() -> None:
    changes: dict[str, Any] = {
        "early_usage": "none", "token_limit": "max_completion_tokens",
        "cuts_prompts": True, "pinned": {"cache_prompt": False},
    }  # fmt: skip
    for config in (elsewhere("vllm", **changes), elsewhere(**changes).spoken_to(DialectName.VLLM)):
        (sold,) = config.models
        assert sold.dialect == Dialect(
            token_limit=TokenLimit.MAX_COMPLETION_TOKENS,
            pinned={"cache_prompt": False},
            early_usage=EarlyUsage.NONE,
            cuts_prompts=True,
        )
        assert sold.limits.cuts_prompts
    not_cutting = elsewhere("ollama", cuts_prompts=False).models[0]
    assert not not_cutting.dialect.cuts_prompts
    assert not not_cutting.limits.cuts_prompts


def test_no_more_is_sold_than_the_dialect_counts() -> None:
    wide = elsewhere(max_n=3, max_prompts=5)
    assert (wide.models[0].limits.max_n, wide.models[0].limits.max_prompts) == (3, 5)
    for name in DialectName:
        limits = wide.spoken_to(name).models[0].limits
        counts_one = name in {DialectName.LLAMA_CPP, DialectName.OLLAMA, DialectName.LM_STUDIO}
        assert (limits.max_n, limits.max_prompts) == ((1, 1) if counts_one else (3, 5))
    assert elsewhere("ollama", max_inputs=9).models[0].limits.max_inputs == 9


def test_what_is_set_counts() -> None:
    config = parse_provider_config(
        {
            "provider": {
                "listen": "[::1]:0",
                "public_url": "https://me.example/",
                "network": "testnet",
                "upstream": "http://127.0.0.1:1/v1",
                "upstream_api_key": "sekrit-1",
                "require_preimage": True,
                "embedded_pace_tokens_per_s": 5,
            },
            "fiber": {"rpc_url": "http://127.0.0.1:2", "rpc_token": "sekrit-2"},
            "limits": {"mints_per_s": 7},
            **model(
                upstream_name="u", endpoints=["/v1/embeddings"], token_limit="both",
                pinned={"cache_prompt": False}, max_n=4, image_tokens=9,
            ),
        }
    )  # fmt: skip
    assert (config.listen_host, config.listen_port) == ("::1", 0)
    assert config.public_url == "https://me.example"
    assert config.limits.mints_per_s == 7
    assert config.models[0].dialect.token_limit is TokenLimit.BOTH
    assert config.models[0].limits.image_tokens == 9
    assert "sekrit" not in repr(config)


@pytest.mark.parametrize(
    ("document", "names"),
    [
        ({}, "models"),
        ({"models": []}, "models"),
        ({"models": {}}, "models"),
        ({"models": [5]}, "models"),
        ({**model(), "extra": {}}, "extra"),
        ({**model(), "provider": {"listne": "x"}}, "listne"),
        ({**model(), "fiber": {"url": "x"}}, "url"),
        ({**model(), "limits": {"mint": 1}}, "mint"),
        ({**model(), "limits": {"mints_per_s": 0}}, "mints_per_s"),
        ({**model(), "limits": {"mints_per_s": True}}, "mints_per_s"),
        ({**model(), "limits": {"mints_per_s": 1.5}}, "mints_per_s"),
        ({**model(), "provider": 5}, "provider"),
        ({**model(), "provider": {"listen": 9402}}, "listen"),
        ({**model(), "provider": {"listen": "9402"}}, "listen"),
        ({**model(), "provider": {"listen": ":9402"}}, "listen"),
        ({**model(), "provider": {"listen": "h:65536"}}, "listen"),
        ({**model(), "provider": {"listen": "h:x"}}, "listen"),
        ({**model(), "provider": {"public_url": "me.example"}}, "public_url"),
        ({**model(), "provider": {"public_url": "ftp://me.example"}}, "public_url"),
        ({**model(), "provider": {"public_url": "https://"}}, "public_url"),
        ({**model(), "provider": {"public_url": "https://me.example/v1"}}, "public_url"),
        ({**model(), "provider": {"public_url": "https://me.example?x"}}, "public_url"),
        ({**model(), "provider": {"public_url": "https://you@me.example"}}, "public_url"),
        ({**model(), "provider": {"network": "main"}}, "network"),
        ({**model(), "provider": {"require_preimage": 1}}, "require_preimage"),
        ({**model(), "provider": {"embedded_pace_tokens_per_s": "5"}}, "embedded_pace"),
        ({**model(), "provider": {"upstream": 5}}, "upstream"),
        (model(name=None), "name"),
        (model(name=""), "name"),
        (model(name="a\nb"), "name"),
        (model(name="x" * 257), "name"),
        (model(price=5), "price"),
        (model(input_per_mtok=None), "input_per_mtok"),
        (model(output_per_mtok=None), "output_per_mtok"),
        (model(output_per_mtok="2"), "output_per_mtok"),
        (model(output_per_mtok=-2), "m"),
        (model(output_per_mtok=2**64), "m"),
        (model(request_fee=0.5), "request_fee"),
        (model(context_tokens=None), "context_tokens"),
        (model(max_completion_tokens=None), "max_completion_tokens"),
        (model(context_tokens=100.0), "context_tokens"),
        (model(context_tokens="100"), "context_tokens"),
        (model(max_completion_tokens=True), "max_completion_tokens"),
        (model(max_completion_tokens=101), "context_tokens"),
        (model(endpoints="/v1/embeddings"), "endpoints"),
        (model(endpoints=5), "endpoints"),
        (model(endpoints=["/v1/responses"]), "/v1/responses"),
        (model(endpoints=[5]), "endpoint"),
        (model(token_limit="most"), "token_limit"),
        (model(token_limit=5), "token_limit"),
        (model(cuts_prompts=1), "cuts_prompts"),
        (model(max_n=2), "max_n"),
        (model(max_prompts=2), "llama_cpp"),
        ({**model(max_n=2), "provider": {"upstream": "http://h/v1", "dialect": "ollama"}}, "max_n"),
        ({**model(), "provider": {"dialect": "tgi"}}, "auto, vllm, llama_cpp, ollama, lm_studio"),
        ({**model(), "provider": {"dialect": 5}}, "dialect"),
        (model(early_usage="always"), "none, vllm, llama_cpp"),
        (model(early_usage=True), "early_usage"),
        (model(pinned=5), "pinned"),
        (model(pinned={"max_tokens": 5}), "max_tokens"),
        (model(pinned={"x": float("nan")}), "m"),
        (model(pinned={"x": tomllib.loads("d = 1979-05-27")["d"]}), "m"),
        ({"models": [MODEL, MODEL]}, "same name"),
    ],
)
def test_each_mistake_is_named(document: Any, names: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_provider_config(document)
    assert names in caught.value.message
