"""What must be true when the world is at rest. Oracles return complaints, none when all is well.

They look at the sellers' ledgers, the Fiber nodes, the consumers' journals, and at both ends of the
wire, and hold them against one another to the shannon. The rules are those of docs/f402-spec.md.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from infern.adapters.sqlite_journal import SqliteJournal
from infern.adapters.sqlite_ledger import SqliteLedger
from infern.adapters.sqlite_ledger.engine import Command, T
from infern.client.journal import Attempt, AttemptKind
from infern.core.f402.client import ClientState
from infern.core.f402.credential import key_digest
from infern.core.f402.receipt import Receipt
from infern.core.f402.server import ServerState
from infern.core.ledger.books import violations as ledger_violations
from infern.core.ledger.hold import HoldState
from infern.core.ledger.lock import GIVEN_BACK, LockState
from infern.core.ledger.records import TopupState
from infern.devnet.fiber import Network
from infern.devnet.fiber import violations as network_violations
from infern.devnet.fiber.node import InvoiceStatus
from infern.devnet.fiber.session import AttemptStatus, Session
from infern.simulator.answers import answer_complaints
from infern.simulator.consumer import Consumer
from infern.simulator.payouts import payout_complaints, successes
from infern.simulator.seller import SellerHost
from infern.simulator.storage import SellerDisk
from infern.simulator.users import Heard
from infern.simulator.wire import Served

WRITTEN_OFF = frozenset({ClientState.REFUSED, ClientState.PAYMENT_FAILED})
ENDED_WELL = frozenset({ClientState.DELIVERED, ClientState.REDEEMED_ELSEWHERE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything the oracles look at.

    Args:
        network: The Fiber network.
        sellers: With their disks.
        consumers: With their journals.
        served: Every request as a server saw it.
        heard: Every answer as a client got it.
        funds: Shannon that each node had in channels at the start, by name.
    """

    network: Network
    sellers: Sequence[SellerHost]
    consumers: Sequence[Consumer]
    served: Sequence[Served]
    heard: Sequence[Heard]
    funds: Mapping[str, int]


async def complaints(evidence: Evidence) -> list[str]:
    """Everything that is wrong."""
    found = [*network_violations(evidence.network), *_channels(evidence)]
    for consumer in evidence.consumers:
        found += [f"{consumer.name}: {text}" for text in _consumer(consumer)]
        for seller in evidence.sellers:
            found += [f"{consumer.name}: {text}" for text in _share(consumer, seller)]
    for seller in evidence.sellers:
        served, heard = evidence.served, evidence.heard
        found += [f"{seller.name}: {text}" for text in await _books(seller)]
        found += [f"{seller.name}: {text}" for text in _payments(seller)]
        found += [f"{seller.name}: {text}" for text in _receipts(seller)]
        found += [f"{seller.name}: {text}" for text in payout_complaints(seller)]
        found += [f"{seller.name}: {text}" for text in answer_complaints(seller, served, heard)]
    return found


def funds_of(network: Network) -> dict[str, int]:
    """Shannon each node has in channels."""
    return {name: entry["channels"] for name, entry in network.balances().items()}


def _channels(evidence: Evidence) -> Iterator[str]:
    """Every node has what it had, what it was paid and its fees, less what it paid."""
    network = evidence.network
    expected = dict(evidence.funds)
    names = {node.pubkey: node.name for node in network.nodes.values()}
    for payer in (*(c.node for c in evidence.consumers), *(s.node for s in evidence.sellers)):
        for session in successes(payer).values():
            (attempt,) = (a for a in session.attempts if a.status is AttemptStatus.SUCCESS)
            expected[payer.name] -= session.request.amount + session.fee
            amounts = [hop.amount_received for hop in attempt.hops]
            for at, pubkey in enumerate(attempt.nodes[1:]):
                kept = amounts[at] - (amounts[at + 1] if at + 1 < len(amounts) else 0)
                expected[names[pubkey]] += kept
    for name, amount in funds_of(network).items():
        if amount != expected[name]:
            yield f"{name} has {amount} shannon in channels and should have {expected[name]}"


