"""Oracles about answers: what was charged was delivered, what was delivered was charged.

An answer is looked at from three sides: what the seller's code handed to the connection, what the
ledger has a receipt for, and what the client got.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from infern.adapters.secp256k1 import CoincurveVerifier
from infern.core.errors import RemoteProtocolError
from infern.core.f402.challenge import peek_token
from infern.core.f402.credential import parse_credential
from infern.core.f402.digest import request_digest
from infern.core.f402.receipt import (
    Finish,
    Receipt,
    SignedReceipt,
    parse_receipt,
    response_root,
)
from infern.core.ledger.lock import LockState
from infern.simulator.seller import SellerHost
from infern.simulator.users import Heard
from infern.simulator.wire import Served

RECEIPT_MARK = b": f402-receipt "
END_MARKS = (RECEIPT_MARK, b"data: [DONE]", b'data: {"error"')
"""What the last piece of a stream begins with; a receipt does not cover it."""
CONTENT = re.compile(rb'"content":"[^"]')
PROPER_END = re.compile(rb'"finish_reason":"')
"""An empty answer that a model server ended properly is an answer, and charged."""
VERIFIER = CoincurveVerifier()


def answer_complaints(
    seller: SellerHost, served: Sequence[Served], heard: Sequence[Heard]
) -> Iterator[str]:
    """Everything that is wrong with one seller's answers."""
    origin = seller.setup.origin
    mine = [one for one in served if one.origin == origin]
    got = [one for one in heard if one.origin == origin and one.headers.get("x-request-id")]
    rows = seller.disk.connection.execute("SELECT request_id, packed FROM receipts").fetchall()
    receipts = {request_id: Receipt.unpack(packed) for request_id, packed in rows}
    yield from _charged_is_delivered(receipts, mine)
    yield from _taken_is_delivered(seller, mine)
    yield from _delivered_is_charged(seller, receipts, mine)
    yield from _undisturbed_is_heard(mine, got)
    yield from _receipts_heard(seller, receipts, got)
    yield from _one_answer_per_payment(mine, got)
    yield from _one_answer_per_name(got)


def _charged_is_delivered(receipts: dict[str, Receipt], served: list[Served]) -> Iterator[str]:
    """A receipt covers what was handed to a connection, or can be had again for the asking.

    One answer may have been given to several connections, each from its first byte on. What none
    of them was given in full was broken off by an end of either side.
    """
    by_id: dict[str, list[Served]] = defaultdict(list)
    for one in served:
        if one.request_id:
            by_id[one.request_id].append(one)
    for request_id, receipt in receipts.items():
        given = by_id.get(request_id)
        if given is None:
            # Charged just before it is written: only an end of either side may come between.
            harmed = [
                other
                for other in served
                if not other.status
                and other.harms
                and request_digest(other.method, other.target, other.body) == receipt.req_hash
            ]
            if receipt.charged and not harmed:
                yield f"{request_id} was charged and nothing of it was ever written"
            continue
        if any(request_digest(o.method, o.target, o.body) != receipt.req_hash for o in given):
            yield f"{request_id} has a receipt for another request"
        if any(o.status == 503 and b'"money":"unknown"' in b"".join(o.written) for o in given):
            continue  # the ledger did not say in time, and the consumer was told so
        yield from _covered(request_id, receipt, given)


def _taken_is_delivered(seller: SellerHost, served: list[Served]) -> Iterator[str]:
    """A payment in hold mode was taken for something that some connection was handed."""
    handed = {one.request_id for one in served if one.status == 200}
    rows = seller.disk.connection.execute(
        "SELECT request_id FROM receipts JOIN locks USING (payment_hash)"
        " WHERE state = ? AND receipts.charged > 0",
        (LockState.SETTLED,),
    )
    for (request_id,) in rows:
        if request_id not in handed:
            yield f"{request_id} was taken in hold mode and nobody was handed anything"


def _covered(request_id: str, receipt: Receipt, given: list[Served]) -> Iterator[str]:
    bodies = [_before_receipt(one) for one in given]
    longest = max(bodies, key=len)
    if not all(longest.startswith(body) for body in bodies):
        yield f"{request_id} was answered with different bytes"
    whole = any(one.is_ended and not one.harms for one in given)
    if whole and receipt.resp_root != response_root([longest]):
        yield f"{request_id} has a receipt for other bytes than were written"
    broke_off = receipt.finish in (Finish.CLIENT_LEFT, Finish.INTERRUPTED)
    if broke_off and not whole and receipt.resp_root not in set(_roots(given)):
        yield f"{request_id} broke off and has a receipt for other bytes than came before"
    is_empty = not CONTENT.search(longest) and not PROPER_END.search(longest)
    if receipt.charged and whole and given[0].is_stream and is_empty:
        yield f"{request_id} was charged and no content was written"


