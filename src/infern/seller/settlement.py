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
from infern.core.errors import InfernError, InvariantViolation, LedgerError, Money, Retry
from infern.core.f402.challenge import Challenge, Mode, Terms
from infern.core.f402.receipt import Finish, Receipt, SignedReceipt, sign_receipt
from infern.core.ids import (
    HoldId,
    PaymentHash,
    PayoutId,
    Pubkey,
    RequestDigest,
    RequestId,
    TabId,
    base32_id,
)
from infern.core.ledger.hold import Hold
from infern.core.ledger.records import Captured, KeyRecord, PaidRequest, RemainderPlan
from infern.core.wire.strict_json import JsonObject
from infern.core.wire.usage import BilledUsage, UsageFlag
from infern.ports import Clock, Entropy, Ledger, Signer
from infern.seller.backend import Listing
from infern.seller.endings import Endings
from infern.seller.leases import LeaseKeeper
from infern.seller.locks import LockKeeper

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
        refund_to: The payer's Fiber node, when the remainder is to be sent back to it.
    """

    key: KeyRecord | None
    challenge: Challenge | None
    refund_to: Pubkey | None = None

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
        leases: Keeps the hold from being swept meanwhile.
        locks: Settles or gives back what was paid in hold mode.
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
        leases: LeaseKeeper,
        locks: LockKeeper,
        sale: Sale,
    ) -> None:
        self._ledger = ledger
        self._endings = endings
        self._leases = leases
        self._locks = locks
        self._clock = clock
        self._entropy = entropy
        self._agent = agent
        self._sale = sale
        self._hold_id = HoldId(base32_id("hold_", entropy.random_bytes(16)))
        self._plan = self._remainder_plan()
        self._started_ms = clock.now_ms()
        self._settled: Settled | None = None
        self._is_left_to_endings = False
        self._is_delivering = False

    @property
    def _lock(self) -> PaymentHash | None:
        """The payment, if it is in hold mode."""
        challenge = self._sale.payer.challenge
        is_lock = challenge is not None and challenge.mode is Mode.HOLD
        return challenge.payment_hash if challenge is not None and is_lock else None

    def _remainder_plan(self) -> RemainderPlan:
        payer = self._sale.payer
        if payer.refund_to is None:
            return RemainderPlan(key=payer.key)
        return RemainderPlan(
            key=payer.key,
            refund_to=payer.refund_to,
            payout_id=PayoutId(base32_id("out_", self._entropy.random_bytes(16))),
        )

    @property
    def ceiling(self) -> int:
        """Base units held: the most this request can cost."""
        return self._sale.terms.ceiling

    async def __aenter__(self) -> Self:
        """Own the hold that was placed."""
        return self

    async def place(self) -> None:
        """Place the hold. Its owner enters the settlement next, with no wait in between.

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
            try:
                await self._release()
            finally:
                self._leases.end(self._hold_id)
            raise

    async def _place(self) -> None:
        challenge, key = self._sale.payer.challenge, self._sale.payer.key
        hold = Hold(
            hold_id=self._hold_id,
            tab_id=key.tab_id if key is not None else TabId(""),
            amount=self.ceiling,
            digest=self._sale.digest,
            payment_hash=challenge.payment_hash if challenge else None,
            attempt=self._sale.attempt,
            owner=self._leases.owner,
            lease_until_ms=self._leases.begin(self._hold_id),
            opened_ms=self._started_ms,
        )
        if challenge is None:
            await self._ledger.hold(hold)
            return
        await self._ledger.claim(paid_request(challenge, self._entropy), hold)
        self._locks.claimed(challenge.payment_hash)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release the hold unless it was captured, or will be. Take a lock that was delivered for.

        Writing a charged answer has ended by now, so nobody waits for the node.
        """
        try:
            if self._is_left_to_endings:
                return
            if self._settled is None:
                await self._release()
            elif self._lock is not None:
                await self._end(self._deliver if self._is_delivering else self._abandon)
        finally:
            self._leases.end(self._hold_id)

    async def _release(self) -> None:
        now_ms = self._clock.now_ms()

        async def release() -> None:
            await self._ledger.release(self._hold_id, now_ms=now_ms)
            await self._abandon()

        await self._end(release)

    async def _abandon(self) -> None:
        if self._lock is not None:
            await self._locks.give_back(self._lock, self._hold_id)

    async def _deliver(self) -> None:
        if self._lock is not None:
            await self._locks.deliver(self._lock)

    async def _end(self, ending: Callable[[], Awaitable[None]]) -> None:
        """Book an end, whatever is cancelled meanwhile, or leave it to who tries for longer."""
        with anyio.move_on_after(END_TIMEOUT_S, shield=True) as scope:
            try:
                await ending()
            except LedgerError as error:
                _log.warning("the end of hold %s is not booked: %s", self._hold_id, error.message)
                self._endings.add(self._hold_id, ending)
        if scope.cancelled_caught:
            _log.warning("the end of hold %s was not booked in time", self._hold_id)
            self._endings.add(self._hold_id, ending)

    @property
    def is_charged(self) -> bool:
        """True once the hold was captured, or will be."""
        return self._settled is not None or self._is_left_to_endings

    @property
    def waits_for_delivery(self) -> bool:
        """True for a payment in hold mode: money only once somebody was given the answer."""
        return self._lock is not None

    def as_told(self, failure: InfernError) -> InfernError:
        """A failure as the payer is to hear it.

        In hold mode a payment whose run failed goes back, so the same proof is good for nothing.
        """
        if self._lock is not None and failure.retry is Retry.SAME_CREDENTIAL:
            failure.retry = Retry.NEW_CHALLENGE
        return failure

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
            "remainder_to": self._plan.says(self.ceiling - charged),
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
        }

    async def capture(
        self, usage: BilledUsage, *, finish: Finish, response_root: bytes
    ) -> Settled | None:
        """Charge before delivery and sign the receipt. Not interrupted by cancellation.

        None when the ledger does not say in time whether it booked the charge. It cannot be called
        back then, so the answer is due; the charge is booked when the ledger is back.

        Raises:
            LedgerError: The ledger refused or is away; nothing is charged and the hold is released.
                In hold mode also when it does not say: the payment can be given back.
        """
        receipt = self._receipt(usage, finish, response_root)
        try:
            return await self._capture(receipt)
        except LedgerError as error:
            if error.money is not Money.UNKNOWN or self._lock is not None:
                raise
            self._leave_to_endings(receipt, error)
            return None

    async def capture_delivered(
        self, usage: BilledUsage, *, finish: Finish, response_root: bytes
    ) -> Settled | None:
        """Charge after delivery; None when the ledger is away: it is booked when it is back."""
        self.begin_delivery()
        receipt = self._receipt(usage, finish, response_root)
        try:
            return await self._capture(receipt)
        except LedgerError as error:
            self._leave_to_endings(receipt, error)
            return None

    def begin_delivery(self) -> None:
        """The consumer may have the answer from here on, whatever becomes of the connection.

        In hold mode a charge without it is given back.
        """
        self._is_delivering = True

    def _leave_to_endings(self, receipt: Receipt, why: LedgerError) -> None:
        """Book the charge for an answer when the ledger is back.

        Until then the money stays held; if this process dies first, start-up releases it.
        """
        _log.warning("an answer is not charged yet: %s", why.message)
        self._is_left_to_endings = True

        async def book() -> None:
            try:
                await self._book(receipt)
            except LedgerError as error:
                # It may have been booked although nobody heard so; the lock is to be taken then.
                if error.code != "ledger_conflict" or self._lock is None:
                    raise
            await (self._deliver if self._is_delivering else self._abandon)()

        self._endings.add(self._hold_id, book)

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
            remainder=self._plan,
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
            raise LedgerError(
                "The seller's ledger did not answer in time; whether this was charged shows in "
                "your receipts.",
                money=Money.UNKNOWN,
                retry=Retry.NEVER,
            )
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
        is_lock=challenge.mode is Mode.HOLD,
    )