class _Reading:
    """An engine for looking only."""

    def __init__(self, disk: SellerDisk) -> None:
        self._disk = disk

    async def run(self, command: Command[T]) -> T:
        """Look."""
        return command(self._disk.connection)

    async def read(self, query: Command[T]) -> T:
        """Look."""
        return await self.run(query)

    def close(self) -> None:
        """Nothing is open."""


async def _books(seller: SellerHost) -> list[str]:
    books = await SqliteLedger(_Reading(seller.disk)).books()
    found = ledger_violations(books)
    if books.holds:
        found.append(f"{len(books.holds)} holds are open")
    found += [
        f"model {at}: {model.running} replies were never closed"
        for at, model in enumerate(seller.models)
        if model.has_ended_well and model.running
    ]
    return found


def _payments(seller: SellerHost) -> Iterator[str]:
    """What the node was paid is what the ledger credited, each payment once and for one thing."""
    db = seller.disk.connection
    paid = {
        payment_hash: invoice.amount
        for payment_hash, invoice in seller.node.invoices.items()
        if invoice.status is InvoiceStatus.PAID
    }
    deposits = dict(db.execute("SELECT payment_hash, amount FROM deposits").fetchall())
    locks = dict(db.execute("SELECT payment_hash, state FROM locks").fetchall())
    for payment_hash in locks.keys() & paid.keys():
        if locks[payment_hash] != LockState.SETTLED:
            yield f"payment {_short(payment_hash)} arrived and its lock is {locks[payment_hash]}"
    given_back = {h for h, state in locks.items() if state in GIVEN_BACK}
    for payment_hash in paid.keys() - deposits.keys():
        yield f"payment {_short(payment_hash)} arrived and was never credited"
    for payment_hash in deposits.keys() - paid.keys() - given_back:
        yield f"payment {_short(payment_hash)} was credited and never arrived"
    for payment_hash in paid.keys() & deposits.keys():
        if paid[payment_hash] != deposits[payment_hash]:
            yield f"payment {_short(payment_hash)} was credited with another amount"
    claims = dict(db.execute("SELECT payment_hash, state FROM claims").fetchall())
    topups = {
        payment_hash
        for payment_hash, state in db.execute("SELECT payment_hash, state FROM topups")
        if state == TopupState.PAID
    }
    receipts = Counter(
        row[0] for row in db.execute("SELECT payment_hash FROM receipts") if row[0] is not None
    )
    for payment_hash in deposits:
        state = claims.get(payment_hash)
        if payment_hash in given_back:
            if state != ServerState.CANCELLED:
                yield f"payment {_short(payment_hash)} went back and its claim is {state}"
            continue
        ends = [
            state == ServerState.DELIVERED and receipts[payment_hash] == 1,
            state == ServerState.CREDITED and receipts[payment_hash] == 0,
            payment_hash in topups and not receipts[payment_hash],
        ]
        if sum(ends) != 1:
            yield (
                f"payment {_short(payment_hash)} ended {sum(ends)} times: claim {state},"
                f" {receipts[payment_hash]} receipts, top-up {payment_hash in topups}"
            )
    for (balance,) in db.execute(
        "SELECT deposited - held - spent - refunded FROM tabs WHERE kind = 'request'"
    ):
        if balance:
            yield f"{balance} shannon of a request were not redeemed although everybody tried"


def _receipts(seller: SellerHost) -> Iterator[str]:
    """Receipts are chained, and charge what their holds were captured for, within the ceiling."""
    db = seller.disk.connection
    last: dict[str, Receipt] = {}
    rows = db.execute(
        "SELECT r.tab_id, r.seq, r.packed, r.charged, r.remainder, h.state, h.charged, h.amount,"
        " l.state FROM receipts r JOIN holds h USING (hold_id)"
        " LEFT JOIN locks l ON l.payment_hash = r.payment_hash ORDER BY r.tab_id, r.seq"
    ).fetchall()
    (count,) = db.execute("SELECT count(*) FROM receipts").fetchone()
    if count != len(rows):
        yield "a receipt has no hold"
    for tab_id, seq, packed, charged, remainder, state, captured, ceiling, lock in rows:
        receipt = Receipt.unpack(packed)
        before = last.get(tab_id)
        expected = bytes(32) if before is None else before.digest
        if (receipt.seq, receipt.prev_digest) != (seq, expected) or seq != (
            0 if before is None else before.seq + 1
        ):
            yield f"receipt {seq} of {tab_id} is not chained to the one before"
        should = HoldState.VOIDED if lock in GIVEN_BACK else HoldState.CAPTURED
        if not receipt.charged == charged == captured or state != should:
            yield f"receipt {seq} of {tab_id} charges something else than was booked"
        if charged + remainder != ceiling:
            yield f"receipt {seq} of {tab_id}: {charged} and {remainder} are not {ceiling}"
        last[tab_id] = receipt


