"""`client.f402`: what an F402 seller offers beside inference, for threads and event loops."""

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, TypeVar

import httpx2

from infern.client import account as steps
from infern.client.account import Account, ApiKey, Balance, Redeemed, Topup
from infern.client.drive import AsyncDriver, SyncDriver, leave
from infern.client.effects import Fetch, Reply, Steps, WireBroken
from infern.client.held import look_after
from infern.client.journal import Attempt, AttemptKind, StoredKey
from infern.client.messages import broken_by
from infern.client.paying import Held
from infern.client.receipts import ReceiptCheck
from infern.client.wallet import Wallet
from infern.client.withdrawing import Wish, Withdrawal, withdraw, withdrawals
from infern.core.errors import RemoteProtocolError
from infern.core.f402.checks import CLOCK_SKEW_S
from infern.core.f402.client import ClientState
from infern.core.f402.credential import KEY_PREFIX
from infern.core.fiber.invoice import decode_invoice
from infern.core.ids import Pubkey
from infern.ports import SignatureVerifier

if TYPE_CHECKING:
    from infern.client.openai import AsyncInfern, Infern

R = TypeVar("R")
MAX_API_BYTES: Final = 1024 * 1024
API_TIMEOUT: Final = httpx2.Timeout(30.0, connect=10.0)
MAX_REDEEMED: Final = 100
MAX_LOCKING: Final = 100
ID_BYTES: Final = 24
CREDIT_S: Final = 30 * 24 * 3600
"""How long after redeem-until a seller still turns a payment into credit."""
_REDEEMABLE: Final = frozenset(
    {
        ClientState.PAID,
        ClientState.PROVING,
        ClientState.UNREDEEMED,
        ClientState.DELIVERED,
        # Answered, but not to us: the answer was lost, and what it left over is still there.
        ClientState.REDEEMED_ELSEWHERE,
    }
)
"""States of a payment, known to have been made, that may have something left at its seller."""


class _Shared:
    """What both kinds of API need, without I/O."""

    def __init__(self, client: "Infern | AsyncInfern") -> None:
        self._client = client

    @property
    def _wallet(self) -> Wallet:
        return self._client.wallet

    def _account(self) -> Account:
        key = self._client.api_key
        return Account(
            base_url=str(self._client.base_url).rstrip("/"),
            key=key if key.startswith(KEY_PREFIX) else "",
        )

    def _request(self, effect: Fetch) -> httpx2.Request:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if effect.key:
            headers["Authorization"] = f"Bearer {effect.key}"
        if effect.body:
            headers["Content-Type"] = "application/json"
        return self._client.http_client.build_request(
            effect.method,
            self._account().base_url + effect.path,
            headers=headers,
            content=effect.body or None,
            timeout=API_TIMEOUT,
        )

    def _keep(self, made: ApiKey, account: Account) -> None:
        """Store a key before anybody can pay into it, then use it."""
        self._wallet.journal.save_key(
            StoredKey(
                key_id=made.key_id,
                origin=account.origin,
                api_key=made.api_key,
                created_ms=self._wallet.clock.now_ms(),
            )
        )
        self._client.api_key = made.api_key

    def use_stored_key(self) -> bool:
        """Take the newest key we have for this seller; False when there is none."""
        account = self._account()
        if account.key:
            return True
        stored = self._wallet.journal.keys(account.origin)
        if stored:
            self._client.api_key = stored[0].api_key
        return bool(stored)

    def _redeemable(self) -> list[Attempt]:
        """Payments at this seller that may have something left, those at stake first."""
        origin = self._account().origin
        now_s = self._wallet.clock.now_ms() // 1000
        rows = [
            row
            for row in self._wallet.journal.attempts(limit=MAX_REDEEMED * 10)
            if row.origin == origin
            and (row.kind is AttemptKind.REQUEST or row.state is ClientState.PAYING)
            and row.redeem_until_s + CREDIT_S > now_s
            and _may_have_left(row, now_s, self._wallet.verifier)
        ]
        # What nobody may know the outcome of is last: it must not keep the others waiting.
        return sorted(rows, key=lambda row: (row.state is ClientState.PAYING, not row.is_at_stake))[
            :MAX_REDEEMED
        ]

    def _take(self, row: Attempt, held: Held) -> Attempt | None:
        """Own a row that is at stake; None when a live exchange is using it."""
        if not row.is_at_stake:
            return row
        held.attempt = self._wallet.journal.adopt_payment(row.payment_hash)
        return held.attempt

    def _wish(
        self,
        amount: int | None,
        to: Pubkey | None,
        invoice: str | None,
        withdrawal_id: str | None,
    ) -> Wish:
        name = withdrawal_id or secrets.token_urlsafe(ID_BYTES)
        return Wish(withdrawal_id=name, amount=amount, to=to, invoice=invoice)

    @property
    def last_receipt(self) -> ReceiptCheck | None:
        """The check of the newest answer's receipt."""
        return self._client.receipt_log.last

    def receipt_of(self, request_id: str) -> ReceiptCheck | None:
        """The check of one answer's receipt, by the answer's `x-request-id`."""
        return self._client.receipt_log.of(request_id)


