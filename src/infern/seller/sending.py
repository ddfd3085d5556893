"""What the seller's node is asked to do for one payout, and what its answers mean for the money.

Nothing here is booked: `infern.seller.payouts` decides what follows.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from infern.core.crypto import SignatureVerifier
from infern.core.errors import ConfigError, InfernError, Money, NoRoute, PaymentOutcomeUnknown
from infern.core.fiber.errors import PaymentNotFound, payment_failure
from infern.core.fiber.invoice import decode_signed_invoice
from infern.core.fiber.keysend import Sent, by_name, is_on_its_way, keysend, sent_by
from infern.core.fiber.pay import PayInvoice, fee_rate_per_thousand
from infern.core.fiber.pay_drivers import pay
from infern.core.fiber.rpc import GetPayment, ListChannels, ListPayments, SendPayment
from infern.core.fiber.types import PaymentRecord, PaymentStatus
from infern.core.ids import PaymentHash, Pubkey
from infern.core.ledger.payout import Payout
from infern.ports import Clock, FiberNode

ASK_TIMEOUT_MS: Final = 5_000
SEND_TIMEOUT_MS: Final = 10_000
LIST_TIMEOUT_MS: Final = 30_000
PAGE: Final = 500
"""Payments asked for at once: the most that later versions of fnn give."""
MAX_PAGES: Final = 400
"""Pages of one search. A node with more payments than this cannot say that one is missing."""
_log = logging.getLogger(__name__)


class Fate(Enum):
    """What is known of a payout's money."""

    PAID = "paid"
    FAILED = "failed"
    """Nothing left, and nothing can leave any more."""
    UNSENT = "unsent"
    """The node was certainly not told; it may be told later."""
    MISSING = "missing"
    """The node says that it has no such payment."""
    OPEN = "open"
    """It is on its way, or may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of asking the node.

    Args:
        fate: What is known of the money.
        fee: Base units that routing took, when it is paid.
        failure: A key of `CODES`: why it failed, or why the node could not be told or asked.
        payment_hash: Of a keysend the node took.
    """

    fate: Fate
    fee: int = 0
    failure: str = ""
    payment_hash: PaymentHash | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where a payout goes.

    Args:
        payee: The node that receives it.
        expires_ms: After this its invoice cannot be paid; None for no end.
    """

    payee: Pubkey
    expires_ms: int | None


class Sender:
    """Sends payouts from one node and asks what became of them."""

    def __init__(self, *, fiber: FiberNode, clock: Clock, verifier: SignatureVerifier) -> None:
        self._fiber = fiber
        self._clock = clock
        self._verifier = verifier

    def destination(self, payout: Payout) -> Destination:
        """Where a payout goes; the invoice was checked when it was recorded."""
        if payout.target is not None:
            return Destination(payee=payout.target, expires_ms=None)
        assert payout.invoice is not None
        invoice, payee = decode_signed_invoice(payout.invoice, self._verifier)
        return Destination(payee=payee, expires_ms=invoice.expires_at_ms)

    async def rehearse(self, payout: Payout) -> Outcome | None:
        """Find out whether a payout can be sent, without sending it; None when it can.

        A payment that the node has for the invoice already is somebody else's: it is no payout of
        this tab, and the invoice cannot be paid once more.
        """
        if payout.payment_hash is not None:
            known = await self.look(payout.payment_hash)
            if known.fate is Fate.OPEN and known.failure:
                return Outcome(fate=Fate.UNSENT, failure=known.failure)
            if known.fate in (Fate.PAID, Fate.OPEN):
                return Outcome(fate=Fate.FAILED, failure="payment_failed")
        try:
            await self._fiber.call(_call_of(payout, dry_run=True), timeout_ms=ASK_TIMEOUT_MS)
        except InfernError as error:
            refused = sent_by(error) is Sent.REFUSED
            return Outcome(fate=Fate.FAILED if refused else Fate.UNSENT, failure=_failure(error))
        return None

    async def push(self, payout: Payout) -> Outcome:
        """Send a keysend, once; at most `SEND_TIMEOUT_MS`."""
        try:
            record = await self._fiber.call(_call_of(payout), timeout_ms=SEND_TIMEOUT_MS)
        except InfernError as error:
            fate = {Sent.NEVER: Fate.UNSENT, Sent.REFUSED: Fate.FAILED, Sent.PERHAPS: Fate.OPEN}
            _log.warning("payout %s: %s", payout.payout_id, error.message)
            return Outcome(fate=fate[sent_by(error)], failure=_failure(error))
        return Outcome(fate=Fate.OPEN, payment_hash=record.payment_hash)

    async def pay(self, payout: Payout, *, timeout_ms: int, lookup_first: bool) -> Outcome:
        """Pay an invoice, once however often this is called, and wait for the end."""
        assert payout.invoice is not None
        assert payout.payment_hash is not None
        payment = PayInvoice(
            invoice_text=payout.invoice,
            payment_hash=payout.payment_hash,
            amount=payout.amount,
            max_fee_amount=payout.fee_cap,
            timeout_ms=timeout_ms,
            lookup_first=lookup_first,
        )
        try:
            record = await pay(self._fiber, payment, now_ms=self._clock.now_ms)
        except PaymentOutcomeUnknown:
            return Outcome(fate=Fate.OPEN)
        except InfernError as error:
            if error.money is not Money.UNMOVED:
                return Outcome(fate=Fate.OPEN)
            if sent_by(error) is Sent.NEVER:
                return Outcome(fate=Fate.UNSENT, failure=_failure(error))
            return await self._failed(payout.payment_hash, _failure(error))
        return Outcome(fate=Fate.PAID, fee=record.fee)

    async def look(self, payment_hash: PaymentHash) -> Outcome:
        """Ask the node once what became of a payment."""
        try:
            record = await self._fiber.call(
                GetPayment(payment_hash=payment_hash), timeout_ms=ASK_TIMEOUT_MS
            )
        except PaymentNotFound:
            return Outcome(fate=Fate.MISSING)
        except InfernError as error:
            _log.debug("the Fiber node does not say what became of a payment: %s", error.message)
            return Outcome(fate=Fate.OPEN, failure="fiber_unavailable")
        if record.status is PaymentStatus.SUCCESS:
            return Outcome(fate=Fate.PAID, fee=record.fee)
        if record.status is PaymentStatus.FAILED:
            return await self._failed(payment_hash, _failure(payment_failure(record)))
        return Outcome(fate=Fate.OPEN)

    async def follow(self, payment_hash: PaymentHash, *, waits_ms: tuple[int, ...]) -> Outcome:
        """Ask again and again until it is over, or the waits are."""
        outcome = await self.look(payment_hash)
        for wait_ms in waits_ms:
            if outcome.fate is not Fate.OPEN:
                break
            await self._fiber.wait_change(payment_hash, timeout_ms=wait_ms)
            outcome = await self.look(payment_hash)
        return outcome

    async def _failed(self, payment_hash: PaymentHash, failure: str) -> Outcome:
        """A failure counts when no TLC of the payment is left that its payee could still take."""
        try:
            channels = await self._fiber.call(
                ListChannels(include_closed=True), timeout_ms=ASK_TIMEOUT_MS
            )
        except InfernError as error:
            _log.debug("the Fiber node does not list its channels: %s", error.message)
            return Outcome(fate=Fate.OPEN, failure="fiber_unavailable")
        if is_on_its_way(channels, payment_hash):
            return Outcome(fate=Fate.OPEN)
        return Outcome(fate=Fate.FAILED, failure=failure)

    async def search(self, names: frozenset[str]) -> "Search":
        """Look for named payments among all that the node has."""
        found: Mapping[str, PaymentRecord] = {}
        after: PaymentHash | None = None
        for _ in range(MAX_PAGES):
            try:
                page = await self._fiber.call(
                    ListPayments(limit=PAGE, after=after), timeout_ms=LIST_TIMEOUT_MS
                )
            except InfernError as error:
                _log.warning("the Fiber node does not list its payments: %s", error.message)
                return Search(found=found, is_complete=False)
            named = by_name([*found.values(), *page.payments])
            found = {name: record for name, record in named.items() if name in names}
            last = page.last_cursor
            if len(found) == len(names) or not page.payments or last is None:
                return Search(found=found, is_complete=True)
            if after is not None and last <= after:
                break
            after = last
        _log.error("the Fiber node's payments cannot be searched to their end")
        return Search(found=found, is_complete=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What a search found.

    Args:
        found: The payments by name.
        is_complete: All payments were seen: what is not in `found` was not there.
    """

    found: Mapping[str, PaymentRecord]
    is_complete: bool


def _call_of(payout: Payout, *, dry_run: bool = False) -> SendPayment:
    if payout.target is not None:
        return keysend(
            target=payout.target,
            amount=payout.amount,
            max_fee_amount=payout.fee_cap,
            name=payout.payout_id,
            dry_run=dry_run,
        )
    return SendPayment(
        invoice=payout.invoice,
        max_fee_amount=payout.fee_cap,
        max_fee_rate_per_thousand=fee_rate_per_thousand(payout.amount, payout.fee_cap),
        dry_run=dry_run,
    )


def _failure(error: InfernError) -> str:
    """What the owner of the money is told of an error of our node."""
    if isinstance(error, NoRoute):
        return "no_route"
    if isinstance(error, ConfigError) or error.code == "fiber_unavailable":
        return "fiber_unavailable"
    return "payment_failed"
