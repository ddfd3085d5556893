"""What a node does with a TLC committed to it: forward it, or be paid by it.

Source: fnn 0.8.0 `apply_final_hop_tlc_onion_packet`, `settle_tlc_set_command.rs`, `check_tlc_*`.
"""

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from infern.devnet.fiber.channel import Fulfil, LimitHit, Tlc
from infern.devnet.fiber.engine import Offer, failure
from infern.devnet.fiber.node import InvoiceStatus, Node, StoredInvoice
from infern.devnet.fiber.routing import forward_fee
from infern.devnet.fiber.settings import MIN_TLC_EXPIRY_DELTA_MS
from infern.devnet.fiber.states import TlcErrorCode

if TYPE_CHECKING:
    from infern.devnet.fiber.network import Network


class Receiver:
    """Receiving half of every node of a network."""

    def __init__(self, network: "Network") -> None:
        self._network = network
        self.settlements: Counter[tuple[str, bytes]] = Counter()

    def on_committed(self, tlc: Tlc) -> None:
        """A TLC is irrevocably on the channel: act on it."""
        code = self._forward(tlc) if tlc.onion else self._consider(tlc)
        if code is not None:
            reason = code if isinstance(code, LimitHit) else LimitHit(code, code.value)
            removal = failure(
                reason.code, tlc.receiver.pubkey, detail=reason.text, slots=reason.slots
            )
            self._network.engine.remove(tlc, removal)

    def _forward(self, tlc: Tlc) -> TlcErrorCode | LimitHit | None:
        hop, rest = tlc.onion[0], tlc.onion[1:]
        node, network = tlc.receiver, self._network
        channel = network.channel_by_outpoint(hop.channel_outpoint)
        if channel is None or not channel.has_party(node):
            return TlcErrorCode.UNKNOWN_NEXT_PEER
        side = channel.side_of(node)
        if channel.peer_of(node).pubkey != hop.target:
            return TlcErrorCode.UNKNOWN_NEXT_PEER
        if tlc.channel.udt != channel.udt:
            return TlcErrorCode.INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS
        if tlc.expiry_ms < hop.expiry_ms + side.tlc_expiry_delta_ms:
            return TlcErrorCode.INCORRECT_TLC_EXPIRY
        if hop.expiry_ms < network.clock.now_ms + MIN_TLC_EXPIRY_DELTA_MS:
            return TlcErrorCode.EXPIRY_TOO_SOON
        if tlc.amount - hop.amount < forward_fee(hop.amount, side.fee_ppm):
            return TlcErrorCode.FEE_INSUFFICIENT
        offer = Offer(
            amount=hop.amount,
            payment_hash=tlc.payment_hash,
            expiry_ms=hop.expiry_ms,
            algorithm=tlc.algorithm,
            onion=rest,
            keysend_preimage=tlc.keysend_preimage,
            incoming=tlc,
        )
        added = network.engine.offer(channel, channel.index_of(node), offer)
        return added if isinstance(added, LimitHit) else None

    def _consider(self, tlc: Tlc) -> TlcErrorCode | None:
        node, network = tlc.receiver, self._network
        invoice = node.invoices.get(tlc.payment_hash)
        if invoice is None:
            return self._consider_keysend(tlc)
        status = invoice.status_at(network.clock.now_ms)
        if status is not InvoiceStatus.OPEN:
            return _REFUSALS.get(status, TlcErrorCode.INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS)
        if tlc.channel.udt != invoice.udt:
            return TlcErrorCode.INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS
        if tlc.expiry_ms < network.clock.now_ms + invoice.final_delta_ms:
            return TlcErrorCode.FINAL_INCORRECT_EXPIRY_DELTA
        if tlc.amount < invoice.amount:
            return TlcErrorCode.FINAL_INCORRECT_TLC_AMOUNT
        preimage = tlc.keysend_preimage or node.preimages.get(tlc.payment_hash)
        if preimage is not None:
            if tlc.algorithm.digest(preimage) != tlc.payment_hash:
                return TlcErrorCode.INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS
            wait_us = network.scaled_us(network.settings.latencies.ordinary_ms)
            accept = partial(self._accept, node, invoice, tlc)
            resume = partial(network.engine.run_when_linked, tlc.channel, accept)
            network.clock.call_later_us(wait_us, resume)
        else:
            self._accept(node, invoice, tlc)
        return None

    def _consider_keysend(self, tlc: Tlc) -> TlcErrorCode | None:
        preimage = tlc.keysend_preimage
        if preimage is None or tlc.algorithm.digest(preimage) != tlc.payment_hash:
            return TlcErrorCode.INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS
        tlc.receiver.learn_preimage(tlc.payment_hash, preimage)
        wait_ms = self._network.settings.latencies.ordinary_ms
        self._network.engine.remove(tlc, Fulfil(preimage=preimage), wait_ms=wait_ms)
        return None

    def _accept(self, node: Node, invoice: StoredInvoice, tlc: Tlc) -> None:
        """Make the invoice `Received` by this TLC, and settle when the preimage is known."""
        engine = self._network.engine
        status = invoice.status_at(self._network.clock.now_ms)
        if status is not InvoiceStatus.OPEN:
            code = _REFUSALS.get(status, TlcErrorCode.HOLD_TLC_TIMEOUT)
            engine.remove(tlc, failure(code, node.pubkey))
            return
        invoice.held = tlc
        node.set_invoice_status(invoice, InvoiceStatus.RECEIVED)
        preimage = node.preimages.get(invoice.payment_hash)
        if preimage is not None:
            engine.remove(tlc, Fulfil(preimage=preimage))

    def settle(self, node: Node, invoice: StoredInvoice, preimage: bytes) -> None:
        """The preimage of a held invoice is known now: claim its TLC."""
        node.learn_preimage(invoice.payment_hash, preimage)
        if invoice.held is not None:
            wait_ms = self._network.settings.latencies.settle_ms
            self._network.engine.remove(invoice.held, Fulfil(preimage=preimage), wait_ms=wait_ms)

    def cancel(self, node: Node, invoice: StoredInvoice) -> None:
        """Cancel an invoice and fail back the TLC it holds, if any."""
        node.set_invoice_status(invoice, InvoiceStatus.CANCELLED)
        if invoice.held is not None:
            wait_ms = self._network.settings.latencies.cancel_ms
            removal = failure(TlcErrorCode.INVOICE_CANCELLED, node.pubkey)
            self._network.engine.remove(invoice.held, removal, wait_ms=wait_ms)

    def on_removed(self, tlc: Tlc) -> None:
        """The payee's removal is acknowledged: only now is the invoice `Paid`."""
        if tlc.onion:
            return
        node = tlc.receiver
        invoice = node.invoices.get(tlc.payment_hash)
        if isinstance(tlc.removal, Fulfil):
            self.settlements[(node.name, tlc.payment_hash)] += 1
            node.preimages.pop(tlc.payment_hash, None)
            if invoice is not None:
                # Also when it was cancelled while the removal was under way: the money is here.
                node.set_invoice_status(invoice, InvoiceStatus.PAID)
        if invoice is not None and invoice.held is tlc:
            invoice.held = None


_REFUSALS = {
    InvoiceStatus.EXPIRED: TlcErrorCode.INVOICE_EXPIRED,
    InvoiceStatus.CANCELLED: TlcErrorCode.INVOICE_CANCELLED,
}
