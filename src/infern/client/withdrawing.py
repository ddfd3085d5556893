"""Taking money out of a prepaid key, as steps without I/O.

A withdrawal has an id of ours. However often it is asked for with that id, by whatever process, the
seller pays once; so a lost answer is asked for again, and only then is the outcome read.
"""

from dataclasses import dataclass
from typing import Final

from infern.client.account import (
    Account,
    Json,
    amount_of,
    check_origin,
    key_of,
    read_json,
    text_of,
)
from infern.client.effects import Fetch, Sleep, Steps, WireBroken, own_node
from infern.client.wallet import Wallet
from infern.core.errors import (
    CODES,
    InfernError,
    JsonValue,
    Money,
    PaymentError,
    PaymentOutcomeUnknown,
    RemoteProtocolError,
    Retry,
)
from infern.core.ids import Pubkey
from infern.core.units import Asset, format_amount
from infern.core.wire import strict_json

MAX: Final = "max"
POLL_MS: Final = 500
_OPEN: Final = frozenset({"owed", "sending"})
_STATES: Final = _OPEN | {"settled", "returned"}
_AWAY: Final = frozenset({"fiber_unavailable", "ledger_unavailable"})
"""Refusals of a seller whose parts are away for a moment; nothing was reserved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawal:
    """A withdrawal as the seller tells of it; amounts in base units of `asset`.

    Args:
        payout_id: The seller's name for it.
        state: `owed` or `sending` while it is on its way, `settled` when it arrived, `returned`
            when nothing left and the amount is on the key again.
        amount: What reaches the payee.
        fee: What routing took on top.
        fee_cap: What it may take, held until then.
        failure: Why it returned; empty otherwise.
        payment_hash: Of the payment, hex; empty while the seller's node has not named it.
    """

    payout_id: str
    state: str
    asset: str
    amount: int
    fee: int
    fee_cap: int
    failure: str
    payment_hash: str

    @property
    def is_open(self) -> bool:
        """True while it is on its way."""
        return self.state in _OPEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What to withdraw, and where to.

    Args:
        withdrawal_id: Names it; 16 to 128 of `A-Z a-z 0-9 _ -`.
        amount: Base units; None takes all there is.
        to: The node that gets it; None takes the wallet's own.
        invoice: Pay this instead; it says how much and to whom.
    """

    withdrawal_id: str
    amount: int | None = None
    to: Pubkey | None = None
    invoice: str | None = None

    def __post_init__(self) -> None:
        """An invoice leaves nothing else to say."""
        if self.invoice is not None and (self.amount is not None or self.to is not None):
            raise ValueError("an invoice says itself how much goes where")


def withdraw(account: Account, wish: Wish, wallet: Wallet) -> Steps[Withdrawal]:
    """Ask for a withdrawal and wait until it has ended, as long as patience lasts.

    Raises:
        PaymentError: Nothing left: the seller refused it, or could not send it. See `code`.
        PaymentOutcomeUnknown: No answer came; ask again with the same id.
    """
    check_origin(account.origin)
    body: dict[str, JsonValue] = {"id": wish.withdrawal_id}
    if wish.invoice is not None:
        body["invoice"] = wish.invoice
    else:
        node = wish.to or (yield from own_node())
        body["pubkey"] = node.hex()
        body["amount"] = MAX if wish.amount is None else str(wish.amount)
    order = Fetch(
        method="POST", path="/f402/withdraw", body=strict_json.dumps(body), key=key_of(account)
    )
    found = yield from _asked(order, wish, wallet)
    give_up_ms = wallet.clock.now_ms() + wallet.patience.credit_ms
    while found.is_open and wallet.clock.now_ms() + POLL_MS <= give_up_ms:
        yield Sleep(duration_ms=POLL_MS)
        found = yield from _asked(order, wish, wallet)
    if found.state == "returned":
        raise _returned(found)
    return found


def _asked(order: Fetch, wish: Wish, wallet: Wallet) -> Steps[Withdrawal]:
    """Ask, and ask again while the seller or the way to it is away: the id makes it one payment."""
    problem: InfernError | None = None
    for turn in range(wallet.patience.proofs):
        if turn:
            yield Sleep(duration_ms=wallet.patience.pause_ms << (turn - 1))
        try:
            return _withdrawal((yield from read_json(order)))
        except WireBroken as broken:
            problem = broken
        except InfernError as error:
            if error.code not in _AWAY:
                raise
            problem = error
    raise PaymentOutcomeUnknown(
        f"The seller did not say what became of the withdrawal {wish.withdrawal_id}. Ask again "
        "with this id: it is sent once, however often you ask.",
        details={"id": wish.withdrawal_id},
    ) from problem


def withdrawals(account: Account) -> Steps[list[Withdrawal]]:
    """The key's withdrawals, newest first."""
    page = yield from read_json(Fetch(method="GET", path="/f402/withdrawals", key=key_of(account)))
    rows = page.get("data")
    if not isinstance(rows, list):
        raise RemoteProtocolError("the seller's answer lacks data")
    return [_withdrawal(row) for row in rows if isinstance(row, dict)]


def _withdrawal(row: Json) -> Withdrawal:
    state = text_of(row, "state")
    if state not in _STATES:
        raise RemoteProtocolError(f"the seller names an unknown state: {state[:40]!r}")
    return Withdrawal(
        payout_id=text_of(row, "payout_id"),
        state=state,
        asset=text_of(row, "asset"),
        amount=amount_of(row, "amount"),
        fee=amount_of(row, "fee"),
        fee_cap=amount_of(row, "fee_cap"),
        failure=str(row.get("failure") or ""),
        payment_hash=str(row.get("payment_hash") or ""),
    )


def _returned(found: Withdrawal) -> PaymentError:
    code = found.failure if found.failure in CODES else "payment_failed"
    amount = format_amount(found.amount, Asset.parse(found.asset))
    return PaymentError(
        f"The withdrawal of {amount} was not possible ({CODES[code].meaning}). Nothing left: it is "
        "on your key again. Try another amount or another way to your node, with a new id.",
        code=code,
        money=Money.UNMOVED,
        retry=Retry.NEVER,
        details={"payout_id": found.payout_id},
    )
