"""What consumers do, drawn from the seed: pay, repeat, top up, redeem, lose patience.

A need is one thing a user wants answered. Its request is repeated with the same bytes, through
crashes and errors, as people and SDKs do. To add a behaviour, write a method and name it in
`ACTIONS` with its weight.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

import anyio
import httpx2

from infern.client.receipts import ReceiptLog
from infern.core.errors import InfernError, JsonValue, ProtocolError, RemoteProtocolError
from infern.core.f402.credential import proof_header
from infern.core.f402.offer import parse_offer
from infern.core.fiber.rpc import NewInvoice
from infern.core.units import Network
from infern.core.wire.strict_json import dumps, loads_object
from infern.simulator.consumer import Consumer, Crashed, GaveUp, Purse
from infern.simulator.seller import MODEL

T = TypeVar("T")
CHAT: Final = "/v1/chat/completions"
MAX_TURNS: Final = 6
SDK_RETRIES: Final = 2
PAUSES_S: Final = (0.0, 0.2, 1.0, 5.0, 20.0)
ABSENCE_S: Final = 1_100.0
INVOICE_S: Final = 600
KEPT_S: Final = 150.0
TOPUPS: Final = (10_000, 50_000, 1_000_000)


@dataclass(slots=True, kw_only=True)
class Heard:
    """An answer as a client got it.

    Args:
        origin: Of the seller.
        status: HTTP status; 0 when no headers came.
        headers: By lower-case name.
        body: What came of it.
        is_whole: It ended properly.
        receipt: What the client's check of its receipt found; empty without a check.
        name: Of the request, with the key it names it for; None without either.
    """

    origin: str
    name: tuple[str, str] | None = None
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_whole: bool = False
    receipt: str = ""

    @property
    def is_answer(self) -> bool:
        """A success that is whole: what the user wanted."""
        broke_off = b'\ndata: {"error"' in b"\n" + self.body
        return self.status == 200 and self.is_whole and not broke_off

    @property
    def code(self) -> str:
        """The error's code."""
        try:
            error = loads_object(self.body).get("error")
        except RemoteProtocolError:
            return ""
        return str(error.get("code")) if isinstance(error, dict) else ""


@dataclass(slots=True, kw_only=True)
class Need:
    """One thing wanted of one seller."""

    origin: str
    body: bytes
    is_keyed: bool = False
    is_stock: bool = False
    name: str = ""
    """The `Idempotency-Key` of every try; empty leaves it to the client."""
    more: Mapping[str, str] = field(default_factory=dict)
    """Headers that say how it is paid."""
    is_answered: bool = False
    is_lost: bool = False
    """The seller says that it was answered before, and to nobody it was."""


