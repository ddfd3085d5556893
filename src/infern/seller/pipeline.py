"""The one pipeline: authorise → quote → hold → forward → meter → capture → receipt.

A framework-free ASGI handler for the priced endpoints. Prepaid keys and payment proofs take the
same path; they differ in who `Payer` is. Order of refusals: credential, size, price, proof, hold.
A key must be known and a token must be ours before a large body is read, or strangers could fill
the memory; nothing is held for a request that cannot be served.
"""

import logging
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from infern.core.errors import (
    InfernError,
    InvariantViolation,
    PaymentRequired,
    ProtocolError,
    RemoteProtocolError,
)
from infern.core.f402.challenge import Mode, open_token
from infern.core.f402.credential import (
    Credential,
    Proof,
    parse_attempt,
    parse_credential,
    stops_on_leave,
)
from infern.core.f402.digest import request_digest
from infern.core.f402.mpp import (
    ACCEPT_HEADER,
    RECEIPT_HEADER,
    announced_headers,
    announces_fiber,
    receipt_header,
)
from infern.core.f402.offer import (
    MODE_HEADER,
    PAYMENT_RESPONSE_HEADER,
    Offer,
    offer_details,
    offer_headers,
    offer_message,
    settlement_header,
    terms_to_json,
)
from infern.core.f402.receipt import Receipt, sign_receipt
from infern.core.f402.refund import refund_asked, refund_of
from infern.core.f402.verify import open_proof
from infern.core.ids import Pubkey, RequestDigest, RequestId
from infern.core.ledger.records import KeyRecord
from infern.core.units import format_amount, parse_amount
from infern.core.wire.endpoints import Endpoint
from infern.seller.answers import Answers
from infern.seller.http import (
    ClientGone,
    HttpRequest,
    Receive,
    Responder,
    Scope,
    Send,
    read_body,
    read_head,
)
from infern.seller.limits import (
    BODIES_PER_ADDRESS,
    AddressSlots,
    ByteBudget,
    ByteShare,
    Slots,
)
from infern.seller.minting import LINKS
from infern.seller.parts import SellerParts
from infern.seller.pricing import Order, price_request
from infern.seller.recordings import Recording
from infern.seller.relay import Relay
from infern.seller.replays import Need, retry_count
from infern.seller.settlement import Payer, Sale, Settlement
from infern.seller.standing import Asked, StandingOffers, caller_of

MAX_AMOUNT_HEADER: Final = "f402-max-amount"
_log = logging.getLogger(__name__)


