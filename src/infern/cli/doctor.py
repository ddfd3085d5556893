"""`infern doctor`: checks what has to work and says what to do when it does not."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final

import click
import httpx2

from infern.adapters.fiber_rpc import FiberRpcClient
from infern.adapters.home import infern_home, provider_home
from infern.adapters.keyfile import read_private
from infern.cli import solvency
from infern.cli.consumer import Consumer, load_consumer, run, seller_options
from infern.cli.held import HeldPayments, held_payments
from infern.cli.output import emit_json, say
from infern.cli.provider import default_config, load_provider
from infern.core.errors import InfernError
from infern.core.fiber.rpc import GetNodeInfo, ListChannels, ListPeers
from infern.core.fiber.types import NodeInfo
from infern.core.units import format_amount

TIMEOUT_MS: Final = 5_000
HOLD_MODE: Final = "hold mode"
MAX_SKEW_S: Final = 30
"""Invoices live two minutes; a clock further off than this loses payments."""
SECRET_FILES: Final = ("provider/agent.key", "provider/seller-secrets.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check's result.

    Args:
        check: What was looked at.
        ok: Whether it is as it should be.
        detail: What was found.
        advice: What to do; empty when nothing is to be done.
    """

    check: str
    ok: bool
    detail: str
    advice: str = ""


@click.command()
@seller_options
def doctor(as_json: bool, **flags: Any) -> None:
    """Check keys, clock, Fiber node, channels, liquidity, seller and your own model server.

    Exits 1 when something needs doing.

    Example: infern doctor --base-url http://127.0.0.1:9402/v1
    """
    consumer = load_consumer(flags)
    findings = run(lambda: _examine(consumer))
    if as_json:
        emit_json(
            [
                {"check": f.check, "ok": f.ok, "detail": f.detail, "advice": f.advice}
                for f in findings
            ]
        )
    else:
        for finding in findings:
            mark = click.style("ok  ", fg="green") if finding.ok else click.style("bad ", fg="red")
            say(f"{mark} {finding.check}: {finding.detail}")
            if finding.advice:
                say(f"      → {finding.advice}")
    if not all(finding.ok for finding in findings):
        raise SystemExit(1)


async def _examine(consumer: Consumer) -> list[Finding]:
    findings = [*_files()]
    async with consumer.node() as node:
        info = await _asked(findings, "Fiber node", lambda: _node(node, consumer))
        if info is not None:
            await _asked(findings, "peers", lambda: _peers(node))
            await _asked(findings, "channels", lambda: _channels(node))
    if (infern_home() / "client").exists():
        await _asked(findings, HOLD_MODE, lambda: _held(consumer))
    if consumer.base_url:
        await _asked(findings, "seller", lambda: _seller(consumer))
    if default_config().exists():
        await _asked(findings, "model server", _model_server)
    return findings


async def _asked(
    findings: list[Finding], check: str, look: Callable[[], Awaitable[list[Finding]]]
) -> list[Finding] | None:
    """Run a look that may fail; its findings, or None when it failed."""
    try:
        found = await look()
    except (InfernError, httpx2.HTTPError) as error:
        advice = {
            "Fiber node": "start it, or name it with --fiber-rpc; `infern devnet up` has embedded "
            "ones",
            "seller": "check --base-url, and that the seller runs",
            "model server": "correct provider.toml",
        }.get(check, "")
        findings.append(Finding(check=check, ok=False, detail=str(error), advice=advice))
        return None
    findings.extend(found)
    return found


def _files() -> list[Finding]:
    found = [Finding(check="data directory", ok=True, detail=str(infern_home()))]
    provider_home()
    for name in SECRET_FILES:
        path = infern_home() / name
        if not path.exists():
            continue
        try:
            read_private(path)
        except InfernError as error:
            found.append(
                Finding(check=name, ok=False, detail=error.message, advice=f"chmod 600 {path}")
            )
        else:
            found.append(Finding(check=name, ok=True, detail="readable by you alone"))
    return found


async def _node(node: FiberRpcClient, consumer: Consumer) -> list[Finding]:
    info: NodeInfo = await node.call(GetNodeInfo(), timeout_ms=TIMEOUT_MS)
    return [
        Finding(
            check="Fiber node",
            ok=True,
            detail=f"fnn {info.version} at {consumer.rpc_url}, {info.pubkey.hex()}",
        )
    ]


