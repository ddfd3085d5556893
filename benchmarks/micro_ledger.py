"""What durable booking costs: a hold and its charge, by how many ask at once.

    python -m benchmarks.micro_ledger [--seconds 2]

CPU is that of the whole process, user and system: the loop that asks, the writer thread, and the
kernel's part in making it durable.
"""

import argparse
import asyncio
import secrets
import tempfile
import time
from pathlib import Path

import uvloop

from infern.adapters.sqlite_ledger import SqliteLedger
from infern.core.ids import HoldId, PaymentHash, RequestDigest, RequestId, TabId
from infern.core.ledger.hold import Hold
from infern.core.ledger.records import KeyRecord, RemainderPlan, Topup, TopupState
from infern.core.units import CKB
from infern.testing.ledger_rows import a_receipt

RECEIPT = a_receipt(charged=10)


PLAN = RemainderPlan()


async def _key(ledger: SqliteLedger) -> TabId:
    key = KeyRecord(
        key_digest=secrets.token_bytes(32),
        key_id=secrets.token_hex(8),
        tab_id=TabId(secrets.token_hex(8)),
        session=secrets.token_bytes(16),
        asset=CKB,
        created_ms=1,
    )
    topup = Topup(
        payment_hash=PaymentHash(secrets.token_bytes(32)),
        tab_id=key.tab_id,
        key_id=key.key_id,
        amount=2**50,
        invoice="i",
        expires_ms=1,
        created_ms=1,
    )
    await ledger.create_key(key)
    await ledger.add_topup(topup, open_limit=1)
    await ledger.end_topup(topup.payment_hash, TopupState.PAID, now_ms=1)
    return key.tab_id


async def _measure(ledger: SqliteLedger, workers: int, seconds: float) -> None:
    tab_id = await _key(ledger)
    done = 0
    until = time.perf_counter() + seconds

    async def worker() -> None:
        nonlocal done
        while time.perf_counter() < until:
            hold = Hold(
                hold_id=HoldId(secrets.token_hex(16)),
                tab_id=tab_id,
                amount=20,
                digest=RequestDigest(bytes(32)),
                payment_hash=None,
                opened_ms=1,
            )
            await ledger.hold(hold)
            request_id = RequestId(hold.hold_id)
            await ledger.capture(hold.hold_id, RECEIPT, request_id=request_id, remainder=PLAN)
            done += 1

    began, used = time.perf_counter(), time.process_time()
    await asyncio.gather(*(worker() for _ in range(workers)))
    used, took = time.process_time() - used, time.perf_counter() - began
    print(f"{workers:4} at once: {used / done * 1e6:7.0f} us CPU a request, {done / took:7.0f} /s")


async def main(seconds: float) -> None:
    """Measure at several concurrencies."""
    with tempfile.TemporaryDirectory() as home:
        async with SqliteLedger(Path(home) / "ledger.sqlite3") as ledger:
            for workers in (1, 8, 64):
                await _measure(ledger, workers, seconds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(parser.parse_args().seconds))
