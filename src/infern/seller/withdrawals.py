"""Withdrawing: a key's balance goes out over Fiber, once for each wish its owner names.

The payout is recorded, and its amount with the fee cap held, before anything is sent. Then the
desk (`infern.seller.payouts`) does the rest, whether or not the caller stays to see it.
"""

from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from infern.core.errors import (
    DeliveryError,
    InfernError,
    InsufficientBalance,
    JsonValue,
    Money,
    ProtocolError,
    QuotaExceeded,
    RemoteProtocolError,
    TransportError,
)
from infern.core.f402.withdraw import PayableInvoice, payable_invoice, withdrawal_key
from infern.core.fiber.errors import InvoiceNotFound
from infern.core.fiber.rpc import GetInvoice
from infern.core.ids import PaymentHash, PayoutId, Pubkey, base32_id, parse_pubkey
from infern.core.ledger.payout import (
    Payout,
    PayoutPurpose,
    fee_cap_of,
    largest_payout,
)
from infern.core.ledger.records import KeyRecord
from infern.core.units import format_amount, parse_amount
from infern.core.wire.strict_json import JsonObject, loads_object
from infern.seller.endpoints import NO_STORE, Endpoints
from infern.seller.limits import AddressLimiter, Slots
from infern.seller.parts import SellerParts
from infern.seller.waiting import happens_within

