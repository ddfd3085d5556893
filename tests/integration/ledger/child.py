"""A process that books at random until it is killed; says on stdout what it tried and what held.

One JSON line each: `["try", …]` before an operation whose outcome a kill may hide, `["ack", …]`
once the ledger said that it is durable.
"""

import asyncio
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
from infern.core.ids import RequestId
from infern.core.ledger.hold import Hold
from infern.core.ledger.lock import LockEvent
from infern.core.ledger.payout import PayoutEvent
from infern.core.ledger.records import KeyRecord, PaidRequest, RemainderPlan, TopupState
from infern.testing import ledger_rows as rows

KEYS = 4
TASKS = 16


def say(*facts: Any) -> None:
    os.write(1, json.dumps(facts).encode() + b"\n")


class Worker:
    def __init__(self, ledger: SqliteLedger, seed: int) -> None:
        self.ledger = ledger
        self.random = random.Random(seed)

    async def run(self) -> None:
        doing = (self.topup, self.spend, self.spend, self.pay, self.hold_mode, self.withdraw)
        while True:
            try:
                await self.random.choice(doing)()
            except InfernError as error:
                say("refused", error.code)

    def key(self) -> KeyRecord:
        return rows.a_key(str(self.random.randrange(KEYS)))

    async def topup(self) -> None:
        key, amount = self.key(), self.random.randint(50, 5_000)
        topup = rows.a_topup(secrets.token_hex(16), key, amount)
        name = topup.payment_hash.hex()
        say("try", "topup", name, amount)
        await self.ledger.add_topup(topup, open_limit=10_000)
        for _ in range(self.random.randint(1, 3)):
            await self.ledger.end_topup(topup.payment_hash, TopupState.PAID, now_ms=2)
        say("ack", "topup", name, amount)

    async def spend(self) -> None:
        amount = self.random.randint(1, 60)
        hold = rows.a_hold(secrets.token_hex(16), amount, key=self.key())
        hold = replace(hold, attempt=secrets.token_bytes(32))
        await self.ledger.hold(hold)
        say("ack", "hold", hold.hold_id)
        await self.end(hold, RemainderPlan())

    async def end(self, hold: Hold, plan: RemainderPlan) -> bool:
        if self.random.random() < 0.3:
            say("try", "release", hold.hold_id)
            if self.random.random() < 0.5:
                await self.ledger.release(hold.hold_id, now_ms=2)
            else:
                now_ms = hold.lease_until_ms + 1
                assert await self.ledger.release_expired(hold.hold_id, now_ms=now_ms)
            say("ack", "release", hold.hold_id)
            return False
        await self.ledger.renew([hold.hold_id], lease_until_ms=2_000)
        charged = self.random.randint(0, hold.amount)
        request_id = RequestId(secrets.token_hex(16))
        say("try", "capture", hold.hold_id, request_id, charged)
        await self.ledger.capture(
            hold.hold_id, rows.a_receipt(charged), request_id=request_id, remainder=plan
        )
        say("ack", "capture", hold.hold_id, request_id, charged)
        return True

    def plan(self) -> RemainderPlan:
        key = self.random.choice((None, self.key()))
        return replace(rows.refund(secrets.token_hex(16)), key=key)

    async def claim(self, paid: PaidRequest) -> Hold:
        name = paid.payment_hash.hex()
        hold = rows.a_hold(secrets.token_hex(16), paid.amount, paid=paid)
        say("try", "claim", name, paid.amount)
        # Every try names the tab anew, as a seller does.
        await self.ledger.claim(replace(paid, tab_id=secrets.token_hex(16)), hold)
        say("ack", "claim", name, paid.amount)
        say("ack", "hold", hold.hold_id)
        return hold

    async def pay(self) -> None:
        amount = self.random.choice((self.random.randint(1, 60), 20_000))
        paid = rows.a_payment(secrets.token_hex(16), amount)
        name = paid.payment_hash.hex()
        if self.random.random() < 0.3:
            say("try", "claim", name, amount)
            await self.ledger.credit_unclaimed(paid, now_ms=2)
            say("ack", "claim", name, amount)
        for _ in range(self.random.randint(0, 3)):
            hold = await self.claim(paid)
            if await self.end(hold, self.plan()):
                break
        if self.random.random() < 0.5:
            say("try", "claim", name, amount)
            say("try", "redeem", name)
            moved = await self.ledger.redeem(paid, self.key(), now_ms=3)
            say("ack", "claim", name, amount)
            say("ack", "redeem", name, moved)

    async def hold_mode(self) -> None:
        amount = self.random.choice((self.random.randint(1, 60), 20_000))
        paid = rows.a_payment(secrets.token_hex(16), amount, is_lock=True)
        name = paid.payment_hash.hex()
        say("try", "lock", name, "offered")
        await self.ledger.offer_lock(rows.a_lock(paid), open_limit=10_000)
        say("ack", "lock", name, "offered")
        if self.random.random() < 0.1:
            await self.move(paid, LockEvent.EXPIRE, "cancelling")
        else:
            say("try", "lock", name, "held")
            hold = await self.claim(paid)
            say("ack", "lock", name, "held")
            say("try", "lock", name, "charged", "cancelling")
            if await self.end(hold, self.plan()):
                say("ack", "lock", name, "charged")
                if self.random.random() < 0.8:
                    await self.move(paid, LockEvent.DELIVER, "settling")
                    if self.random.random() < 0.9:
                        await self.move(paid, LockEvent.PAID, "settled")
                    else:
                        await self.move(paid, LockEvent.GONE, "lost")
                    return
                await self.move(paid, LockEvent.ABANDON, "cancelling")
            else:
                say("ack", "lock", name, "cancelling")
        await self.move(paid, LockEvent.GONE, "cancelled")

    async def move(self, paid: PaidRequest, event: LockEvent, state: str) -> None:
        name = paid.payment_hash.hex()
        say("try", "lock", name, state)
        await self.ledger.move_lock(paid.payment_hash, event, now_ms=4)
        say("ack", "lock", name, state)

    async def withdraw(self) -> None:
        key, by_invoice = self.key(), self.random.random() < 0.5
        amount = self.random.randint(1, 60)
        payout = rows.a_withdrawal(secrets.token_hex(16), key, amount, by_invoice=by_invoice)
        say("try", "payout", payout.payout_id, "owed")
        await self.ledger.add_payout(payout)
        say("ack", "payout", payout.payout_id, "owed")
        event = PayoutEvent.SEND if self.random.random() < 0.9 else PayoutEvent.FAIL
        states = {"send": "sending", "fail": "returned", "succeed": "settled"}
        while True:
            say("try", "payout", payout.payout_id, states[event])
            await self.ledger.move_payout(payout.payout_id, event, now_ms=4, fee=1)
            say("ack", "payout", payout.payout_id, states[event])
            if event is not PayoutEvent.SEND:
                return
            if not by_invoice:
                hash_ = rows.payment_hash(payout.payout_id)
                await self.ledger.note_payment(payout.payout_id, hash_)
            event = self.random.choice((PayoutEvent.SUCCEED, PayoutEvent.FAIL))


async def main(path: Path, seed: int) -> None:
    ledger = SqliteLedger(path)
    await ledger.recover(now_ms=5)
    for number in range(KEYS):
        if await ledger.find_key(rows.a_key(str(number)).key_digest) is None:
            await ledger.create_key(rows.a_key(str(number)))
    say("ready")
    await asyncio.gather(*(Worker(ledger, seed * TASKS + n).run() for n in range(TASKS)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
