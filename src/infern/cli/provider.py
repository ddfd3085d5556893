"""`infern provider`: sell a model."""

from pathlib import Path
from typing import Any, Final

import click

from infern.adapters.home import provider_home
from infern.cli.output import emit_json, say
from infern.cli.settings import Settings
from infern.core.errors import ConfigError
from infern.core.units import format_amount
from infern.core.wire.dialects import DialectName
from infern.provider.config import AUTO, EXAMPLE, ProviderConfig, parse_provider_config

KINDS: Final[dict[str, dict[str, type]]] = {
    "provider": {
        "listen": str,
        "public_url": str,
        "network": str,
        "upstream": str,
        "upstream_api_key": str,
        "dialect": str,
        "require_preimage": bool,
        "embedded_pace_tokens_per_s": int,
    },
    "fiber": {"rpc_url": str, "rpc_token": str},
}


@click.group()
def provider() -> None:
    """Sell access to a model you run."""


def default_config() -> Path:
    """Where the configuration is looked for when none is named."""
    return provider_home() / "provider.toml"


def load_provider() -> ProviderConfig:
    """The configuration in the default place, with variables.

    Raises:
        ConfigError: It cannot be read or used.
    """
    settings = Settings(KINDS)
    settings.add_file(default_config(), required=True)
    settings.add_environment()
    return parse_provider_config(settings.document)


@provider.command()
@click.option("--config", "path", type=click.Path(path_type=Path), help="Where to write it.")
def init(path: Path | None) -> None:
    """Write an example configuration to edit.

    Example: infern provider init && $EDITOR "$(infern provider where)"
    """
    path = path or default_config()
    if path.exists():
        raise ConfigError(f"{path} is there already; edit it, or name another with --config")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(EXAMPLE, "utf-8")
    say(f"wrote {path}")
    say("next: edit the model and its price, then run: infern provider run")


@provider.command()
def where() -> None:
    """Print the path of the configuration file."""
    say(str(default_config()))


@provider.command()
@click.option("--config", "path", type=click.Path(path_type=Path), help="Configuration file.")
@click.option("--upstream", help="Base URL of your model server, e.g. http://127.0.0.1:8000/v1.")
@click.option(
    "--dialect",
    type=click.Choice([AUTO, *DialectName]),
    help="Which model server it is; found out if you do not say.",
)
@click.option("--listen", help="host:port to bind.")
@click.option("--public-url", help="Where consumers reach you.")
@click.option("--network", type=click.Choice(["dev", "testnet", "mainnet"]))
@click.option("--fiber-rpc", "rpc_url", help="JSON-RPC of your Fiber node.")
@click.option("--print-config", is_flag=True, help="Show every value and its source, then stop.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line when it is up.")
def run(
    path: Path | None, print_config: bool, as_json: bool, rpc_url: str | None, **flags: str | None
) -> None:
    """Serve paid requests until stopped.

    Example: infern provider run --upstream http://127.0.0.1:11434/v1
    """
    settings = Settings(KINDS)
    settings.add_file(path or default_config(), required=path is not None)
    settings.add_environment()
    settings.set_flags("provider", flags)
    settings.set_flags("fiber", {"rpc_url": rpc_url})
    if print_config:
        for line in settings.explain():
            say(line)
        return
    config = parse_provider_config(settings.document)
    from infern.cli.compose import run_service

    run_service(_serve(config, as_json=as_json))


async def _serve(config: ProviderConfig, *, as_json: bool) -> None:
    from infern.cli.compose import asgi_server, provider_agent

    async with provider_agent(config, provider_home()) as agent:
        announce: dict[str, Any] = {
            "url": config.public_url,
            "pay_to": agent.pay_to.hex(),
            "agent_pubkey": agent.agent.hex(),
            "model_server": agent.model_server,
            "models": [model.name for model in config.models],
        }
        server = asgi_server(
            agent.app,
            host=config.listen_host,
            port=config.listen_port,
            on_started=lambda: _announce(config, announce, as_json=as_json),
        )
        await server.serve()


def _announce(config: ProviderConfig, announce: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        emit_json(announce)
        return
    say(f"serving at {config.public_url}/v1, paid to Fiber node {announce['pay_to']}")
    say(f"  model server: {announce['model_server']}")
    for model in config.models:
        price = model.price
        say(
            f"  {model.name}: {format_amount(price.input_per_mtok)} in, "
            f"{format_amount(price.output_per_mtok)} out per million tokens, "
            f"{format_amount(price.request_fee)} per request"
        )
    say("stop with Ctrl-C; nothing that was paid is lost")
