"""Our own client in hold mode, against a real seller over the embedded network.

Every test ends as all tests of this directory do: books, locks and nodes agree to the shannon.
"""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import httpx2
import openai
import pytest

from infern.adapters.secp256k1 import CoincurveVerifier
from infern.adapters.sqlite_journal import SqliteJournal
from infern.adapters.system import SystemClock
from infern.client.budget import Budget
from infern.client.openai import AsyncInfern
from infern.client.wallet import Patience, PayMode, Wallet
from infern.core.errors import BudgetExceeded, Money, PaymentError, PaymentOutcomeUnknown
from infern.core.f402.client import ClientState
from infern.core.fiber import rpc
from infern.core.fiber.types import PaymentStatus
from infern.core.units import Network
from infern.testing.asgi import HttpAnswer, exchange, scope_of
from infern.testing.scripted_model import Script, Step, answer, streaming

pytestmark = pytest.mark.timeout(120)
BASE_URL = "https://seller.test/v1"
FAST = Patience(pause_ms=20, return_ms=10_000)


class Died(Exception):
    """The client's process is no more."""


@dataclass
class Body(httpx2.AsyncByteStream):
    pieces: tuple[bytes, ...]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield piece


@dataclass
class Wire(httpx2.AsyncBaseTransport):
    """Requests go to whichever process of the seller lives."""

    world: Any
    dies_before_proof: bool = False
    proofs: int = 0
    asks: int = 0
    cut: anyio.Event = field(default_factory=anyio.Event)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        headers = [(k.decode().lower(), v.decode()) for k, v in request.headers.raw]
        if any(name == "payment-signature" for name, _ in headers):
            self.proofs += 1
            if self.dies_before_proof:
                raise Died
        else:
            self.asks += 1
        target = request.url.raw_path.decode()
        got = await self._exchange(scope_of(request.method, target, headers), await request.aread())
        if got is None or not got.is_complete:
            raise httpx2.ReadError("broken off")
        return httpx2.Response(got.status, headers=dict(got.headers), stream=Body(got.pieces))

    async def _exchange(self, scope: Any, body: bytes) -> HttpAnswer | None:
        """An answer, or None when the connection was cut before it ended."""
        got: list[HttpAnswer] = []
        cut = self.cut

        async def work() -> None:
            got.append(await exchange(self.world.app, scope, body))
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(work)
            await cut.wait()
            group.cancel_scope.cancel()
        return got[0] if got else None

    def cut_all(self) -> None:
        """Break the connections there are; new ones are good."""
        cut, self.cut = self.cut, anyio.Event()
        cut.set()


async def model_is_asked(world: Any) -> None:
    while not world.model.requests:
        await anyio.sleep(0.001)


@dataclass(kw_only=True)
class Payer:
    """One process of the consumer's."""

    world: Any
    wallet: Wallet
    wire: Wire
    client: AsyncInfern

    async def ask(self, text: str = "hi", **options: Any) -> Any:
        return await self.client.chat.completions.create(
            model="m", max_tokens=16, messages=[{"role": "user", "content": text}], **options
        )

    def states(self) -> list[str]:
        return sorted(row.state.value for row in self.wallet.journal.attempts(limit=100))

    def kill(self) -> None:
        self.wallet.journal.drop()

    async def payments(self) -> list[PaymentStatus]:
        rows = self.wallet.journal.attempts(limit=100)
        found = []
        for row in rows:
            with contextlib.suppress(Exception):
                call = rpc.GetPayment(payment_hash=row.payment_hash)
                found.append((await self.world.consumer.call(call)).status)
        return found


@pytest.fixture
async def make_payer(tmp_path: Path, wait_until: Any) -> AsyncIterator[Callable[..., Payer]]:
    payers: list[Payer] = []

    def make(world: Any, **changes: Any) -> Payer:
        wallet = Wallet(
            journal=SqliteJournal(tmp_path / "consumer"),
            budget=Budget(),
            verifier=CoincurveVerifier(),
            clock=SystemClock(),
            network=Network.DEV,
            session=f"session-{len(payers)}",
            node=world.consumer,
            patience=FAST,
            mode=PayMode.HOLD,
        )
        wallet, wire = replace(wallet, **changes), Wire(world)
        client = AsyncInfern(base_url=BASE_URL, wallet=wallet, transport=wire)
        payers.append(Payer(world=world, wallet=wallet, wire=wire, client=client))
        return payers[-1]

    yield make
    # The last process hears how everything ended, and the fees are accounted for.
    if payers:
        last = make(payers[0].world)
        await wait_until(last.client.f402.held, lambda rows: not rows)
        for row in last.wallet.journal.attempts(limit=100):
            if row.state in {ClientState.DELIVERED, ClientState.REDEEMED_ELSEWHERE}:
                assert row.fee is not None
                last.world.fees[row.payment_hash] = row.fee
    for payer in payers:
        payer.wallet.journal.close()


