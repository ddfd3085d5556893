"""`infern provider payouts`: what is on its way out, and ending by hand what no node can end."""

from datetime import UTC, datetime
from typing import Any, Final

import anyio
import click

from infern.adapters.home import provider_home
from infern.adapters.system import SystemClock
from infern.cli.output import emit_json, note, say
from infern.core.errors import ConfigError
from infern.core.ids import PayoutId
from infern.core.ledger.payout import Payout, PayoutEvent, PayoutState
from infern.core.units import format_amount, parse_ckb

MAX_LISTED: Final = 1_000
ENDS: Final = {"paid": PayoutEvent.SUCCEED, "returned": PayoutEvent.FAIL}


@click.command()
@click.option("--end", "payout_id", help="End this one by hand; it must be on its way.")
@click.option("--as", "end", type=click.Choice(list(ENDS)), help="How it ended.")
@click.option("--fee", default="0", help="What routing took, with --as paid.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def payouts(payout_id: str | None, end: str | None, fee: str, yes: bool, as_json: bool) -> None:
    """List payments out that have not ended. The agent must not be running.

    The agent ends them by itself as long as its Fiber node knows them. Only when the node was
    replaced, or lost its store, do you have to find out what became of one and say so: if it was
    paid it is gone, if not it is its owner's again.

    Example: infern provider payouts --end out_… --as returned
    """
    if (payout_id is None) != (end is None):
        raise ConfigError("--end and --as belong together")
    if payout_id is None or end is None:
        rows = anyio.run(_open)
        if as_json:
            emit_json([_row(row) for row in rows])
        for row in () if as_json else rows:
            say(_line(row))
        if not rows and not as_json:
            say("nothing is on its way out")
        return
    try:
        shannon = parse_ckb(fee)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not yes:
        note("If you are wrong, it is paid twice or lost for its owner.")
        click.confirm(f"Book that {payout_id} was {end}?", abort=True, err=True)
    done = anyio.run(_end, payout_id, ENDS[end], shannon)
    if as_json:
        emit_json(_row(done))
    else:
        say(_line(done))


async def _open() -> list[Payout]:
    from infern.adapters.sqlite_ledger import SqliteLedger

    async with SqliteLedger(provider_home() / "ledger.sqlite3") as ledger:
        return await ledger.open_payouts(limit=MAX_LISTED)


async def _end(payout_id: str, event: PayoutEvent, fee: int) -> Payout:
    from infern.adapters.sqlite_ledger import SqliteLedger

    async with SqliteLedger(provider_home() / "ledger.sqlite3") as ledger:
        rows = await ledger.open_payouts(limit=MAX_LISTED)
        if not any(row.payout_id == payout_id and row.state is PayoutState.SENDING for row in rows):
            raise ConfigError(f"{payout_id[:80]} is not on its way")
        return await ledger.move_payout(
            PayoutId(payout_id),
            event,
            now_ms=SystemClock().now_ms(),
            fee=fee,
            failure="payment_failed" if event is PayoutEvent.FAIL else "",
        )


def _row(payout: Payout) -> dict[str, Any]:
    return {
        "payout_id": payout.payout_id,
        "purpose": payout.purpose.value,
        "state": payout.state.value,
        "amount": str(payout.amount),
        "fee": str(payout.fee),
        "fee_cap": str(payout.fee_cap),
        "pubkey": None if payout.target is None else payout.target.hex(),
        "invoice": payout.invoice,
        "payment_hash": None if payout.payment_hash is None else payout.payment_hash.hex(),
        "sent_at": None if payout.sent_ms is None else payout.sent_ms // 1000,
    }


def _line(payout: Payout) -> str:
    since = payout.sent_ms or payout.created_ms
    when = datetime.fromtimestamp(since / 1000, UTC).strftime("%Y-%m-%d %H:%M")
    where = payout.target.hex() if payout.target is not None else "an invoice"
    known = payout.payment_hash.hex() if payout.payment_hash is not None else "not known"
    return (
        f"{payout.payout_id}  {payout.purpose}  {payout.state} since {when} UTC  "
        f"{format_amount(payout.amount, payout.asset)} to {where}, payment {known}"
    )