def _consumer(consumer: Consumer) -> Iterator[str]:
    """The journal says of every payment what the node says; nothing paid is written off."""
    journal = SqliteJournal(consumer.directory, synchronous="OFF")
    try:
        journal.spent(session="", now_ms=0)  # closes what dead programs had only intended
        rows = {row.payment_hash: row for row in journal.attempts(limit=1_000)}
    finally:
        journal.close()
    paid = successes(consumer.node)
    for payment_hash, session in consumer.node.sessions.items():
        if not session.status.is_final:
            yield f"payment {_short(payment_hash)} is {session.status} for ever"
        if payment_hash not in rows:
            yield f"payment {_short(payment_hash)} was sent without an intent"
    for row in rows.values():
        yield from _row(row, paid.get(row.payment_hash))


def _share(consumer: Consumer, seller: SellerHost) -> Iterator[str]:
    """What a consumer paid a seller was charged to this consumer or is on its own keys."""
    db = seller.disk.connection
    origin = seller.setup.origin
    journal = SqliteJournal(consumer.directory, synchronous="OFF")
    try:
        digests = [key_digest(key.api_key) for key in journal.keys(origin)]
    finally:
        journal.close()
    paid = {
        payment_hash: session.request.amount
        for payment_hash, session in successes(consumer.node).items()
        if session.request.target == seller.node.pubkey
    }
    accounted = 0
    for payment_hash in paid:
        accounted += _sum(
            db,
            "SELECT deposited - refunded FROM tabs"
            " JOIN claims USING (tab_id) WHERE payment_hash = ?",
            payment_hash,
        )
        accounted += _sum(
            db,
            "SELECT p.amount + p.fee FROM payouts p JOIN claims c USING (tab_id)"
            " WHERE p.state = 'settled' AND c.payment_hash = ?",
            payment_hash,
        )
    for digest in digests:
        accounted += _sum(
            db,
            "SELECT deposited - refunded FROM tabs JOIN keys USING (tab_id) WHERE key_digest = ?",
            digest,
        )
        accounted += _sum(
            db,
            "SELECT amount + fee FROM payouts JOIN keys USING (tab_id)"
            " WHERE state = 'settled' AND key_digest = ?",
            digest,
        )
    if accounted != sum(paid.values()):
        yield f"paid {sum(paid.values())} to {seller.name}, which accounts for {accounted}"


def _sum(db: sqlite3.Connection, select: str, value: bytes) -> int:
    return sum(amount for (amount,) in db.execute(select, (value,)))


def _row(row: Attempt, session: Session | None) -> Iterator[str]:
    name = f"payment {_short(row.payment_hash)} for a {row.kind.value}"
    if row.state in WRITTEN_OFF and session is not None:
        yield f"{name} succeeded and the journal says {row.state.value}"
    if row.state in ENDED_WELL and session is None:
        yield f"{name} never happened and the journal says {row.state.value}"
    if row.state not in WRITTEN_OFF | ENDED_WELL:
        yield f"{name} is still {row.state.value} although everybody settled"
    if session is None:
        return
    if session.request.amount != row.amount:
        yield f"{name} was of another amount than intended"
    if session.fee > row.fee_cap or (row.fee is not None and row.fee != session.fee):
        yield f"{name} cost {session.fee} of fees; {row.fee} known, {row.fee_cap} allowed"
    if row.kind is AttemptKind.TOPUP and row.state is ClientState.REDEEMED_ELSEWHERE:
        yield f"{name} is {row.state.value}"


def _short(payment_hash: bytes) -> str:
    return payment_hash.hex()[:16]
