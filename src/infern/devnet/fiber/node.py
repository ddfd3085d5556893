"""One embedded node: its identity, what it keeps across a restart and what it forgets."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from infern.core.ckb.script import SECP256K1_LOCK_CODE_HASH, HashType, Script
from infern.core.crypto import Signer
from infern.core.errors import JsonValue
from infern.core.fiber.invoice import HashAlgorithm
from infern.devnet.fiber.channel import Tlc
from infern.devnet.fiber.identity import SeededBytes, lock_args, peer_id
from infern.devnet.fiber.routing import History
from infern.devnet.fiber.session import Session
from infern.devnet.fiber.settings import NodeSettings

if TYPE_CHECKING:
    from infern.devnet.fiber.network import Network

Event = dict[str, JsonValue]
EventSink = Callable[[Event], None]

NODE_FEATURES: Final = ("GOSSIP_QUERIES_REQUIRED",)
"""0.8.0 also lists BASIC_MPP_REQUIRED and TRAMPOLINE_ROUTING_REQUIRED; neither is built here."""


class InvoiceStatus(StrEnum):
    """Stored status of an invoice; `Expired` is only ever derived from an open one."""

    OPEN = "Open"
    CANCELLED = "Cancelled"
    EXPIRED = "Expired"
    RECEIVED = "Received"
    PAID = "Paid"


@dataclass(slots=True, kw_only=True, eq=False)
class StoredInvoice:
    """An invoice this node issued.

    Args:
        text: The signed invoice as given out.
        view: Its JSON as the node shows it.
        amount: Base units asked for.
    """

    text: str
    view: JsonValue
    payment_hash: bytes
    amount: int
    timestamp_ms: int
    expiry_s: int | None
    final_delta_ms: int
    algorithm: HashAlgorithm
    udt: Script | None
    status: InvoiceStatus = InvoiceStatus.OPEN
    held: Tlc | None = None

    def status_at(self, now_ms: int) -> InvoiceStatus:
        """The status shown at a time: an open invoice past its expiry is expired."""
        if self.status is not InvoiceStatus.OPEN or self.expiry_s is None:
            return self.status
        expired = self.timestamp_ms + self.expiry_s * 1_000 < now_ms
        return InvoiceStatus.EXPIRED if expired else InvoiceStatus.OPEN


class Node:
    """State of one node. Behaviour lives in the network's payer, receiver, opening and closing."""

    def __init__(
        self, network: "Network", name: str, signer: Signer, settings: NodeSettings
    ) -> None:
        self.network = network
        self.name = name
        self.signer = signer
        self.settings = settings
        self.pubkey = bytes(signer.pubkey)
        self.peer_id = peer_id(self.pubkey)
        self.lock_script = Script(
            code_hash=SECP256K1_LOCK_CODE_HASH, hash_type=HashType.TYPE, args=lock_args(self.pubkey)
        )
        self.entropy = SeededBytes(network.seed, f"node {name}")
        self.p2p_port = 0
        self.online = True
        self.started_at_ms = network.clock.now_ms
        # Durable: survives a restart.
        self.invoices: dict[bytes, StoredInvoice] = {}
        self.preimages: dict[bytes, bytes] = {}
        self.sessions: dict[bytes, Session] = {}
        self.known_pubkeys: set[bytes] = set()
        # Volatile: a restart forgets it.
        self.history = History()
        self.sinks: list[EventSink] = []
        self._when_online: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"Node({self.name!r}, {self.pubkey.hex()[:8]})"

    @property
    def address(self) -> str:
        """Multiaddress others dial. Nothing listens there: links are inside the process."""
        return f"/ip4/127.0.0.1/tcp/{self.p2p_port}/p2p/{self.peer_id}"

    @property
    def addresses(self) -> list[str]:
        """Addresses as 0.8.0 announces them: plain, WebSocket and plain again."""
        over_ws = f"/ip4/127.0.0.1/tcp/{self.p2p_port}/ws/p2p/{self.peer_id}"
        return [self.address, over_ws, self.address]

    def emit(self, event: Event) -> None:
        """Tell every subscriber of `subscribe_store_changes`."""
        for sink in list(self.sinks):
            sink(event)

    def learn_preimage(self, payment_hash: bytes, preimage: bytes) -> None:
        """Store a preimage and report it, unless it is stored already."""
        if self.preimages.get(payment_hash) == preimage:
            return
        self.preimages[payment_hash] = preimage
        hexes = {"payment_hash": hex0x(payment_hash), "payment_preimage": hex0x(preimage)}
        self.emit({"PutPreimage": dict(hexes)})

    def set_invoice_status(self, invoice: StoredInvoice, status: InvoiceStatus) -> None:
        """Store an invoice's status and report it."""
        invoice.status = status
        fields = {"payment_hash": hex0x(invoice.payment_hash), "invoice_status": status.value}
        self.emit({"PutCkbInvoiceStatus": dict(fields)})

    def when_online(self, operation: Callable[[], None]) -> None:
        """Run now, or after the restart that is under way."""
        if self.online:
            operation()
        else:
            self._when_online.append(operation)

    def stop(self) -> None:
        """Go down as by kill -9: connections and memory are gone, the store stays."""
        self.online = False
        self.network.links.disconnect_all(self)
        self.history = History()
        self.sinks.clear()

    def start(self) -> None:
        """Come up again, reconnect and resume what was waiting."""
        self.online = True
        self.started_at_ms = self.network.clock.now_ms
        self.network.links.reconnect_channels(self)
        waiting, self._when_online = self._when_online, []
        for operation in waiting:
            operation()


def hex0x(data: bytes) -> str:
    """`0x` and lowercase hex."""
    return "0x" + data.hex()
