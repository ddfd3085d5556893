"""`infern provider`: sell a model."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import anyio
import click
import httpx2

from infern.adapters.home import provider_home
from infern.cli import solvency
from infern.cli.output import emit_json, say
from infern.cli.payouts import payouts
from infern.cli.settings import Settings
from infern.core.errors import ConfigError, TransportError
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


provider.add_command(payouts)


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


@provider.command()
@click.option("--config", "path", type=click.Path(path_type=Path), help="Configuration file.")
@click.option("--url", help="The running agent; where the configuration listens by default.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(path: Path | None, url: str | None, as_json: bool) -> None:
    """Show what the running agent owes and what its node has.

    Exits 1 when the node has less than is owed, or the books do not add up.

    Example: infern provider status
    """
    if url is None:
        settings = Settings(KINDS)
        settings.add_file(path or default_config(), required=path is not None)
        settings.add_environment()
        config = parse_provider_config(settings.document)
        host = "127.0.0.1" if config.listen_host in {"0.0.0.0", "::"} else config.listen_host  # noqa: S104 - compared, not bound
        url = f"http://{host}:{config.listen_port}"
    report = anyio.run(lambda: _report(str(url)))
    if as_json:
        emit_json({"books_add_up": report.adds_up, "assets": [asdict(a) for a in report.assets]})
    else:
        say("books      " + ("add up" if report.adds_up else "DO NOT ADD UP"))
        for row in report.assets:
            say(f"solvency   {row.text}")
    if not report.adds_up or any(row.is_covered is False for row in report.assets):
        raise SystemExit(1)


async def _report(url: str) -> solvency.Report:
    try:
        async with httpx2.AsyncClient(timeout=solvency.TIMEOUT_S) as client:
            report = await solvency.ask(client, url.rstrip("/").removesuffix("/v1") + "/v1")
    except (httpx2.HTTPError, ValueError) as error:
        raise TransportError(f"no report from the agent at {url}: {error}") from error
    if report is None:
        raise TransportError(f"the seller at {url} gives no report; is it an older one?")
    return report


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
