"""An F402 seller that does what a test tells it: real tokens, invoices and receipts, no server.

`respond` is a pure step from a request to an answer, to be put behind any transport. `turns`
says how the next requests that bring a proof are treated; without a plan they are delivered.
`lie` may change the next offers. What a payer was charged for is in `delivered`.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from threading import Lock
from typing import Final

from infern.core.crypto import Signer
from infern.core.errors import InfernError, JsonValue, PaymentRequired, ProtocolError, Retry
from infern.core.f402.challenge import Mode, derive_preimage
from infern.core.f402.credential import Credential, parse_credential
from infern.core.f402.digest import request_digest
from infern.core.f402.mpp import ACCEPT_HEADER, announced_headers, announces_fiber
from infern.core.f402.offer import (
    MODE_HEADER,
    PAYMENT_RESPONSE_HEADER,
    Offer,
    offer_details,
    offer_headers,
    settlement_header,
)
from infern.core.f402.receipt import (
    Finish,
    Receipt,
    SellerIdentity,
    response_root,
    sign_receipt,
)
from infern.core.f402.refund import refund_asked
from infern.core.f402.verify import verify_proof
from infern.core.ids import PaymentHash, Preimage, RequestDigest
from infern.core.units import Network
from infern.core.wire import strict_json
from infern.core.wire.render import render_error
from infern.testing.offers import (
    CHALLENGE_KEY,
    KID,
    PREIMAGE_KEY,
    REALM,
    TERMS,
    honest_challenge,
    honest_invoice,
    offer_with,
)

IDENTITY: Final = SellerIdentity(
    genesis_hash=b"\x01" * 32,
    provider=b"\x02" * 32,
    listing=b"\x03" * 32,
    listing_data_hash=b"\x04" * 32,
    model_id=b"\x05" * 32,
)


class Turn(Enum):
    """How one request with a proof is treated."""

    DELIVER = "deliver"
    UNAVAILABLE = "503"
    BROKEN = "500"
    PENDING = "425"
    IN_PROGRESS = "409 in progress"
    GONE = "409 already delivered"
    ASK_AGAIN = "402 with a new invoice"
    REFUSE = "402 invalid challenge"
    REFUSE_ANEW = "402 invalid challenge, with a new offer in the headers as MPP's draft demands"
    BAD_REQUEST = "400"
    REDIRECT = "307"
    RESET = "connection reset before the work"
    RESET_AFTER = "connection reset after the work"
    HANG = "no answer in time"
    HANG_AFTER = "no answer in time, after the work"
    CUT = "the body breaks off"
    CUT_AFTER = "the body breaks off, after the work"
    STREAM_ERROR = "an error inside the stream, nothing charged"
    FAIL = "the run fails; in hold mode the payment is given back"
    NO_RECEIPT = "delivered without a receipt"
    FALSE_RECEIPT = "delivered with a receipt for other bytes"
    DEAR_RECEIPT = "delivered with a receipt over the ceiling"


class Break(Enum):
    """How the connection fails."""

    NO = "no"
    RESET = "reset"
    HANG = "hang"
    CUT = "cut"


@dataclass(frozen=True, slots=True, kw_only=True)
class SellerRequest:
    """A request as it came off the wire; headers by lower-case name."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SellerAnswer:
    """An answer, and how the connection fails, if it does."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    chunks: tuple[bytes, ...] = ()
    breaks: Break = Break.NO


@dataclass(slots=True)
class ScriptedSeller:
    """The seller.

    Args:
        node: The payee's Fiber key.
        agent: Signs receipts.
        now_s: Unix seconds.
        realm: Host and port it is reached at.
        has_hold_mode: It offers hold mode to who asks for it.
        is_idle: It neither takes nor gives back what it holds.
        on_taken: Told the hash of every held payment it takes, as the payer's node would see it.
        on_returned: Likewise of those it gives back.
    """

    node: Signer
    agent: Signer
    now_s: Callable[[], int]
    realm: str = REALM
    turns: deque[Turn] = field(default_factory=deque)
    lie: Callable[[Offer], Offer] | None = None
    paid: set[PaymentHash] = field(default_factory=set)
    delivered: dict[PaymentHash, SellerAnswer] = field(default_factory=dict)
    runs: int = 0
    offers: list[Offer] = field(default_factory=list)
    requests: list[SellerRequest] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock, repr=False)
    keys: dict[str, int] = field(default_factory=dict)
    """Balance by prepaid key."""
    has_hold_mode: bool = True
    is_idle: bool = False
    on_taken: Callable[[PaymentHash], None] = lambda _hash: None
    on_returned: Callable[[PaymentHash], None] = lambda _hash: None
    held: set[PaymentHash] = field(default_factory=set)
    returned: set[PaymentHash] = field(default_factory=set)

    def pay(self, payment_hash: PaymentHash) -> None:
        """The payee's node says that an invoice was paid."""
        self.paid.add(payment_hash)

    def holds(self, payment_hash: PaymentHash) -> bool:
        """True when it made this invoice for hold mode."""
        found = (o.challenge for o in self.offers if o.challenge.payment_hash == payment_hash)
        return any(challenge.mode is Mode.HOLD for challenge in found)

    def arrive(self, payment_hash: PaymentHash) -> None:
        """The payee's node says that a payment waits to be taken or given back."""
        self.held.add(payment_hash)

    def end(self, payment_hash: PaymentHash, *, take: bool) -> None:
        """Take a held payment or give it back, unless idle."""
        if self.is_idle or payment_hash not in self.held:
            return
        self.held.discard(payment_hash)
        if take:
            self.on_taken(payment_hash)
        else:
            self.returned.add(payment_hash)
            self.on_returned(payment_hash)

    def preimage_of(self, payment_hash: PaymentHash) -> Preimage | None:
        """The preimage of one of its invoices."""
        for offer in self.offers:
            if offer.challenge.payment_hash == payment_hash:
                return derive_preimage(PREIMAGE_KEY, offer.challenge.nonce)
        return None

    def respond(self, request: SellerRequest) -> SellerAnswer:
        """Answer one request; requests of several threads one after the other."""
        with self.lock:
            return self._respond(request)

    def _respond(self, request: SellerRequest) -> SellerAnswer:
        self.requests.append(request)
        if request.method == "GET":
            return self._models()
        try:
            credential = parse_credential(request.headers)
            digest = request_digest(request.method, request.target, request.body)
            if credential.proof is not None:
                return self._proven(credential, digest, request)
            if credential.key in self.keys:
                return self._deliver(request, digest, b"\x06" * 32, Turn.DELIVER)
            return self._quote(request, digest)
        except InfernError as error:
            return _rendered(error)

    def _models(self) -> SellerAnswer:
        model: dict[str, JsonValue] = {
            "id": "m",
            "object": "model",
            "created": 1,
            "owned_by": "test",
            "f402": {
                "network": "fiber:testnet",
                "pay_to": self.node.pubkey.hex(),
                "agent_pubkey": self.agent.pubkey.hex(),
            },
        }
        models: dict[str, JsonValue] = {"object": "list", "data": [model]}
        body = strict_json.dumps(models)
        return SellerAnswer(
            status=200, headers={"content-type": "application/json"}, chunks=(body,)
        )

    def _quote(self, request: SellerRequest, digest: RequestDigest) -> SellerAnswer:
        nonce = len(self.offers).to_bytes(16, "big")
        mode = Mode.asked(request.headers.get(MODE_HEADER.lower()))
        if mode is Mode.HOLD and not self.has_hold_mode:
            raise PaymentRequired(
                "Hold mode is not offered for this request now: no room. Nothing was paid.",
                code="hold_unavailable",
                details={"reason": "channels"},
            )
        challenge = honest_challenge(
            self.node.pubkey, digest=digest, now_s=self.now_s(), nonce=nonce, mode=mode
        )
        refund_to = refund_asked(request.headers, own=self.node.pubkey)
        challenge = replace(challenge, issuer=self.realm, refund_to=refund_to)
        offer = offer_with(challenge, honest_invoice(challenge), self.node)
        offer = replace(offer, provider=self.agent.pubkey.hex())
        if self.lie is not None:
            offer = self.lie(offer)
        self.offers.append(offer)
        error = PaymentRequired("Payment required", details=offer_details(offer))
        headers = offer_headers(offer)
        if announces_fiber(request.headers.get(ACCEPT_HEADER, "")):
            headers = announced_headers(offer, body=request.body, challenge_key=CHALLENGE_KEY)
        return _rendered(error, headers)

    def _proven(
        self, credential: Credential, digest: RequestDigest, request: SellerRequest
    ) -> SellerAnswer:
        assert credential.proof is not None
        turn = self.turns.popleft() if self.turns else Turn.DELIVER
        early = self._early(turn, digest, request)
        if early is not None:
            return early
        verified = verify_proof(
            credential.proof,
            keys={KID: CHALLENGE_KEY},
            issuer=self.realm,
            network=Network.TESTNET,
            digest=digest,
            now_s=self.now_s(),
        )
        payment_hash = verified.challenge.payment_hash
        if payment_hash in self.returned:
            raise ProtocolError("it was given back", code="payment_not_received")
        if turn is Turn.FAIL:
            raise self._failed_run(payment_hash)
        if payment_hash not in self.paid | self.held:
            raise ProtocolError("not here yet", code="payment_pending", retry_after_s=2)
        if payment_hash not in self.delivered:
            answer = self._deliver(request, digest, payment_hash, turn)
            settled = {PAYMENT_RESPONSE_HEADER: settlement_header(verified.challenge, success=True)}
            answer = replace(answer, headers={**answer.headers, **settled})
            if turn not in {Turn.CUT, Turn.STREAM_ERROR}:
                self.delivered[payment_hash] = answer
            self.end(payment_hash, take=turn is not Turn.STREAM_ERROR)
        else:
            answer = self.delivered[payment_hash]
        return _broken(answer, turn)

    def _failed_run(self, payment_hash: PaymentHash) -> InfernError:
        is_held = payment_hash in self.held
        self.end(payment_hash, take=False)
        retry = Retry.NEW_CHALLENGE if is_held else None
        return ProtocolError("the model server failed", code="provider_failed", retry=retry)

    def _early(
        self, turn: Turn, digest: RequestDigest, request: SellerRequest
    ) -> SellerAnswer | None:
        """What needs no look at the proof."""
        match turn:
            case Turn.UNAVAILABLE:
                return SellerAnswer(status=503, chunks=(b"upstream away",))
            case Turn.BROKEN:
                return SellerAnswer(status=500, chunks=(b"<html>oops</html>",))
            case Turn.PENDING:
                raise ProtocolError("not here yet", code="payment_pending", retry_after_s=2)
            case Turn.IN_PROGRESS:
                raise ProtocolError("running", code="request_in_progress", retry_after_s=1)
            case Turn.GONE:
                raise ProtocolError("answered before", code="already_delivered")
            case Turn.ASK_AGAIN:
                return self._quote(request, digest)
            case Turn.REFUSE:
                raise ProtocolError("not our token", code="invalid_challenge")
            case Turn.REFUSE_ANEW:
                error = ProtocolError("not our token", code="invalid_challenge")
                return _rendered(error, self._quote(request, digest).headers)
            case Turn.BAD_REQUEST:
                raise ProtocolError("cannot be read")
            case Turn.REDIRECT:
                return SellerAnswer(status=307, headers={"location": "https://thief.test/v1/chat"})
            case Turn.RESET:
                return SellerAnswer(status=0, breaks=Break.RESET)
            case Turn.HANG:
                return SellerAnswer(status=0, breaks=Break.HANG)
            case _:
                return None

    def _deliver(
        self, request: SellerRequest, digest: RequestDigest, reference: bytes, turn: Turn
    ) -> SellerAnswer:
        self.runs += 1
        wants_stream = strict_json.loads_object(request.body).get("stream") is True
        charged = TERMS.ceiling + 1 if turn is Turn.DEAR_RECEIPT else 2_000
        headers = {"x-request-id": f"req_{self.runs}", "content-type": "application/json"}
        if not wants_stream:
            body = _completion(self.runs)
            if turn is not Turn.NO_RECEIPT:
                covered = b"other" if turn is Turn.FALSE_RECEIPT else body
                headers["f402-receipt"] = self._receipt(covered, digest, reference, charged)
                headers["f402-cost"] = str(charged)
            return SellerAnswer(status=200, headers=headers, chunks=(body[:20], body[20:]))
        headers["content-type"] = "text/event-stream"
        events = [_chunk(self.runs, word) for word in ("Hel", "lo")]
        if turn is Turn.STREAM_ERROR:
            events.append(b'data: {"error":{"message":"away","code":"provider_failed"}}\n\n')
            return SellerAnswer(status=200, headers=headers, chunks=tuple(events))
        covered = b"other" if turn is Turn.FALSE_RECEIPT else b"".join(events)
        text = self._receipt(covered, digest, reference, charged)
        end = b"" if turn is Turn.NO_RECEIPT else f": f402-receipt {text}\n\n".encode()
        return SellerAnswer(
            status=200, headers=headers, chunks=(*events, end + b"data: [DONE]\n\n")
        )

    def _receipt(self, body: bytes, digest: RequestDigest, reference: bytes, charged: int) -> str:
        receipt = Receipt(
            seller=IDENTITY,
            client_key_hash=bytes(20),
            session=bytes(16),
            seq=0,
            prev_digest=bytes(32),
            payment_ref=reference,
            req_hash=digest,
            resp_root=response_root([body]),
            prompt_tokens=3,
            completion_tokens=2,
            asset=bytes(32),
            charged=charged,
            finish=Finish.STOP,
            started_ms=1,
            finished_ms=2,
        )
        return sign_receipt(receipt, self.agent).to_text()