@pytest.mark.parametrize("is_stream", [False, True])
async def test_the_answer_comes_before_the_payment_is_taken(
    make_world: Any, make_payer: Any, gate: Any, wait_until: Any, is_stream: bool
) -> None:
    gates: list[Any] = []
    world = await make_world(
        wrap_fiber=lambda fiber: gates.append(gate(fiber, "settle_invoice")) or gates[0]
    )
    payer = make_payer(world)
    got = await payer.ask(stream=is_stream)
    if is_stream:
        pieces = [chunk async for chunk in got]
        text = "".join(c.choices[0].delta.content or "" for c in pieces if c.choices)
    else:
        text = got.choices[0].message.content
    assert text.startswith("Hello")
    assert payer.client.f402.last_receipt.status.value == "verified"
    await gates[0].reached.wait()
    (held,) = await payer.client.f402.held()
    assert held.state is ClientState.SETTLING
    assert held.locked_until_ms - held.created_ms == 14 * 86_400_000
    gates[0].opened.set()
    await wait_until(payer.client.f402.held, lambda rows: not rows)
    (row,) = payer.wallet.journal.attempts(limit=9)
    assert row.state is ClientState.DELIVERED
    assert row.fee is not None
    assert row.fee > 0
    assert (await world.sums()).received == row.amount


async def test_what_is_left_of_a_settled_payment_can_be_redeemed(
    world: Any, make_payer: Any, wait_until: Any
) -> None:
    payer = make_payer(world)
    await payer.ask()
    await wait_until(payer.client.f402.held, lambda rows: not rows)
    (redeemed,) = await payer.client.f402.redeem()
    (row,) = payer.wallet.journal.attempts(limit=9)
    assert redeemed.credited == row.amount - (await world.sums()).spent > 0


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_run_that_fails_costs_nothing_and_the_request_is_quoted_anew(
    world: Any, make_payer: Any, is_stream: bool
) -> None:
    payer = make_payer(world)
    world.model.plan.append(Script(status=500, steps=[b"{}"]))
    with pytest.raises(openai.APIStatusError) as caught:
        await payer.ask(stream=is_stream)
    assert caught.value.code == "provider_failed"
    assert caught.value.body["money"] == "unmoved"
    assert payer.states() == ["payment_failed"]
    again = await payer.ask(stream=is_stream)
    if is_stream:
        assert [chunk async for chunk in again]
    assert payer.states() == ["payment_failed", "settling"]
    assert payer.wire.asks == 2
    sums = await world.sums()
    assert 0 < sums.spent < sums.received


async def test_a_stream_that_breaks_off_before_any_text_is_paid_once_in_the_end(
    world: Any, make_payer: Any, wait_until: Any
) -> None:
    payer = make_payer(world)
    world.model.plan.append(streaming([Step.BREAK]))
    with pytest.raises(openai.APIError):
        [chunk async for chunk in await payer.ask(stream=True)]
    assert payer.states() == ["held"]
    (row,) = payer.wallet.journal.attempts(limit=9)
    call = rpc.GetPayment(payment_hash=row.payment_hash)
    await wait_until(
        lambda: world.consumer.call(call), lambda found: found.status is PaymentStatus.FAILED
    )
    assert [chunk async for chunk in await payer.ask(stream=True)]
    assert payer.states() == ["payment_failed", "settling"]


async def test_a_client_that_dies_before_its_proof_uses_it_when_it_is_back(
    world: Any, make_payer: Any
) -> None:
    first = make_payer(world)
    first.wire.dies_before_proof = True
    with pytest.raises((Died, openai.APIConnectionError)):
        await first.ask()
    first.kill()
    second = make_payer(world)
    assert (await second.ask()).choices[0].message.content
    assert second.states() == ["settling"]
    assert second.wire.asks == 0
    assert len(await second.payments()) == 1


async def test_a_client_that_dies_while_it_is_answered_pays_once_in_the_end(
    world: Any, make_payer: Any
) -> None:
    first, thinking = make_payer(world), anyio.Event()
    world.model.plan.append(Script(before=thinking, steps=[answer()]))
    async with anyio.create_task_group() as group:
        group.start_soon(first.ask)
        await model_is_asked(world)
        first.kill()
        group.cancel_scope.cancel()
    thinking.set()
    second = make_payer(world)
    with contextlib.suppress(openai.APIStatusError):  # the first run's payment comes back
        await second.ask()
    if "settling" not in second.states():
        await second.ask()
    # Who is back soon enough reads the answer under way; otherwise its payment was given back.
    assert second.states() in (["settling"], ["payment_failed", "settling"])


