"""The end of a run: nothing fails any more, and everybody claims what is theirs.

Payments whose end nobody knows are looked up, proofs are presented or redeemed, top-ups are waited
for. What is still at stake after that was lost.
"""

import hashlib
from functools import partial
from typing import Final

import anyio

from infern.adapters.sqlite_journal import SqliteJournal
from infern.client.journal import Attempt, AttemptKind
from infern.core.f402.client import ClientState
from infern.core.f402.digest import request_digest, topup_description
from infern.simulator.consumer import Consumer, Purse
from infern.simulator.users import CHAT, Need, User

ROUNDS: Final = 30
ROUND_S: Final = 10.0
GRACE_S: Final = 60
"""A proof that is honoured for less than this is not presented any more."""


class Settling(User):
    """A user who finishes everything that was begun."""

    async def settle(self) -> None:
        """Go on until nothing of this consumer's is at stake."""
        peek = SqliteJournal(self.consumer.directory, synchronous="OFF")
        try:
            for _ in range(ROUNDS):
                rows = peek.attempts(limit=1_000, at_stake=True)
                if not rows:
                    break
                for row in rows:
                    await self._finish(row)
                await anyio.sleep(ROUND_S)
            for origin in self.consumer.origins:
                if any(row.origin == origin for row in peek.attempts(limit=1_000)):
                    await self.attempt(partial(self.redeem_all, origin))
        finally:
            peek.close()

    async def _finish(self, row: Attempt) -> None:
        self.world.note(self.name, f"settle.{row.kind.value}.{row.state.value}")
        if row.kind is AttemptKind.TOPUP:
            await self.attempt(partial(self._finish_topup, row))
            if row.state is ClientState.PAYING:
                await self.attempt(partial(self.redeem_all, row.origin))
        elif row.redeem_until_s > self.world.now_ms // 1_000 + GRACE_S and (
            row.state is ClientState.PAYING or self.dice.random() < 0.5
        ):
            await self.satisfy(self._need_of(row), turns=1)
        else:
            await self.attempt(partial(self.redeem_all, row.origin))

    def _need_of(self, row: Attempt) -> Need:
        for need in self.needs:
            if request_digest("POST", CHAT, need.body) == row.digest:
                return Need(origin=row.origin, body=need.body, is_stock=self.dice.random() < 0.3)
        raise LookupError("a payment for something nobody wanted")

    async def _finish_topup(self, row: Attempt, purse: Purse) -> None:
        client = purse.clients[row.origin]
        for key in purse.wallet.journal.keys(row.origin):
            described = topup_description(key.key_id).encode()
            if hashlib.sha256(described).digest() == row.digest:
                client.api_key = key.api_key
        credited = await client.f402.topup(row.amount)
        self.world.note(self.name, "user.topped-up", str(credited.amount))


def settling(consumer: Consumer, user: User) -> Settling:
    """Somebody to settle what this consumer's users began."""
    return Settling(consumer, f"{consumer.name}-end", user.heard, user.needs)
