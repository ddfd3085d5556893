"""A payout desk over a real ledger and a scripted node, on a virtual clock."""

import itertools
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from infern.adapters.secp256k1 import CoincurveSigner, CoincurveVerifier
from infern.adapters.sqlite_ledger import SqliteLedger
from infern.core.fiber.channel_types import (
    Channel,
    ChannelId,
    ChannelState,
    ChannelStateName,
    PendingTlc,
    TlcDirection,
    TlcStage,
)
from infern.core.fiber.invoice import ExpiryTime, Invoice, PayeePubkey, encode_invoice, sign_invoice
from infern.core.fiber.keysend import NAME_RECORD
from infern.core.fiber.types import PaymentRecord, PaymentStatus
from infern.core.ids import HoldId, PaymentHash, PayoutId, Pubkey, RequestDigest, RequestId, TabId
from infern.core.ledger.books import violations
from infern.core.ledger.hold import Hold
from infern.core.ledger.payout import Payout, PayoutPurpose, PayoutState, fee_cap_of
from infern.core.ledger.records import (
    KeyRecord,
    PaidRequest,
    RemainderPlan,
    Topup,
    TopupState,
)
from infern.core.ledger.tab import Tab
from infern.core.units import CKB, Network
from infern.ports import Ledger
from infern.seller.payouts import Pace, PayoutDesk
from infern.seller.sending import Sender
from infern.testing.ledger_rows import a_receipt
from infern.testing.scripted_node import AsyncScriptedNode, ScriptedNode

BALANCE = 1_000_000
AMOUNT = 100_000
CAP = fee_cap_of(AMOUNT)
PAYER = CoincurveSigner(b"\x33" * 32)
"""Who gets the money."""
OTHER = CoincurveSigner(b"\x44" * 32)
VERIFIER = CoincurveVerifier()
EXPIRY_S = 3_600


@dataclass(slots=True, kw_only=True)
class PayoutWorld:
    """The desk and everything around it."""

    path: Path
    clock: Any
    amount: int = AMOUNT
    cap: int = CAP
    payer: Pubkey = PAYER.pubkey
    other: Pubkey = OTHER.pubkey
    wrap: Callable[[Ledger], Any] = lambda ledger: ledger
    pace: Pace = field(default_factory=Pace)
    in_flight: int = 60
    node: Any = None
    ledger: Any = None
    desk: Any = None
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    async def start(self) -> None:
        """Open the books and a desk, as a new process does."""
        self.node = self.node or ScriptedNode(
            verifier=VERIFIER, now_ms=self.clock.now_ms, wait=self.pass_ms
        )
        self.ledger = SqliteLedger(self.path / "ledger.sqlite3")
        await self.ledger.recover(now_ms=self.clock.now_ms())
        self.desk = PayoutDesk(
            ledger=self.wrap(self.ledger),
            sender=Sender(fiber=AsyncScriptedNode(self.node), clock=self.clock, verifier=VERIFIER),
            clock=self.clock,
            in_flight=self.in_flight,
            pace=self.pace,
        )

    async def restart(self) -> None:
        """Another process takes the books over; the node runs on."""
        self.ledger.close()
        await self.start()

    def pass_ms(self, duration_ms: int) -> None:
        self.clock.ms += duration_ms

    async def sweep(self) -> None:
        """One look at the books, and whatever it begins to its end."""
        async with anyio.create_task_group() as group:
            await self.desk.sweep(group)

    async def sweep_for(self, duration_ms: int, *, step_ms: int = 1_000) -> None:
        """Sweeps and searches for so long, each at its own pace."""
        until_ms, search_ms = self.clock.now_ms() + duration_ms, 0
        while self.clock.now_ms() < until_ms:
            await self.sweep()
            if self.clock.now_ms() >= search_ms:
                await self.desk.search()
                search_ms = self.clock.now_ms() + self.pace.search_ms
            self.pass_ms(step_ms)
        await self.sweep()

    async def key(self, balance: int = BALANCE) -> KeyRecord:
        """A prepaid key with money on it."""
        number = next(self.numbers)
        key = KeyRecord(
            key_digest=secrets.token_bytes(32),
            key_id=f"key_{number}",
            tab_id=TabId(f"tab_{number}"),
            session=secrets.token_bytes(16),
            asset=CKB,
            created_ms=self.clock.now_ms(),
        )
        await self.ledger.create_key(key)
        payment_hash = PaymentHash(secrets.token_bytes(32))
        topup = Topup(
            payment_hash=payment_hash,
            tab_id=key.tab_id,
            key_id=key.key_id,
            amount=balance,
            invoice="fibd1",
            expires_ms=self.clock.now_ms() + 1_000,
            created_ms=self.clock.now_ms(),
        )
        await self.ledger.add_topup(topup, open_limit=9)
        await self.ledger.end_topup(payment_hash, TopupState.PAID, now_ms=self.clock.now_ms())
        return key

    def invoice(
        self, amount: int = AMOUNT, *, payee: CoincurveSigner = PAYER, expiry_s: int = EXPIRY_S
    ) -> tuple[str, PaymentHash]:
        """An invoice of the withdrawing side's node."""
        payment_hash = PaymentHash(secrets.token_bytes(32))
        invoice = Invoice(
            network=Network.DEV,
            amount=amount,
            timestamp_ms=self.clock.now_ms(),
            payment_hash=payment_hash,
            attributes=(ExpiryTime(expiry_s=expiry_s), PayeePubkey(pubkey=payee.pubkey)),
        )
        return encode_invoice(sign_invoice(invoice, payee)), payment_hash

    async def withdraw(
        self,
        key: KeyRecord | None = None,
        *,
        by_invoice: bool = False,
        target: Pubkey = PAYER.pubkey,
        **changes: Any,
    ) -> Payout:
        """A withdrawal that is recorded and not begun."""
        key = key or await self.key()
        number = next(self.numbers)
        text, payment_hash = self.invoice() if by_invoice else (None, None)
        payout = Payout(
            payout_id=PayoutId(f"out_{number}"),
            tab_id=key.tab_id,
            purpose=PayoutPurpose.WITHDRAW,
            request_key=number.to_bytes(32, "big"),
            asset=CKB,
            amount=AMOUNT,
            fee_cap=CAP,
            invoice=text,
            target=None if by_invoice else target,
            payment_hash=payment_hash,
            created_ms=self.clock.now_ms(),
        )
        added: Payout = await self.ledger.add_payout(replace(payout, **changes))
        return added

    async def remainder(self, amount: int = AMOUNT) -> Payout:
        """What a paid request did not cost, on its way back to its payer."""
        number = next(self.numbers)
        payment_hash = PaymentHash(secrets.token_bytes(32))
        paid = PaidRequest(
            payment_hash=payment_hash,
            amount=amount + 1_000,
            asset=CKB,
            digest=RequestDigest(bytes(32)),
            tab_id=TabId(f"tab_{number}"),
            session=secrets.token_bytes(16),
        )
        hold = Hold(
            hold_id=HoldId(f"hold_{number}"),
            tab_id=TabId(""),
            amount=paid.amount,
            digest=paid.digest,
            payment_hash=payment_hash,
            opened_ms=self.clock.now_ms(),
        )
        await self.ledger.claim(paid, hold)
        await self.ledger.capture(
            hold.hold_id,
            a_receipt(charged=1_000),
            request_id=RequestId(f"req_{number}"),
            remainder=RemainderPlan(refund_to=PAYER.pubkey, payout_id=PayoutId(f"out_{number}")),
        )
        found: Payout | None = await self.ledger.payout(paid.tab_id, payment_hash)
        assert found is not None
        return found

    def has(self, payment_hash: PaymentHash, status: PaymentStatus) -> None:
        """The node has a payment that no desk sent."""
        self.node.payments[payment_hash] = PaymentRecord(
            payment_hash=payment_hash,
            status=status,
            preimage=None,
            fee=0,
            failed_error=None,
            created_at_ms=1,
            last_updated_at_ms=1,
        )

    async def now(self, payout: Payout) -> Payout:
        """A payout as it stands."""
        found: Payout | None = await self.ledger.payout(payout.tab_id, payout.request_key)
        assert found is not None
        return found

    async def state(self, payout: Payout) -> PayoutState:
        return (await self.now(payout)).state

    async def tab(self, payout: Payout) -> Tab:
        tab: Tab = await self.ledger.tab(payout.tab_id)
        return tab

    async def check(self) -> None:
        """The books balance, and no payout was paid twice."""
        books = await self.ledger.books()
        assert violations(books) == []
        names = Counter(
            record.custom_records.get(NAME_RECORD, payment_hash)
            for payment_hash, record in self.node.payments.items()
            if record.status is not PaymentStatus.FAILED
        )
        assert [name for name, count in names.items() if count > 1] == []


