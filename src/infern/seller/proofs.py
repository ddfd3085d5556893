"""Checking that a proof's payment really arrived, with the payee's own node as the witness."""

import logging
from collections.abc import Callable
from typing import Final

from infern.core.errors import (
    InfernError,
    Money,
    PaymentError,
    PaymentOutcomeUnknown,
    QuotaExceeded,
    Retry,
    TransportError,
)
from infern.core.f402.challenge import Challenge, open_token
from infern.core.f402.checks import realm_of
from infern.core.f402.credential import Proof
from infern.core.f402.verify import Evidence, verify_proof
from infern.core.fiber.errors import InvoiceNotFound
from infern.core.fiber.rpc import GetInvoice
from infern.core.fiber.types import InvoiceStatus
from infern.core.ids import PaymentHash, Preimage, RequestDigest
from infern.ports import Clock, FiberNode
from infern.seller.config import SellerConfig

ASK_TIMEOUT_MS: Final = 3_000
CREDIT_S: Final = 30 * 86_400
"""How long after redeem-until a paid token can still be turned into credit."""
POLL_MS: Final = (20, 40, 80, 160, 250)
"""Waits between two questions to the node; the last one repeats."""
_MONEY: Final = frozenset({InvoiceStatus.PAID})
_MONEY_OR_LOCK: Final = frozenset({InvoiceStatus.PAID, InvoiceStatus.RECEIVED})
_log = logging.getLogger(__name__)


