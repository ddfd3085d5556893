"""Oracles about payments of sellers' nodes: each for one payout, each payout ended, once."""

from collections.abc import Iterator

from infern.core.ledger.payout import PayoutState
from infern.devnet.fiber import Node
from infern.devnet.fiber.session import PaymentStatus, Session
from infern.simulator.seller import SellerHost


def successes(node: Node) -> dict[bytes, Session]:
    """The payments of a node that succeeded, by hash."""
    return {
        payment_hash: session
        for payment_hash, session in node.sessions.items()
        if session.status is PaymentStatus.SUCCESS
    }


def payout_complaints(seller: SellerHost) -> Iterator[str]:
    """Everything that is wrong with what one seller sent out."""
    db = seller.disk.connection
    rows = db.execute("SELECT payout_id, state, amount, fee, payment_hash FROM payouts").fetchall()
    sent = successes(seller.node)
    for session in seller.node.sessions.values():
        if not session.status.is_final:
            yield f"a payment out is {session.status} for ever"
    named: set[bytes] = set()
    for payout_id, state, amount, fee, payment_hash in rows:
        if state in (PayoutState.OWED, PayoutState.SENDING):
            yield f"payout {payout_id} is still {state}"
        if state != PayoutState.SETTLED:
            continue
        found = sent.get(payment_hash)
        if found is None:
            yield f"payout {payout_id} is booked as paid and was not"
        elif (found.request.amount, found.fee) != (amount, fee):
            yield f"payout {payout_id} was of another amount or fee than was booked"
        elif payment_hash in named:
            yield f"payout {payout_id} is paid by another one's payment"
        named.add(payment_hash)
    for payment_hash in sent.keys() - named:
        yield f"payment {payment_hash.hex()[:16]} went out and no payout is booked as paid by it"
