"""Top-ups as steps: every check of the invoice, and a crash at every step pays once."""

from dataclasses import replace

import httpx2
import pytest

from infern.client import account as steps
from infern.client.account import Account
from infern.client.drive import SyncDriver, leave
from infern.client.effects import Fetch, Reply, WireBroken
from infern.client.openai import Infern
from infern.client.paying import Held
from infern.core.errors import (
    BudgetExceeded,
    InfernError,
    Money,
    PaymentError,
    PaymentOutcomeUnknown,
)
from infern.core.f402.digest import topup_description
from infern.core.fiber.invoice import (
    Description,
    ExpiryTime,
    FinalExpiryDelta,
    HashAlgorithm,
    Invoice,
    PayeePubkey,
    PaymentHashAlgorithm,
    UdtScript,
    encode_invoice,
    sign_invoice,
)
from infern.core.fiber.types import PaymentStatus
from infern.core.ids import PaymentHash
from infern.core.units import Network
from infern.core.wire import strict_json
from infern.testing.offers import FINAL_EXPIRY_DELTA_MS, UDT, with_attribute, without_attribute
from infern.testing.scripted_node import Send

KEY = "inf_sk_" + "k" * 43
KEY_ID = "key_1"
ACCOUNT = Account(base_url="https://router.test/v1", key=KEY)
AMOUNT = 1_000_000


class Bank:
    """The seller's side: sells top-ups of one key."""

    def __init__(self, world, node):
        self.world = world
        self.node = node
        self.shown_pay_to = node.pubkey
        self.orders = []
        self.silent = 0
        self.twist = lambda invoice: invoice
        self.signer = node

    def answer(self, effect):
        assert effect.key in {KEY, ""}
        if self.silent and effect.path.startswith("/f402/topups/"):
            self.silent -= 1
            return WireBroken("away", timed_out=False)
        return Reply(status=200, headers={}, body=strict_json.dumps(self.render(effect)))

    def render(self, effect):
        match (effect.method, effect.path):
            case ("GET", "/models"):
                return {"data": [{"id": "m", "f402": {"pay_to": self.shown_pay_to.hex()}}]}
            case ("GET", "/f402/balance"):
                sums = dict.fromkeys(("balance", "held", "deposited", "spent", "refunded"), "0")
                return {"key_id": KEY_ID, "asset": "ckb", **sums}
            case ("POST", "/f402/topups"):
                return self.order(int(strict_json.loads_object(effect.body)["amount"]))
            case ("GET", path):
                paid = bytes.fromhex(path.rpartition("/")[2]) in self.world.seller.paid
                return {"status": "paid" if paid else "open"}

    def order(self, amount):
        number = len(self.orders) + 1
        invoice = Invoice(
            network=Network.TESTNET,
            amount=amount,
            timestamp_ms=self.world.clock.ms,
            payment_hash=PaymentHash(bytes([200 + number]) * 32),
            attributes=(
                ExpiryTime(expiry_s=3_600),
                Description(text=topup_description(KEY_ID)),
                FinalExpiryDelta(delta_ms=FINAL_EXPIRY_DELTA_MS),
                PaymentHashAlgorithm(algorithm=HashAlgorithm.SHA256),
            ),
        )
        invoice = self.twist(invoice)
        if self.signer is not None:
            invoice = sign_invoice(invoice, self.signer)
        self.orders.append(invoice)
        return {
            "payment_hash": bytes([200 + number] * 32).hex(),
            "invoice": encode_invoice(invoice),
            "pay_to": self.node.pubkey.hex(),
        }


class Died(Exception):
    pass


class CountingDriver(SyncDriver):
    def __init__(self, flow, wallet, dies_at):
        super().__init__(flow, wallet, Fetch)
        self.left = dies_at

    def count(self):
        self.left -= 1
        if self.left == 0:
            raise Died

    def _perform(self, effect):
        self.count()
        return SyncDriver._perform(self, effect)


def topup(bank, wallet, *, amount=AMOUNT, account=ACCOUNT, dies_at=0):
    held = Held()
    driver = CountingDriver(steps.topup(account, amount, wallet, held), wallet, dies_at)
    try:
        todo = driver.begin()
        while isinstance(todo, Fetch):
            driver.count()
            todo = driver.answer(bank.answer(todo))
    except Died:
        wallet.journal._mine.clear()
        raise
    except BaseException:
        leave(held, wallet)
        raise
    leave(held, wallet)
    return todo


@pytest.fixture
def bank(world, make_signer):
    return Bank(world, make_signer(17))


def test_a_top_up_is_paid_and_credited(world, bank):
    done = topup(bank, world.wallet())
    assert (done.amount, len(world.node.paid)) == (AMOUNT, 1)
    assert world.states() == ["delivered"]


@pytest.mark.parametrize("dies_at", range(1, 14))
def test_a_crash_at_any_step_pays_once(world, bank, dies_at):
    wallet = world.wallet()
    try:
        topup(bank, wallet, dies_at=dies_at)
    except Died:
        topup(bank, wallet)
    assert len(world.node.paid) == 1
    assert world.states().count("delivered") == 1


def test_an_unfinished_top_up_of_another_amount_is_finished_first(world, bank):
    bank.silent = 10_000
    wallet = world.wallet()
    with pytest.raises(PaymentError) as caught:
        topup(bank, wallet)
    assert (caught.value.code, caught.value.money) == ("payment_pending", Money.MOVED)
    assert world.states() == ["paid"]
    bank.silent = 0
    assert topup(bank, wallet, amount=2 * AMOUNT).amount == 2 * AMOUNT
    assert len(world.node.paid) == 2
    assert world.states() == ["delivered", "delivered"]


