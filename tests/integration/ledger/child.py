"""A process that books at random until it is killed; says on stdout what it tried and what held.

One JSON line each: `["try", …]` before an operation whose outcome a kill may hide, `["ack", …]`
once the ledger said that it is durable.
"""

import asyncio
import hashlib
import json
import os
import random
import secrets
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from infern.adapters.sqlite_ledger import SqliteLedger
from infern.core.errors import InfernError
from infern.core.f402.receipt import Finish, Receipt, SellerIdentity
from infern.core.ids import HoldId, PaymentHash, RequestDigest, RequestId, TabId
from infern.core.ledger.hold import Hold
from infern.core.ledger.records import KeyRecord, PaidRequest, RemainderPlan, Topup, TopupState
from infern.core.units import CKB

KEYS = 4
TASKS = 16
IDENTITY = SellerIdentity(
    genesis_hash=b"\x01" * 32,
    provider=b"\x02" * 32,
    listing=b"\x03" * 32,
    listing_data_hash=b"\x04" * 32,
    model_id=b"\x05" * 32,
)


def say(*facts: Any) -> None:
    os.write(1, json.dumps(facts).encode() + b"\n")


def key_number(number: int) -> KeyRecord:
    name = f"key{number}"
    return KeyRecord(
        key_digest=hashlib.sha256(name.encode()).digest(),
        key_id=name,
        tab_id=TabId(f"tab_{name}"),
        session=bytes([number]) * 16,
        asset=CKB,
        created_ms=1,
    )


def receipt(charged: int) -> Receipt:
    return Receipt(
        seller=IDENTITY,
        client_key_hash=bytes(20),
        session=bytes(16),
        seq=0,
        prev_digest=bytes(32),
        payment_ref=bytes(32),
        req_hash=bytes(32),
        resp_root=bytes(32),
        prompt_tokens=1,
        completion_tokens=1,
        asset=bytes(32),
        charged=charged,
        finish=Finish.STOP,
        started_ms=1,
        finished_ms=2,
    )


class Worker:
    def __init__(self, ledger: SqliteLedger, seed: int) -> None:
        self.ledger = ledger
        self.random = random.Random(seed)

    async def run(self) -> None:
        while True:
            try:
                await self.random.choice((self.topup, self.spend, self.spend, self.pay))()
            except InfernError as error:
                say("refused", error.code)

    def key(self) -> KeyRecord:
        return key_number(self.random.randrange(KEYS))

    async def topup(self) -> None:
        key, amount = self.key(), self.random.randint(50, 500)
        payment_hash = PaymentHash(secrets.token_bytes(32))
        topup = Topup(
            payment_hash=payment_hash,
            tab_id=key.tab_id,
            key_id=key.key_id,
            amount=amount,
            invoice="i",
            expires_ms=1,
            created_ms=1,
        )
        say("try", "topup", payment_hash.hex(), amount)
        await self.ledger.add_topup(topup, open_limit=10_000)
        for _ in range(self.random.randint(1, 3)):
            await self.ledger.end_topup(payment_hash, TopupState.PAID, now_ms=2)
        say("ack", "topup", payment_hash.hex(), amount)

    def hold(self, tab_id: TabId, amount: int) -> Hold:
        return Hold(
            hold_id=HoldId(secrets.token_hex(16)),
            tab_id=tab_id,
            amount=amount,
            digest=RequestDigest(bytes(32)),
            opened_ms=1,
        )

    async def spend(self) -> None:
        hold = self.hold(self.key().tab_id, self.random.randint(1, 60))
        await self.ledger.hold(hold)
        say("ack", "hold", hold.hold_id)
        await self.end(hold, None)

    async def end(self, hold: Hold, remainder_to: KeyRecord | None) -> bool:
        if self.random.random() < 0.3:
            say("try", "release", hold.hold_id)
            await self.ledger.release(hold.hold_id, now_ms=2)
            say("ack", "release", hold.hold_id)
            return False
        charged = self.random.randint(0, hold.amount)
        request_id = RequestId(secrets.token_hex(16))
        say("try", "capture", hold.hold_id, request_id, charged)
        await self.ledger.capture(
            hold.hold_id,
            receipt(charged),
            request_id=request_id,
            remainder=RemainderPlan(key=remainder_to),
        )
        say("ack", "capture", hold.hold_id, request_id, charged)
        return True

    async def pay(self) -> None:
        paid = PaidRequest(
            payment_hash=PaymentHash(secrets.token_bytes(32)),
            amount=self.random.randint(1, 60),
            asset=CKB,
            digest=RequestDigest(bytes(32)),
            tab_id=TabId(secrets.token_hex(16)),
            session=secrets.token_bytes(16),
        )
        name = paid.payment_hash.hex()
        for _ in range(self.random.randint(1, 3)):
            hold = replace(self.hold(paid.tab_id, paid.amount), payment_hash=paid.payment_hash)
            say("try", "claim", name, paid.amount)
            await self.ledger.claim(replace(paid, tab_id=TabId(secrets.token_hex(16))), hold)
            say("ack", "claim", name, paid.amount)
            say("ack", "hold", hold.hold_id)
            if await self.end(hold, self.random.choice((None, self.key()))):
                break
        if self.random.random() < 0.5:
            say("try", "redeem", name)
            moved = await self.ledger.redeem(paid, self.key(), now_ms=3)
            say("ack", "redeem", name, moved)


async def main(path: Path, seed: int) -> None:
    ledger = SqliteLedger(path)
    await ledger.recover(now_ms=5)
    for number in range(KEYS):
        if await ledger.find_key(key_number(number).key_digest) is None:
            await ledger.create_key(key_number(number))
    say("ready")
    await asyncio.gather(*(Worker(ledger, seed * TASKS + n).run() for n in range(TASKS)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
