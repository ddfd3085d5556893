"""Rows for ledger tests, made from a name: the same name gives the same row in any process."""

import hashlib
from typing import Final

from infern.core.f402.receipt import Finish, Receipt, SellerIdentity
from infern.core.ids import HoldId, PaymentHash, PayoutId, Pubkey, RequestDigest, RequestId, TabId
from infern.core.ledger.books import Books
from infern.core.ledger.hold import Hold
from infern.core.ledger.lock import Lock
from infern.core.ledger.payout import Payout, PayoutPurpose, fee_cap_of
from infern.core.ledger.records import KeyRecord, PaidRequest, RemainderPlan, Topup
from infern.core.units import CKB, Asset

IDENTITY: Final = SellerIdentity(
    genesis_hash=b"\x01" * 32,
    provider=b"\x02" * 32,
    listing=b"\x03" * 32,
    listing_data_hash=b"\x04" * 32,
    model_id=b"\x05" * 32,
)
DIGEST: Final = RequestDigest(bytes(32))
NODE: Final = Pubkey(b"\x02" + bytes(32))
"""Where remainders are sent back to."""


def named(what: str, name: str) -> bytes:
    """32 bytes for a name."""
    return hashlib.sha256(f"{what} {name}".encode()).digest()


def payment_hash(name: str) -> PaymentHash:
    """The hash of a payment."""
    return PaymentHash(named("payment", name))


def request_id(name: str) -> RequestId:
    """The id of a request."""
    return RequestId("req_" + name)


def a_key(name: str, *, asset: Asset = CKB, created_ms: int = 5) -> KeyRecord:
    """A key with its tab."""
    return KeyRecord(
        key_digest=named("key", name),
        key_id=f"key_{name}",
        tab_id=TabId(f"tab_of_key_{name}"),
        session=named("session of key", name)[:16],
        asset=asset,
        created_ms=created_ms,
    )


def a_topup(name: str, key: KeyRecord, amount: int, *, created_ms: int = 5) -> Topup:
    """An invoice for a key."""
    return Topup(
        payment_hash=payment_hash(name),
        tab_id=key.tab_id,
        key_id=key.key_id,
        amount=amount,
        invoice="fibd1",
        expires_ms=1_000,
        created_ms=created_ms,
    )


def a_payment(
    name: str, amount: int, *, asset: Asset = CKB, is_lock: bool = False, again: str = ""
) -> PaidRequest:
    """A paid request; `again` names its tab anew, as every try of a seller does."""
    return PaidRequest(
        payment_hash=payment_hash(name),
        amount=amount,
        asset=asset,
        digest=DIGEST,
        tab_id=TabId(f"tab_of_payment_{name}{again}"),
        session=named("session of payment", name)[:16],
        is_lock=is_lock,
    )


def a_hold(
    name: str,
    amount: int,
    *,
    key: KeyRecord | None = None,
    paid: PaidRequest | None = None,
    attempt: bytes | None = None,
    lease_until_ms: int = 1_000,
) -> Hold:
    """A hold on a key's tab, or for a proof."""
    return Hold(
        hold_id=HoldId(f"hold_{name}"),
        tab_id=key.tab_id if key is not None else TabId(""),
        amount=amount,
        digest=DIGEST,
        payment_hash=paid.payment_hash if paid is not None else None,
        attempt=attempt,
        owner="seller_1",
        lease_until_ms=lease_until_ms,
        opened_ms=7,
    )


def a_lock(paid: PaidRequest, *, offered_ms: int = 5) -> Lock:
    """A payment in hold mode, as it is offered."""
    return Lock(
        payment_hash=paid.payment_hash,
        nonce=paid.payment_hash[:16],
        amount=paid.amount,
        asset=paid.asset,
        digest=paid.digest,
        offered_ms=offered_ms,
        expires_ms=1_000,
    )


def a_withdrawal(
    name: str,
    key: KeyRecord,
    amount: int,
    *,
    by_invoice: bool = True,
    asset: Asset = CKB,
    created_ms: int = 5,
) -> Payout:
    """Balance of a key on its way out, by an invoice or by a keysend."""
    return Payout(
        payout_id=PayoutId(f"payout_{name}"),
        tab_id=key.tab_id,
        purpose=PayoutPurpose.WITHDRAW,
        request_key=named("wish", name),
        asset=asset,
        amount=amount,
        fee_cap=fee_cap_of(amount),
        invoice=f"fibd1 {name}" if by_invoice else None,
        target=None if by_invoice else NODE,
        payment_hash=payment_hash(f"out {name}") if by_invoice else None,
        created_ms=created_ms,
    )


def refund(name: str) -> RemainderPlan:
    """A remainder that goes back over Fiber."""
    return RemainderPlan(refund_to=NODE, payout_id=PayoutId(f"payout_refund_{name}"))


def a_receipt(charged: int) -> Receipt:
    """A receipt before the ledger places it."""
    return Receipt(
        seller=IDENTITY,
        client_key_hash=bytes(20),
        session=bytes(16),
        seq=0,
        prev_digest=bytes(32),
        payment_ref=bytes(32),
        req_hash=DIGEST,
        resp_root=b"\x06" * 32,
        prompt_tokens=1,
        completion_tokens=1,
        asset=bytes(32),
        charged=charged,
        finish=Finish.STOP,
        started_ms=10,
        finished_ms=20,
    )


def in_order(books: Books) -> Books:
    """The same books with rows in the order of their names and without sums of nothing."""

    def some(sums: dict[Asset, int]) -> dict[Asset, int]:
        return {asset: amount for asset, amount in sums.items() if amount}

    return Books(
        tabs=tuple(sorted(books.tabs, key=lambda tab: tab.tab_id)),
        holds=tuple(sorted(books.holds, key=lambda hold: hold.hold_id)),
        locks=tuple(sorted(books.locks, key=lambda lock: lock.payment_hash)),
        payouts=tuple(sorted(books.payouts, key=lambda payout: payout.payout_id)),
        received=some(books.received),
        captured=some(books.captured),
        transferred=some(books.transferred),
        sent=some(books.sent),
        returned=some(books.returned),
    )
