"""Prepaid keys: make one, top it up, read its books, move unused payments to it. Without I/O.

Each function is steps over `Fetch` and the journal, run by `infern.client.api` for threads and
event loops. A key is stored before it is used, because from the first top-up it is money.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from infern.client.effects import Adopt, Fetch, Reply, Sleep, Steps, adopt, fetch
from infern.client.journal import Attempt, AttemptKind
from infern.client.paying import Held, begin_payment, resume_payment, step
from infern.client.wallet import Wallet
from infern.core.errors import (
    CODES,
    InfernError,
    JsonValue,
    Money,
    NoRoute,
    PaymentError,
    PaymentFailed,
    PaymentOutcomeUnknown,
    ProtocolError,
    RemoteProtocolError,
    Retry,
)
from infern.core.f402.checks import CLOCK_SKEW_S, LOOPBACK_HOSTS, origin_of
from infern.core.f402.client import ClientEvent, ClientState
from infern.core.f402.digest import topup_description
from infern.core.fiber.invoice import decode_signed_invoice
from infern.core.ids import Pubkey, RequestDigest, parse_pubkey
from infern.core.units import CKB, format_amount, parse_amount
from infern.core.wire import strict_json

MAX_TOPUP_LIFE_S: Final = 3_600
"""A top-up invoice that lives longer than this is not one."""
CREDIT_HONOURED_S: Final = 30 * 24 * 3600
"""How long an unaccounted top-up stays in the way of another one for the same key."""
CREDIT_POLL_MS: Final = 500
MAX_UNFINISHED: Final = 4
"""Old top-ups of one key that are finished before a new one; beyond them nothing is paid."""
MAX_RECEIPT_PAGE: Final = 100
_MONEY: Final = {money.value: money for money in Money}


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One seller and the prepaid key used there.

    Args:
        base_url: Of its OpenAI API, e.g. `https://router.example/v1`, without a final slash.
        key: The prepaid key; empty for none.
    """

    base_url: str
    key: str = field(default="", repr=False)

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return origin_of(self.base_url)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A new prepaid key."""

    api_key: str = field(repr=False)
    key_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """The books of a key at the seller, base units of `asset`.

    Args:
        balance: What can be spent or withdrawn.
        held: Reserved by requests and withdrawals under way.
        owed: The part of `held` that a withdrawal under way reserves.
        deposited: All that ever came in.
        spent: Charged for answers.
        refunded: Sent out, or moved to another key.
    """

    key_id: str
    asset: str
    balance: int
    held: int
    deposited: int
    spent: int
    refunded: int
    owed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Topup:
    """A top-up that was credited.

    Args:
        amount: Base units credited.
        fee: Base units the routing took.
    """

    payment_hash: str
    amount: int
    fee: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Redeemed:
    """What one payment that was not answered, or not used up, gave back.

    Args:
        credited: Base units, by this call or an earlier one: asking again moves nothing more.
    """

    payment_hash: str
    credited: int
    key_id: str


Json = Mapping[str, object]


def read_json(effect: Fetch) -> Steps[Json]:
    """Fetch one JSON object of the seller's API.

    Raises:
        InfernError: The seller's own error, or `RemoteProtocolError` for an answer that is none.
        WireBroken: No answer.
    """
    reply = yield from fetch(effect)
    if not reply.is_success:
        raise error_of(reply)
    return strict_json.loads_object(reply.body)


def error_of(reply: Reply) -> InfernError:
    """The error an answer reports."""
    try:
        error = strict_json.loads_object(reply.body).get("error")
    except RemoteProtocolError:
        error = None
    if isinstance(error, dict) and error.get("code") in CODES:
        return ProtocolError(
            f"The seller says: {str(error.get('message'))[:500]}",
            code=str(error["code"]),
            money=_MONEY.get(str(error.get("money"))),
        )
    return RemoteProtocolError(f"the seller answered with HTTP {reply.status}")


def create_key(account: Account) -> Steps[ApiKey]:
    """Make a prepaid key. The caller stores it before anything else."""
    check_origin(account.origin)
    made = yield from read_json(Fetch(method="POST", path="/f402/keys", body=b"{}"))
    return ApiKey(api_key=text_of(made, "api_key"), key_id=text_of(made, "key_id"))


def balance(account: Account) -> Steps[Balance]:
    """Read the books of the key."""
    books = yield from read_json(Fetch(method="GET", path="/f402/balance", key=key_of(account)))
    return Balance(
        key_id=text_of(books, "key_id"),
        asset=text_of(books, "asset"),
        balance=amount_of(books, "balance"),
        held=amount_of(books, "held"),
        deposited=amount_of(books, "deposited"),
        spent=amount_of(books, "spent"),
        refunded=amount_of(books, "refunded"),
        owed=amount_of(books, "owed") if "owed" in books else 0,
    )


def receipts(account: Account, *, limit: int, after: str) -> Steps[Json]:
    """One page of the key's receipts at the seller: `data` and `next`."""
    cursor = f"&after={after}" if after else ""
    path = f"/f402/receipts?limit={min(max(limit, 1), MAX_RECEIPT_PAGE)}{cursor}"
    return (yield from read_json(Fetch(method="GET", path=path, key=key_of(account))))


