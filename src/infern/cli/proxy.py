"""`infern proxy`: a local program that pays for any unmodified OpenAI client."""

import secrets
from typing import Any, Final

import click

from infern.adapters.home import infern_home
from infern.adapters.keyfile import read_private, write_private
from infern.cli.consumer import Consumer, load_consumer, paying_options, seller_options
from infern.cli.output import emit_json, say
from infern.client.wallet import PayMode
from infern.core.errors import ConfigError
from infern.core.units import format_amount, parse_ckb
from infern.proxy.config import DEFAULT_PORT, TOKEN_PREFIX, Prepaid, ProxyConfig

TOKEN_BYTES: Final = 24
TOKEN_FILE: Final = "proxy.token"  # noqa: S105 - a file's name


@click.command()
@click.option("--port", type=click.IntRange(1, 65_535), default=DEFAULT_PORT, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--allow-remote", is_flag=True, help="Let --host be other than loopback.")
@click.option("--allow-origin", multiple=True, help="A web page's origin that may spend.")
@click.option("--allow-host", multiple=True, help="A further Host name to answer to.")
@click.option("--prepaid", metavar="AMOUNT", help="Keep a prepaid key, topped up by AMOUNT.")
@paying_options
@seller_options
def proxy(
    port: int,
    host: str,
    allow_remote: bool,
    allow_origin: tuple[str, ...],
    allow_host: tuple[str, ...],
    prepaid: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Pay for any OpenAI client on this machine, within your budget.

    Point the client at http://127.0.0.1:8402/v1 with the printed token as its api_key. Whoever has
    the token can spend your budget: it is a wallet.

    Example: infern proxy --base-url https://router.example/v1
    """
    from infern.cli.compose import run_service

    consumer = load_consumer(flags)
    config = ProxyConfig(
        base_url=consumer.seller(),
        token=_token(),
        host=host,
        port=port,
        allow_remote=allow_remote,
        hosts=frozenset(name.lower() for name in allow_host),
        origins=frozenset(allow_origin),
        prepaid=_prepaid(prepaid),
    )
    run_service(_serve(consumer, config, as_json=as_json))


def _token() -> str:
    """The proxy's own token: made once, kept in a file only you can read."""
    path = infern_home() / TOKEN_FILE
    if not path.exists():
        write_private(path, (TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)).encode() + b"\n")
    return read_private(path).decode("ascii", "replace").strip()


def _prepaid(text: str | None) -> Prepaid | None:
    if text is None:
        return None
    try:
        amount = parse_ckb(text)
        return Prepaid(threshold=amount // 4, amount=amount)
    except ValueError as error:
        raise ConfigError(f"--prepaid: {error}") from error


async def _serve(consumer: Consumer, config: ProxyConfig, *, as_json: bool) -> None:
    from infern.cli.compose import asgi_server
    from infern.proxy.app import ProxyApp

    async with consumer.wallet(pays=True) as wallet:
        server = asgi_server(
            ProxyApp(config, wallet),
            host=config.host,
            port=config.port,
            on_started=lambda: _announce(consumer, config, as_json=as_json),
        )
        await server.serve()


def _announce(consumer: Consumer, config: ProxyConfig, *, as_json: bool) -> None:
    url = f"http://{config.host}:{config.port}/v1"
    if as_json:
        emit_json({"base_url": url, "api_key": config.token, "seller": config.base_url})
        return
    budget = consumer.budget
    say(f"base_url  {url}")
    say(f"api_key   {config.token}")
    say(f"seller    {config.base_url}, paid from the node at {consumer.rpc_url}")
    say(
        f"budget    {format_amount(budget.per_request)} a request, "
        f"{format_amount(budget.per_session)} a run, {format_amount(budget.per_day)} a day"
    )
    if consumer.mode is not PayMode.UPFRONT:
        say(
            f"mode      {consumer.mode}: {format_amount(budget.per_lock)} a payment and "
            f"{format_amount(budget.locked)} in {budget.locks} at once may be locked"
        )
    say("stop with Ctrl-C")