class ProofDesk:
    """Verifies proofs. Bounded: one waiter per payment, `proof_waiters` in all."""

    def __init__(self, config: SellerConfig, *, fiber: FiberNode, clock: Clock) -> None:
        self._config = config
        self._fiber = fiber
        self._clock = clock
        self._waiting: set[PaymentHash] = set()

    async def verify(
        self,
        proof: Proof,
        digest: RequestDigest,
        *,
        is_known_paid: Callable[[PaymentHash], bool] = lambda _: False,
    ) -> Challenge:
        """Check a proof completely, short of making it single use.

        The node is not asked about a payment that `is_known_paid`.

        Raises:
            RemoteProtocolError: Whatever `verify_proof` refuses; nothing is consumed.
            PaymentOutcomeUnknown: `payment_pending`; the same proof may come again.
            PaymentError: `payment_not_received`; the invoice can no longer be paid.
            TransportError: `fiber_unavailable`; the same proof may come again.
        """
        return await self._check(proof, digest, is_known_paid, late_s=0)

    async def verify_for_redeem(self, token: str, preimage: Preimage | None) -> Challenge:
        """Check a token and its payment for redemption, where no request is repeated.

        A token redeems for `CREDIT_S` longer than it can be used for an answer.

        Raises: as `verify`.
        """
        challenge = open_token(token, self._config.secrets.challenge_keys)
        proof = Proof(
            token=token,
            preimage=preimage,
            echoed={
                "network": challenge.network.fiber_id,
                "amount": str(challenge.amount),
                "asset": str(challenge.asset),
                "payTo": challenge.pay_to.hex(),
            },
        )
        return await self._check(proof, challenge.digest, lambda _: False, late_s=CREDIT_S)

    async def _check(
        self,
        proof: Proof,
        digest: RequestDigest,
        is_known_paid: Callable[[PaymentHash], bool],
        *,
        late_s: int,
    ) -> Challenge:
        verified = verify_proof(
            proof,
            keys=self._config.secrets.challenge_keys,
            issuer=realm_of(self._config.public_url),
            network=self._config.network,
            digest=digest,
            now_s=self._clock.now_ms() // 1000 - late_s,
        )
        is_known = is_known_paid(verified.challenge.payment_hash)
        if verified.evidence is Evidence.ASK_NODE:
            if self._config.require_preimage:
                raise PaymentError(
                    "this seller needs the preimage of the payment; your Fiber node must be 0.9 "
                    "or newer to know it. The payment stays redeemable.",
                    code="payment_pending",
                )
            if not is_known:
                await self._await_status(verified.challenge.payment_hash, _MONEY)
        elif verified.evidence is Evidence.ASK_FOR_LOCK and not is_known:
            # What was offered is honoured, also when preimages are asked for by now. Whether it is
            # money, and so can be redeemed, the ledger knows.
            await self._await_status(verified.challenge.payment_hash, _MONEY_OR_LOCK)
        return verified.challenge

    async def is_paid(self, payment_hash: PaymentHash) -> bool:
        """Whether one of our invoices was paid, or is about to be.

        Raises:
            TransportError: `fiber_unavailable`; nobody knows.
            PaymentError: `payment_not_received`; the node does not know the invoice any more.
        """
        try:
            status = await self._status(payment_hash)
        except PaymentError as error:
            if error.money is Money.UNKNOWN:
                raise
            return False  # cancelled or expired
        return status in _MONEY_OR_LOCK

    async def _await_status(
        self, payment_hash: PaymentHash, good: frozenset[InvoiceStatus]
    ) -> None:
        # Asked before anybody queues: payments that did arrive must not stand behind those that
        # did not, of which strangers can make as many as they like.
        if await self._status(payment_hash) in good:
            return
        limits = self._config.limits
        if payment_hash in self._waiting:
            raise _pending("another request with this proof is already waiting for its payment")
        if len(self._waiting) >= limits.proof_waiters:
            raise QuotaExceeded(
                "Too many payments are being waited for; repeat the same proof in a moment.",
                money=Money.UNKNOWN,
                retry_after_s=2,
            )
        self._waiting.add(payment_hash)
        try:
            deadline_ms = self._clock.now_ms() + limits.proof_wait_ms
            attempt = 0
            while True:
                left_ms = deadline_ms - self._clock.now_ms()
                if left_ms <= 0:
                    raise _pending("the payment has not arrived yet")
                wait_ms = min(left_ms, POLL_MS[min(attempt, len(POLL_MS) - 1)])
                attempt += 1
                await self._fiber.wait_change(payment_hash, timeout_ms=wait_ms)
                if await self._status(payment_hash) in good:
                    return
        finally:
            self._waiting.discard(payment_hash)

    async def _status(self, payment_hash: PaymentHash) -> InvoiceStatus | None:
        try:
            record = await self._fiber.call(
                GetInvoice(payment_hash=payment_hash), timeout_ms=ASK_TIMEOUT_MS
            )
        except InvoiceNotFound as error:
            # Our token, but not our node's invoice: the node was replaced since.
            _log.error("the Fiber node does not know an invoice of this seller")
            raise PaymentError(
                "This seller's Fiber node does not know the invoice; it was replaced since. Do not "
                "pay again: present the preimage if your node has it, or ask the operator for your "
                "credit.",
                code="payment_not_received",
                money=Money.UNKNOWN,
                retry=Retry.NEVER,
            ) from error
        except InfernError as error:
            _log.warning("the Fiber node did not say whether an invoice is paid: %s", error)
            raise TransportError(
                "This seller's Fiber node does not answer right now. Your payment is not lost: "
                "repeat the same proof.",
                code="fiber_unavailable",
                money=Money.UNKNOWN,
                retry_after_s=2,
            ) from error
        if record.status in (InvoiceStatus.CANCELLED, InvoiceStatus.EXPIRED):
            raise PaymentError(
                f"The invoice is {record.status.value.lower()} and was not paid; send the request "
                "without a proof to get a new one.",
                code="payment_not_received",
            )
        return record.status


def _pending(why: str) -> PaymentOutcomeUnknown:
    return PaymentOutcomeUnknown(
        f"Payment pending: {why}. Repeat the same proof; do not pay again.",
        code="payment_pending",
        retry_after_s=2,
    )
