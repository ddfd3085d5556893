"""`infern pay`: pay one Fiber invoice."""

from typing import Any

import click

from infern.adapters.secp256k1 import CoincurveVerifier
from infern.adapters.system import SystemClock
from infern.cli.consumer import Consumer, load_consumer, node_options, run
from infern.cli.output import emit_json, note, say
from infern.core.errors import PaymentError
from infern.core.fiber.invoice import Invoice, decode_signed_invoice
from infern.core.fiber.pay import PayInvoice
from infern.core.fiber.pay_drivers import pay as pay_invoice
from infern.core.fiber.types import PaymentRecord
from infern.core.ids import Pubkey
from infern.core.units import format_amount

TIMEOUT_MS = 60_000


@click.command()
@click.argument("invoice")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--max-fee", type=click.IntRange(0), help="Most the routing may take, shannon.")
@node_options
def pay(invoice: str, yes: bool, max_fee: int | None, as_json: bool, **flags: Any) -> None:
    """Pay INVOICE from your Fiber node.

    Repeating it is safe: a payment is keyed by its hash and never made twice.

    Example: infern pay fibt100000001p…
    """
    consumer = load_consumer(flags)
    decoded, payee = decode_signed_invoice(invoice, CoincurveVerifier())
    amount = _payable(decoded, consumer)
    fee_cap = consumer.budget.fee_cap(amount) if max_fee is None else max_fee
    if not as_json:
        _describe(decoded, payee, amount, fee_cap)
    if not yes:
        click.confirm("Pay?", abort=True, err=True)
    record = run(lambda: _pay(consumer, invoice, decoded, amount, fee_cap))
    if as_json:
        emit_json(
            {
                "payment_hash": record.payment_hash.hex(),
                "status": record.status.value,
                "amount": str(amount),
                "fee": str(record.fee),
            }
        )
    else:
        say(f"paid {format_amount(amount)}, routing fee {format_amount(record.fee)}")


def _payable(invoice: Invoice, consumer: Consumer) -> int:
    if invoice.network is not consumer.network:
        raise PaymentError(
            f"the invoice is for {invoice.network.value}, you are on {consumer.network.value}",
            code="offer_refused",
        )
    if invoice.amount is None or not invoice.asset.is_ckb:
        raise PaymentError("the invoice must name an amount of CKB", code="offer_refused")
    if invoice.is_expired(SystemClock().now_ms()):
        raise PaymentError("the invoice has expired; ask for a new one", code="offer_refused")
    return invoice.amount


def _describe(invoice: Invoice, payee: Pubkey, amount: int, fee_cap: int) -> None:
    note(f"amount   {format_amount(amount)}, plus at most {format_amount(fee_cap)} routing fee")
    note(f"to       {payee.hex()}")
    note(f"for      {invoice.description or '(no description)'}")


async def _pay(
    consumer: Consumer, text: str, invoice: Invoice, amount: int, fee_cap: int
) -> PaymentRecord:
    payment = PayInvoice(
        invoice_text=text,
        payment_hash=invoice.payment_hash,
        amount=amount,
        max_fee_amount=fee_cap,
        timeout_ms=TIMEOUT_MS,
        lookup_first=True,
    )
    async with consumer.node() as node:
        return await pay_invoice(node, payment, now_ms=SystemClock().now_ms)