def test_an_unfinished_top_up_of_the_same_amount_is_this_one(world, bank):
    bank.silent = 10_000
    wallet = world.wallet()
    with pytest.raises(PaymentError):
        topup(bank, wallet)
    bank.silent = 3
    assert topup(bank, wallet).amount == AMOUNT
    assert len(world.node.paid) == 1


def test_every_unfinished_top_up_is_finished_before_a_new_one(world, bank):
    """Two that ran side by side were cut off; the second of them is the one asked for now."""
    first, second = world.wallet(), world.wallet()
    with pytest.raises(Died):
        topup(bank, first, dies_at=9)
    bank.silent = 10_000
    with pytest.raises(PaymentError):
        topup(bank, second, amount=2 * AMOUNT)
    bank.silent = 0
    assert topup(bank, first, amount=2 * AMOUNT).amount == 2 * AMOUNT
    assert len(world.node.paid) == 2
    assert world.states() == ["delivered", "delivered"]


def test_the_budget_rules(make_world, make_signer):
    from infern.client.budget import Budget

    world = make_world(budget=Budget(per_topup=AMOUNT - 1))
    with pytest.raises(BudgetExceeded):
        topup(Bank(world, make_signer(17)), world.wallet())
    assert world.node.calls == []


def udt(invoice):
    return with_attribute(invoice, UdtScript(script=UDT))


TWISTS = {
    "network": lambda i: replace(i, network=Network.MAINNET),
    "asset": udt,
    "amount": lambda i: replace(i, amount=AMOUNT + 1),
    "description": lambda i: with_attribute(i, Description(text=topup_description("key_2"))),
    "payment hash": lambda i: replace(i, payment_hash=PaymentHash(b"\x09" * 32)),
    "expiry": lambda i: with_attribute(i, ExpiryTime(expiry_s=3_601)),
}


def refused(bank, world, **options):
    with pytest.raises(InfernError) as caught:
        topup(bank, world.wallet(), **options)
    assert caught.value.money is Money.UNMOVED
    assert world.node.calls == []
    assert world.states() == []
    return caught.value


@pytest.mark.parametrize("check", list(TWISTS))
def test_an_invoice_that_fails_a_check_is_not_paid(world, bank, check):
    bank.twist = TWISTS[check]
    error = refused(bank, world)
    assert (error.code, error.details["check"]) == ("offer_refused", check)


@pytest.mark.parametrize(
    "twist",
    [
        lambda i: without_attribute(i, ExpiryTime),
        lambda i: replace(i, timestamp_ms=i.timestamp_ms - 3_600_001),
        lambda i: replace(i, timestamp_ms=i.timestamp_ms + 61_000),
    ],
)
def test_an_invoice_without_a_good_expiry_is_not_paid(world, bank, twist):
    bank.twist = twist
    assert refused(bank, world).details["check"] == "expiry"


def test_an_invoice_of_another_signer_is_not_paid(world, bank, make_signer):
    bank.signer = make_signer(18)
    assert refused(bank, world).details["check"] == "signer"


def test_an_invoice_of_nobody_is_not_paid(world, bank):
    bank.signer = None
    assert refused(bank, world).code == "invalid_invoice"


def test_a_declared_payee_must_have_signed(world, bank, make_signer):
    bank.twist = lambda i: with_attribute(i, PayeePubkey(pubkey=make_signer(17).pubkey))
    assert topup(bank, world.wallet()).amount == AMOUNT


def test_a_node_the_model_list_does_not_name_is_not_paid(world, bank, make_signer):
    bank.shown_pay_to = make_signer(18).pubkey
    assert refused(bank, world).details["check"] == "payee"


def test_money_needs_https_or_loopback(world, bank):
    account = Account(base_url="http://router.test/v1", key=KEY)
    assert refused(bank, world, account=account).details["check"] == "origin"


def test_a_key_is_needed(world, bank):
    account = Account(base_url="https://router.test/v1")
    assert refused(bank, world, account=account).code == "invalid_api_key"


class Unreachable(httpx2.BaseTransport):
    def handle_request(self, request):
        raise AssertionError("the seller was asked")


@pytest.mark.parametrize(
    ("status", "state"),
    [(PaymentStatus.FAILED, "payment_failed"), (PaymentStatus.SUCCESS, "paid")],
)
def test_what_became_of_a_top_up_is_learned_without_the_seller(world, bank, status, state):
    """Which may have forgotten the key by then; but only when the invoice can be paid no more."""
    world.node.plan.append(Send.STUCK)
    wallet = world.wallet()
    with pytest.raises(PaymentOutcomeUnknown):
        topup(bank, wallet)
    world.node.settle(bank.orders[0].payment_hash, status)
    client = Infern(base_url=ACCOUNT.base_url, wallet=wallet, api_key=KEY, transport=Unreachable())
    assert client.f402.redeem() == []
    assert world.states() == ["paying"]
    world.clock.ms += 3_700_000
    assert client.f402.redeem() == []
    assert world.states() == [state]
    if status is PaymentStatus.SUCCESS:
        assert topup(bank, wallet).amount == AMOUNT
        assert world.states() == ["delivered"]
    assert len(bank.orders) == 1
