"""A Fiber invoice as a value.

Source: `CkbInvoice` of fiber-types 0.9.1.
"""

from dataclasses import dataclass
from typing import Final, TypeVar

from infern.core.ckb.script import Script
from infern.core.fiber.invoice_attributes import (
    Attribute,
    Description,
    ExpiryTime,
    FallbackAddress,
    Features,
    FinalExpiryDelta,
    HashAlgorithm,
    PayeePubkey,
    PaymentHashAlgorithm,
    PaymentSecret,
    UdtScript,
)
from infern.core.ids import PaymentHash, Pubkey
from infern.core.units import CKB, MAX_AMOUNT, Asset, Network, checked_amount

SIGNATURE_BYTES: Final = 65
MAX_TIMESTAMP_MS: Final = 2**128 - 1

_MAX_RECOVERY_ID: Final = 3

A = TypeVar("A")


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoice:
    """A request for payment that only the payee's node can make.

    Args:
        network: Where it can be paid; the currency in its text.
        amount: Base units of `asset`; None lets the payer choose.
        timestamp_ms: Unix milliseconds of its creation.
        payment_hash: 32 bytes; whoever knows the preimage can claim the payment.
        attributes: Everything else, in the order of the wire, none twice.
        signature: 65 bytes (r, s, recovery id) over `invoice_digest`, or None. The value alone
            says nothing about its validity: `decode_invoice` and `payee_of` check it.
    """

    network: Network
    amount: int | None
    timestamp_ms: int
    payment_hash: PaymentHash
    attributes: tuple[Attribute, ...] = ()
    signature: bytes | None = None

    def __post_init__(self) -> None:
        """Refuse values that no invoice can carry."""
        if self.amount is not None:
            checked_amount(self.amount, limit=MAX_AMOUNT)
        if isinstance(self.timestamp_ms, bool) or not 0 <= self.timestamp_ms <= MAX_TIMESTAMP_MS:
            raise ValueError("an invoice's timestamp is an unsigned 128-bit integer")
        if len(self.payment_hash) != 32:
            raise ValueError("a payment hash has 32 bytes")
        kinds = [type(attribute) for attribute in self.attributes]
        for at, kind in enumerate(kinds):
            if kind in kinds[:at]:
                raise ValueError(f"Duplicated attribute key: {kind.__name__}")
        if self.signature is not None and (
            len(self.signature) != SIGNATURE_BYTES or self.signature[-1] > _MAX_RECOVERY_ID
        ):
            raise ValueError("Invalid signature")

    @property
    def hrp(self) -> str:
        """The readable beginning of the text: currency and amount, e.g. `fibt184320`."""
        amount = "" if self.amount is None else str(self.amount)
        return self.network.currency.lower() + amount

    @property
    def description(self) -> str | None:
        """What is paid for."""
        found = self._find(Description)
        return found.text if found else None

    @property
    def expiry_s(self) -> int | None:
        """Seconds after the timestamp; None means it never expires."""
        found = self._find(ExpiryTime)
        return found.expiry_s if found else None

    @property
    def final_expiry_delta_ms(self) -> int | None:
        """How long the final TLC must be valid on arrival; None means the payer's default."""
        found = self._find(FinalExpiryDelta)
        return found.delta_ms if found else None

    @property
    def hash_algorithm(self) -> HashAlgorithm:
        """How the payment hash follows from the preimage; ckb hash unless named."""
        found = self._find(PaymentHashAlgorithm)
        return found.algorithm if found else HashAlgorithm.CKB_HASH

    @property
    def payee_pubkey(self) -> Pubkey | None:
        """The payee the invoice declares. Trust it only after a signature check."""
        found = self._find(PayeePubkey)
        return found.pubkey if found else None

    @property
    def udt_script(self) -> Script | None:
        """The type script of the asset; None for CKB."""
        found = self._find(UdtScript)
        return found.script if found else None

    @property
    def fallback_address(self) -> str | None:
        """Where to pay on chain instead; unchecked text."""
        found = self._find(FallbackAddress)
        return found.text if found else None

    @property
    def payment_secret(self) -> bytes | None:
        """32 bytes for multi-part payments."""
        found = self._find(PaymentSecret)
        return found.secret if found else None

    @property
    def features(self) -> frozenset[str]:
        """fnn's RPC names of the features set, e.g. `BASIC_MPP_OPTIONAL`."""
        found = self._find(Features)
        return frozenset(found.names()) if found else frozenset()

    @property
    def asset(self) -> Asset:
        """What the amount counts."""
        script = self.udt_script
        return CKB if script is None else Asset(udt_type_hash=script.hash())

    @property
    def expires_at_ms(self) -> int | None:
        """Unix milliseconds after which it is expired; None means never."""
        expiry_s = self.expiry_s
        return None if expiry_s is None else self.timestamp_ms + 1000 * expiry_s

    def is_expired(self, now_ms: int) -> bool:
        """True when its time is over; at the very millisecond it is still good, as for fnn."""
        expires_at_ms = self.expires_at_ms
        return expires_at_ms is not None and expires_at_ms < now_ms

    def _find(self, kind: type[A]) -> A | None:
        for attribute in self.attributes:
            if isinstance(attribute, kind):
                return attribute
        return None
