"""One paid request, from the first ask to the answer: the only implementation, without I/O.

ask → 402 → read and check the offer → budget → journal → pay → repeat the same bytes with the
proof. From the moment the journal holds a payment, nothing here can lead to another one for the
same request: 425, 409, 5xx and broken connections repeat the same proof, a 402 ends the exchange,
and what was paid stays on record until it is answered or redeemed.

In hold mode the proof goes out as soon as the payment is under way. What was refused is waited for
to come back, briefly; only our own node's word that it did lets the request be paid anew.
"""

import logging
from dataclasses import dataclass, field
from typing import Final

from infern.client.answers import (
    error_of,
    is_elsewhere,
    is_no_refusal,
    judge,
    pause_before_next,
    pause_before_same,
)
from infern.client.budget import HOLD_WINDOWS
from infern.client.delivery import Delivery, Expected
from infern.client.effects import Adopt, Ask, Reply, Sleep, Steps, WireBroken, adopt, ask
from infern.client.held import await_return, glance, lock_text, look_after, not_back
from infern.client.journal import Attempt, AttemptKind
from infern.client.paying import Held, begin_payment, resume_payment, step
from infern.client.receipts import ReceiptLog
from infern.client.wallet import Wallet
from infern.core.errors import (
    BudgetExceeded,
    InvariantViolation,
    Money,
    NoRoute,
    PaymentError,
    PaymentFailed,
    PaymentOutcomeUnknown,
    Retry,
)
from infern.core.f402.challenge import Mode
from infern.core.f402.checks import Expectation, check_offer, own_ceilings
from infern.core.f402.client import ClientEvent, ClientState, advance
from infern.core.f402.credential import proof_header
from infern.core.f402.offer import Offer, parse_offer
from infern.core.ids import Pubkey, RequestDigest
from infern.core.units import CKB

logger = logging.getLogger(__name__)

