"""A provider's configuration, as it stands in `provider.toml`.

Everything has a default but the price: nobody is to sell at a price they did not choose.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from infern.core.errors import ConfigError
from infern.core.market.price import Price
from infern.core.units import Network
from infern.core.wire.bounds import ModelLimits
from infern.core.wire.dialects import DIALECTS, DialectName
from infern.core.wire.endpoints import MAX_MODEL_CHARS, Endpoint
from infern.core.wire.rewrite import Dialect, EarlyUsage, TokenLimit
from infern.core.wire.strict_json import dumps
from infern.seller.config import SellerLimits

DEFAULT_LISTEN: Final = "127.0.0.1:9402"
T = TypeVar("T")

EXAMPLE: Final = """\
# What `infern provider run` reads. Amounts are shannon; 1 CKB is 100000000 shannon.
[provider]
listen = "127.0.0.1:9402"
public_url = "http://127.0.0.1:9402"   # what consumers type; https unless it is loopback
network = "dev"                        # dev, testnet or mainnet
upstream = "http://127.0.0.1:8000/v1"  # your model server; leave out for the embedded toy model
dialect = "auto"                       # or vllm, llama_cpp, ollama, lm_studio, openai

[fiber]
rpc_url = "http://127.0.0.1:8227"      # your Fiber node

