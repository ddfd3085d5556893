"""The embedded Fiber network keeps its accounts whatever happens, in whatever order."""

from collections import Counter
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
CLOSING_FEE = 455


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
        for left, right in ((a, b), (b, c), (c, d)):
            self.keysend(left.name, right.name, 90 * CKB)
        self.clock.run_until_quiet()

    def keysend(self, payer: str, payee: str, amount: int) -> None:
        target = self.network.nodes[payee].pubkey.hex()
        self.ask(payer, "send_payment", target_pubkey=target, amount=hex(amount), keysend=True)

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
@settings(max_examples=120)
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


PAIRS = st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)).filter(
    lambda pair: pair[0] != pair[1]
)


class FiberMachine(RuleBasedStateMachine):
    """Payments, holds, settlements, cancellations, faults and time in any order."""

    invoices = Bundle("invoices")

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.counter = 0
        self.wealth = self._wealth()
        self.started_at_ms = self.world.clock.now_ms
        self.world.clock.advance_ms(1)

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

    @rule(
        target=invoices,
        pair=PAIRS,
        amount=st.integers(1, 60 * CKB),
        hold=st.booleans(),
    )
    def buy(self, pair: tuple[str, str], amount: int, hold: bool) -> tuple[str, ...]:
        payer, payee = pair
        invoice = self.issue(payee, amount, hold, None)
        self.pay(payer, invoice)
        return invoice

    @rule(payer=st.sampled_from(NAMES), invoice=invoices)
    def pay(self, payer: str, invoice: tuple[str, ...]) -> None:
        self.world.ask(payer, "send_payment", invoice=invoice[1], max_fee_rate=hex(1_000))

    @rule(pair=PAIRS, amount=st.integers(1, CKB))
    def keysend(self, pair: tuple[str, str], amount: int) -> None:
        self.world.keysend(*pair, amount)

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

    @rule(minutes=st.sampled_from([1, 90, 10_000]))
    def wait_long(self, minutes: int) -> None:
        self.world.clock.advance_ms(minutes * 60_000)

    @rule(
        kind=st.sampled_from(["restart", "drop", "stick", "unstick"]),
        index=st.integers(0, 2),
        duration_ms=st.integers(1, 20_000),
    )
    def trouble(self, kind: str, index: int, duration_ms: int) -> None:
        network = self.world.network
        left, right = (network.nodes[name] for name in NAMES[index : index + 2])
        if kind == "restart":
            network.faults.restart(right, downtime_ms=duration_ms)
        elif kind == "drop":
            network.faults.drop_link(left, right, duration_ms=duration_ms)
        elif kind == "stick":
            network.faults.set_stuck(left, count=1)
        else:
            network.faults.clear_stuck(left)

    @rule(index=st.integers(0, 4), force=st.booleans(), opener=st.booleans())
    def close(self, index: int, force: bool, opener: bool) -> None:
        channel = self.world.channels[index]
        name = channel.sides[0 if opener else 1].node.name
        channel_id = channel.channel_id.hex()
        if self.counter % 7 == 6:  # seldom: a network without channels has little to test
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

    def _wealth(self) -> dict[str, int]:
        balances = self.world.network.balances()
        return {name: sum(entry.values()) for name, entry in balances.items()}

    def _check_nobody_lost(self) -> None:
        """A node ends with what it was paid, less what it paid, and never less for forwarding."""
        network = self.world.network
        expected = dict(self.wealth)
        for node in network.nodes.values():
            sessions = node.sessions.values()
            for session in (one for one in sessions if one.created_at_ms > self.started_at_ms):
                payee = network.node_by_pubkey(session.request.target)
                if session.status.value == "Success" and payee is not None:
                    expected[node.name] -= session.request.amount + session.fee
                    expected[payee.name] += session.request.amount
        for name, amount in self._wealth().items():
            closings = sum(channel.settled for channel in self.world.channels)
            assert amount >= expected[name] - closings * CLOSING_FEE, name

    def teardown(self) -> None:
        """In the end everything comes to rest, and payers and payees agree."""
        world, network = self.world, self.world.network
        for node in network.nodes.values():
            network.faults.clear_stuck(node)
        world.clock.advance_ms(30 * DAY_MS)
        world.clock.run_until_quiet()
        assert violations(network) == []
        assert not any(channel.tlcs for channel in world.channels)
        self._check_nobody_lost()
        payers = Counter(
            session.request.payment_hash
            for node in network.nodes.values()
            for session in node.sessions.values()
            if session.status.value == "Success"
        )
        for node in network.nodes.values():
            for invoice in node.invoices.values():
                assert payers[invoice.payment_hash] == (invoice.status.value == "Paid")
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
            suppress_health_check=list(HealthCheck),
        ),
    )