MAX_ADOPTIONS: Final = 4
"""Old payments for one request that are looked at before giving up; each is finished first."""
HOLD_UNAVAILABLE: Final = "hold_unavailable"
_OPEN_ENDED: Final = frozenset(
    {ClientState.PAYING, ClientState.HELD, ClientState.CLAIMING, ClientState.RETURNING}
)
"""States of an old payment of which the node may know more than the journal."""


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
        is_named: It carries an `Idempotency-Key`, so that it can be sent again for the same answer.
        refund_to: The node it names itself for a remainder.
        mode: The mode it asks for itself; None for the wallet's.
    """

    origin: str
    url: str
    digest: RequestDigest
    can_pay: bool
    target: str
    body: bytes = field(repr=False)
    is_keyed: bool = False
    is_named: bool = False
    refund_to: Pubkey | None = None
    mode: Mode | None = None

    def can_repeat(self, todo: Ask) -> bool:
        """True when the same answer can be had by asking once more, without another charge."""
        return todo.proof is not None or self.is_named


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
            bought = yield from self._buy()
            if isinstance(bought, Outcome):
                return bought
            attempt = bought
        return (yield from self.prove(attempt))

    def _buy(self) -> Steps[Attempt | Outcome]:
        """Ask for an offer and pay it; what was answered without a payment is the outcome."""
        modes = self._wallet.mode.modes if self.order.mode is None else (self.order.mode,)
        for mode in modes:
            try:
                reply = yield from self._ask_first(mode)
                intended = self.consider(reply, modes[modes.index(mode) :])
                if intended is None:
                    return Outcome(reply=reply, attempt=None)
                if intended.mode is Mode.HOLD:
                    yield from look_after(self._wallet)
                return (yield from self.pay(intended))
            except PaymentError as error:
                if mode is modes[-1] or not _is_for_want_of_hold_mode(error):
                    raise
                logger.info("paying upfront: %s", error.message)
        raise InvariantViolation("a request is asked for in one mode at least")

    def _ask_first(self, mode: Mode) -> Steps[Reply]:
        """Ask without a proof. Where the answer is lost, a named request is sent again for it.

        Raises:
            WireBroken: No answer, or the caller's time is over.
        """
        clock, patience = self._wallet.clock, self._wallet.patience
        todo = self.unpaid(mode)
        give_up_ms = clock.now_ms() + patience.prove_ms
        for turn in range(patience.proofs):
            answer = yield from _ask_with(todo)
            pause_ms = pause_before_same(answer, turn, patience)
            is_over = turn + 1 == patience.proofs or not self.order.can_repeat(todo)
            if pause_ms is None or is_over or clock.now_ms() + pause_ms > give_up_ms:
                if isinstance(answer, WireBroken):
                    raise answer
                return answer
            logger.info("the answer was lost; the same request is sent again")
            yield Sleep(duration_ms=pause_ms)
        raise InvariantViolation("an exchange has at least one turn")

    def unpaid(self, mode: Mode = Mode.UPFRONT) -> Ask:
        """The request without a proof."""
        if not self.order.can_pay:
            return Ask()
        budget = self._wallet.budget
        cap, is_hold = budget.per_request, mode is Mode.HOLD
        if is_hold and not self.order.is_keyed and len(self._wallet.mode.modes) == 1:
            cap = min(cap, budget.per_lock)
        return Ask(max_amount=cap, refund_to=self._refund_to, is_hold=is_hold)

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
            if attempt is None or attempt.state not in _OPEN_ENDED:
                return attempt
            attempt = yield from self._ask_node(attempt)
            if attempt is not None:
                return attempt
            # It failed for good: the row is closed and the request is as good as new.
            self.held.attempt = None
        raise PaymentOutcomeUnknown("too many unfinished payments for this request; try later")

    def _ask_node(self, attempt: Attempt) -> Steps[Attempt | None]:
        """What became of an old payment: a row whose proof may go out, or None when it failed.

        Raises:
            PaymentOutcomeUnknown: Nobody knows yet.
        """
        if not self.order.can_pay:
            if attempt.state in {ClientState.HELD, ClientState.CLAIMING}:
                return attempt
            raise PaymentOutcomeUnknown(
                "an earlier payment for this request is unaccounted for, and there is no"
                " Fiber node to ask. Start the node it was paid from and repeat."
            )
        if attempt.state is ClientState.PAYING:
            try:
                return (yield from resume_payment(self.held, attempt, self._wallet))
            except (PaymentFailed, NoRoute):
                return None
        waits = attempt.state is ClientState.RETURNING
        news = await_return if waits else glance
        attempt = yield from news(self.held, attempt, self._wallet)
        if attempt.state is ClientState.RETURNING:
            raise not_back(attempt, "An earlier run of this request failed.")
        return None if attempt.state is ClientState.PAYMENT_FAILED else attempt

    def consider(self, reply: Reply, modes: tuple[Mode, ...] = (Mode.UPFRONT,)) -> Attempt | None:
        """Read and check the offer of a 402; None when there is nothing to pay here.

        Args:
            reply: To the unpaid request.
            modes: The mode that was asked for, and those that will do as well.

        Raises:
            PaymentError: `offer_refused`, or `hold_unavailable`; nothing was paid.
            RemoteProtocolError: The offer cannot be read; nothing was paid.
        """
        if reply.status != 402:
            return None
        if reply.redirected:
            raise _refused("redirect", "the offer came from another address than was asked")
        if modes[0] is Mode.HOLD and self.order.can_pay:
            _check_hold_mode(reply)
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
            modes=frozenset(modes),
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
            mode=claims.mode,
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
        if attempt.state in {ClientState.PROVING, ClientState.CLAIMING}:
            # Its process died, or its driver did, while the proof was out.
            attempt = yield from step(self.held, attempt, ClientEvent.SELLER_FAILED, clock)
        for turn in range(patience.proofs):
            attempt = yield from step(self.held, attempt, ClientEvent.PROOF_SENT, clock)
            answer = yield from _ask_with(Ask(proof=proof))
            event = judge(answer, is_held=attempt.state is ClientState.CLAIMING)
            if event is ClientEvent.ANSWERED and isinstance(answer, Reply):
                # Written as delivered only when its last byte has arrived; see `delivery`.
                return Outcome(reply=answer, attempt=attempt)
            attempt = yield from step(self.held, attempt, event, clock)
            if attempt.state is ClientState.RETURNING:
                return (yield from self._take_back(answer, attempt))
            pause_ms = pause_before_next(answer, event, turn, patience)
            if (
                pause_ms is None
                or turn + 1 == patience.proofs
                or clock.now_ms() + pause_ms > give_up_ms
            ):
                return _unanswered(answer, attempt)
            yield Sleep(duration_ms=pause_ms)
            if attempt.state is ClientState.HELD and self.order.can_pay:
                attempt = yield from glance(self.held, attempt, self._wallet)
            if attempt.state is ClientState.PAYMENT_FAILED:
                raise PaymentFailed(
                    "The payment in hold mode did not arrive, or the seller gave it back: nothing"
                    " was paid. Send the request again to get a new offer.",
                    retry=Retry.NEW_CHALLENGE,
                )
        raise InvariantViolation("an exchange has at least one turn")

    def _take_back(self, answer: Reply | WireBroken, attempt: Attempt) -> Steps[Outcome]:
        """The end of an exchange in hold mode that the seller refused.

        Raises:
            PaymentOutcomeUnknown: The payment has not come back yet.
            PaymentError: The seller took it all the same.
        """
        if self.order.can_pay:
            attempt = yield from await_return(self.held, attempt, self._wallet)
        said = error_of(answer).get("message") if isinstance(answer, Reply) else None
        if attempt.state is ClientState.RETURNING:
            raise not_back(attempt, f"The seller did not answer the request: {str(said)[:500]}")
        if attempt.state is ClientState.UNREDEEMED:
            raise _kept(
                "refused this proof and took the payment in hold mode all the same", attempt
            )
        if isinstance(answer, Reply) and is_no_refusal(answer):
            raise _refused("paid already", "the seller was sent a payment and asks for another one")
        return _unanswered(answer, attempt)


def _refused(check: str, complaint: str) -> PaymentError:
    return PaymentError(
        f"Refused to pay: {complaint}. Nothing was paid.",
        code="offer_refused",
        details={"check": check},
    )


def _ask_with(todo: Ask) -> Steps[Reply | WireBroken]:
    try:
        return (yield from ask(todo))
    except WireBroken as broken:
        return broken


def _unanswered(answer: Reply | WireBroken, attempt: Attempt) -> Outcome:
    """The end of an exchange whose payment is not answered.

    A seller that was paid and asks for money again, or points elsewhere, is not shown as it
    stands: a caller above us that pays 402s must not see one.
    """
    if attempt.state is ClientState.HELD:
        logger.warning("a payment in hold mode is not answered: %s", lock_text(attempt))
    if isinstance(answer, WireBroken):
        raise answer
    if is_elsewhere(answer):
        raise _kept("points to another address; a proof is never sent there", attempt)
    if is_no_refusal(answer):
        raise _kept("was paid for this request and asks for money again", attempt)
    return Outcome(reply=answer, attempt=attempt)


def _check_hold_mode(reply: Reply) -> None:
    """Refuse a 402 that says that hold mode is not to be had.

    Raises:
        PaymentError: `hold_unavailable`; nothing was paid.
    """
    error = error_of(reply)
    if error.get("code") != HOLD_UNAVAILABLE:
        return
    f402 = error.get("f402")
    reason = f402.get("reason") if isinstance(f402, dict) else None
    raise PaymentError(
        f"The seller says: {str(error.get('message'))[:500]} Use mode='upfront' for this request,"
        " or mode='hold_or_upfront' to pay upfront whenever hold mode is not to be had.",
        code=HOLD_UNAVAILABLE,
        details={"reason": str(reason)[:64]},
    )


def _is_for_want_of_hold_mode(error: PaymentError) -> bool:
    """True when nothing was paid, and payment upfront may still be possible."""
    if isinstance(error, BudgetExceeded):
        return error.details.get("window") in HOLD_WINDOWS
    return error.code == HOLD_UNAVAILABLE


def _kept(complaint: str, attempt: Attempt) -> PaymentError:
    return PaymentError(
        f"The seller {complaint}. Nothing more was paid. The payment stays on record: repeat the"
        " same request to present it again, or redeem it as credit (client.f402.redeem()).",
        code="offer_refused",
        money=Money.MOVED,
        retry=Retry.SAME_CREDENTIAL,
        details={"check": "paid already", "payment_hash": attempt.payment_hash.hex()},
    )
