"""How a node pays: sessions, attempts, retries.

Source: fnn 0.8.0 `payment.rs` (`send_payment_with_payment_data`, `handle_remove_tlc_event`) and
`history.rs` (`record_payment_fail`).
"""

from functools import partial
from typing import TYPE_CHECKING, Final

from infern.devnet.fiber.channel import Failure, Fulfil, LimitHit, OnionHop, Removal
from infern.devnet.fiber.engine import Offer
from infern.devnet.fiber.errors import NodeError
from infern.devnet.fiber.node import Node, hex0x
from infern.devnet.fiber.routing import PathError, find_route
from infern.devnet.fiber.session import (
    Attempt,
    AttemptStatus,
    PaymentRequest,
    PaymentStatus,
    RouterHop,
    Session,
)
from infern.devnet.fiber.settings import MAX_TLC_EXPIRY_MS, PAYMENT_TRY_LIMIT, TLC_EXPIRY_DELTA_MS
from infern.devnet.fiber.states import TlcErrorCode

if TYPE_CHECKING:
    from infern.devnet.fiber.network import Network

_Code = TlcErrorCode
_FINAL_NO_RETRY: Final = frozenset(
    {
        _Code.INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS,
        _Code.INVOICE_EXPIRED,
        _Code.INVOICE_CANCELLED,
        _Code.HOLD_TLC_TIMEOUT,
        _Code.EXPIRY_TOO_SOON,
        _Code.EXPIRY_TOO_FAR,
    }
)
_MIDDLE_NO_RETRY: Final = frozenset(
    {
        _Code.INCORRECT_TLC_EXPIRY,
        _Code.INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS,
        _Code.INVOICE_EXPIRED,
        _Code.INVOICE_CANCELLED,
        _Code.FINAL_INCORRECT_EXPIRY_DELTA,
        _Code.FINAL_INCORRECT_TLC_AMOUNT,
        _Code.HOLD_TLC_TIMEOUT,
    }
)
_SOURCE_NO_RETRY: Final = _FINAL_NO_RETRY | {_Code.UNKNOWN_NEXT_PEER}
_LEARNED_FOR_GOOD: Final = frozenset(
    {_Code.PERMANENT_CHANNEL_FAILURE, _Code.CHANNEL_DISABLED, _Code.UNKNOWN_NEXT_PEER}
)


