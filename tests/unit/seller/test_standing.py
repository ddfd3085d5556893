"""An offer that is out is shown again to who asks once more, and to nobody else."""

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from infern.core.errors import TransportError
from infern.core.ids import PaymentHash, Pubkey, RequestDigest
from infern.seller import standing
from infern.seller.standing import KEEP_MS, Asked, StandingOffers, caller_of

LIFE_S = 120
BY_KEY = Asked(
    caller=b"\x01" * 32,
    digest=RequestDigest(b"\x02" * 32),
    refund_to=None,
    attempt=b"\x03" * 32,
    retry=None,
)
BY_COUNT = replace(BY_KEY, attempt=None, retry=0)


class World:
    """Offers with payment hashes in order, and a node that knows which are paid."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_000
        self.paid: set[PaymentHash] = set()
        self.is_away = False
        self.questions = 0
        self.numbers = itertools.count(1)
        self.offers = StandingOffers(self, self)  # type: ignore[arg-type] # a clock of one method

    def now_ms(self) -> int:
        return self.ms

    async def is_paid(self, payment_hash: PaymentHash) -> bool:
        self.questions += 1
        if self.is_away:
            raise TransportError("away (scripted)", code="fiber_unavailable")
        return payment_hash in self.paid

    async def mint(self) -> Any:
        payment_hash = PaymentHash(next(self.numbers).to_bytes(32, "big"))
        expires_at_s = self.ms // 1000 + LIFE_S
        claims = SimpleNamespace(payment_hash=payment_hash, expires_at_s=expires_at_s)
        return SimpleNamespace(challenge=claims)

    async def ask(self, asked: Asked) -> Any:
        return await self.offers.offer(asked, self.mint)


@pytest.fixture
def world() -> World:
    return World()


async def test_who_names_a_need_gets_its_offer_again(world: World) -> None:
    first = await world.ask(BY_KEY)
    for retry in (None, 0, 1):
        assert await world.ask(replace(BY_KEY, retry=retry)) is first
    assert world.questions == 0


async def test_an_automatic_retry_gets_the_offer_of_the_attempt_it_repeats(world: World) -> None:
    first = await world.ask(BY_COUNT)
    assert await world.ask(replace(BY_COUNT, retry=1)) is first
    assert await world.ask(replace(BY_COUNT, retry=2)) is first


async def test_equal_requests_that_are_no_retries_get_offers_of_their_own(world: World) -> None:
    plain = replace(BY_KEY, attempt=None)
    offers = [await world.ask(asked) for asked in (plain, plain, BY_COUNT, BY_COUNT)]
    assert len({id(offer) for offer in offers}) == 4
    again = replace(BY_COUNT, retry=1)
    assert [await world.ask(again), await world.ask(again)] == offers[2:]
    assert await world.ask(again) not in offers


@pytest.mark.parametrize(
    "change",
    [
        {"caller": b"\x09" * 32},
        {"digest": RequestDigest(b"\x09" * 32)},
        {"refund_to": Pubkey(b"\x02" * 33)},
        {"attempt": b"\x09" * 32},
        {"attempt": None, "retry": 7},
    ],
)
async def test_another_request_or_caller_gets_another_offer(world: World, change: Any) -> None:
    first = await world.ask(BY_KEY)
    assert await world.ask(replace(BY_KEY, **change)) is not first


async def test_a_retry_with_a_name_is_not_one_without(world: World) -> None:
    first = await world.ask(BY_COUNT)
    assert await world.ask(replace(BY_KEY, retry=1)) is not first


async def test_an_offer_that_can_no_longer_be_paid_stands_if_it_was(world: World) -> None:
    first = await world.ask(BY_KEY)
    world.paid.add(first.challenge.payment_hash)
    world.ms += LIFE_S * 1_000
    assert await world.ask(BY_KEY) is first
    assert world.questions == 1
    world.paid.clear()
    second = await world.ask(BY_KEY)
    assert second is not first
    assert await world.ask(BY_KEY) is second


async def test_no_new_offer_is_made_while_nobody_knows_of_the_old_one(world: World) -> None:
    first = await world.ask(BY_KEY)
    world.ms += LIFE_S * 1_000
    world.is_away = True
    with pytest.raises(TransportError):
        await world.ask(BY_KEY)
    world.is_away = False
    world.paid.add(first.challenge.payment_hash)
    assert await world.ask(BY_KEY) is first


async def test_who_asks_while_the_offer_is_made_waits_for_it(world: World) -> None:
    begun, may_end = anyio.Event(), anyio.Event()
    got: list[Any] = []

    async def slowly() -> Any:
        begun.set()
        await may_end.wait()
        return await world.mint()

    async def ask(mint: Any) -> None:
        got.append(await world.offers.offer(BY_KEY, mint))

    async with anyio.create_task_group() as group:
        group.start_soon(ask, slowly)
        await begun.wait()
        group.start_soon(ask, world.mint)
        await anyio.wait_all_tasks_blocked()
        assert got == []
        may_end.set()
    assert got[0] is got[1]


@pytest.mark.parametrize("how", ["fails", "is cancelled"])
async def test_an_offer_that_was_not_made_is_made_by_the_next_who_waits(
    world: World, how: str
) -> None:
    begun, may_fail = anyio.Event(), anyio.Event()
    got: list[Any] = []
    scope = anyio.CancelScope()

    async def fails() -> Any:
        begun.set()
        await may_fail.wait()
        raise TransportError("no invoice (scripted)", code="fiber_unavailable")

    async def first() -> None:
        with scope, pytest.raises(TransportError):
            await world.offers.offer(BY_KEY, fails)

    async def second() -> None:
        got.append(await world.ask(BY_KEY))

    async with anyio.create_task_group() as group:
        group.start_soon(first)
        await begun.wait()
        group.start_soon(second)
        await anyio.wait_all_tasks_blocked()
        if how == "fails":
            may_fail.set()
        else:
            scope.cancel()
    assert len(got) == 1
    assert len(world.offers) == 1


async def test_memory_is_bounded_and_ended_offers_go_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing, "CAPACITY", 3)
    asked = [replace(BY_KEY, attempt=bytes([number]) * 32) for number in range(5)]
    offers = [await world.ask(each) for each in asked]
    assert len(world.offers) == 3
    assert [await world.ask(each) for each in asked[2:]] == offers[2:]
    world.ms += LIFE_S * 1_000 + KEEP_MS + 1_000
    await world.ask(BY_COUNT)
    assert len(world.offers) == 1
    assert len(world.offers._by_digest) == 1


async def test_an_offer_nobody_could_ask_for_again_is_not_remembered(world: World) -> None:
    await world.ask(replace(BY_KEY, attempt=None))
    assert len(world.offers) == 0


def test_callers_differ_by_address_and_by_what_they_send_of_themselves() -> None:
    sdk = {"authorization": "Bearer none", "user-agent": "OpenAI/Python 3"}
    one = caller_of("192.0.2.1", sdk)
    assert caller_of("192.0.2.1", {**sdk, "x-stainless-retry-count": "1"}) == one
    others = [
        caller_of("192.0.2.2", sdk),
        caller_of("192.0.2.1", {**sdk, "user-agent": "curl"}),
        caller_of("192.0.2.1", {"user-agent": "OpenAI/Python 3"}),
        caller_of("192.0.2.1", {"authorization": "Bearer none"}),
    ]
    assert len({one, *others}) == 5
    assert caller_of("2001:db8::1", sdk) == caller_of("2001:db8::2", sdk)
