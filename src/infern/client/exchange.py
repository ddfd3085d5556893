"""One paid request, from the first ask to the answer: the only implementation, without I/O.

ask → 402 → read and check the offer → budget → journal → pay → repeat the same bytes with the
proof. From the moment the journal holds a payment, nothing here can lead to another one for the
same request: 425, 409, 5xx and broken connections repeat the same proof, a 402 ends the exchange,
and what was paid stays on record until it is answered or redeemed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from infern.client.delivery import Delivery, Expected
from infern.client.effects import Adopt, Ask, Reply, Sleep, Steps, WireBroken, adopt, ask
from infern.client.journal import Attempt, AttemptKind
from infern.client.paying import Held, begin_payment, resume_payment, step
from infern.client.receipts import ReceiptLog
from infern.client.wallet import Patience, Wallet
from infern.core.errors import (
    InvariantViolation,
    Money,
    NoRoute,
    PaymentError,
    PaymentFailed,
    PaymentOutcomeUnknown,
    RemoteProtocolError,
    Retry,
)
from infern.core.f402.checks import Expectation, check_offer, own_ceilings
from infern.core.f402.client import ClientEvent, ClientState, advance
from infern.core.f402.credential import proof_header
from infern.core.f402.digest import request_digest
from infern.core.f402.offer import Offer, parse_offer
from infern.core.ids import Pubkey, RequestDigest
from infern.core.units import CKB
from infern.core.wire import strict_json

MAX_ADOPTIONS: Final = 4
"""Old payments for one request that are looked at before giving up; each is finished first."""
PROOF_REFUSALS: Final = frozenset(
    {
        "invalid_challenge",
        "wrong_realm",
        "challenge_expired",
        "request_mismatch",
        "invalid_preimage",
        "amount_mismatch",
        "asset_mismatch",
        "pay_to_mismatch",
        "payment_not_received",
    }
)
"""Codes with which a seller may refuse a proof by a 402."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The request to be paid for.

    Args:
        origin: Scheme, host and port it goes to.
        url: Absolute URL.
        digest: Of exactly the bytes that are sent.
        can_pay: False when there is no Fiber node to pay with; old proofs are used all the same.
        target: Origin form with query.
        body: The bytes that are sent.
        is_keyed: It carries a prepaid key, which then gets what is left.
        refund_to: The node it names itself for a remainder.
    """

    origin: str
    url: str
    digest: RequestDigest
    can_pay: bool
    target: str
    body: bytes = field(repr=False)
    is_keyed: bool = False
    refund_to: Pubkey | None = None

    @classmethod
    def of(
        cls,
        *,
        method: str,
        origin: str,
        target: str,
        body: bytes,
        can_pay: bool,
        is_keyed: bool = False,
        refund_to: Pubkey | None = None,
    ) -> "Order":
        """The order for a request's bytes; `target` is the origin form with query."""
        return cls(
            origin=origin,
            url=origin + target,
            digest=request_digest(method, target, body),
            can_pay=can_pay,
            target=target,
            body=body,
            is_keyed=is_keyed,
            refund_to=refund_to,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an exchange ended.

    Args:
        reply: The last answer; when it is a success its body is still to be read.
        attempt: The payment it was answered for, None when nothing was paid by this request.
    """

    reply: Reply
    attempt: Attempt | None


class Exchange:
    """One run. `run` is the generator; `held` is the row it owns, for cleaning up."""

    def __init__(self, order: Order, wallet: Wallet) -> None:
        self.order = order
        self._wallet = wallet
        self._refund_to = order.refund_to or (None if order.is_keyed else wallet.refund_to)
        self.held = Held()

    def run(self) -> Steps[Outcome]:
        """The exchange as steps.

        Raises:
            PaymentError: Refused, over budget, failed or of unknown outcome; see its `money`.
            RemoteProtocolError: The seller broke F402 before anything was paid.
            WireBroken: No answer. With money at stake the row is kept for the next attempt.
            LedgerError: The journal is away; nothing was paid after it said so.
        """
        attempt = yield from self.resume()
        if attempt is None:
            reply = yield from ask(self.unpaid())
            intended = self.consider(reply)
            if intended is None:
                return Outcome(reply=reply, attempt=None)
            attempt = yield from self.pay(intended)
        return (yield from self.prove(attempt))

    def unpaid(self) -> Ask:
        """The request without a proof."""
        cap = self._wallet.budget.per_request if self.order.can_pay else None
        return Ask(max_amount=cap, refund_to=self._refund_to if self.order.can_pay else None)

    def pay(self, intended: Attempt) -> Steps[Attempt]:
        """Pay what was considered; raises as `begin_payment`."""
        return begin_payment(self.held, intended, self._wallet)

    def delivery(
        self, outcome: Outcome, *, is_keyed: bool, agents: frozenset[Pubkey], log: ReceiptLog
    ) -> Delivery:
        """What follows a successful answer to its end; takes the row over.

        Args:
            outcome: How `run` ended.
            is_keyed: The request carried a prepaid key, so a receipt is owed in any case.
            agents: The seller's agent keys known beforehand.
            log: Where the receipt's check is kept.
        """
        expected = Expected(
            digest=self.order.digest,
            is_charged=outcome.attempt is not None or is_keyed,
            agents=agents,
        )
        return Delivery(
            wallet=self._wallet,
            held=self.held,
            expected=expected,
            headers=outcome.reply.headers,
            log=log,
        )

    def resume(self) -> Steps[Attempt | None]:
        """A payment made earlier for this very request, certainly paid, or None.

        Raises:
            PaymentOutcomeUnknown: There is one, and nobody knows what became of it.
            LedgerError: The journal is away.
        """
        wanted = Adopt(origin=self.order.origin, digest=self.order.digest, kind=AttemptKind.REQUEST)
        for _ in range(MAX_ADOPTIONS):
            attempt = yield from adopt(wanted)
            self.held.attempt = attempt
            if attempt is None or attempt.state is not ClientState.PAYING:
                return attempt
            if not self.order.can_pay:
                raise PaymentOutcomeUnknown(
                    "an earlier payment for this request is unaccounted for, and there is no"
                    " Fiber node to ask. Start the node it was paid from and repeat."
                )
            try:
                return (yield from resume_payment(self.held, attempt, self._wallet))
            except (PaymentFailed, NoRoute):
                # It failed for good: the row is closed and the request is as good as new.
                self.held.attempt = None
        raise PaymentOutcomeUnknown("too many unfinished payments for this request; try later")

    def consider(self, reply: Reply) -> Attempt | None:
        """Read and check the offer of a 402; None when there is nothing to pay here.

        Raises:
            PaymentError: `offer_refused`; nothing was paid.
            RemoteProtocolError: The offer cannot be read; nothing was paid.
        """
        if reply.status != 402:
            return None
        if reply.redirected:
            raise _refused("redirect", "the offer came from another address than was asked")
        offer = parse_offer(reply.body, self.order.url)
        if offer is None or not self.order.can_pay:
            return None
        now_ms = self._wallet.clock.now_ms()
        known = self._wallet.known_of(self.order.origin)
        expected = Expectation(
            digest=self.order.digest,
            origin=self.order.origin,
            network=self._wallet.network,
            asset=CKB,
            max_amount=self._wallet.budget.per_request,
            now_s=now_ms // 1000,
            pay_to=known.pay_to,
            price=known.price,
            ceilings=own_ceilings(self.order.target, self.order.body),
            refund_to=self._refund_to,
        )
        check_offer(offer, expected, self._wallet.verifier)
        return self._intent(offer, now_ms)

    def _intent(self, offer: Offer, now_ms: int) -> Attempt:
        claims = offer.challenge
        return Attempt(
            payment_hash=claims.payment_hash,
            kind=AttemptKind.REQUEST,
            digest=claims.digest,
            origin=self.order.origin,
            resource=self.order.url,
            pay_to=claims.pay_to,
            provider=offer.provider,
            amount=claims.amount,
            fee_cap=self._wallet.budget.fee_cap(claims.amount),
            asset=claims.asset,
            token=offer.token,
            invoice=offer.invoice,
            redeem_until_s=claims.redeem_until_s,
            state=advance(ClientState.ASKING, ClientEvent.OFFER_ACCEPTED),
            session=self._wallet.session,
            created_ms=now_ms,
            updated_ms=now_ms,
        )

    def prove(self, attempt: Attempt) -> Steps[Outcome]:
        """Present the proof until it is answered, refused, or patience ends.

        Raises:
            PaymentError: The seller was paid and asks again, or points elsewhere.
            WireBroken: No answer; the row is kept for the next attempt.
        """
        clock, patience = self._wallet.clock, self._wallet.patience
        proof = proof_header(attempt.offer(), preimage=attempt.preimage)
        give_up_ms = clock.now_ms() + patience.prove_ms
        if attempt.state is ClientState.PROVING:
            # Its process died, or its driver did, while the proof was out.
            attempt = yield from step(self.held, attempt, ClientEvent.SELLER_FAILED, clock)
        for turn in range(patience.proofs):
            attempt = yield from step(self.held, attempt, ClientEvent.PROOF_SENT, clock)
            answer = yield from _ask_with(proof)
            event = judge(answer)
            if event is ClientEvent.ANSWERED and isinstance(answer, Reply):
                # Written as delivered only when its last byte has arrived; see `delivery`.
                return Outcome(reply=answer, attempt=attempt)
            attempt = yield from step(self.held, attempt, event, clock)
            pause_ms = _pause_ms(answer, event, turn, patience)
            if (
                pause_ms is None
                or turn + 1 == patience.proofs
                or clock.now_ms() + pause_ms > give_up_ms
            ):
                return _unanswered(answer, attempt)
            yield Sleep(duration_ms=pause_ms)
        raise InvariantViolation("an exchange has at least one turn")


def _refused(check: str, complaint: str) -> PaymentError:
    return PaymentError(
        f"Refused to pay: {complaint}. Nothing was paid.",
        code="offer_refused",
        details={"check": check},
    )


def _ask_with(proof: str) -> Steps[Reply | WireBroken]:
    try:
        return (yield from ask(Ask(proof=proof)))
    except WireBroken as broken:
        return broken


def judge(answer: Reply | WireBroken) -> ClientEvent:
    """What an answer to a proof means for the payment."""
    if isinstance(answer, WireBroken):
        return ClientEvent.SELLER_FAILED
    if answer.redirected:
        return ClientEvent.PROOF_REFUSED
    if answer.is_success:
        return ClientEvent.ANSWERED
    code = str(_error_of(answer).get("code"))
    if answer.status == 409 and code == "already_delivered":
        return ClientEvent.ALREADY_DELIVERED
    if answer.status in {425, 429} or (answer.status == 409 and code == "request_in_progress"):
        return ClientEvent.PROOF_PENDING
    if answer.status >= 500 or answer.status == 408:
        return ClientEvent.SELLER_FAILED
    return ClientEvent.PROOF_REFUSED


def _pause_ms(
    answer: Reply | WireBroken, event: ClientEvent, turn: int, patience: Patience
) -> int | None:
    """How long to wait before the same proof goes out again; None to stop."""
    if event not in {ClientEvent.PROOF_PENDING, ClientEvent.SELLER_FAILED}:
        return None
    own_ms = min(patience.pause_ms << turn, patience.retry_after_ms)
    if isinstance(answer, WireBroken):
        return None if answer.timed_out else own_ms
    if _error_of(answer).get("retry") == Retry.NEVER.value:
        return None
    wish = answer.headers.get("retry-after", "")
    if not (wish.isascii() and wish.isdigit() and len(wish) <= 6):
        return own_ms
    wish_ms = int(wish) * 1000
    return max(own_ms, wish_ms) if wish_ms <= patience.retry_after_ms else None


def _error_of(reply: Reply) -> Mapping[str, object]:
    try:
        error = strict_json.loads_object(reply.body).get("error")
    except RemoteProtocolError:
        return {}
    return error if isinstance(error, dict) else {}


def _unanswered(answer: Reply | WireBroken, attempt: Attempt) -> Outcome:
    """The end of an exchange whose payment is not answered.

    A seller that was paid and asks for money again, or points elsewhere, is not shown as it
    stands: a caller above us that pays 402s must not see one.
    """
    if isinstance(answer, WireBroken):
        raise answer
    if answer.redirected or 300 <= answer.status < 400:
        raise _kept("points to another address; a proof is never sent there", attempt)
    if answer.status == 402 and _error_of(answer).get("code") not in PROOF_REFUSALS:
        raise _kept("was paid for this request and asks for money again", attempt)
    return Outcome(reply=answer, attempt=attempt)


def _kept(complaint: str, attempt: Attempt) -> PaymentError:
    return PaymentError(
        f"The seller {complaint}. Nothing more was paid. The payment stays on record: repeat the"
        " same request to present it again, or redeem it as credit (client.f402.redeem()).",
        code="offer_refused",
        money=Money.MOVED,
        retry=Retry.SAME_CREDENTIAL,
        details={"check": "paid already", "payment_hash": attempt.payment_hash.hex()},
    )
