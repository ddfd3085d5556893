"""The embedded Fiber network keeps its accounts whatever happens, in whatever order."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from infern.adapters.secp256k1 import CoincurveSigner, CoincurveVerifier
from infern.core.fiber.invoice import HashAlgorithm
from infern.devnet.fiber import Network, NodeRpc, VirtualClock, violations
from infern.devnet.fiber.channel import Fulfil
from infern.devnet.fiber.routing import forward_fee

CKB = 100_000_000
NAMES = ("a", "b", "c", "d")
DAY_MS = 86_400_000


class World:
    """a — b — c — d with a second channel b — c and one back from d to c."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.network = Network(
            seed=b"property",
            clock=self.clock,
            signer_factory=CoincurveSigner,
            verifier=CoincurveVerifier(),
        )
        nodes = [self.network.add_node(name) for name in NAMES]
        a, b, c, d = nodes
        self.channels = [
            self.network.open_ready_channel(left, right, amount * CKB)
            for left, right, amount in (
                (a, b, 500),
                (b, c, 300),
                (b, c, 200),
                (c, d, 400),
                (d, c, 250),
            )
        ]
        self.rpc = {node.name: NodeRpc(node) for node in nodes}

    def ask(self, name: str, method: str, **params: Any) -> Any:
        return self.rpc[name].call(method, [params])

    def result(self, name: str, method: str, **params: Any) -> Any:
        return self.ask(name, method, **params)["result"]

    def owned(self) -> dict[str, int]:
        """What each node has in its channels."""
        totals = dict.fromkeys(NAMES, 0)
        for channel in self.channels:
            for side in channel.sides:
                totals[side.node.name] += side.balance
        return totals


@given(
    payer=st.sampled_from(NAMES),
    payee=st.sampled_from(NAMES),
    amount=st.integers(1, 450 * CKB),
    fees=st.tuples(*[st.integers(0, 5_000)] * 4),
)
@settings(max_examples=120, deadline=None)
def test_a_payment_moves_exactly_its_amount_and_fees_or_nothing(
    payer: str, payee: str, amount: int, fees: tuple[int, ...]
) -> None:
    world = World()
    for channel in world.channels:
        for side in channel.sides:
            side.fee_ppm = fees[NAMES.index(side.node.name)]
    before = world.owned()
    made = world.result(payee, "new_invoice", amount=hex(amount), currency="Fibd")
    payment_hash = made["invoice"]["data"]["payment_hash"]
    answer = world.ask(
        payer, "send_payment", invoice=made["invoice_address"], max_fee_rate=hex(1_000)
    )
    route = []
    if "result" in answer:
        attempt = world.network.nodes[payer].sessions[bytes.fromhex(payment_hash[2:])].attempts[0]
        world.clock.run_until_quiet()
        route = list(zip(attempt.nodes, attempt.hops, strict=False))
    after = world.owned()
    found = world.ask(payer, "get_payment", payment_hash=payment_hash)
    if "result" not in found or found["result"]["status"] != "Success":
        assert after == before
        return
    fee = int(found["result"]["fee"], 16)
    gains = {name: after[name] - before[name] for name in NAMES}
    expected = dict.fromkeys(NAMES, 0)
    expected[payer] -= amount + fee
    expected[payee] += amount
    by_key = {node.pubkey: node.name for node in world.network.nodes.values()}
    for (pubkey, hop), (_, before_hop) in zip(route[1:], route, strict=False):
        name = by_key[pubkey]
        earned = before_hop.amount_received - hop.amount_received
        assert earned == forward_fee(hop.amount_received, fees[NAMES.index(name)])
        expected[name] += earned
    assert gains == expected
    assert violations(world.network) == []