[[models]]
name = "my-model"                      # what consumers ask for
upstream_name = "my-model"             # what your server calls it
context_tokens = 8192
max_completion_tokens = 2048
default_completion_tokens = 1024
request_fee = 1000
input_per_mtok = 200000000
output_per_mtok = 600000000
"""
AUTO: Final = "auto"
_OVERRIDES: Final = frozenset({"token_limit", "pinned", "early_usage", "cuts_prompts"})
"""Members of a model that say otherwise than its model server's dialect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """One model on sale.

    Args:
        name: What consumers ask for.
        upstream_name: What the model server calls it.
        price: What it costs.
        limits: Context and output ceilings.
        endpoints: What it may be used for.
        dialect: How the model server wants its requests.
        overrides: Members of the dialect that the operator set; they win over a named one's.
    """

    name: str
    upstream_name: str
    price: Price
    limits: ModelLimits
    endpoints: frozenset[Endpoint]
    dialect: Dialect
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def spoken_to(self, name: DialectName) -> "ModelConfig":
        """The same model behind a server of this dialect: no more is sold than it can count."""
        dialect = dataclasses.replace(DIALECTS[name], **self.overrides)
        limits = dataclasses.replace(self.limits, cuts_prompts=dialect.cuts_prompts)
        if dialect.counts_one:
            limits = dataclasses.replace(limits, max_n=1, max_prompts=1)
        return dataclasses.replace(self, dialect=dialect, limits=limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderConfig:
    """A provider's whole configuration.

    Args:
        listen_host: Address to bind.
        listen_port: Port to bind; 0 for a free one.
        public_url: Where consumers reach it.
        network: The CKB and Fiber network.
        upstream: Base URL of the model server; None for the embedded toy model.
        upstream_api_key: Its key, if it wants one.
        dialect: What kind of model server it is; None to find out from its answers.
        embedded_pace_tokens_per_s: Slows the embedded model's streams down; None for full speed.
        fiber_rpc_url: The provider's Fiber node.
        fiber_rpc_token: Its biscuit, if it wants one.
        models: What is on sale.
        limits: See `SellerLimits`.
        require_preimage: See `SellerConfig`.
    """

    listen_host: str
    listen_port: int
    public_url: str
    network: Network
    upstream: str | None
    upstream_api_key: str | None = field(repr=False)
    dialect: DialectName | None
    embedded_pace_tokens_per_s: int | None
    fiber_rpc_url: str
    fiber_rpc_token: str | None = field(repr=False)
    models: tuple[ModelConfig, ...]
    limits: SellerLimits
    require_preimage: bool

    def spoken_to(self, name: DialectName) -> "ProviderConfig":
        """The same with a model server of this dialect."""
        models = tuple(model.spoken_to(name) for model in self.models)
        return dataclasses.replace(self, dialect=name, models=models)


Table = Mapping[str, Any]


def parse_provider_config(document: Table) -> ProviderConfig:
    """Read a parsed `provider.toml`.

    Raises:
        ConfigError: With the member at fault and what to write instead.
    """
    _only(document, {"provider", "fiber", "models", "limits"}, "the file")
    provider, fiber = _table(document, "provider"), _table(document, "fiber")
    _only(
        provider,
        {"listen", "public_url", "network", "upstream", "upstream_api_key", "dialect"}
        | {"require_preimage", "embedded_pace_tokens_per_s"},
        "[provider]",
    )
    _only(fiber, {"rpc_url", "rpc_token"}, "[fiber]")
    host, port = _listen(_get(provider, "listen", str, DEFAULT_LISTEN))
    models = document.get("models", [])
    if not isinstance(models, list) or not models:
        raise ConfigError("name at least one model with its price in a [[models]] section")
    upstream = _get(provider, "upstream", str, "") or None
    dialect = _dialect(_get(provider, "dialect", str, AUTO))
    if upstream is None:
        dialect = DialectName.LLAMA_CPP
    sold = _distinct(tuple(_model(table, dialect=dialect) for table in models))
    return ProviderConfig(
        listen_host=host,
        listen_port=port,
        public_url=_public_url(_get(provider, "public_url", str, f"http://{host}:{port}")),
        network=_network(_get(provider, "network", str, "dev")),
        upstream=upstream,
        upstream_api_key=_get(provider, "upstream_api_key", str, "") or None,
        dialect=dialect,
        embedded_pace_tokens_per_s=_get(provider, "embedded_pace_tokens_per_s", int, 0) or None,
        fiber_rpc_url=_get(fiber, "rpc_url", str, "http://127.0.0.1:8227"),
        fiber_rpc_token=_get(fiber, "rpc_token", str, "") or None,
        models=sold,
        limits=_limits(_table(document, "limits")),
        require_preimage=_get(provider, "require_preimage", bool, default=False),
    )


def _distinct(models: tuple[ModelConfig, ...]) -> tuple[ModelConfig, ...]:
    if len({model.name for model in models}) != len(models):
        raise ConfigError("two [[models]] have the same name")
    return models


def _model(table: Table, *, dialect: DialectName | None) -> ModelConfig:
    if not isinstance(table, Mapping):
        raise ConfigError("[[models]] must be tables")
    limits_names = {f.name for f in dataclasses.fields(ModelLimits)} - _OVERRIDES
    prices = {"request_fee", "input_per_mtok", "output_per_mtok"}
    _only(
        table,
        {"name", "upstream_name", "endpoints"} | _OVERRIDES | prices | limits_names,
        "[[models]]",
    )
    name = _get(table, "name", str, "")
    if not 0 < len(name) <= MAX_MODEL_CHARS or not name.isprintable():
        raise ConfigError(
            f"every [[models]] needs a name of 1 to {MAX_MODEL_CHARS} printable characters"
        )
    if not {"input_per_mtok", "output_per_mtok"} <= table.keys():
        raise ConfigError(
            f"model {name} needs input_per_mtok and output_per_mtok, in shannon per million tokens"
        )
    if not {"context_tokens", "max_completion_tokens"} <= table.keys():
        raise ConfigError(f"model {name} needs context_tokens and max_completion_tokens")
    paths = _get(table, "endpoints", list, [Endpoint.CHAT_COMPLETIONS.path])
    endpoints = [_endpoint(path) for path in paths] or [Endpoint.CHAT_COMPLETIONS]
    try:
        price = Price(
            request_fee=_get(table, "request_fee", int, 0),
            input_per_mtok=_get(table, "input_per_mtok", int, 0),
            output_per_mtok=_get(table, "output_per_mtok", int, 0),
        )
        sizes: dict[str, Any] = {k: _get(table, k, int, 0) for k in table if k in limits_names}
        limits = ModelLimits(**sizes)
        overrides = _overrides(table)
        Dialect(**overrides)  # refuses what may not be pinned
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model {name}: {error}") from error
    model = ModelConfig(
        name=name,
        upstream_name=_get(table, "upstream_name", str, name),
        price=price,
        limits=limits,
        endpoints=frozenset(endpoints),
        dialect=DIALECTS[DialectName.OPENAI],
        overrides=overrides,
    )
    if dialect is not None and DIALECTS[dialect].counts_one:
        _check_counted(table, name, dialect)
    return model.spoken_to(dialect or DialectName.OPENAI)


def _overrides(table: Table) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "token_limit" in table:
        found["token_limit"] = _token_limit(_get(table, "token_limit", str, ""))
    if "early_usage" in table:
        found["early_usage"] = _early_usage(_get(table, "early_usage", str, ""))
    if "cuts_prompts" in table:
        found["cuts_prompts"] = _get(table, "cuts_prompts", bool, default=False)
    if "pinned" in table:
        found["pinned"] = dict(_table(table, "pinned"))
        dumps(found["pinned"])  # dates and NaN are TOML but not JSON
    return found


def _check_counted(table: Table, name: str, dialect: DialectName) -> None:
    """Refuse to sell several answers at once where the model server counts one of them."""
    for member in ("max_n", "max_prompts"):
        if _get(table, member, int, 1) > 1:
            raise ConfigError(
                f"model {name}: {member} above 1 cannot be sold with dialect {dialect}, which "
                "makes or counts one answer only; leave it out"
            )


def _dialect(text: str) -> DialectName | None:
    if text == AUTO:
        return None
    try:
        return DialectName(text)
    except ValueError:
        known = ", ".join((AUTO, *DialectName))
        raise ConfigError(f"dialect is one of {known}, not {text!r}") from None


def _token_limit(text: str) -> TokenLimit:
    found = {limit.name.lower(): limit for limit in TokenLimit}.get(text)
    if found is None:
        known = ", ".join(limit.name.lower() for limit in TokenLimit)
        raise ConfigError(f"token_limit is one of {known}, not {text!r}")
    return found


def _early_usage(text: str) -> EarlyUsage:
    try:
        return EarlyUsage(text)
    except ValueError:
        known = ", ".join(kind.value for kind in EarlyUsage)
        raise ConfigError(f"early_usage is one of {known}, not {text!r}") from None


def _endpoint(path: object) -> Endpoint:
    endpoint = Endpoint.from_path(path) if isinstance(path, str) else None
    if endpoint is None:
        known = ", ".join(e.path for e in Endpoint)
        raise ConfigError(f"{path!r} is not an endpoint; use {known}")
    return endpoint


def _limits(table: Table) -> SellerLimits:
    names = {f.name for f in dataclasses.fields(SellerLimits)}
    _only(table, names, "[limits]")
    return SellerLimits(**{name: _get(table, name, int, 0) for name in table})


def _listen(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ConfigError(f'listen is "host:port", not {text!r}')
    return host.strip("[]"), int(port)


def _public_url(text: str) -> str:
    parts = urlsplit(text)
    plain = parts.path in ("", "/") and not parts.query and not parts.fragment
    plain = plain and "@" not in parts.netloc
    if parts.scheme not in ("http", "https") or not parts.netloc or not plain:
        raise ConfigError(f"public_url is scheme and host, like https://me.example, not {text!r}")
    return f"{parts.scheme}://{parts.netloc}"


def _network(text: str) -> Network:
    try:
        return Network(text)
    except ValueError:
        raise ConfigError(f"network is dev, testnet or mainnet, not {text!r}") from None


def _table(document: Table, name: str) -> Table:
    value = document.get(name, {})
    if not isinstance(value, Mapping):
        raise ConfigError(f"[{name}] must be a section")
    return value


def _get(table: Table, name: str, kind: type[T], default: T) -> T:
    value = table.get(name, default)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{name} must be of type {kind.__name__}")
    return value


def _only(table: Table, known: set[str], where: str) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        raise ConfigError(
            f"{where} has the unknown member {unknown[0]!r}; known are {', '.join(sorted(known))}"
        )