class User:
    """One person's activity. Several run side by side for one consumer.

    Args:
        consumer: Whose programs are used.
        name: For the trace and the dice.
        heard: Where answers are kept for the oracles.
        needs: Where needs are kept, shared by all users of the consumer.
    """

    def __init__(
        self, consumer: Consumer, name: str, heard: list[Heard], needs: list[Need]
    ) -> None:
        self.consumer = consumer
        self.world = consumer.internet.world
        self.name = name
        self.dice = self.world.dice(f"user {name}")
        self.heard = heard
        self.needs = needs

    async def live(self, actions: int) -> None:
        """Do so many things, one after another."""
        names = list(ACTIONS)
        weights = [ACTIONS[name][1] for name in names]
        for _ in range(actions):
            (name,) = self.dice.choices(names, weights)
            self.world.note(self.name, f"user.{name}")
            await ACTIONS[name][0](self)
            await self.pause()

    # Behaviours.

    async def pay(self) -> None:
        """Ask for something and pay for it by itself."""
        await self.satisfy(self.new_need())

    async def stock(self) -> None:
        """The same through a stock SDK with its own retries."""
        need = self.new_need()
        need.is_stock = True
        await self.satisfy(need)

    async def twins(self) -> None:
        """Two requests with equal bytes at the same time: two needs."""
        first = self.new_need()
        second = Need(origin=first.origin, body=first.body, is_stock=self.dice.random() < 0.5)
        self.needs.append(second)
        async with anyio.create_task_group() as group:
            group.start_soon(self.satisfy, first)
            group.start_soon(self.satisfy, second)

    async def again(self) -> None:
        """Ask once more for what was asked before."""
        if self.needs:
            old = self.dice.choice(self.needs)
            need = Need(origin=old.origin, body=old.body, is_stock=self.dice.random() < 0.3)
            self.needs.append(need)
            await self.satisfy(need)

    async def keyed(self) -> None:
        """Ask with a prepaid key, made and topped up when there is none with money on it."""
        need = self.new_need()
        need.is_keyed = True
        await self.attempt(partial(self.fund, need.origin, self.dice.choice(TOPUPS)))
        await self.satisfy(need)

    async def named(self) -> None:
        """The same with a name of one's own, kept through all tries and lives of the program."""
        need = self.new_need()
        need.is_keyed = True
        need.name = f"name {self.name} {self.dice.randrange(10**9)}"
        await self.attempt(partial(self.fund, need.origin, self.dice.choice(TOPUPS)))
        await self.satisfy(need)
        if self.dice.random() < 0.5:
            # Once more, when the answer may not be kept any longer.
            await anyio.sleep(self.dice.choice((1.0, KEPT_S)))
            await self.satisfy(need)

    async def hold(self) -> None:
        """Ask for something and pay when it is delivered."""
        need = self.new_need()
        need.more = {"F402-Mode": "hold", **self._refund()}
        need.is_stock = self.dice.random() < 0.4
        await self.satisfy(need)

    async def refund(self) -> None:
        """Pay by itself and have the rest sent back."""
        need = self.new_need()
        need.more = {"F402-Refund-To": self.consumer.node.pubkey.hex()}
        await self.satisfy(need)

    async def withdraw(self) -> None:
        """Take money out; ask again with the same name until it is known what came of it."""
        origin = self.dice.choice(self.consumer.origins)
        await self.attempt(partial(self.fund, origin, self.dice.choice(TOPUPS)))
        amount = self.dice.choice((None, 10_000, 30_000))
        name = f"withdrawal-{self.dice.randrange(10**9):012}"
        invoice = None
        if amount is not None and self.dice.random() < 0.4:
            invoice = await self.attempt(partial(_invoice_of, amount))
        for _ in range(MAX_TURNS):
            if await self.attempt(partial(self._take_out, origin, amount, name, invoice)):
                return
            await self.pause()

    def _refund(self) -> dict[str, str]:
        if self.dice.random() < 0.5:
            return {}
        return {"F402-Refund-To": self.consumer.node.pubkey.hex()}

    async def topup(self) -> None:
        """Put money on the key."""
        origin = self.dice.choice(self.consumer.origins)
        await self.attempt(partial(self.fund, origin, self.dice.choice(TOPUPS)))

    async def redeem(self) -> None:
        """Move what is left of payments to the key."""
        origin = self.dice.choice(self.consumer.origins)
        await self.attempt(partial(self.redeem_all, origin))

    async def unpaid(self) -> None:
        """Ask without being able to pay."""
        need = self.new_need(is_kept=False)
        with_cap = {"F402-Max-Amount": "1"} if self.dice.random() < 0.3 else {}
        await self.attempt(partial(self._post, need, "poor", with_cap))

    async def cheat(self) -> None:
        """Try to be answered, or credited, for an invoice that was not paid."""
        need = self.new_need(is_kept=False)
        offered = await self.attempt(partial(self._post, need, "poor", {}))
        if offered is None or not offered.body:
            return
        offer = parse_offer(offered.body, need.origin + CHAT)
        if offer is None:
            return
        proof = {"PAYMENT-SIGNATURE": proof_header(offer, preimage=None)}
        got = await self.attempt(partial(self._post, need, "poor", proof))
        if got is not None and got.status == 200:
            self.world.fail(f"{self.name} was answered without paying")
        await self.attempt(partial(self._redeem_token, need.origin, offer.token))

    async def _redeem_token(self, origin: str, token: str, purse: Purse) -> None:
        await self.known_key(origin, purse)
        headers = {
            "authorization": f"Bearer {purse.clients[origin].api_key}",
            "content-type": "application/json",
        }
        answer = await purse.poor.post(
            f"{origin}/v1/f402/redeem", content=dumps({"challenge": token}), headers=headers
        )
        if answer.status_code == 200:
            self.world.fail(f"{self.name} redeemed what was not paid")

    async def books(self) -> None:
        """Look at balance and receipts."""
        origin = self.dice.choice(self.consumer.origins)
        await self.attempt(partial(self._look, origin))

    # How they are done.

    def new_need(self, *, is_kept: bool = True) -> Need:
        """Something nobody asked before."""
        words = f"need {self.name} {self.dice.randrange(10**9)} " + "x" * self.dice.randrange(60)
        asked: dict[str, JsonValue] = {
            "model": MODEL,
            "messages": [{"role": "user", "content": words}],
            "max_tokens": self.dice.randrange(8, 64),
        }
        if self.dice.random() < 0.5:
            asked["stream"] = True
            if self.dice.random() < 0.5:
                asked["stream_options"] = {"include_usage": True}
        need = Need(origin=self.dice.choice(self.consumer.origins), body=dumps(asked))
        if is_kept:
            self.needs.append(need)
        return need

    async def pause(self) -> None:
        """Think, or be away for so long that proofs are worth nothing any more."""
        if self.dice.random() < self.world.weather.absence:
            self.world.note(self.name, "user.away")
            await anyio.sleep(ABSENCE_S)
        await anyio.sleep(self.dice.choice(PAUSES_S) * self.dice.random())

    async def satisfy(self, need: Need, turns: int = MAX_TURNS) -> None:
        """Ask until it is answered, or until it makes no sense any more."""
        how = "stock" if need.is_stock else "paying"
        for _ in range(turns):
            headers: dict[str, str] = {}
            got = await self.attempt(partial(self._post, need, how, headers))
            if got is not None and got.is_answer:
                need.is_answered = True
                self.world.note(self.name, "user.answered")
                return
            code = got.code if got is not None else ""
            if code in {"already_delivered", "insufficient_balance", "invalid_api_key"}:
                need.is_lost = code == "already_delivered"
                self.world.note(self.name, f"user.heard.{code}")
                return
            await self.pause()

    async def attempt(self, work: Callable[[Purse], Awaitable[T]]) -> T | None:
        """Do something in one of the programs; errors are the user's to live with, as None."""
        patience_us = None
        if self.dice.random() < self.world.weather.give_up:
            patience_us = self.dice.randrange(self.dice.choice((1_000, 100_000, 8_000_000)))
        host = self.dice.choice(self.consumer.programs)
        try:
            return await host.within(work, patience_us=patience_us)
        except Crashed:
            self.world.note(self.name, "user.saw-crash")
        except GaveUp:
            pass
        except InfernError as error:
            self.world.note(self.name, f"user.error.{error.code}", error.message)
        except httpx2.TransportError as error:
            self.world.note(self.name, "user.transport-error", type(error).__name__)
        return None

    async def _post(
        self, need: Need, how: str, headers: Mapping[str, str], purse: Purse
    ) -> Heard | None:
        """Send a need's bytes; a stock SDK repeats by itself."""
        client = purse.clients[need.origin]
        sender = {"paying": client.http_client, "stock": purse.stock, "poor": purse.poor}[how]
        named = {"content-type": "application/json", **need.more, **headers}
        if need.name:
            named["idempotency-key"] = need.name
        if need.is_keyed:
            if not client.f402.use_stored_key():
                await client.f402.create_key()
            named["authorization"] = f"Bearer {client.api_key}"
        retries = SDK_RETRIES if how == "stock" else 0
        log = purse.stock_receipts if how == "stock" else client.receipt_log
        for turn in range(retries + 1):
            try:
                heard = await self._send(need, sender, named, log)
            except httpx2.TransportError:
                if turn == retries:
                    raise
            else:
                if turn == retries or not _sdk_repeats(heard):
                    return heard
            self.world.note(self.name, "user.sdk-retry")
            await purse.process.sleep_us(self.dice.randrange(8_000_000))
        return None

    async def _send(
        self,
        need: Need,
        sender: httpx2.AsyncClient,
        headers: Mapping[str, str],
        log: ReceiptLog,
    ) -> Heard:
        name = (headers.get("authorization", ""), need.name) if need.name else None
        heard = Heard(origin=need.origin, name=name)
        self.heard.append(heard)
        leaves_after = self.dice.randrange(4) if self._leaves() else None
        url = need.origin + CHAT
        async with sender.stream("POST", url, content=need.body, headers=headers) as response:
            heard.status = response.status_code
            heard.headers = {k.lower(): v for k, v in response.headers.items()}
            pieces = 0
            async for piece in response.aiter_raw():
                heard.body += piece
                pieces += 1
                if pieces == leaves_after:
                    self.world.note(self.name, "user.left")
                    return heard
            heard.is_whole = True
        check = log.of(heard.headers.get("x-request-id", ""))
        heard.receipt = check.status.value if check is not None else ""
        return heard

    def _leaves(self) -> bool:
        return self.dice.random() < self.world.weather.give_up / 2

    async def fund(self, origin: str, amount: int, purse: Purse) -> bool:
        """Have so much on the key; True when it is there."""
        api = purse.clients[origin].f402
        await self.known_key(origin, purse)
        if (await api.balance()).balance < amount:
            credited = await api.topup(amount)
            self.world.note(self.name, "user.topped-up", str(credited.amount))
        return True

    async def known_key(self, origin: str, purse: Purse) -> None:
        """Have a key that the seller knows: it forgets keys that were never funded."""
        api = purse.clients[origin].f402
        if not api.use_stored_key():
            await api.create_key()
        try:
            await api.balance()
        except ProtocolError as error:
            if error.code != "invalid_api_key":
                raise
            await api.create_key()

    async def redeem_all(self, origin: str, purse: Purse) -> None:
        """Move what every payment left to the key."""
        await self.known_key(origin, purse)
        for redeemed in await purse.clients[origin].f402.redeem():
            self.world.note(self.name, "user.redeemed", str(redeemed.credited))

    async def _take_out(
        self, origin: str, amount: int | None, name: str, invoice: str | None, purse: Purse
    ) -> bool:
        """True when it is over."""
        api = purse.clients[origin].f402
        await self.known_key(origin, purse)
        asked = None if invoice is not None else amount
        done = await api.withdraw(asked, invoice=invoice, withdrawal_id=name)
        self.world.note(self.name, f"user.withdrawal.{done.state}")
        return not done.is_open

    async def _look(self, origin: str, purse: Purse) -> None:
        api = purse.clients[origin].f402
        if api.use_stored_key():
            await api.balance()
            await api.receipts(limit=3)


