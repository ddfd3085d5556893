"""`infern topup`, `infern balance`, `infern receipts`: a prepaid key at one seller."""

from typing import Any

import click

from infern.cli.consumer import Consumer, load_consumer, run, seller_options
from infern.cli.held import HeldPayments, held_payments
from infern.cli.output import emit_json, note, say
from infern.client.account import Balance, Topup
from infern.client.withdrawing import Withdrawal
from infern.core.errors import ConfigError
from infern.core.units import format_amount, parse_ckb
from infern.sdk import AsyncInfern


@click.command()
@click.argument("amount")
@click.option("--yes", is_flag=True, help="Do not ask.")
@seller_options
def topup(amount: str, yes: bool, as_json: bool, **flags: Any) -> None:
    """Put AMOUNT on a prepaid key; makes the key when you have none at this seller.

    Repeating after an error is safe: what was paid is credited, not paid again.

    Example: infern topup '5 CKB' --base-url http://127.0.0.1:9402/v1
    """
    consumer = load_consumer(flags)
    try:
        shannon = parse_ckb(amount)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not yes:
        click.confirm(
            f"Pay {format_amount(shannon)} to {consumer.seller()}? The seller keeps it for you.",
            abort=True,
            err=True,
        )
    key, paid, books = run(lambda: _topup(consumer, shannon))
    if as_json:
        emit_json(
            {
                "api_key": key,
                "key_id": books.key_id,
                "credited": str(paid.amount),
                "fee": str(paid.fee),
                "balance": str(books.balance),
            }
        )
        return
    say(f"credited {format_amount(paid.amount)} (routing fee {format_amount(paid.fee)})")
    say(f"balance  {format_amount(books.balance)}")
    say(f"api key  {key}")


async def _topup(consumer: Consumer, shannon: int) -> tuple[str, Topup, Balance]:
    async with consumer.client() as client:
        if not client.f402.use_stored_key():
            made = await client.f402.create_key()
            note(f"made the prepaid key {made.key_id}; it is kept in your journal")
        paid = await client.f402.topup(shannon)
        return client.api_key, paid, await client.f402.balance()


@click.command()
@seller_options
def balance(as_json: bool, **flags: Any) -> None:
    """Show the books of your prepaid key at a seller, and what is locked in hold mode.

    Example: infern balance --base-url http://127.0.0.1:9402/v1
    """
    consumer = load_consumer(flags)
    books, withdrawals, held = run(lambda: _balance(consumer))
    if books is None:
        if as_json:
            emit_json({"in_hold_mode": held.to_json()})
        else:
            held.show()
        return
    if as_json:
        emit_json(
            {
                "key_id": books.key_id,
                "asset": books.asset,
                "balance": str(books.balance),
                "held": str(books.held),
                "owed": str(books.owed),
                "deposited": str(books.deposited),
                "spent": str(books.spent),
                "refunded": str(books.refunded),
                "withdrawals": [row.payout_id for row in withdrawals],
                "in_hold_mode": held.to_json(),
            }
        )
        return
    say(f"key        {books.key_id}")
    say(f"balance    {format_amount(books.balance)}")
    requests = format_amount(books.held - books.owed)
    say(f"held       {requests} by requests, {format_amount(books.owed)} by a withdrawal")
    say(f"deposited  {format_amount(books.deposited)}, spent {format_amount(books.spent)}")
    say(f"taken out  {format_amount(books.refunded)}")
    for row in withdrawals:
        say(f"on its way {format_amount(row.amount)}, {row.state}, {row.payout_id}")
    held.show()


async def _balance(
    consumer: Consumer,
) -> tuple[Balance | None, list[Withdrawal], HeldPayments]:
    """The books, withdrawals that have not ended, and what is locked in hold mode.

    Who has no key but payments in hold mode has no books.
    """
    async with consumer.client() as client:
        held = await held_payments(client.wallet)
        if held.rows and not client.f402.use_stored_key():
            return None, [], held
        need_key(client)
        books = await client.f402.balance()
        rows = await client.f402.withdrawals() if books.owed else []
        return books, [row for row in rows if row.is_open], held


def need_key(client: AsyncInfern) -> None:
    """Use the key that is kept for this seller.

    Raises:
        ConfigError: There is none.
    """
    if not client.f402.use_stored_key():
        raise ConfigError("you have no key at this seller; make one with: infern topup '1 CKB'")


@click.command()
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True)
@click.option("--after", default="", help="Continue after this request id.")
@seller_options
def receipts(limit: int, after: str, as_json: bool, **flags: Any) -> None:
    """List the receipts of your prepaid key, and payments in hold mode without an end.

    Example: infern receipts --limit 5
    """
    consumer = load_consumer(flags)
    page, held = run(lambda: _receipts(consumer, limit, after))
    if as_json:
        emit_json({**page, "in_hold_mode": held.to_json()})
        return
    held.show()
    rows = page["data"]
    for row in rows if isinstance(rows, list) else ():
        body = row["receipt"]
        say(
            f"{row['request_id']}  #{body['seq']}  {body['prompt_tokens']} + "
            f"{body['completion_tokens']} tokens  {format_amount(int(row['charged']))}"
        )
    if page["next"]:
        say(f"more: infern receipts --after {page['next']}")


async def _receipts(
    consumer: Consumer, limit: int, after: str
) -> tuple[dict[str, Any], HeldPayments]:
    async with consumer.client() as client:
        held = await held_payments(client.wallet)
        if held.rows and not client.f402.use_stored_key():
            return {"data": [], "next": None}, held
        need_key(client)
        return dict(await client.f402.receipts(limit=limit, after=after)), held