def topup(account: Account, amount: int, wallet: Wallet, held: Held) -> Steps[Topup]:
    """Pay for credit on the key and wait until it is there.

    Top-ups of the same key that were paid earlier and not seen credited are finished first; one
    of the same amount is this one, so calling again after a crash never pays twice.

    Raises:
        BudgetExceeded: Nothing was paid.
        PaymentOutcomeUnknown: Too many old top-ups are unfinished; nothing new was paid.
        PaymentError: The invoice failed a check (`offer_refused`), or it was paid and the credit
            has not shown yet (`payment_pending`, money moved): call again later.
    """
    check_origin(account.origin)
    key_id = (yield from balance(account)).key_id
    digest = _need(key_id)
    wanted = Adopt(origin=account.origin, digest=digest, kind=AttemptKind.TOPUP)
    for _ in range(MAX_UNFINISHED):
        attempt = yield from adopt(wanted)
        if attempt is None:
            break
        held.attempt = attempt
        done = yield from _finish_old(attempt, account, wallet, held)
        if done is not None and done.amount == amount:
            return done
    else:
        raise PaymentOutcomeUnknown("too many unfinished top-ups of this key; try again")
    attempt = yield from _ordered(account, key_id, amount, wallet)
    attempt = yield from begin_payment(held, attempt, wallet)
    return (yield from _credited(attempt, account, wallet, held))


def _finish_old(
    attempt: Attempt, account: Account, wallet: Wallet, held: Held
) -> Steps[Topup | None]:
    if attempt.state is ClientState.PAYING:
        try:
            attempt = yield from resume_payment(held, attempt, wallet)
        except (PaymentFailed, NoRoute):
            return None
    return (yield from _credited(attempt, account, wallet, held))


def _ordered(account: Account, key_id: str, amount: int, wallet: Wallet) -> Steps[Attempt]:
    """Ask for a top-up invoice and check it; the row to be intended."""
    known = yield from _payees(account, wallet)
    body = strict_json.dumps({"amount": str(amount)})
    order = yield from read_json(
        Fetch(method="POST", path="/f402/topups", body=body, key=account.key)
    )
    now_ms = wallet.clock.now_ms()
    text = text_of(order, "invoice")
    invoice, signer = decode_signed_invoice(text, wallet.verifier)
    pay_to = parse_pubkey(text_of(order, "pay_to"))
    life_s = invoice.expiry_s
    for name, holds, complaint in (
        ("signer", signer == pay_to, "the invoice is signed by another node than pay_to"),
        ("payee", not known or signer in known, "the invoice pays another node than is known"),
        ("network", invoice.network is wallet.network, "the invoice is of another network"),
        ("asset", invoice.asset == CKB, "the invoice is in another asset"),
        ("amount", invoice.amount == amount, "the invoice is for another amount"),
        (
            "description",
            invoice.description == topup_description(key_id),
            "the invoice does not name this key",
        ),
        (
            "payment hash",
            invoice.payment_hash.hex() == text_of(order, "payment_hash").removeprefix("0x"),
            "the invoice has another payment hash",
        ),
        (
            "expiry",
            life_s is not None
            and life_s <= MAX_TOPUP_LIFE_S
            and not invoice.is_expired(now_ms)
            and invoice.timestamp_ms <= now_ms + CLOCK_SKEW_S * 1000,
            "the invoice has expired or lives too long",
        ),
    ):
        if not holds:
            raise _refuse(name, complaint)
    return Attempt(
        payment_hash=invoice.payment_hash,
        kind=AttemptKind.TOPUP,
        digest=_need(key_id),
        origin=account.origin,
        resource=account.base_url + "/f402/topups",
        pay_to=signer,
        provider="",
        amount=amount,
        fee_cap=wallet.budget.fee_cap(amount),
        asset=CKB,
        token="",
        invoice=text,
        redeem_until_s=now_ms // 1000 + CREDIT_HONOURED_S,
        state=ClientState.INTENDED,
        session=wallet.session,
        created_ms=now_ms,
        updated_ms=now_ms,
    )


def _payees(account: Account, wallet: Wallet) -> Steps[frozenset[Pubkey]]:
    """Fiber nodes this seller may be paid at: pinned, or as its model list names them."""
    pinned = wallet.known_of(account.origin).pay_to
    if pinned is not None:
        return frozenset({pinned})
    models = yield from read_json(Fetch(method="GET", path="/models"))
    return named_keys(models, "pay_to")


def named_keys(models: Json, member: str) -> frozenset[Pubkey]:
    """The public keys a model list names in `f402.<member>`; unreadable ones are left out."""
    data = models.get("data")
    found = set()
    for model in data if isinstance(data, list) else []:
        f402 = model.get("f402") if isinstance(model, dict) else None
        text = f402.get(member) if isinstance(f402, dict) else None
        if isinstance(text, str):
            try:
                found.add(parse_pubkey(text))
            except RemoteProtocolError:
                continue
    return frozenset(found)


