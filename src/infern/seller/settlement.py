"""The one owner of a hold, from before it is placed until it has ended.

Whatever happens to a request (an answer, an error, a cancelled task, a vanished client), leaving
the `async with` block ends the hold that was placed: captured if something was delivered and
billed, released if not. There is no other place that ends holds of live requests.
"""

import hashlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import anyio

from infern.core.ckb.hashing import ckb_hash
from infern.core.errors import InvariantViolation, LedgerError, Money
from infern.core.f402.challenge import Challenge, Terms
from infern.core.f402.receipt import Finish, Receipt, SignedReceipt, sign_receipt
from infern.core.ids import HoldId, RequestDigest, RequestId, TabId, base32_id
from infern.core.ledger.hold import Hold
from infern.core.ledger.records import Captured, KeyRecord, PaidRequest, RemainderPlan
from infern.core.wire.strict_json import JsonObject
from infern.core.wire.usage import BilledUsage, UsageFlag
from infern.ports import Clock, Entropy, Ledger, Signer
from infern.seller.backend import Listing
from infern.seller.endings import Endings

END_TIMEOUT_S: Final = 10
CAPTURE_TRIES: Final = 3
CAPTURE_PAUSE_MS: Final = 200
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Payer:
    """Who pays for a request: a prepaid key, or a proof with a key for the remainder at most.

    Args:
        key: The prepaid key that is debited, or that receives a proof's remainder.
        challenge: The paid challenge; None when the key is debited.
    """

    key: KeyRecord | None
    challenge: Challenge | None

    def __post_init__(self) -> None:
        """Somebody has to pay."""
        if self.key is None and self.challenge is None:
            raise InvariantViolation("a settlement needs a payer")

    @property
    def client_key_hash(self) -> bytes:
        """20 bytes naming the payer in receipts."""
        if self.challenge is not None:
            return ckb_hash(b"payment" + self.challenge.payment_hash)[:20]
        assert self.key is not None
        return ckb_hash(b"key" + self.key.key_digest)[:20]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sale:
    """One request about to be served.

    Args:
        listing: What is sold.
        payer: Who pays.
        terms: The ceiling.
        digest: The request.
        request_id: Names the receipt.
        attempt: 32 bytes that name the need of a key that is debited; None without such a name.
    """

    listing: Listing
    payer: Payer
    terms: Terms
    digest: RequestDigest
    request_id: RequestId
    attempt: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A charged request.

    Args:
        captured: What the ledger booked.
        signed: The receipt with the agent's signature.
    """

    captured: Captured
    signed: SignedReceipt


class Settlement:
    """Holds a request's ceiling and ends the hold exactly once. `place`, then `async with`.

    Args:
        ledger: Where it is booked.
        clock: For times in holds and receipts.
        entropy: For the hold's name and a new tab's.
        agent: Signs the receipt.
        endings: Takes over when the ledger is away at the end.
        sale: What is sold to whom.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        clock: Clock,
        entropy: Entropy,
        agent: Signer,
        endings: Endings,
        sale: Sale,
    ) -> None:
        self._ledger = ledger
        self._endings = endings
        self._clock = clock
        self._entropy = entropy
        self._agent = agent
        self._sale = sale
        self._hold_id = HoldId(base32_id("hold_", entropy.random_bytes(16)))
        self._started_ms = clock.now_ms()
        self._settled: Settled | None = None
        self._is_left_to_endings = False

    @property
    def ceiling(self) -> int:
        """Base units held: the most this request can cost."""
        return self._sale.terms.ceiling

    @property
    def remainder_to(self) -> str:
        """Where the unspent part goes: a key id, or the payment's own tab."""
        return self._sale.payer.key.key_id if self._sale.payer.key else "payment"

    async def place(self) -> None:
        """Place the hold. Whoever does it enters the settlement next, with no wait in between.

        Raises:
            InsufficientBalance: The key's balance does not cover it.
            ProtocolError: The proof or the attempt was used (`already_delivered`,
                `request_in_progress`, `idempotency_conflict`).
            LedgerError: `ledger_unavailable`; nothing was booked.
        """
        try:
            await self._place()
        except BaseException:
            # The ledger may have booked it although we did not hear so.
            await self._release()
            raise

    async def __aenter__(self) -> Self:
        """Own the hold that was placed."""
        return self

    async def _place(self) -> None:
        challenge, key = self._sale.payer.challenge, self._sale.payer.key
        hold = Hold(
            hold_id=self._hold_id,
            tab_id=key.tab_id if key is not None else TabId(""),
            amount=self.ceiling,
            digest=self._sale.digest,
            payment_hash=challenge.payment_hash if challenge else None,
            attempt=self._sale.attempt,
            opened_ms=self._started_ms,
        )
        if challenge is None:
            await self._ledger.hold(hold)
            return
        await self._ledger.claim(paid_request(challenge, self._entropy), hold)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release the hold unless it was captured, or will be."""
        if not self.is_charged:
            await self._release()

    async def _release(self) -> None:
        release = self._release_later()
        with anyio.move_on_after(END_TIMEOUT_S, shield=True) as scope:
            try:
                await release()
            except LedgerError as error:
                _log.warning("hold %s is not released yet: %s", self._hold_id, error.message)
                self._endings.add(self._hold_id, release)
        if scope.cancelled_caught:
            _log.warning("hold %s was not released in time", self._hold_id)
            self._endings.add(self._hold_id, release)

    def _release_later(self) -> Callable[[], Awaitable[None]]:
        ledger, hold_id, now_ms = self._ledger, self._hold_id, self._clock.now_ms()
        return lambda: ledger.release(hold_id, now_ms=now_ms)

    @property
    def is_charged(self) -> bool:
        """True once the hold was captured, or will be."""
        return self._settled is not None or self._is_left_to_endings

    def delivered(self) -> None:
        """Writing a charged answer has ended: whole, in part, or into a broken connection.

        Called once. Only now may a payment that waits for its answer be taken for good.
        """

    def cost(self, usage: BilledUsage) -> int:
        """Base units for what was delivered: never above the ceiling, nothing for nothing."""
        if UsageFlag.NOTHING_DELIVERED in usage.flags:
            return 0
        charged = self._sale.terms.price.cost(usage.prompt_tokens, usage.completion_tokens)
        return min(charged, self.ceiling)

    def summary(self, usage: BilledUsage) -> JsonObject:
        """The `f402` member of an answer: what it cost and where the rest went."""
        charged = self.cost(usage)
        return {
            "request_id": self._sale.request_id,
            "asset": str(self._sale.terms.price.asset),
            "charged": str(charged),
            "remainder": str(self.ceiling - charged),
            "remainder_to": self.remainder_to,
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
        }

    async def capture(
        self, usage: BilledUsage, *, finish: Finish, response_root: bytes
    ) -> Settled | None:
        """Charge before delivery and sign the receipt. Not interrupted by cancellation.

        None when the ledger does not say in time whether it booked the charge. It cannot be taken
        back then, so the answer is due; it is booked when the ledger is back.

        Raises:
            LedgerError: The ledger refused or is away; nothing is charged and the hold is released.
        """
        receipt = self._receipt(usage, finish, response_root)
        try:
            return await self._capture(receipt)
        except LedgerError as error:
            if error.money is not Money.UNKNOWN:
                raise
            self._leave_to_endings(receipt, error)
            return None

    async def capture_delivered(
        self, usage: BilledUsage, *, finish: Finish, response_root: bytes
    ) -> Settled | None:
        """Charge after delivery; None when the ledger is away: it is booked when it is back."""
        receipt = self._receipt(usage, finish, response_root)
        try:
            return await self._capture(receipt)
        except LedgerError as error:
            self._leave_to_endings(receipt, error)
            return None

    def _leave_to_endings(self, receipt: Receipt, error: LedgerError) -> None:
        """Until it is booked the money stays held; a start-up before that releases it."""
        _log.warning("an answer is not charged yet: %s", error.message)
        self._is_left_to_endings = True
        self._endings.add(self._hold_id, lambda: self._book(receipt))

    async def _capture(self, receipt: Receipt) -> Settled:
        captured = await self._try_to_book(receipt)
        placed = parse_placed(captured, receipt)
        self._settled = Settled(captured=captured, signed=sign_receipt(placed, self._agent))
        return self._settled

    async def _book(self, receipt: Receipt) -> Captured:
        return await self._ledger.capture(
            self._hold_id,
            receipt,
            request_id=self._sale.request_id,
            remainder=RemainderPlan(key=self._sale.payer.key)
            if self._sale.payer.challenge
            else RemainderPlan(),
        )

    async def _try_to_book(self, receipt: Receipt) -> Captured:
        for attempt in range(1, CAPTURE_TRIES + 1):
            with anyio.move_on_after(END_TIMEOUT_S, shield=True):
                try:
                    return await self._book(receipt)
                except LedgerError as error:
                    if attempt == CAPTURE_TRIES or error.code == "ledger_conflict":
                        raise
                    await self._clock.sleep_ms(CAPTURE_PAUSE_MS)
                    continue
            # It may still be booked: the command is on its way and cannot be called back.
            raise LedgerError("the ledger did not answer in time", money=Money.UNKNOWN)
        raise InvariantViolation("the loop returns or raises")

    def _receipt(self, usage: BilledUsage, finish: Finish, response_root: bytes) -> Receipt:
        challenge = self._sale.payer.challenge
        reference = (
            challenge.payment_hash
            if challenge is not None
            else hashlib.sha256(self._hold_id.encode("ascii")).digest()
        )
        return Receipt(
            seller=self._sale.listing.identity,
            client_key_hash=self._sale.payer.client_key_hash,
            session=bytes(16),
            seq=0,
            prev_digest=bytes(32),
            payment_ref=reference,
            req_hash=self._sale.digest,
            resp_root=response_root,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            asset=self._sale.terms.price.asset.id32,
            charged=self.cost(usage),
            finish=finish,
            started_ms=self._started_ms,
            finished_ms=max(self._started_ms, self._clock.now_ms()),
        )


def parse_placed(captured: Captured, receipt: Receipt) -> Receipt:
    """The receipt at the place in its session that the ledger gave it."""
    placed = Receipt.unpack(captured.stored.packed)
    if placed.resp_root != receipt.resp_root or placed.charged != receipt.charged:
        raise InvariantViolation("the ledger stored another receipt")
    return placed


def paid_request(challenge: Challenge, entropy: Entropy) -> PaidRequest:
    """What the ledger needs of a paid challenge."""
    return PaidRequest(
        payment_hash=challenge.payment_hash,
        amount=challenge.amount,
        asset=challenge.asset,
        digest=challenge.digest,
        tab_id=TabId(base32_id("tab_", entropy.random_bytes(16))),
        session=entropy.random_bytes(16),
    )