class Pipeline:
    """Serves priced requests. One per process."""

    def __init__(self, parts: SellerParts, answers: Answers) -> None:
        self._parts = parts
        self._answers = answers
        limits = parts.config.limits
        self._paid = Slots(limits.open_requests, "open requests")
        self._unpaid = Slots(limits.open_unpaid, "open unpaid requests")
        self._strangers = Slots(limits.open_requests, "bodies on their way")
        self._strangers_by_address = AddressSlots(BODIES_PER_ADDRESS, "bodies on their way")
        self._buffered = ByteBudget(limits.buffered_bytes)
        self._standing = StandingOffers(parts.clock, parts.proofs)

    async def __call__(
        self, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer one request to a priced endpoint."""
        request_id = self._parts.request_id()
        responder = Responder(
            send,
            request_id=request_id,
            stall_timeout_ms=self._parts.config.limits.stall_timeout_ms,
        )
        try:
            head = read_head(scope, request_id=request_id)
            responder.speaks_mpp = announces_fiber(head.headers.get(ACCEPT_HEADER, ""))
            with ExitStack() as places:
                share = places.enter_context(self._buffered.share())
                await self._answer(Exchange(endpoint, head, receive, responder, share, places))
        except ClientGone:
            _log.debug("%s: the client left", request_id)
        except InfernError as error:
            await _refuse(responder, error)
        except InvariantViolation:
            raise
        except Exception:  # noqa: BLE001 - the last line of defence for a client's connection
            # A bug must not leave a client without an answer; the settlement has ended the hold.
            _log.exception("%s: unexpected failure", request_id)
            await _refuse(responder, InfernError("Something broke here; the log has more."))

    async def _answer(self, exchange: "Exchange") -> None:
        head = exchange.head
        if head.method != "POST":
            raise ProtocolError("this path takes POST", code="method_not_allowed")
        credential = parse_credential(head.headers)
        key = await self._authenticate(credential, head)
        trusted = key is not None and await self._parts.keys.is_funded(key)
        serving = self._unpaid if credential.is_anonymous else self._paid
        # Tokens and keys are free to get, so neither allows a larger body than was quoted, nor a
        # place among those who pay while the body is on its way.
        if trusted:
            exchange.places.enter_context(serving.one())
        body = await self._read(exchange, trusted=trusted)
        if not trusted:
            exchange.places.enter_context(serving.one())
        await self._serve(exchange, credential, key, body)

    async def _read(self, exchange: "Exchange", *, trusted: bool) -> bytes:
        limits, head = self._parts.config.limits, exchange.head
        with ExitStack() as places:
            if not trusted:
                places.enter_context(self._strangers.one())
                places.enter_context(self._strangers_by_address.one(head.address))
            return await read_body(
                head,
                exchange.receive,
                limit_bytes=limits.paid_body_bytes if trusted else limits.anonymous_body_bytes,
                timeout_ms=limits.body_timeout_ms,
                share=exchange.share,
            )

    async def _serve(
        self, exchange: "Exchange", credential: Credential, key: KeyRecord | None, body: bytes
    ) -> None:
        head = exchange.head
        digest = request_digest(head.method, head.target, body)
        order = price_request(self._parts.backend, exchange.endpoint, body)
        if credential.proof is not None:
            await self._by_proof(exchange, key, credential.proof, order, digest)
            return
        _check_cap(head, order)
        mode = Mode.asked(head.headers.get(MODE_HEADER.lower()))
        if key is None:
            await self._offer(exchange, order, digest, body, mode)
            return
        await self._by_key(exchange, key, order, digest)

    async def _authenticate(self, credential: Credential, head: HttpRequest) -> KeyRecord | None:
        if credential.proof is not None:
            open_proof(credential.proof, self._parts.config.secrets.challenge_keys)
        if credential.key is None:
            return None
        return await self._parts.keys.find(credential.key, head.address)

    async def _offer(
        self, exchange: "Exchange", order: Order, digest: RequestDigest, body: bytes, mode: Mode
    ) -> None:
        """Answer 402: with an invoice, or with the quote alone when too many were asked for."""
        head = exchange.head
        refund_to = refund_asked(head.headers, own=self._parts.config.pay_to)
        if mode is Mode.HOLD:
            offer = await self._hold_offer(head, order, digest, refund_to)
        else:
            asked = Asked(
                caller=caller_of(head.address, head.headers),
                digest=digest,
                refund_to=refund_to,
                attempt=parse_attempt(head.headers),
                retry=retry_count(head.headers),
            )
            mint = partial(self._upfront_offer, head, order, digest, refund_to)
            offer = await self._standing.offer(asked, mint)
        error = PaymentRequired(
            offer_message(offer, order.listing.model), details=offer_details(offer)
        )
        headers = offer_headers(offer)
        if exchange.responder.speaks_mpp and mode is Mode.UPFRONT:
            # A client that waits for its charge to succeed would wait for its own answer.
            secrets = self._parts.config.secrets
            key = secrets.challenge_keys[secrets.kid]
            headers = announced_headers(offer, body=body, challenge_key=key)
        await exchange.responder.error(error, headers)

    async def _hold_offer(
        self, head: HttpRequest, order: Order, digest: RequestDigest, refund_to: Pubkey | None
    ) -> Offer:
        await self._parts.hold_offers.admit(order.terms)
        self._require_mint(head, order)
        return await self._parts.hold_offers.offer(
            listing=order.listing,
            terms=order.terms,
            digest=digest,
            target=head.target,
            address=head.address,
            refund_to=refund_to,
        )

    async def _upfront_offer(
        self, head: HttpRequest, order: Order, digest: RequestDigest, refund_to: Pubkey | None
    ) -> Offer:
        self._require_mint(head, order)
        offer = await self._parts.minter.offer(
            listing=order.listing,
            terms=order.terms,
            digest=digest,
            target=head.target,
            refund_to=refund_to,
        )
        self._parts.unclaimed.remember(offer.challenge)
        return offer

    def _require_mint(self, head: HttpRequest, order: Order) -> None:
        """Use up the caller's allowance for invoices.

        Raises:
            PaymentRequired: Too many are out; with the quote alone.
        """
        if not self._parts.minter.may_mint(head.address):
            raise PaymentRequired(
                f"Payment required: at most {_ceiling(order)} for this request. No invoice was "
                "made because too many unpaid ones are out; create a prepaid key (POST "
                f"{LINKS['keys']}), or try again in a minute.",
                retry_after_s=60,
                details={
                    "invoice": None,
                    "quote": terms_to_json(order.terms),
                    "links": dict(LINKS),
                },
            )

    async def _by_key(
        self, exchange: "Exchange", key: KeyRecord, order: Order, digest: RequestDigest
    ) -> None:
        headers = exchange.head.headers
        need = Need(
            digest=digest,
            tab_id=key.tab_id,
            attempt=parse_attempt(headers),
            stops=stops_on_leave(headers),
            retry=retry_count(headers),
            is_stream=order.request.stream,
        )
        failure = await self._sell(exchange, order, Payer(key=key, challenge=None), need)
        if failure is not None:
            raise failure

    async def _by_proof(
        self,
        exchange: "Exchange",
        key: KeyRecord | None,
        proof: Proof,
        order: Order,
        digest: RequestDigest,
    ) -> None:
        parts, responder = self._parts, exchange.responder
        try:
            challenge = await parts.proofs.verify(
                proof, digest, is_known_paid=self._answers.replays.knows
            )
            if proof.mpp is not None:
                receipt = receipt_header(
                    challenge,
                    challenge_id=proof.mpp.challenge_id,
                    now_ms=parts.clock.now_ms(),
                )
                responder.on_success = {RECEIPT_HEADER: receipt}
            if challenge.terms is None:
                raise RemoteProtocolError("the challenge has no terms", code="invalid_challenge")
            # Honoured as quoted, whatever the listing says by now.
            quoted = replace(order, terms=challenge.terms)
            refund_to = refund_of(challenge, proof, own=parts.config.pay_to)
            payer = Payer(key=key, challenge=challenge, refund_to=refund_to)
            need = Need(
                digest=digest,
                payment_hash=challenge.payment_hash,
                is_lock=challenge.mode is Mode.HOLD,
                is_stream=order.request.stream,
            )
            failure = await self._sell(exchange, quoted, payer, need)
        except ProtocolError as error:
            failure = error
        if failure is None:
            return
        if not isinstance(failure, ProtocolError) or responder.started:
            raise failure
        await responder.error(failure, _failure_headers(parts, proof, failure))

    async def _sell(
        self, exchange: "Exchange", order: Order, payer: Payer, need: Need
    ) -> Exception | None:
        """Give the answer to a request that is paid; returns why there is none."""
        replays = self._answers.replays
        recording = replays.find(need)
        is_replay = recording is not None
        if recording is None:
            recording = replays.open(need, RequestId(exchange.head.request_id))
        # From here on, or an equal request would take it for an answer that nobody waits for.
        reader = recording.join(is_replay=is_replay)
        try:
            if not is_replay:
                await self._begin(exchange, order, payer, need, recording)
            failure = await self._answers.deliver(reader, exchange.receive, exchange.responder)
        except ProtocolError as error:
            failure = error
        finally:
            reader.leave()
        if isinstance(failure, ProtocolError) and failure.code == "already_delivered":
            await self._attach_receipt(failure, need)
        return failure

    async def _begin(
        self,
        exchange: "Exchange",
        order: Order,
        payer: Payer,
        need: Need,
        recording: Recording,
    ) -> None:
        """Place the hold and begin to make the answer.

        The maker takes over the hold and the request's places.
        """
        parts = self._parts
        sale = Sale(
            listing=order.listing,
            payer=payer,
            terms=order.terms,
            digest=need.digest,
            request_id=recording.request_id,
            attempt=need.attempt,
        )
        settlement = Settlement(
            ledger=parts.ledger,
            clock=parts.clock,
            entropy=parts.entropy,
            agent=parts.agent,
            endings=parts.endings,
            leases=parts.leases,
            locks=parts.locks,
            sale=sale,
        )
        try:
            watch = self._answers.watch(recording)
            await settlement.place()
        except BaseException as error:
            self._answers.refuse(recording, error)
            raise
        relay = Relay(
            backend=parts.backend,
            order=order,
            settlement=settlement,
            sale=sale,
            recording=recording,
            watch=watch,
            share=exchange.share,
        )
        if payer.refund_to is not None:
            exchange.places.callback(parts.payouts.wake)
        places = exchange.places.pop_all()
        self._answers.start(
            recording, settlement=settlement, work=relay, watch=watch, places=places
        )

    async def _attach_receipt(self, error: ProtocolError, need: Need) -> None:
        """Tell who asks too late for its answer what it was charged for."""
        ledger = self._parts.ledger
        stored = None
        if need.payment_hash is not None:
            stored = await ledger.receipt_of_payment(need.payment_hash)
        elif need.tab_id is not None and need.attempt is not None:
            stored = await ledger.receipt_of_attempt(need.tab_id, need.attempt)
        if stored is None:
            return
        signed = sign_receipt(Receipt.unpack(stored.packed), self._parts.agent)
        error.details = {
            "request_id": stored.request_id,
            "receipt": signed.to_text(),
            "charged": str(stored.charged),
            "remainder": str(stored.remainder),
        }


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request under way: where it came in, where its answer goes, what it takes up here."""

    endpoint: Endpoint
    head: HttpRequest
    receive: Receive
    responder: Responder
    share: ByteShare
    places: ExitStack


async def _refuse(responder: Responder, error: InfernError) -> None:
    if responder.started:
        # Streams render their own errors; only a broken write can bring us here.
        _log.warning("an answer that had begun ended with %r", error)
        return
    try:
        await responder.error(error)
    except ClientGone:
        _log.debug("the client left before it read an error")


def _ceiling(order: Order) -> str:
    return format_amount(order.terms.ceiling, order.terms.price.asset)


def _check_cap(head: HttpRequest, order: Order) -> None:
    cap = head.headers.get(MAX_AMOUNT_HEADER)
    if cap is not None and order.terms.ceiling > parse_amount(cap):
        raise PaymentRequired(
            f"This request costs at most {_ceiling(order)}, which is above your F402-Max-Amount.",
            code="price_above_max",
            details={"quote": terms_to_json(order.terms)},
        )


def _failure_headers(parts: SellerParts, proof: Proof, error: ProtocolError) -> dict[str, str]:
    try:
        challenge = open_token(proof.token, parts.config.secrets.challenge_keys)
    except RemoteProtocolError:
        return {}
    return {PAYMENT_RESPONSE_HEADER: settlement_header(challenge, success=False, reason=error.code)}