def _rendered(error: InfernError, headers: Mapping[str, str] | None = None) -> SellerAnswer:
    rendered = render_error(error, "req_0")
    return SellerAnswer(
        status=rendered.status,
        headers={**rendered.headers, **(headers or {})},
        chunks=(rendered.body,),
    )


def _broken(answer: SellerAnswer, turn: Turn) -> SellerAnswer:
    breaks = {
        Turn.RESET_AFTER: Break.RESET,
        Turn.HANG_AFTER: Break.HANG,
        Turn.CUT: Break.CUT,
        Turn.CUT_AFTER: Break.CUT,
    }.get(turn, Break.NO)
    if breaks is Break.CUT:
        return SellerAnswer(
            status=answer.status,
            headers=answer.headers,
            chunks=answer.chunks[:1],
            breaks=breaks,
        )
    return SellerAnswer(
        status=answer.status, headers=answer.headers, chunks=answer.chunks, breaks=breaks
    )


def _completion(run: int) -> bytes:
    choice: dict[str, JsonValue] = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": "Hello"},
    }
    completion: dict[str, JsonValue] = {
        "id": f"chatcmpl-{run}",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        "f402": {"request_id": f"req_{run}", "charged": "2000"},
    }
    return strict_json.dumps(completion)


def _chunk(run: int, text: str) -> bytes:
    chunk: dict[str, JsonValue] = {
        "id": f"chatcmpl-{run}",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": None, "delta": {"content": text}}],
    }
    return b"data: " + strict_json.dumps(chunk) + b"\n\n"