async def _peers(node: FiberRpcClient) -> list[Finding]:
    peers = await node.call(ListPeers(), timeout_ms=TIMEOUT_MS)
    return [
        Finding(
            check="peers",
            ok=bool(peers),
            detail=f"{len(peers)} connected",
            advice="" if peers else "connect one by opening a channel: infern channel open …",
        )
    ]


async def _channels(node: FiberRpcClient) -> list[Finding]:
    channels = await node.call(ListChannels(), timeout_ms=TIMEOUT_MS)
    ready = [c for c in channels if c.is_ready]
    spendable = sum(c.spendable for c in ready)
    receivable = sum(c.receivable for c in ready)
    return [
        Finding(
            check="channels",
            ok=bool(ready),
            detail=f"{len(ready)} ready of {len(channels)}",
            advice="" if ready else "open one: infern channel open PEER_ADDRESS '500 CKB'",
        ),
        Finding(
            check="liquidity",
            ok=spendable > 0 or receivable > 0,
            detail=f"can send {format_amount(spendable)}, receive {format_amount(receivable)}",
            advice=(
                "to pay, open a channel yourself; to be paid, somebody has to open one to you, "
                "or you have to spend first"
                if not (spendable and receivable)
                else ""
            ),
        ),
    ]


async def _held(consumer: Consumer) -> list[Finding]:
    """Payments in hold mode: how many, and each that should have ended."""
    async with consumer.wallet() as wallet:
        held = await held_payments(wallet)
        late = held.late(wallet.clock.now_ms())
    if not late:
        return [Finding(check=HOLD_MODE, ok=True, detail=f"{len(held.rows)} payments under way")]
    return [
        Finding(
            check=HOLD_MODE,
            ok=False,
            detail=text,
            advice="ask the seller to give it back; Fiber does so by then, whatever happens",
        )
        for text in HeldPayments(rows=tuple(late), channels=held.channels).texts()
    ]


async def _model_server() -> list[Finding]:
    """What the model server of this machine's `provider.toml` is, and what does not fit it."""
    from infern.cli.compose import look_at_upstream
    from infern.provider.look import speak

    config = load_provider()
    if config.upstream is None:
        return [Finding(check="model server", ok=True, detail="the embedded toy model")]
    look = await look_at_upstream(config)
    spoken = speak(config, look)
    return [
        Finding(
            check="model server",
            ok=not look.is_silent,
            detail=f"{config.upstream}: {spoken.who}",
            advice="start it, or correct upstream and upstream_api_key" if look.is_silent else "",
        ),
        *(Finding(check="model server", ok=False, detail=text) for text in spoken.warnings),
    ]


async def _seller(consumer: Consumer) -> list[Finding]:
    async with httpx2.AsyncClient(timeout=TIMEOUT_MS / 1000) as client:
        response = await client.get(consumer.base_url + "/models")
        response.raise_for_status()
        models = [str(row["id"]) for row in response.json()["data"]]
        found = [
            Finding(
                check="seller", ok=bool(models), detail=f"sells {', '.join(models) or 'nothing'}"
            )
        ]
        date = response.headers.get("date")
        found += await _solvency(client, consumer.base_url)
    if date is not None:
        skew_s = abs(parsedate_to_datetime(date).timestamp() - time.time())
        found.append(
            Finding(
                check="clock",
                ok=skew_s <= MAX_SKEW_S,
                detail=f"{skew_s:.0f} s from the seller's",
                advice="" if skew_s <= MAX_SKEW_S else "set the clock: invoices expire by it",
            )
        )
    return found


async def _solvency(client: httpx2.AsyncClient, base_url: str) -> list[Finding]:
    try:
        report = await solvency.ask(client, base_url)
    except ValueError as error:
        return [Finding(check="solvency", ok=False, detail=str(error))]
    if report is None:
        return []
    books = Finding(
        check="seller's books",
        ok=report.adds_up,
        detail="add up" if report.adds_up else "do not add up",
        advice="" if report.adds_up else "withdraw what you have there: infern withdraw all",
    )
    return [
        books,
        *(
            Finding(
                check="solvency",
                ok=row.is_covered is not False,
                detail=row.text,
                advice=""
                if row.is_covered is not False
                else "the seller's node has less than it owes: keep little there, or withdraw it",
            )
            for row in report.assets
        ),
    ]
