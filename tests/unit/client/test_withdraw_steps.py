"""Withdrawals as steps: what is asked, asked again with the same id, and told."""

from dataclasses import replace
from typing import Any

import pytest

from infern.client.account import Account
from infern.client.drive import SyncDriver
from infern.client.effects import Fetch, OwnNode, Reply, WireBroken
from infern.client.withdrawing import POLL_MS, Wish, Withdrawal, withdraw, withdrawals
from infern.core.errors import (
    ConfigError,
    InfernError,
    Money,
    PaymentError,
    PaymentOutcomeUnknown,
    RemoteProtocolError,
)
from infern.core.ids import Pubkey
from infern.core.wire import strict_json

KEY = "inf_sk_" + "k" * 43
ACCOUNT = Account(base_url="https://router.test/v1", key=KEY)
NODE = Pubkey(b"\x02" * 33)
ID = "withdrawal-number-1"


class Bank:
    """The seller's side: answers as planned, then says that it is settled."""

    def __init__(self, *plan: Reply | WireBroken) -> None:
        self.plan = list(plan)
        self.asked: list[Fetch] = []

    def answer(self, effect: Fetch) -> Reply | WireBroken:
        self.asked.append(effect)
        return self.plan.pop(0) if self.plan else told("settled", fee="7")

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [strict_json.loads_object(effect.body) for effect in self.asked]


def told(state: str, *, status: int = 200, **changes: Any) -> Reply:
    row = {
        "id": ID,
        "payout_id": "out_1",
        "state": state,
        "failure": None,
        "asset": "ckb",
        "amount": "20000",
        "fee": "0",
        "fee_cap": "100",
        "payment_hash": None,
    }
    return Reply(status=status, headers={}, body=strict_json.dumps({**row, **changes}))


def refusal(code: str, status: int, money: str = "unmoved") -> Reply:
    error = {"error": {"code": code, "message": "no", "money": money}}
    return Reply(status=status, headers={}, body=strict_json.dumps(error))


def broken() -> WireBroken:
    return WireBroken("away", timed_out=False)


class KnownNode(SyncDriver):
    """A wallet whose node says who it is."""

    def _perform(self, effect: Any) -> object:
        return NODE if isinstance(effect, OwnNode) else super()._perform(effect)


def run(world: Any, bank: Bank, wish: Wish, *, account: Account = ACCOUNT) -> Withdrawal:
    wallet = world.wallet()
    driver = KnownNode(withdraw(account, wish, wallet), wallet, Fetch)
    todo = driver.begin()
    while isinstance(todo, Fetch):
        todo = driver.answer(bank.answer(todo))
    return todo


def test_an_amount_to_the_wallet_s_own_node(world) -> None:
    bank = Bank()
    done = run(world, bank, Wish(withdrawal_id=ID, amount=20_000))
    assert bank.bodies == [{"id": ID, "pubkey": NODE.hex(), "amount": "20000"}]
    (asked,) = bank.asked
    assert (asked.method, asked.path, asked.key) == ("POST", "/f402/withdraw", KEY)
    assert (done.state, done.amount, done.fee, done.is_open) == ("settled", 20_000, 7, False)


def test_everything_to_another_node(world) -> None:
    bank, other = Bank(), Pubkey(b"\x03" * 33)
    run(world, bank, Wish(withdrawal_id=ID, to=other))
    assert bank.bodies == [{"id": ID, "pubkey": other.hex(), "amount": "max"}]


def test_an_invoice(world) -> None:
    bank = Bank()
    run(world, bank, Wish(withdrawal_id=ID, invoice="fibt1"))
    assert bank.bodies == [{"id": ID, "invoice": "fibt1"}]
    for more in ({"amount": 1}, {"to": NODE}):
        with pytest.raises(ValueError, match="invoice"):
            Wish(withdrawal_id=ID, invoice="fibt1", **more)


def test_one_on_its_way_is_asked_about_with_the_same_id(world) -> None:
    bank = Bank(told("owed", status=202), told("sending", status=202), told("sending", status=202))
    done = run(world, bank, Wish(withdrawal_id=ID, amount=20_000))
    assert done.state == "settled"
    assert len(bank.bodies) == 4
    assert all(body == bank.bodies[0] for body in bank.bodies)