@pytest.fixture
async def make_world(tmp_path: Path, clock: Any) -> AsyncIterator[Callable[..., Any]]:
    worlds: list[PayoutWorld] = []

    async def make(**changes: Any) -> PayoutWorld:
        world = PayoutWorld(path=tmp_path, clock=clock, **changes)
        await world.start()
        worlds.append(world)
        return world

    yield make
    for world in worlds:
        await world.check()
        world.ledger.close()


@pytest.fixture
async def world(make_world: Callable[..., Any]) -> Any:
    return await make_world()


@pytest.fixture
def pending() -> Callable[..., Channel]:
    return channel_with


def channel_with(
    payment_hash: PaymentHash,
    *,
    direction: TlcDirection = TlcDirection.OUTBOUND,
    stage: TlcStage = TlcStage.COMMITTED,
    state: ChannelStateName = ChannelStateName.CHANNEL_READY,
    flags: frozenset[str] = frozenset(),
) -> Channel:
    """A channel in which a TLC of this payment is pending."""
    tlc = PendingTlc(
        id=1,
        amount=AMOUNT,
        payment_hash=payment_hash,
        expiry_ms=1,
        forwarding_channel_id=None,
        forwarding_tlc_id=None,
        direction=direction,
        stage=stage,
    )
    return Channel(
        channel_id=ChannelId(bytes(32)),
        is_public=True,
        is_acceptor=False,
        is_one_way=False,
        outpoint=None,
        peer=OTHER.pubkey,
        udt_type_script=None,
        state=ChannelState(name=state, text=state.value, flags=flags),
        local_balance=10 * AMOUNT,
        remote_balance=0,
        offered_tlc_balance=AMOUNT,
        received_tlc_balance=0,
        pending_tlcs=(tlc,),
        latest_commitment_tx_hash=None,
        created_at_ms=1,
        enabled=True,
        tlc_expiry_delta_ms=1,
        tlc_fee_ppm=1_000,
        shutdown_tx_hash=None,
        failure_detail=None,
    )