def _may_have_left(row: Attempt, now_s: int, verifier: SignatureVerifier) -> bool:
    """Whether a payment may have something left at its seller.

    One of unknown outcome counts when its invoice is over: then the node can only say what became
    of it, and no repeated request will, once the proof is worth nothing any more. The same goes for
    a top-up: the seller may have forgotten the key it was for, and then nobody asks again.
    """
    if row.state is ClientState.PAYING:
        expires_ms = decode_invoice(row.invoice, verifier).expires_at_ms
        return expires_ms is not None and expires_ms // 1000 + CLOCK_SKEW_S < now_s
    return row.state in _REDEEMABLE


def _reply(response: httpx2.Response, body: bytes) -> Reply:
    if len(body) > MAX_API_BYTES:
        raise RemoteProtocolError("the seller's answer is too large")
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Reply(status=response.status_code, headers=headers, body=body)


class F402Api(_Shared):
    """Prepaid keys, balances, receipts, redeeming and withdrawing, for threads."""

    _client: "Infern"

    def create_key(self) -> ApiKey:
        """Make a prepaid key, store it in the journal and use it from now on.

        Raises:
            InfernError: As the seller says. Nothing was paid.
        """
        account = self._account()
        made = self._run(steps.create_key(account), Held())
        self._keep(made, account)
        return made

    def topup(self, amount: int) -> Topup:
        """Pay `amount` shannon into the key and wait until it is credited.

        Calling again after a crash or an error finishes what was begun and pays once.

        Raises:
            BudgetExceeded: Nothing was paid.
            PaymentError: Refused, failed, or paid and not credited yet; see `money`.
        """
        held = Held()
        return self._run(steps.topup(self._account(), amount, self._wallet, held), held)

    def balance(self) -> Balance:
        """The key's books at the seller."""
        return self._run(steps.balance(self._account()), Held())

    def receipts(self, *, limit: int = 20, after: str = "") -> Mapping[str, object]:
        """A page of the key's receipts as the seller keeps them: `data` and `next`."""
        return self._run(steps.receipts(self._account(), limit=limit, after=after), Held())

    def redeem(self) -> list[Redeemed]:
        """Move everything this journal still has at the seller to a prepaid key.

        Payments that were never answered, and what answered ones left over. Payments of unknown
        outcome are looked up first when their invoices are over. A key is made when there is none.
        Repeating is harmless: the seller moves each remainder once.

        Raises:
            InfernError: As the seller says; what was not moved stays as it was.
        """
        self.held()
        rows = self._redeemable()
        if rows and not self.use_stored_key():
            self.create_key()
        done = []
        for row in rows:
            held = Held()
            taken = self._take(row, held)
            if taken is not None:
                flow = steps.redeem(taken, self._account(), self._wallet, held)
                redeemed = self._run(flow, held)
                done += [redeemed] if redeemed is not None else []
        return done

    def withdraw(
        self,
        amount: int | None = None,
        *,
        to: Pubkey | None = None,
        invoice: str | None = None,
        withdrawal_id: str | None = None,
    ) -> Withdrawal:
        """Take money out of the key, over Fiber; the seller pays once for each id.

        Args:
            amount: Shannon that arrive; all there is by default. Routing takes its fee on top.
            to: The node that gets it; the wallet's own by default.
            invoice: An invoice to pay instead of pushing an amount to a node.
            withdrawal_id: Names it; made anew by default. Pass the one of an error to ask again.

        Returns:
            How it stands: `settled`, or still on its way when patience ended.

        Raises:
            PaymentError: Nothing left: refused, or there was no way; see `code`.
            PaymentOutcomeUnknown: No answer came; ask again with `details["id"]`.
        """
        wish = self._wish(amount, to, invoice, withdrawal_id)
        return self._run(withdraw(self._account(), wish, self._wallet), Held())

    def withdrawals(self) -> list[Withdrawal]:
        """The key's withdrawals, newest first."""
        return self._run(withdrawals(self._account()), Held())

    def held(self) -> list[Attempt]:
        """Payments in hold mode, of all sellers, that were neither taken nor given back.

        The node is asked about each first; without a node, or when it does not answer, this is
        what the journal knows. `amount`, `created_ms` and `locked_until_ms` say what is locked.
        """
        if self._wallet.sync_node is not None:
            self._run(look_after(self._wallet), Held())
        return self._wallet.journal.locking(limit=MAX_LOCKING)

    def _run(self, flow: Steps[R], held: Held) -> R:
        driver = SyncDriver(flow, self._wallet, Fetch)
        try:
            todo = driver.begin()
            while isinstance(todo, Fetch):
                todo = driver.answer(self._send(todo))
        finally:
            leave(held, self._wallet)
        return todo

    def _send(self, effect: Fetch) -> Reply | WireBroken:
        read = bytearray()
        try:
            response = self._client.http_client.send(self._request(effect), stream=True)
            try:
                for chunk in response.iter_raw():
                    read += chunk
                    if len(read) > MAX_API_BYTES:
                        break
            finally:
                response.close()
        except httpx2.TransportError as error:
            return broken_by(error)
        return _reply(response, bytes(read))


