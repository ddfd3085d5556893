"""`infern withdraw`: take money out of a prepaid key, to a Fiber node or an invoice."""

from typing import Any, Final

import click

from infern.cli.account import need_key
from infern.cli.consumer import Consumer, load_consumer, run, seller_options
from infern.cli.output import emit_json, note, say
from infern.client.account import Balance
from infern.client.withdrawing import Withdrawal
from infern.core.errors import ConfigError, PaymentOutcomeUnknown, RemoteProtocolError
from infern.core.ids import parse_pubkey
from infern.core.units import format_amount, parse_ckb

ALL: Final = "all"


@click.command()
@click.argument("amount", required=False)
@click.option("--to", metavar="KEY", help="The Fiber node that gets it; yours by default.")
@click.option("--invoice", help="Pay this invoice instead; it says how much.")
@click.option("--id", "withdrawal_id", help="Ask again for an earlier withdrawal, by its id.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@seller_options
def withdraw(
    amount: str | None,
    to: str | None,
    invoice: str | None,
    withdrawal_id: str | None,
    yes: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Take AMOUNT, or all, out of your prepaid key at a seller.

    It goes over Fiber to your own node, or to the one you name. Routing takes its fee on top, at
    most half a per cent. Asking again with the same --id is safe: it is sent once.

    Example: infern withdraw '2 CKB' --base-url http://127.0.0.1:9402/v1
    """
    consumer = load_consumer(flags)
    wish = _wish(amount, to, invoice, withdrawal_id)
    if not yes:
        what = "everything" if wish["amount"] is None else format_amount(wish["amount"])
        where = f"node {to}" if to else "your own node"
        text = "Have this invoice paid" if invoice else f"Take {what} out to {where}"
        click.confirm(f"{text}?", abort=True, err=True)
    done, books = run(lambda: _withdraw(consumer, wish))
    if as_json:
        emit_json(
            {
                "payout_id": done.payout_id,
                "state": done.state,
                "amount": str(done.amount),
                "fee": str(done.fee),
                "payment_hash": done.payment_hash,
                "balance": str(books.balance),
            }
        )
        return
    if done.is_open:
        say(f"on its way {format_amount(done.amount)}, {done.state}; see: infern balance")
    else:
        say(f"withdrawn  {format_amount(done.amount)} (routing fee {format_amount(done.fee)})")
    say(f"balance    {format_amount(books.balance)}")


def _wish(
    amount: str | None, to: str | None, invoice: str | None, withdrawal_id: str | None
) -> dict[str, Any]:
    if (amount is None) == (invoice is None):
        raise ConfigError("name an amount, or 'all', or an --invoice")
    if invoice is not None and to is not None:
        raise ConfigError("an invoice says itself where the money goes; leave out --to")
    try:
        shannon = None if amount in (None, ALL) else parse_ckb(str(amount))
        node = None if to is None else parse_pubkey(to)
    except (ValueError, RemoteProtocolError) as error:
        raise ConfigError(str(error)) from error
    return {"amount": shannon, "to": node, "invoice": invoice, "withdrawal_id": withdrawal_id}


async def _withdraw(consumer: Consumer, wish: dict[str, Any]) -> tuple[Withdrawal, Balance]:
    async with consumer.client() as client:
        need_key(client)
        try:
            done = await client.f402.withdraw(**wish)
        except PaymentOutcomeUnknown as error:
            note(f"ask again with: --id {error.details['id']}")
            raise
        return done, await client.f402.balance()