async def _invoice_of(amount: int, purse: Purse) -> str:
    """An invoice of the consumer's own node."""
    assert purse.wallet.node is not None
    call = NewInvoice(
        amount=amount, network=Network.DEV, description="taken out", expiry_s=INVOICE_S
    )
    return (await purse.wallet.node.call(call)).invoice_text


def _sdk_repeats(heard: Heard) -> bool:
    """OpenAI's clients' own rule."""
    wish = heard.headers.get("x-should-retry")
    if wish in {"true", "false"}:
        return wish == "true"
    return heard.status in {408, 409, 429} or heard.status >= 500


ACTIONS: Final[Mapping[str, tuple[Callable[[User], Awaitable[None]], int]]] = {
    "pay": (User.pay, 8),
    "stock": (User.stock, 4),
    "twins": (User.twins, 2),
    "again": (User.again, 3),
    "keyed": (User.keyed, 5),
    "named": (User.named, 3),
    "hold": (User.hold, 8),
    "refund": (User.refund, 4),
    "withdraw": (User.withdraw, 5),
    "topup": (User.topup, 2),
    "redeem": (User.redeem, 2),
    "unpaid": (User.unpaid, 2),
    "books": (User.books, 1),
    "cheat": (User.cheat, 2),
}
"""What users do and how often, relative to one another."""