async def test_a_seller_that_dies_while_it_answers_gives_the_payment_back(
    world: Any, make_payer: Any
) -> None:
    payer = make_payer(world)
    world.model.plan.append(Script(before=anyio.Event(), steps=[answer()]))
    failures: list[Exception] = []

    async def ask() -> None:
        try:
            await payer.ask()
        except (openai.APIStatusError, PaymentError) as error:
            failures.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await model_is_asked(world)
        await world.restart()
        payer.wire.cut_all()
    assert len(failures) == 1
    assert payer.states() == ["payment_failed"]
    assert (await payer.ask()).choices[0].message.content
    assert payer.states() == ["payment_failed", "settling"]


async def test_until_the_node_says_that_it_is_back_nothing_is_paid_anew(
    make_world: Any, make_payer: Any, gate: Any
) -> None:
    gates: list[Any] = []
    world = await make_world(
        wrap_fiber=lambda fiber: gates.append(gate(fiber, "cancel_invoice")) or gates[0]
    )
    payer = make_payer(world, patience=replace(FAST, return_ms=50))
    world.model.plan.append(Script(status=500, steps=[b"{}"]))
    for _ in range(2):
        with pytest.raises(PaymentOutcomeUnknown) as caught:
            await payer.ask()
        assert caught.value.money is Money.UNKNOWN
        assert set(caught.value.details) == {"payment_hash", "amount", "since", "until"}
        assert "not paid again" in caught.value.message
    assert payer.states() == ["returning"]
    assert payer.wire.asks == 1
    gates[0].opened.set()
    patient = make_payer(world)
    assert (await patient.ask()).choices[0].message.content
    assert patient.states() == ["payment_failed", "settling"]


async def test_as_many_payments_are_held_at_once_as_the_budget_allows(
    world: Any, make_payer: Any
) -> None:
    may_end = anyio.Event()
    payer = make_payer(world, budget=Budget(locks=1))
    world.model.plan.append(Script(before=may_end, steps=[answer()]))
    async with anyio.create_task_group() as group:
        group.start_soon(payer.ask)
        await model_is_asked(world)
        other = make_payer(world, budget=Budget(locks=1))
        with pytest.raises(BudgetExceeded) as caught:
            await other.ask("another")
        assert (caught.value.money, caught.value.details["window"]) == (Money.UNMOVED, "locks")
        lenient = make_payer(world, budget=Budget(locks=1), mode=PayMode.HOLD_OR_UPFRONT)
        assert (await lenient.ask("a third")).choices[0].message.content
        assert lenient.states() == ["claiming", "delivered"]
        may_end.set()
    # What ended by itself is not in the way of the next one.
    assert (await payer.ask("another")).choices[0].message.content
    await world.wait_for(lambda locks: all(lock.tab_id is None for lock in locks))
    await world.pass_ms(200_000)  # the offers that nobody paid end


async def test_the_amounts_held_are_capped(world: Any, make_payer: Any) -> None:
    for budget, window in ((Budget(per_lock=10), None), (Budget(locked=10), "locked")):
        payer = make_payer(world, budget=budget)
        with pytest.raises((BudgetExceeded, openai.APIStatusError)) as caught:
            await payer.ask()
        if window is None:
            assert caught.value.code == "price_above_max"
        else:
            assert caught.value.details["window"] == window
        assert payer.states() == []
    await world.pass_ms(200_000)  # the offer that nobody paid ends


async def test_two_equal_requests_at_once_are_two_payments(world: Any, make_payer: Any) -> None:
    payer = make_payer(world)
    async with anyio.create_task_group() as group:
        group.start_soon(payer.ask)
        group.start_soon(payer.ask)
    assert payer.states() in (["delivered", "settling"], ["settling", "settling"])
    assert len(world.model.requests) == 2


async def test_hold_mode_that_is_not_to_be_had_is_an_error_unless_upfront_will_do(
    make_world: Any, make_payer: Any
) -> None:
    world = await make_world(limits={"hold_max_amount": 1})
    strict = make_payer(world)
    with pytest.raises(PaymentError, match="mode='upfront'") as caught:
        await strict.ask()
    assert (caught.value.code, caught.value.money) == ("hold_unavailable", Money.UNMOVED)
    assert caught.value.details["reason"] == "amount"
    assert strict.states() == []
    lenient = make_payer(world, mode=PayMode.HOLD_OR_UPFRONT)
    assert (await lenient.ask()).choices[0].message.content
    assert lenient.states() == ["delivered"]


async def test_a_caller_may_choose_the_mode_of_one_request(world: Any, make_payer: Any) -> None:
    payer = make_payer(world, mode=PayMode.UPFRONT)
    await payer.ask()
    await payer.ask("another", extra_headers={"F402-Mode": "hold"})
    assert payer.states() == ["delivered", "settling"]