MAX: Final = "max"
"""The amount of who wants to have everything."""
MAX_LISTED: Final = 100
WAITERS: Final = 128
"""Requests that wait for their payout's end at once; others are answered at once."""
ASK_TIMEOUT_MS: Final = 3_000
_MEMBERS: Final = frozenset({"id", "invoice", "pubkey", "amount"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the caller asked for, read and not yet checked against the key.

    Args:
        request_key: 32 bytes naming it within the key's tab.
        invoice: Text to pay; None for a keysend.
        target: The node that gets a keysend; None for an invoice.
        amount: Base units of a keysend; None takes the largest that the balance covers.
    """

    request_key: bytes
    invoice: str | None
    target: Pubkey | None
    amount: int | None

    def is_for(self, payout: Payout) -> bool:
        """Whether a payout that is there already is this wish."""
        same_amount = self.amount in (None, payout.amount)
        return (payout.invoice, payout.target) == (self.invoice, self.target) and same_amount


class Withdrawals(Endpoints):
    """`/v1/f402/withdraw` and `/v1/f402/withdrawals`."""

    def __init__(self, parts: SellerParts) -> None:
        super().__init__(parts)
        limits = parts.config.limits
        self._asked = AddressLimiter(
            per_minute=limits.withdrawals_per_minute, capacity=limits.addresses
        )
        self._waiting = Slots(WAITERS, "waiting withdrawals")

    def routes(self) -> list[Route]:
        """Starlette routes."""
        return self._routes(
            [
                ("POST", "/v1/f402/withdraw", self.withdraw),
                ("GET", "/v1/f402/withdrawals", self.withdrawals),
                ("GET", "/v1/f402/withdrawals/{id}", self.withdrawal),
            ]
        )

    async def withdraw(self, request: Request) -> Response:
        """Send money out. Asking again with the same id tells of the same payout."""
        key = await self._key(request)
        body = loads_object(await self._body(request))
        wish = read_wish(body)
        payout = await self._known(key, wish)
        if payout is None:
            address = request.client.host if request.client else ""
            payout = await self._record(key, wish, address)
        payout = await self._ended(payout)
        return self._answer(payout, body.get("id"))

    async def withdrawals(self, request: Request) -> Response:
        """The key's withdrawals, newest first."""
        key = await self._key(request)
        found = await self._parts.ledger.payouts(
            key.tab_id, purpose=PayoutPurpose.WITHDRAW, limit=MAX_LISTED
        )
        return JSONResponse({"data": [payout_json(row) for row in found]}, headers=NO_STORE)

    async def withdrawal(self, request: Request) -> Response:
        """One withdrawal of the key, by the id it was asked with."""
        key = await self._key(request)
        client_id = request.path_params["id"]
        payout = await self._parts.ledger.payout(key.tab_id, withdrawal_key(client_id))
        if payout is None:
            raise ProtocolError("this key has no such withdrawal", code="not_found")
        return self._answer(payout, client_id)

    def _answer(self, payout: Payout, client_id: object) -> Response:
        return JSONResponse(
            {"id": client_id, **payout_json(payout)},
            202 if payout.is_open else 200,
            headers=NO_STORE,
        )

    async def _known(self, key: KeyRecord, wish: Wish) -> Payout | None:
        """The payout of a wish that was asked before; nothing of it is checked again."""
        payout = await self._parts.ledger.payout(key.tab_id, wish.request_key)
        if payout is not None and not wish.is_for(payout):
            raise ProtocolError(
                "This id was used for another withdrawal; use a new one.",
                code="idempotency_conflict",
            )
        return payout

    async def _record(self, key: KeyRecord, wish: Wish, address: str) -> Payout:
        """Check a new wish and reserve what it takes."""
        parts, limits = self._parts, self._parts.config.limits
        if not self._asked.take(address, parts.clock.now_ms()):
            raise QuotaExceeded("Too many withdrawals from this address.", retry_after_s=60)
        if parts.payouts.open_count >= limits.open_payouts:
            raise DeliveryError(
                "This seller is at its limit of payments on their way; nothing was reserved. Try "
                "again later.",
                code="overloaded",
                retry_after_s=60,
            )
        invoice = await self._payable(key, wish.invoice) if wish.invoice is not None else None
        if wish.target == parts.config.pay_to:
            raise RemoteProtocolError(
                "this is the seller's own node; name one of yours", param="pubkey"
            )
        try:
            amount = invoice.amount if invoice is not None else await self._amount(key, wish)
            return await parts.ledger.add_payout(self._payout(key, wish, invoice, amount))
        except (InsufficientBalance, ProtocolError):
            # The same wish may have been recorded by another request meanwhile, for all there is.
            payout = await self._known(key, wish)
            if payout is None:
                raise
            return payout

    def _payout(
        self, key: KeyRecord, wish: Wish, invoice: PayableInvoice | None, amount: int
    ) -> Payout:
        limits = self._parts.config.limits
        if amount < limits.min_withdraw:
            raise RemoteProtocolError(
                f"a withdrawal is of {limits.min_withdraw} base units or more", param="amount"
            )
        return Payout(
            payout_id=PayoutId(base32_id("out_", self._parts.entropy.random_bytes(16))),
            tab_id=key.tab_id,
            purpose=PayoutPurpose.WITHDRAW,
            request_key=wish.request_key,
            asset=key.asset,
            amount=amount,
            fee_cap=fee_cap_of(amount),
            invoice=wish.invoice,
            target=wish.target,
            payment_hash=None if invoice is None else invoice.payment_hash,
            created_ms=self._parts.clock.now_ms(),
        )

    async def _amount(self, key: KeyRecord, wish: Wish) -> int:
        if wish.amount is not None:
            return wish.amount
        tab = await self._parts.ledger.tab(key.tab_id)
        amount, least = largest_payout(tab.balance), self._parts.config.limits.min_withdraw
        if amount < least:
            raise InsufficientBalance(
                f"The balance of {format_amount(tab.balance, tab.asset)} is less than the "
                "smallest withdrawal with its routing fee; spend it instead.",
                details={
                    "balance": str(tab.balance),
                    "held": str(tab.held),
                    "required": str(least + fee_cap_of(least)),
                },
            )
        return amount

    async def _payable(self, key: KeyRecord, text: str) -> PayableInvoice:
        config = self._parts.config
        invoice = payable_invoice(
            text,
            network=config.network,
            asset=key.asset,
            own=config.pay_to,
            now_ms=self._parts.clock.now_ms(),
            verifier=self._parts.verifier,
        )
        if await self._is_ours(invoice.payment_hash):
            # Versions of fnn mistake a payment for another when one node has both under one hash.
            raise RemoteProtocolError(
                "This invoice has the payment hash of one of this seller's own; nothing was "
                "reserved. Make another one.",
                code="invalid_invoice",
                param="invoice",
            )
        return invoice

    async def _is_ours(self, payment_hash: PaymentHash) -> bool:
        try:
            await self._parts.fiber.call(
                GetInvoice(payment_hash=payment_hash), timeout_ms=ASK_TIMEOUT_MS
            )
        except InvoiceNotFound:
            return False
        except InfernError as error:
            raise TransportError(
                "This seller's Fiber node does not answer, so nothing can be withdrawn now. "
                "Nothing was reserved; try again.",
                code="fiber_unavailable",
                money=Money.UNMOVED,
                retry_after_s=5,
            ) from error
        return True

    async def _ended(self, payout: Payout) -> Payout:
        """The payout once it has ended, or as it stands when that takes too long."""
        desk, ledger = self._parts.payouts, self._parts.ledger
        if not payout.is_open or self._waiting.used >= WAITERS:
            desk.wake()
            return payout
        with self._waiting.one(), desk.watching(payout.payout_id) as ended:
            desk.wake()
            now = await ledger.payout(payout.tab_id, payout.request_key) or payout
            if now.is_open:
                limit_ms = self._parts.config.limits.withdraw_wait_ms
                await happens_within(ended, limit_ms, self._parts.clock)
                now = await ledger.payout(payout.tab_id, payout.request_key) or now
        return now


def read_wish(body: JsonObject) -> Wish:
    """Read the body of a withdrawal.

    Raises:
        RemoteProtocolError: Something of it cannot be read (`invalid_request`); nothing moved.
    """
    unknown = sorted(set(body) - _MEMBERS)
    if unknown:
        raise RemoteProtocolError(f"{unknown[0][:40]!r} is no member of a withdrawal")
    texts = {name: value for name, value in body.items() if isinstance(value, str)}
    if len(texts) != len(body):
        raise RemoteProtocolError("the members of a withdrawal are strings")
    request_key = withdrawal_key(texts.get("id", ""))
    if ("invoice" in texts) == ("pubkey" in texts):
        raise RemoteProtocolError("name an invoice to pay, or the pubkey of a node", param="pubkey")
    if "invoice" in texts:
        if "amount" in texts:
            raise RemoteProtocolError("the amount is the invoice's", param="amount")
        return Wish(request_key=request_key, invoice=texts["invoice"], target=None, amount=None)
    amount = texts.get("amount", "")
    return Wish(
        request_key=request_key,
        invoice=None,
        target=parse_pubkey(texts["pubkey"]),
        amount=None if amount == MAX else _positive(amount),
    )


def _positive(text: str) -> int:
    amount = parse_amount(text) if text else 0
    if not amount:
        raise RemoteProtocolError(
            'amount is a decimal string of base units above zero, or "max"', param="amount"
        )
    return amount


def payout_json(payout: Payout) -> dict[str, JsonValue]:
    """A payout as its owner sees it."""
    return {
        "payout_id": payout.payout_id,
        "state": payout.state.value,
        "failure": payout.failure or None,
        "asset": str(payout.asset),
        "amount": str(payout.amount),
        "fee": str(payout.fee),
        "fee_cap": str(payout.fee_cap),
        "invoice": payout.invoice,
        "pubkey": None if payout.target is None else payout.target.hex(),
        "payment_hash": None if payout.payment_hash is None else payout.payment_hash.hex(),
        "created_at": payout.created_ms // 1000,
        "ended_at": None if payout.ended_ms is None else payout.ended_ms // 1000,
    }
