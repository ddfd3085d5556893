"""Closing a channel: by agreement, or alone on the chain stub.

After a forced close nothing moves on the channel any more; what is pending resolves as it would on
chain: whoever knows the preimage takes a TLC, otherwise it returns after its expiry.
"""

from functools import partial
from typing import TYPE_CHECKING

from infern.core.ckb.hashing import ckb_hash
from infern.core.ckb.script import Script
from infern.devnet.fiber import states
from infern.devnet.fiber.channel import Channel, Fulfil, Removal, Tlc
from infern.devnet.fiber.engine import failure
from infern.devnet.fiber.errors import invalid_parameter, invalid_state
from infern.devnet.fiber.node import InvoiceStatus, Node
from infern.devnet.fiber.settings import WATCHDOG_INTERVAL_MS
from infern.devnet.fiber.states import ChannelState, StateName, TlcErrorCode, TlcPhase

if TYPE_CHECKING:
    from infern.devnet.fiber.network import Network

CLOSING_TX_SIZE_BYTES = 455
DEFAULT_FEE_RATE = 1_000
OCCUPIED_CKB_SHANNON = 98 * 100_000_000
OCCUPIED_UDT_SHANNON = 179 * 100_000_000


class Closing:
    """Closes the channels of a network."""

    def __init__(self, network: "Network") -> None:
        self._network = network

    def shutdown(
        self, channel: Channel, node: Node, close_script: Script | None, fee_rate: int | None
    ) -> None:
        """Begin to close by agreement.

        Raises:
            NodeError: Not ready, or a TLC of ours is not committed yet. Nothing changed.
        """
        index = channel.index_of(node)
        side = channel.sides[index]
        if side.state.name is not StateName.CHANNEL_READY:
            raise invalid_state(
                "Trying to send shutdown message while in invalid state " + side.state.debug()
            )
        if any(tlc.phase is TlcPhase.ANNOUNCED for tlc in channel.offered_by(index)):
            raise invalid_state(
                "Unable to process shutdown command, as there are pending outbound tlcs"
            )
        rate = DEFAULT_FEE_RATE if fee_rate is None else fee_rate
        if rate < DEFAULT_FEE_RATE:
            raise invalid_parameter(
                f"Fee rate {rate} is less than commitment fee rate {DEFAULT_FEE_RATE}"
            )
        fee = closing_fee(rate)
        spare = side.reserve - (
            OCCUPIED_CKB_SHANNON if channel.udt is None else OCCUPIED_UDT_SHANNON
        )
        available = spare + (side.balance if channel.udt is None else 0)
        if fee > available:
            raise invalid_parameter(
                f"Local balance is not enough to pay the fee, expect fee {fee} <= "
                f"available_max_fee {available}"
            )
        if close_script is not None:
            side.shutdown_script = close_script
        side.state = ChannelState(StateName.SHUTTING_DOWN, states.OUR)
        wait_ms = self._network.settings.latencies.close_step_ms
        self._network.engine.later(
            channel, wait_ms, partial(self._shutdown_agreed, channel, index, fee)
        )

    def _shutdown_agreed(self, channel: Channel, index: int, fee: int) -> None:
        if channel.force_closed:
            return
        channel.set_states(StateName.SHUTTING_DOWN, states.BOTH, states.BOTH)
        channel.close_fees = (fee, closing_fee(DEFAULT_FEE_RATE))
        if index:
            channel.close_fees = channel.close_fees[::-1]
        self.on_tlc_gone(channel)

    def on_tlc_gone(self, channel: Channel) -> None:
        """When the last TLC leaves a channel that is closing, close it."""
        closing = all(
            side.state == ChannelState(StateName.SHUTTING_DOWN, states.BOTH)
            for side in channel.sides
        )
        if closing and not channel.tlcs and channel.shutdown_tx_hash is None:
            channel.shutdown_tx_hash = ckb_hash(channel.channel_id + b"closing")
            self._network.chain.after_blocks(1, partial(self._closed_together, channel))

    def _closed_together(self, channel: Channel) -> None:
        if channel.force_closed or channel.settled:
            return
        self._pay_out(channel, channel.close_fees)
        closed = states.CLOSED_COOPERATIVE
        channel.set_states(StateName.CLOSED, closed, closed)
        self._network.engine.flush(channel)

    def force_close(self, channel: Channel, index: int) -> None:
        """Go to the chain alone, as `sides[index]`. TLCs resolve there by preimage or expiry.

        Raises:
            NodeError: The channel is not open. Nothing changed.
        """
        side = channel.sides[index]
        if side.state.name not in (StateName.CHANNEL_READY, StateName.SHUTTING_DOWN):
            raise invalid_state(
                f"Handling force shutdown command invalid state {side.state.debug()}"
            )
        if channel.force_closed:
            return
        channel.force_closed_by = index
        waiting = states.SHUTDOWN_WAITING_COMMITMENT
        side.state = ChannelState(StateName.SHUTTING_DOWN, waiting)
        channel.shutdown_tx_hash = channel.commitment_hash(index)
        self._network.chain.after_blocks(1, partial(self._commitment_confirmed, channel))

    def _commitment_confirmed(self, channel: Channel) -> None:
        waiting = states.CLOSED_WAITING_SETTLEMENT
        for side, flag in zip(channel.sides, self._closed_flags(channel), strict=True):
            side.state = ChannelState(StateName.CLOSED, flag | waiting)
        self._network.engine.flush(channel)
        blocks = self._network.settings.forced_close_delay_blocks
        self._network.chain.after_blocks(blocks, partial(self._settle_on_chain, channel))

    def _settle_on_chain(self, channel: Channel) -> None:
        """Resolve what can be resolved; come back for TLCs that must wait for their expiry."""
        network = self._network
        for tlc in list(channel.tlcs.values()):
            removal = self._outcome_on_chain(tlc)
            if removal is None:
                continue
            tlc.removal = removal
            if isinstance(removal, Fulfil):
                tlc.sender.learn_preimage(tlc.payment_hash, removal.preimage)
            channel.remove(tlc)
            network.receiver.on_removed(tlc)
            network.engine.resolved(tlc)
        if channel.tlcs:
            again = partial(self._settle_on_chain, channel)
            wait_us = WATCHDOG_INTERVAL_MS * 1_000
            network.clock.call_later_us(wait_us, again, background=True)
            return
        self._pay_out(channel, (0, 0))
        for side, flag in zip(channel.sides, self._closed_flags(channel), strict=True):
            side.state = ChannelState(StateName.CLOSED, flag)

    def _outcome_on_chain(self, tlc: Tlc) -> Removal | None:
        """How a TLC ends on chain, or None while that is open."""
        ahead = tlc.outgoing
        if ahead is not None and ahead.phase is not TlcPhase.GONE:
            return None  # the forwarder may still learn the preimage from the next hop
        preimage = tlc.receiver.preimages.get(tlc.payment_hash)
        invoice = tlc.receiver.invoices.get(tlc.payment_hash)
        refused = invoice is not None and invoice.status is not InvoiceStatus.RECEIVED
        if preimage is not None and tlc.phase is not TlcPhase.ANNOUNCED and not refused:
            return Fulfil(preimage=preimage)
        never_committed = tlc.phase is TlcPhase.ANNOUNCED
        if never_committed or tlc.expiry_ms <= self._network.clock.now_ms:
            code = TlcErrorCode.PERMANENT_CHANNEL_FAILURE
            return failure(code, tlc.sender.pubkey, detail=code.value)
        return None

    @staticmethod
    def _closed_flags(channel: Channel) -> tuple[int, int]:
        local, remote = states.CLOSED_UNCOOPERATIVE_LOCAL, states.CLOSED_UNCOOPERATIVE_REMOTE
        return (local, remote) if channel.force_closed_by == 0 else (remote, local)

    def _pay_out(self, channel: Channel, fees: tuple[int, int]) -> None:
        chain = self._network.chain
        for side, fee in zip(channel.sides, fees, strict=True):
            if channel.udt is None:
                chain.credit(side.node.name, side.balance + side.reserve - fee)
            else:
                chain.credit(side.node.name, side.reserve - fee)
                chain.credit(side.node.name, side.balance, channel.udt)
            chain.burn_fee(fee)
        channel.funded = False
        channel.settled = True


def closing_fee(fee_rate: int) -> int:
    """A side's share of the closing transaction's fee, shannon."""
    return fee_rate * CLOSING_TX_SIZE_BYTES // 1_000