class Payer:
    """Paying half of every node of a network."""

    def __init__(self, network: "Network") -> None:
        self._network = network

    def send(self, node: Node, request: PaymentRequest) -> Session:
        """Start a payment, or only price it for a dry run.

        Raises:
            NodeError: Already paid or under way, or no route. For want of a route the session is
                stored as failed; no money moved in any case.
        """
        previous = node.sessions.get(request.payment_hash)
        if previous is not None:
            _refuse_duplicate(previous)
        now_ms = self._network.clock.now_ms
        session = Session(request=request, created_at_ms=now_ms, last_updated_at_ms=now_ms)
        if not request.dry_run:
            self._store(node, session)
        try:
            attempt = self._new_attempt(node, session)
        except PathError as error:
            text = f"Send payment error: Failed to build route, {error}"
            if not request.dry_run:
                self._fail(node, session, text)
            raise NodeError(text) from None
        session.attempts.append(attempt)
        if not request.dry_run:
            wait_ms = self._network.settings.latencies.start_ms
            self._later(wait_ms, partial(node.when_online, partial(self._start, node, attempt)))
        return session

    def _new_attempt(self, node: Node, session: Session) -> Attempt:
        hops = find_route(self._network, node, session.request)
        nodes = (node.pubkey, *(hop.target for hop in hops))
        return Attempt(session=session, nodes=nodes, hops=hops, padding_ms=_padding_ms(node, hops))

    def _start(self, node: Node, attempt: Attempt) -> None:
        """Offer the first TLC of an attempt."""
        network, session = self._network, attempt.session
        if attempt.status not in (AttemptStatus.CREATED, AttemptStatus.RETRYING):
            return
        if session.status.is_final:
            return
        channel = network.channel_by_outpoint(attempt.hops[0].channel_outpoint)
        if channel is None or not channel.has_party(node):
            hit: LimitHit | None = LimitHit(
                _Code.UNKNOWN_NEXT_PEER, "Failed to send onion packet with error UnknownNextPeer"
            )
        else:
            offer = self._first_offer(attempt)
            added = network.engine.offer(channel, channel.index_of(node), offer)
            hit = added if isinstance(added, LimitHit) else None
        if hit is None:
            attempt.status = AttemptStatus.INFLIGHT
            session.refresh()
            return
        refusal = Failure(code=hit.code, origin=node.pubkey, detail=hit.text, slots=hit.slots)
        self._attempt_failed(node, attempt, refusal)

    def _first_offer(self, attempt: Attempt) -> Offer:
        request = attempt.session.request
        base_ms = self._network.clock.now_ms + attempt.padding_ms
        onion = tuple(
            OnionHop(
                channel_outpoint=hop.channel_outpoint,
                target=hop.target,
                amount=hop.amount_received,
                expiry_ms=base_ms + hop.incoming_tlc_expiry,
            )
            for hop in attempt.hops
        )
        return Offer(
            amount=onion[0].amount,
            payment_hash=request.payment_hash,
            expiry_ms=onion[0].expiry_ms,
            algorithm=request.algorithm,
            onion=onion[1:],
            keysend_preimage=request.preimage,
            attempt=attempt,
        )

    def on_attempt_resolved(self, node: Node, attempt: Attempt, removal: Removal) -> None:
        """The first TLC is gone from the payer's channel."""
        node.when_online(partial(self._resolve, node, attempt, removal))

    def _resolve(self, node: Node, attempt: Attempt, removal: Removal) -> None:
        session = attempt.session
        if isinstance(removal, Failure):
            self._attempt_failed(node, attempt, removal)
            return
        assert isinstance(removal, Fulfil)
        for position, hop in enumerate(attempt.hops):
            sender = attempt.nodes[position]
            node.history.record_success(hop.channel_outpoint, sender, hop.amount_received)
        attempt.status = AttemptStatus.SUCCESS
        session.preimage = removal.preimage
        session.refresh()
        self._store(node, session)

    def _attempt_failed(self, node: Node, attempt: Attempt, refusal: Failure) -> None:
        session = attempt.session
        retry = self._learn(node, attempt, refusal)
        own_channel = refusal.origin == node.pubkey
        error = refusal.detail if own_channel else refusal.code.value
        if not retry or attempt.tries > PAYMENT_TRY_LIMIT:
            attempt.status = AttemptStatus.FAILED
            self._fail(node, session, error)
            return
        attempt.status = AttemptStatus.RETRYING
        attempt.tries += 1
        session.retries += 1
        session.refresh()
        wait_ms = self._network.settings.latencies.retry_ms * session.retries
        self._later(wait_ms, partial(node.when_online, partial(self._retry, node, attempt)))

    def _retry(self, node: Node, attempt: Attempt) -> None:
        session = attempt.session
        if attempt.status is not AttemptStatus.RETRYING or session.status.is_final:
            return
        try:
            hops = find_route(self._network, node, session.request)
        except PathError as error:
            attempt.status = AttemptStatus.FAILED
            text = f"Build payment route error: Failed to build route, {error}"
            self._fail(node, session, text)
            return
        attempt.hops = hops
        attempt.nodes = (node.pubkey, *(hop.target for hop in hops))
        attempt.padding_ms = _padding_ms(node, hops)
        self._start(node, attempt)

    def _learn(self, node: Node, attempt: Attempt, refusal: Failure) -> bool:
        """Remember what a failure says about the route; whether another try makes sense."""
        if refusal.origin not in attempt.nodes:
            return False
        index = attempt.nodes.index(refusal.origin)
        last = len(attempt.nodes) - 1
        now_ms = self._network.clock.now_ms
        if index < last:
            hop, sender = attempt.hops[index], attempt.nodes[index]
            penalty_ms = node.settings.slot_limit_penalty_ms
            if refusal.slots and penalty_ms:
                node.history.avoid(hop.channel_outpoint, sender, now_ms + penalty_ms)
            for_good = refusal.code in _LEARNED_FOR_GOOD
            amount = 1 if for_good else hop.amount_received
            if index or for_good or refusal.code is _Code.TEMPORARY_CHANNEL_FAILURE:
                node.history.record_failure(hop.channel_outpoint, sender, amount, now_ms)
            return refusal.code not in (_MIDDLE_NO_RETRY if index else _SOURCE_NO_RETRY)
        if refusal.code in _FINAL_NO_RETRY:
            return False
        if last == 1:
            return False
        # The payee refused amount or expiry: the hop before the last forwarder is suspected.
        hop, sender = attempt.hops[last - 2], attempt.nodes[last - 2]
        node.history.record_failure(hop.channel_outpoint, sender, 1, now_ms)
        return True

    def _fail(self, node: Node, session: Session, error: str) -> None:
        session.status = PaymentStatus.FAILED
        session.failed_error = error
        session.last_updated_at_ms = self._network.clock.now_ms
        self._store(node, session)

    def _store(self, node: Node, session: Session) -> None:
        request = session.request
        node.sessions[request.payment_hash] = session
        node.emit(
            {
                "PutPaymentSession": {
                    "payment_hash": hex0x(request.payment_hash),
                    "payment_session": {
                        "request": {
                            "target_pubkey": request.target.hex(),
                            "amount": request.amount,
                            "payment_hash": hex0x(request.payment_hash),
                            "invoice": request.invoice,
                            "final_tlc_expiry_delta": request.final_delta_ms,
                            "tlc_expiry_limit": request.expiry_limit_ms,
                            "timeout": request.timeout_s,
                            "max_fee_amount": request.max_fee,
                            "keysend": request.preimage is not None,
                            "dry_run": request.dry_run,
                        },
                        "last_error": session.failed_error,
                        "try_limit": PAYMENT_TRY_LIMIT,
                        "status": session.status.value,
                        "created_at": session.created_at_ms,
                        "last_updated_at": session.last_updated_at_ms,
                    },
                }
            }
        )

    def _later(self, wait_ms: int, operation: "partial[None]") -> None:
        self._network.clock.call_later_us(self._network.scaled_us(wait_ms), operation)


def _refuse_duplicate(previous: Session) -> None:
    shown = f"Hash256({hex0x(previous.request.payment_hash)})"
    if previous.status is not PaymentStatus.FAILED:
        raise NodeError(
            f"InvalidParameter: Payment session already exists: {shown} "
            f"with payment session status: {previous.status.value}"
        )
    if previous.has_inflight:
        raise NodeError(
            f"InvalidParameter: Payment session {shown} has attempts that are in flight state, "
            "can not retry"
        )


def _padding_ms(node: Node, hops: tuple[RouterHop, ...]) -> int:
    """Random extra expiry for privacy: k times 4 hours, k at least 1, within 14 days."""
    room = (MAX_TLC_EXPIRY_MS - hops[0].incoming_tlc_expiry) // TLC_EXPIRY_DELTA_MS
    return (1 + node.entropy.below(max(room - 1, 1))) * TLC_EXPIRY_DELTA_MS