class FiberMachine(RuleBasedStateMachine):
    """Payments, holds, settlements, cancellations, faults and time in any order."""

    invoices = Bundle("invoices")
    payments = Bundle("payments")

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.counter = 0

    @rule(
        target=invoices,
        payee=st.sampled_from(NAMES),
        amount=st.integers(1, 200 * CKB),
        hold=st.booleans(),
        expiry=st.sampled_from([None, 60]),
    )
    def issue(self, payee: str, amount: int, hold: bool, expiry: int | None) -> tuple[str, ...]:
        self.counter += 1
        preimage = self.counter.to_bytes(32, "big")
        algorithm = HashAlgorithm.SHA256 if self.counter % 2 else HashAlgorithm.CKB_HASH
        params: dict[str, Any] = {
            "amount": hex(amount),
            "currency": "Fibd",
            "hash_algorithm": algorithm.rpc_name,
            "expiry": None if expiry is None else hex(expiry),
        }
        if hold:
            params["payment_hash"] = algorithm.digest(preimage).hex()
        else:
            params["payment_preimage"] = preimage.hex()
        made = self.world.result(payee, "new_invoice", **params)
        return (
            payee,
            made["invoice_address"],
            made["invoice"]["data"]["payment_hash"],
            "0x" + preimage.hex(),
        )

    @rule(target=payments, payer=st.sampled_from(NAMES), invoice=invoices)
    def pay(self, payer: str, invoice: tuple[str, ...]) -> tuple[str, str]:
        self.world.ask(payer, "send_payment", invoice=invoice[1], max_fee_rate=hex(1_000))
        return payer, invoice[2]

    @rule(payer=st.sampled_from(NAMES), payee=st.sampled_from(NAMES), amount=st.integers(1, CKB))
    def keysend(self, payer: str, payee: str, amount: int) -> None:
        target = self.world.network.nodes[payee].pubkey.hex()
        self.world.ask(
            payer, "send_payment", target_pubkey=target, amount=hex(amount), keysend=True
        )

    @rule(invoice=invoices)
    def settle(self, invoice: tuple[str, ...]) -> None:
        self.world.ask(
            invoice[0], "settle_invoice", payment_hash=invoice[2], payment_preimage=invoice[3]
        )

    @rule(invoice=invoices)
    def cancel(self, invoice: tuple[str, ...]) -> None:
        self.world.ask(invoice[0], "cancel_invoice", payment_hash=invoice[2])

    @rule(duration_us=st.integers(0, 400_000))
    def wait(self, duration_us: int) -> None:
        self.world.clock.advance_us(duration_us)

    @rule(minutes=st.integers(1, 120))
    def wait_long(self, minutes: int) -> None:
        self.world.clock.advance_ms(minutes * 60_000)

    @rule(name=st.sampled_from(NAMES), downtime_ms=st.integers(0, 5_000))
    def restart(self, name: str, downtime_ms: int) -> None:
        network = self.world.network
        network.faults.restart(network.nodes[name], downtime_ms=downtime_ms)

    @rule(index=st.integers(0, 2), duration_ms=st.integers(1, 60_000))
    def drop(self, index: int, duration_ms: int) -> None:
        network = self.world.network
        left, right = (network.nodes[name] for name in NAMES[index : index + 2])
        network.faults.drop_link(left, right, duration_ms=duration_ms)

    @rule(name=st.sampled_from(NAMES), count=st.integers(1, 2))
    def stick(self, name: str, count: int) -> None:
        self.world.network.faults.set_stuck(self.world.network.nodes[name], count=count)

    @rule(name=st.sampled_from(NAMES))
    def unstick(self, name: str) -> None:
        self.world.network.faults.clear_stuck(self.world.network.nodes[name])

    @rule(index=st.integers(0, 4), force=st.booleans(), opener=st.booleans())
    def close(self, index: int, force: bool, opener: bool) -> None:
        channel = self.world.channels[index]
        name = channel.sides[0 if opener else 1].node.name
        channel_id = channel.channel_id.hex()
        if self.counter % 5 == 0:  # seldom: a network without channels has little to test
            self.world.ask(name, "shutdown_channel", channel_id=channel_id, force=force)

    @invariant()
    def accounts_are_sound(self) -> None:
        assert violations(self.world.network) == []

    @invariant()
    def every_fulfilled_tlc_has_its_preimage(self) -> None:
        for channel in self.world.channels:
            for tlc in channel.tlcs.values():
                if isinstance(tlc.removal, Fulfil):
                    assert tlc.algorithm.digest(tlc.removal.preimage) == tlc.payment_hash

    def teardown(self) -> None:
        """In the end everything comes to rest, and payers and payees agree."""
        world, network = self.world, self.world.network
        for node in network.nodes.values():
            network.faults.clear_stuck(node)
        world.clock.advance_ms(30 * DAY_MS)
        world.clock.run_until_quiet()
        assert violations(network) == []
        assert not any(channel.tlcs for channel in world.channels)
        for node in network.nodes.values():
            for payment_hash, session in node.sessions.items():
                assert session.status.is_final, session
                if session.status.value == "Success":
                    payee = network.node_by_pubkey(session.request.target)
                    assert payee is not None
                    assert network.receiver.settlements[(payee.name, payment_hash)] == 1
                    invoice = payee.invoices.get(payment_hash)
                    assert invoice is None or invoice.status.value == "Paid"


def test_the_accounts_survive_anything() -> None:
    run_state_machine_as_test(
        FiberMachine,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