def _roots(given: list[Served]) -> Iterator[bytes]:
    """What the receipt of an answer that broke off may cover: what some connection was handed."""
    for one in given:
        limit, written = len(_before_receipt(one)), b""
        yield response_root([written])
        for piece in one.written:
            written = (written + piece)[:limit]
            yield response_root([written])


def _before_receipt(one: Served) -> bytes:
    """The bytes of an answer that its receipt can cover."""
    body = b"".join(one.written)
    if not one.is_stream:
        return body
    ends = [at for at in (_mark(body, mark) for mark in END_MARKS) if at >= 0]
    return body[: min(ends)] if ends else body


def _mark(body: bytes, mark: bytes) -> int:
    """Where a line with this mark begins; -1 when there is none."""
    at = body.find(b"\n\n" + mark)
    return at + 2 if at >= 0 else (0 if body.startswith(mark) else -1)


def _delivered_is_charged(
    seller: SellerHost, receipts: dict[str, Receipt], served: list[Served]
) -> Iterator[str]:
    """Whoever got content has a receipt in the ledger, unless the seller ended before it did."""
    for one in served:
        if one.status != 200 or one.request_id in receipts or not one.is_priced:
            continue
        if not one.is_stream:
            yield f"{one.request_id} was answered and not charged"
        elif RECEIPT_MARK in b"".join(one.written):
            yield f"{one.request_id} shows a receipt that is not in the ledger"
        elif "server died" in one.harms:
            continue  # stopped in the middle of a run, which the payer may have anew
        elif CONTENT.search(b"".join(one.written)) and one.life not in seller.killed:
            yield f"{one.request_id} was streamed and not charged"


def _undisturbed_is_heard(served: list[Served], heard: list[Heard]) -> Iterator[str]:
    bodies: dict[str, set[bytes]] = defaultdict(set)
    for answer in heard:
        bodies[answer.headers["x-request-id"]].add(answer.body)
    for one in served:
        undisturbed = one.is_priced and one.status == 200 and one.is_ended and not one.harms
        if undisturbed and b"".join(one.written) not in bodies[one.request_id]:
            yield f"{one.request_id} was answered without trouble and nobody got it"


def _receipts_heard(
    seller: SellerHost, receipts: dict[str, Receipt], heard: list[Heard]
) -> Iterator[str]:
    for one in heard:
        request_id = one.headers["x-request-id"]
        if one.receipt == "mismatch":
            yield f"{request_id}: the client finds that the receipt does not fit"
        signed = _receipt_of(one)
        if signed is None:
            continue
        if not signed.is_signed_by(seller.setup.agent.pubkey, VERIFIER):
            yield f"{request_id} has a receipt with another signature"
        if receipts.get(request_id) != signed.receipt:
            yield f"{request_id} has a receipt that is not the ledger's"


def _receipt_of(heard: Heard) -> SignedReceipt | None:
    text = heard.headers.get("f402-receipt", "")
    if not text:
        _, _, behind = heard.body.partition(b"\n" + RECEIPT_MARK)
        line, feed, _ = behind.partition(b"\n")
        text = line.decode("ascii", "replace") if feed else ""
    try:
        return parse_receipt(text) if text else None
    except RemoteProtocolError:
        return None


def _one_answer_per_payment(served: list[Served], heard: list[Heard]) -> Iterator[str]:
    """However often a proof was answered, the bytes were the same."""
    proofs = {one.request_id: one.proof for one in served if one.proof and one.request_id}
    bodies: dict[bytes, set[bytes]] = defaultdict(set)
    for one in heard:
        proof = proofs.get(one.headers["x-request-id"])
        if proof is not None and one.is_answer:
            credential = parse_credential({"payment-signature": proof})
            assert credential.proof is not None
            bodies[peek_token(credential.proof.token).payment_hash].add(one.body)
    for payment_hash, answers in bodies.items():
        if len(answers) > 1:
            yield f"payment {payment_hash.hex()[:16]} bought {len(answers)} different answers"


def _one_answer_per_name(heard: list[Heard]) -> Iterator[str]:
    """However often a named request was answered, the bytes were the same."""
    bodies: dict[tuple[str, str], set[bytes]] = defaultdict(set)
    for one in heard:
        if one.name is not None and one.is_answer:
            bodies[one.name].add(one.body)
    for (_, name), answers in bodies.items():
        if len(answers) > 1:
            yield f"{name} bought {len(answers)} different answers"