async def still_held(wallet: Wallet) -> list[Attempt]:
    """Payments in hold mode that were neither taken nor given back; the node is asked first."""
    if wallet.node is not None:
        await AsyncDriver(look_after(wallet), wallet, Fetch).begin()
    return wallet.journal.locking(limit=MAX_LOCKING)


class AsyncF402Api(_Shared):
    """Prepaid keys, balances, receipts, redeeming and withdrawing, for event loops."""

    _client: "AsyncInfern"

    async def create_key(self) -> ApiKey:
        """Make a prepaid key, store it in the journal and use it from now on."""
        account = self._account()
        made = await self._run(steps.create_key(account), Held())
        self._keep(made, account)
        return made

    async def topup(self, amount: int) -> Topup:
        """Pay `amount` shannon into the key and wait until it is credited."""
        held = Held()
        return await self._run(steps.topup(self._account(), amount, self._wallet, held), held)

    async def balance(self) -> Balance:
        """The key's books at the seller."""
        return await self._run(steps.balance(self._account()), Held())

    async def receipts(self, *, limit: int = 20, after: str = "") -> Mapping[str, object]:
        """A page of the key's receipts as the seller keeps them: `data` and `next`."""
        return await self._run(steps.receipts(self._account(), limit=limit, after=after), Held())

    async def redeem(self) -> list[Redeemed]:
        """Move everything this journal still has at the seller to a prepaid key."""
        await self.held()
        rows = self._redeemable()
        if rows and not self.use_stored_key():
            await self.create_key()
        done = []
        for row in rows:
            held = Held()
            taken = self._take(row, held)
            if taken is not None:
                flow = steps.redeem(taken, self._account(), self._wallet, held)
                redeemed = await self._run(flow, held)
                done += [redeemed] if redeemed is not None else []
        return done

    async def withdraw(
        self,
        amount: int | None = None,
        *,
        to: Pubkey | None = None,
        invoice: str | None = None,
        withdrawal_id: str | None = None,
    ) -> Withdrawal:
        """Take money out of the key, over Fiber; as `F402Api.withdraw`."""
        wish = self._wish(amount, to, invoice, withdrawal_id)
        return await self._run(withdraw(self._account(), wish, self._wallet), Held())

    async def withdrawals(self) -> list[Withdrawal]:
        """The key's withdrawals, newest first."""
        return await self._run(withdrawals(self._account()), Held())

    async def held(self) -> list[Attempt]:
        """Payments in hold mode, of all sellers, that were neither taken nor given back."""
        return await still_held(self._wallet)

    async def _run(self, flow: Steps[R], held: Held) -> R:
        driver = AsyncDriver(flow, self._wallet, Fetch)
        try:
            todo = await driver.begin()
            while isinstance(todo, Fetch):
                todo = await driver.answer(await self._send(todo))
        finally:
            leave(held, self._wallet)
        return todo

    async def _send(self, effect: Fetch) -> Reply | WireBroken:
        read = bytearray()
        try:
            response = await self._client.http_client.send(self._request(effect), stream=True)
            try:
                async for chunk in response.aiter_raw():
                    read += chunk
                    if len(read) > MAX_API_BYTES:
                        break
            finally:
                await response.aclose()
        except httpx2.TransportError as error:
            return broken_by(error)
        return _reply(response, bytes(read))