def _credited(attempt: Attempt, account: Account, wallet: Wallet, held: Held) -> Steps[Topup]:
    """Wait until the seller's books show the top-up."""
    clock = wallet.clock
    if attempt.state is ClientState.PROVING:
        attempt = yield from step(held, attempt, ClientEvent.SELLER_FAILED, clock)
    attempt = yield from step(held, attempt, ClientEvent.PROOF_SENT, clock)
    give_up_ms = clock.now_ms() + wallet.patience.credit_ms
    payment_hash = attempt.payment_hash.hex()
    question = Fetch(method="GET", path=f"/f402/topups/{payment_hash}", key=account.key)
    while True:
        try:
            status = (yield from read_json(question)).get("status")
        except InfernError:
            status = None  # it will be credited without us; only the news is late
        if status == "paid":
            attempt = yield from step(held, attempt, ClientEvent.ANSWERED, clock)
            return Topup(payment_hash=payment_hash, amount=attempt.amount, fee=attempt.fee or 0)
        if clock.now_ms() + CREDIT_POLL_MS > give_up_ms:
            break
        yield Sleep(duration_ms=CREDIT_POLL_MS)
    yield from step(held, attempt, ClientEvent.PROOF_PENDING, clock)
    raise PaymentError(
        f"The top-up of {format_amount(attempt.amount)} was paid and is not credited yet. Call"
        " topup() again later: it waits for this payment and does not pay twice.",
        code="payment_pending",
        money=Money.MOVED,
        details={"payment_hash": payment_hash},
    )


def redeem(
    attempt: Attempt, account: Account, wallet: Wallet, held: Held
) -> Steps[Redeemed | None]:
    """Move what a payment has left at the seller to the account's key.

    Returns None for a payment of unknown outcome of which the node says now that it failed, and for
    a top-up, of which nothing but that is to be learned here.

    Args:
        attempt: A payment of a request: at stake and owned by the caller, or answered. Of a
            payment that is still being made, the invoice can no longer be paid.
        account: With the key that is credited.
        wallet: For the journal.
        held: Holds the attempt while it is at stake.

    Raises:
        InfernError: As the seller says; the payment stays as it was.
    """
    check_origin(account.origin)
    clock = wallet.clock
    if attempt.state is ClientState.PAYING:
        try:
            attempt = yield from resume_payment(held, attempt, wallet)
        except (PaymentFailed, NoRoute):
            return None
    if attempt.kind is AttemptKind.TOPUP:
        return None  # paid after all: it is credited by itself, and `topup` sees to it
    if attempt.state is ClientState.PROVING:
        attempt = yield from step(held, attempt, ClientEvent.SELLER_FAILED, clock)
    if attempt.is_at_stake:
        attempt = yield from step(held, attempt, ClientEvent.PROOF_SENT, clock)
    asked: dict[str, JsonValue] = {"challenge": attempt.token}
    if attempt.preimage is not None:
        asked["preimage"] = attempt.preimage.hex()
    answer = yield from read_json(
        Fetch(
            method="POST",
            path="/f402/redeem",
            body=strict_json.dumps(asked),
            key=key_of(account),
        )
    )
    if attempt.is_at_stake:
        yield from step(held, attempt, ClientEvent.ALREADY_DELIVERED, clock)
    return Redeemed(
        payment_hash=attempt.payment_hash.hex(),
        credited=amount_of(answer, "credited"),
        key_id=text_of(answer, "key_id"),
    )


def _need(key_id: str) -> RequestDigest:
    return RequestDigest(hashlib.sha256(topup_description(key_id).encode()).digest())


def key_of(account: Account) -> str:
    """The account's key.

    Raises:
        PaymentError: It has none (`invalid_api_key`).
    """
    if not account.key:
        raise PaymentError(
            "this needs a prepaid key: pass api_key='inf_sk_...', or make one with"
            " client.f402.create_key()",
            code="invalid_api_key",
            retry=Retry.NEVER,
        )
    return account.key


def check_origin(origin: str) -> None:
    """Refuse to talk about money where others listen.

    Raises:
        PaymentError: `offer_refused`; nothing was sent.
    """
    parts = urlsplit(origin)
    if parts.scheme != "https" and (parts.hostname or "") not in LOOPBACK_HOSTS:
        raise _refuse("origin", "money needs https, or a loopback address")


def _refuse(check: str, complaint: str) -> PaymentError:
    return PaymentError(
        f"Refused to pay: {complaint}. Nothing was paid.",
        code="offer_refused",
        details={"check": check},
    )


def text_of(value: Json, name: str) -> str:
    """A member that must be a string.

    Raises:
        RemoteProtocolError: It is not.
    """
    text = value.get(name)
    if not isinstance(text, str):
        raise RemoteProtocolError(f"the seller's answer lacks {name}")
    return text


def amount_of(value: Json, name: str) -> int:
    """A member that must be an amount.

    Raises:
        RemoteProtocolError: It is not.
    """
    return parse_amount(text_of(value, name))
