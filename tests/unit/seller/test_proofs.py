from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from infern.core.errors import InfernError
from infern.core.f402.challenge import Mode, mint_token
from infern.core.f402.credential import Proof
from infern.core.fiber.types import InvoiceStatus
from infern.core.ids import PaymentHash, Preimage
from infern.core.units import Network
from infern.seller.minting import Minter
from infern.seller.proofs import CREDIT_S, ProofDesk
from infern.testing.offers import DIGEST, honest_challenge

KEY = b"\x0b" * 32


class Case:
    """A desk and one offer of its seller."""

    def __init__(self, config: Any, payee: Any, clock: Any, entropy: Any) -> None:
        self.payee, self.clock = payee, clock
        self.desk = ProofDesk(config, fiber=payee, clock=clock)
        self.minter = Minter(config, fiber=payee, clock=clock, entropy=entropy)
        self.config = config

    async def challenge(self, **changes: Any) -> Any:
        topup = await self.minter.topup(amount=1, key_id="k", tab_id=Any)
        made = honest_challenge(self.payee.signer.pubkey, now_s=self.clock.now_ms() // 1000)
        claims = {"issuer": "seller.test", "payment_hash": topup.payment_hash, **changes}
        return replace(made, **claims)

    def proof(self, challenge: Any, *, preimage: Any = None, key: bytes = KEY) -> Proof:
        return Proof(
            token=mint_token(challenge, kid="k2", key=key),
            preimage=preimage,
            echoed={
                "network": challenge.network.fiber_id,
                "amount": str(challenge.amount),
                "asset": str(challenge.asset),
                "payTo": challenge.pay_to.hex(),
            },
        )

    async def refusal(self, proof: Proof, digest: Any = DIGEST) -> InfernError:
        with pytest.raises(InfernError) as caught:
            await self.desk.verify(proof, digest)
        return caught.value


class Gated:
    """The node, whose payments arrive when the gate opens."""

    def __init__(self, payee: Any) -> None:
        self.payee = payee
        self.gate = anyio.Event()
        self.waiting: list[PaymentHash] = []

    async def call(self, call: Any, *, timeout_ms: int | None = None) -> Any:
        return await self.payee.call(call, timeout_ms=timeout_ms)

    async def wait_change(self, payment_hash: bytes, *, timeout_ms: int) -> None:
        self.waiting.append(PaymentHash(payment_hash))
        await self.gate.wait()
        self.payee.pay(payment_hash)


@pytest.fixture
def make_case(make_config: Any, payee: Any, clock: Any, entropy: Any) -> Any:
    return lambda **config: Case(make_config(**config), payee, clock, entropy)


async def test_what_is_wrong_is_told_in_the_order_that_burns_no_payment(make_case: Any) -> None:
    """Each proof is wrong in everything behind its own fault too; nothing asks the node."""
    case = make_case()
    now_s = case.clock.now_ms() // 1000
    other = bytes(32)
    late = {"issued_at_s": 1, "expires_at_s": 2, "redeem_until_s": now_s - 1}
    realm = {"issuer": "evil.test"}
    wrong = Preimage(b"\x09" * 32)
    for changes, key, digest, code in (
        ({**realm, **late}, b"\x0d" * 32, other, "invalid_challenge"),
        ({**realm, **late}, KEY, other, "wrong_realm"),
        ({"network": Network.MAINNET, **late}, KEY, other, "wrong_realm"),
        (late, KEY, other, "challenge_expired"),
        ({}, KEY, other, "request_mismatch"),
        ({}, KEY, DIGEST, "invalid_preimage"),
    ):
        challenge = await case.challenge(**changes)
        calls = len(case.payee.calls)
        error = await case.refusal(case.proof(challenge, preimage=wrong, key=key), digest)
        assert error.code == code
        assert len(case.payee.calls) == calls


async def test_an_old_key_still_opens_its_tokens(make_case: Any) -> None:
    case = make_case()
    challenge = await case.challenge()
    case.payee.pay(challenge.payment_hash)
    token = mint_token(challenge, kid="k1", key=b"\x0a" * 32)
    proof = replace(case.proof(challenge), token=token)
    assert await case.desk.verify(proof, DIGEST) == challenge


async def test_the_preimage_is_enough_and_asks_nobody(make_case: Any) -> None:
    case = make_case(require_preimage=True)
    challenge = await case.challenge()
    calls = len(case.payee.calls)
    preimage = case.payee.preimages[challenge.payment_hash]
    assert await case.desk.verify(case.proof(challenge, preimage=preimage), DIGEST) == challenge
    assert len(case.payee.calls) == calls
    case.payee.pay(challenge.payment_hash)
    error = await case.refusal(case.proof(challenge))
    assert (error.code, error.status) == ("payment_pending", 425)


@pytest.mark.parametrize(
    "status", [InvoiceStatus.OPEN, InvoiceStatus.RECEIVED, InvoiceStatus.UNKNOWN]
)
async def test_abuse_17_not_yet_paid_is_pending_and_then_the_same_proof_is_good(
    make_case: Any, status: InvoiceStatus
) -> None:
    case = make_case(proof_wait_ms=10_000)
    challenge = await case.challenge()
    case.payee.set_status(challenge.payment_hash, status)
    started_ms = case.clock.now_ms()
    error = await case.refusal(case.proof(challenge))
    assert (error.code, error.retry_after_s) == ("payment_pending", 2)
    assert case.clock.now_ms() - started_ms == 10_000
    case.payee.pay(challenge.payment_hash)
    assert await case.desk.verify(case.proof(challenge), DIGEST) == challenge


@pytest.mark.parametrize("status", [InvoiceStatus.CANCELLED, InvoiceStatus.EXPIRED])
async def test_what_will_never_be_paid_is_said_at_once(
    make_case: Any, status: InvoiceStatus
) -> None:
    case = make_case()
    challenge = await case.challenge()
    case.payee.set_status(challenge.payment_hash, status)
    assert (await case.refusal(case.proof(challenge))).code == "payment_not_received"
    again = await case.challenge()
    case.payee.on_wait = lambda h: case.payee.set_status(h, status)
    assert (await case.refusal(case.proof(again))).code == "payment_not_received"


async def test_a_node_that_is_down_or_forgot_leaves_the_payment_unknown(make_case: Any) -> None:
    case = make_case()
    challenge = await case.challenge()
    forgotten = await case.challenge(payment_hash=PaymentHash(b"\x77" * 32))
    lost = await case.refusal(case.proof(forgotten))
    assert (lost.code, lost.money, lost.retry) == ("payment_not_received", "unknown", "never")
    case.payee.is_down = True
    error = await case.refusal(case.proof(challenge))
    assert (error.code, error.money, error.retry_after_s) == ("fiber_unavailable", "unknown", 2)


async def test_one_waits_for_a_payment_and_others_do_not_queue(make_case: Any) -> None:
    case = make_case(proof_waiters=2)
    one, two, three = [await case.challenge() for _ in range(3)]
    paid = await case.challenge()
    case.payee.pay(paid.payment_hash)
    fiber = Gated(case.payee)
    case.desk = ProofDesk(case.config, fiber=fiber, clock=case.clock)
    good: list[Any] = []

    async def verify(challenge: Any) -> None:
        good.append(await case.desk.verify(case.proof(challenge), DIGEST))

    async with anyio.create_task_group() as group:
        group.start_soon(verify, one)
        group.start_soon(verify, two)
        while len(fiber.waiting) < 2:
            await anyio.lowlevel.checkpoint()
        assert (await case.refusal(case.proof(one))).code == "payment_pending"
        full = await case.refusal(case.proof(three))
        assert (full.code, full.money) == ("rate_limit_exceeded", "unknown")
        # Payments that did arrive stand behind nobody.
        assert await case.desk.verify(case.proof(paid), DIGEST) == paid
        fiber.gate.set()
    assert good == [one, two]
    case.payee.pay(three.payment_hash)
    assert await case.desk.verify(case.proof(three), DIGEST) == three


@pytest.mark.parametrize("status", [InvoiceStatus.RECEIVED, InvoiceStatus.PAID])
async def test_in_hold_mode_a_pending_payment_is_enough_and_a_preimage_is_not(
    make_case: Any, status: InvoiceStatus
) -> None:
    case = make_case(proof_wait_ms=100, require_preimage=True)
    challenge = await case.challenge(mode=Mode.HOLD)
    preimage = case.payee.preimages[challenge.payment_hash]
    for shown in (None, preimage):
        error = await case.refusal(case.proof(challenge, preimage=shown))
        assert error.code == "payment_pending"
    case.payee.set_status(challenge.payment_hash, status)
    assert await case.desk.verify(case.proof(challenge), DIGEST) == challenge
    token = mint_token(challenge, kid="k2", key=KEY)
    assert await case.desk.verify_for_redeem(token, None) == challenge


@pytest.mark.parametrize("status", [InvoiceStatus.CANCELLED, InvoiceStatus.EXPIRED])
async def test_in_hold_mode_what_went_back_is_said_at_once(
    make_case: Any, status: InvoiceStatus
) -> None:
    case = make_case()
    challenge = await case.challenge(mode=Mode.HOLD)
    case.payee.set_status(challenge.payment_hash, status)
    error = await case.refusal(case.proof(challenge))
    assert (error.code, error.money) == ("payment_not_received", "unmoved")


async def test_a_token_is_redeemable_longer_than_it_is_usable(make_case: Any) -> None:
    case = make_case()
    challenge = await case.challenge()
    case.payee.pay(challenge.payment_hash)
    token = mint_token(challenge, kid="k2", key=KEY)
    until_s = challenge.redeem_until_s
    case.clock.ms = (until_s + 1) * 1_000
    assert (await case.refusal(case.proof(challenge))).code == "challenge_expired"
    case.clock.ms = (until_s + CREDIT_S) * 1_000
    assert await case.desk.verify_for_redeem(token, None) == challenge
    case.clock.ms += 1_000
    with pytest.raises(InfernError) as caught:
        await case.desk.verify_for_redeem(token, None)
    assert caught.value.code == "challenge_expired"