def test_patience_ends_and_it_is_told_as_it_stands(world) -> None:
    bank = Bank(*[told("sending", status=202)] * 1_000)
    done = run(world, bank, Wish(withdrawal_id=ID, amount=20_000))
    assert (done.state, done.is_open) == ("sending", True)
    assert len(bank.asked) == world.wallet().patience.credit_ms // POLL_MS + 1


@pytest.mark.parametrize(
    "away",
    [broken(), refusal("fiber_unavailable", 503), refusal("ledger_unavailable", 503, "unknown")],
)
def test_a_lost_answer_is_asked_for_again(world, away) -> None:
    bank = Bank(away, away, away)
    assert run(world, bank, Wish(withdrawal_id=ID, amount=20_000)).state == "settled"
    assert len(bank.asked) == 4
    assert {body["id"] for body in bank.bodies} == {ID}


def test_without_any_answer_the_id_is_told(world) -> None:
    bank = Bank(*[broken()] * 100)
    with pytest.raises(PaymentOutcomeUnknown) as caught:
        run(world, bank, Wish(withdrawal_id=ID, amount=20_000))
    assert caught.value.details == {"id": ID}
    assert ID in caught.value.message
    assert len(bank.asked) == world.wallet().patience.proofs


@pytest.mark.parametrize(
    ("failure", "code"),
    [("no_route", "no_route"), ("odd", "payment_failed"), (None, "payment_failed")],
)
def test_one_that_returned_is_an_error_that_says_so(world, failure, code) -> None:
    with pytest.raises(PaymentError) as caught:
        run(world, Bank(told("returned", failure=failure)), Wish(withdrawal_id=ID, amount=20_000))
    assert (caught.value.code, caught.value.money) == (code, Money.UNMOVED)
    assert "0.0002 CKB" in caught.value.message


@pytest.mark.parametrize(
    ("code", "status"),
    [("insufficient_balance", 402), ("request_in_progress", 409), ("invalid_invoice", 400),
     ("idempotency_conflict", 409), ("overloaded", 503), ("rate_limit_exceeded", 429)],
)  # fmt: skip
def test_a_refusal_is_not_asked_again(world, code: str, status: int) -> None:
    bank = Bank(refusal(code, status))
    with pytest.raises(InfernError) as caught:
        run(world, bank, Wish(withdrawal_id=ID, amount=20_000))
    assert caught.value.code == code
    assert len(bank.asked) == 1


@pytest.mark.parametrize(
    "reply",
    [told("gone"), told("settled", amount="-1"), told("settled", fee=None),
     Reply(status=200, headers={}, body=b"[]"), Reply(status=200, headers={}, body=b"{}")],
)  # fmt: skip
def test_what_is_no_withdrawal(world, reply) -> None:
    with pytest.raises(RemoteProtocolError):
        run(world, Bank(reply), Wish(withdrawal_id=ID, amount=20_000))


def test_a_key_is_needed_and_nobody_listens(world) -> None:
    bank = Bank()
    with pytest.raises(PaymentError, match="prepaid key"):
        run(world, bank, Wish(withdrawal_id=ID, amount=1), account=replace(ACCOUNT, key=""))
    plain = Account(base_url="http://router.test/v1", key=KEY)
    with pytest.raises(PaymentError, match="https"):
        run(world, bank, Wish(withdrawal_id=ID, amount=1), account=plain)
    assert bank.asked == []


def test_without_a_node_somebody_has_to_name_one(world) -> None:
    wallet = world.wallet(sync_node=None, node=None)
    driver = SyncDriver(withdraw(ACCOUNT, Wish(withdrawal_id=ID, amount=1), wallet), wallet, Fetch)
    with pytest.raises(ConfigError):
        driver.begin()


def test_the_list(world) -> None:
    wallet = world.wallet()
    driver = SyncDriver(withdrawals(ACCOUNT), wallet, Fetch)
    assert driver.begin() == Fetch(method="GET", path="/f402/withdrawals", key=KEY)
    row = strict_json.loads_object(told("settled", payment_hash="07" * 32).body)
    page = strict_json.dumps({"data": [row, row]})
    rows = driver.answer(Reply(status=200, headers={}, body=page))
    assert [(row.payout_id, row.payment_hash) for row in rows] == [("out_1", "07" * 32)] * 2
