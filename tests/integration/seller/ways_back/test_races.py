"""Withdrawals against requests on one key: never below zero, never more out than in."""

import asyncio
import random
import secrets
from typing import Any

import pytest

CKB = 100_000_000


@pytest.mark.parametrize("run", range(3))
async def test_abuse_26_withdrawals_and_requests_at_once(live: Any, run: int) -> None:
    """Random order, random sizes; the seed is printed when it fails."""
    seed = secrets.randbits(32)
    chance = random.Random(seed)
    deposited = 2 * CKB
    key = await live.key(deposited)
    target = live.keys["consumer"].hex()
    consumer = await live.local("consumer")
    seen: list[int] = []

    async def withdraw() -> None:
        await asyncio.sleep(chance.random() / 5)
        amount = chance.choice(["max", str(chance.randrange(10_000, deposited)), "10000"])
        body: dict[str, str] = {"amount": amount, "pubkey": target}
        if chance.random() < 0.3:
            record = await live.invoice(chance.randrange(10_000, deposited))
            body = {"invoice": record.invoice_text}
        got = await live.withdraw(key, **body)
        assert got.status in {200, 202, 402, 409, 429}, got.body

    async def ask() -> None:
        await asyncio.sleep(chance.random() / 5)
        stream = chance.random() < 0.5
        got = await live.world.chat(live.world.fresh_body(stream=stream), key=key)
        assert got.status in {200, 402}, got.body

    async def look() -> None:
        for _ in range(20):
            tab = await live.world.tab(key)
            seen.append(tab.balance)
            assert tab.refunded + tab.spent + tab.held <= deposited
            await asyncio.sleep(chance.random() / 50)

    tasks = [withdraw() for _ in range(9)] + [ask() for _ in range(40)] + [look()]
    chance.shuffle(tasks)
    print(f"seed {seed}, run {run}")
    await asyncio.gather(*tasks)
    await live.until_settled()
    tab = await live.world.tab(key)
    assert min(seen) >= 0
    assert (tab.held, tab.balance + tab.spent + tab.refunded) == (0, deposited)
    out = await live.local("consumer") - consumer
    assert 0 <= out <= tab.refunded <= deposited
