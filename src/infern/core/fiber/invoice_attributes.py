"""What a Fiber invoice says besides amount, time and payment hash: its attributes.

Each attribute is a small value; together they are the closed union `Attribute`. The codec below
reads and writes fnn's molecule union of them.

Source: `invoice.mol` and `invoice.rs` of fiber-types 0.9.1.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from infern.core.ckb.hashing import ckb_hash
from infern.core.ckb.molecule import BYTE, HASH32, UINT64, Bytes, Codec, Table, TaggedUnion
from infern.core.ckb.script import SCRIPT, Script
from infern.core.ids import Pubkey

MAX_DESCRIPTION_BYTES: Final = 639
"""fnn creates no longer description."""
MAX_INVOICE_DATA_BYTES: Final = 16 * 1024
"""fnn reads no larger invoice, counted before compression."""
UNKNOWN_FEATURE: Final = "Unknown Feature"
"""fnn's name of every feature bit it does not know."""
BASIC_MPP_OPTIONAL: Final = "BASIC_MPP_OPTIONAL"
TRAMPOLINE_ROUTING_OPTIONAL: Final = "TRAMPOLINE_ROUTING_OPTIONAL"

_NAME_OF_BIT: Final = (
    "GOSSIP_QUERIES_REQUIRED",
    "GOSSIP_QUERIES_OPTIONAL",
    "BASIC_MPP_REQUIRED",
    BASIC_MPP_OPTIONAL,
    "TRAMPOLINE_ROUTING_REQUIRED",
    TRAMPOLINE_ROUTING_OPTIONAL,
)
FEATURE_NAMES: Final = frozenset(_NAME_OF_BIT)
"""The features that have a name here, as fnn's RPC writes them."""
_MAX_U64: Final = 2**64 - 1


class HashAlgorithm(Enum):
    """How the payment hash follows from the preimage; the value is the attribute's byte."""

    CKB_HASH = 0
    """What an invoice means that names no algorithm."""
    SHA256 = 1

    def digest(self, preimage: bytes) -> bytes:
        """The payment hash of a preimage, 32 bytes."""
        if self is HashAlgorithm.SHA256:
            return hashlib.sha256(preimage).digest()
        return ckb_hash(preimage)

    @property
    def rpc_name(self) -> str:
        """fnn's RPC name: `ckb_hash` or `sha256`."""
        return self.name.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiryTime:
    """How long after its timestamp the invoice may be paid, in seconds."""

    expiry_s: int

    def __post_init__(self) -> None:
        """Refuse what is no u64."""
        _check_u64(self.expiry_s, "an expiry")


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What is paid for, up to 639 bytes of UTF-8. F402 binds the request here."""

    text: str

    def __post_init__(self) -> None:
        """Refuse a description no fnn would create."""
        length = len(_utf8(self.text, "description"))
        if length > MAX_DESCRIPTION_BYTES:
            raise ValueError(
                f"Description with length of {length} is too long, "
                f"max length is {MAX_DESCRIPTION_BYTES}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalTlcTimeout:
    """The final TLC's timeout in milliseconds; deprecated, read only from old invoices."""

    timeout_ms: int

    def __post_init__(self) -> None:
        """Refuse what is no u64."""
        _check_u64(self.timeout_ms, "a final TLC timeout")


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalExpiryDelta:
    """How long the final TLC must at least be valid when it arrives, in milliseconds."""

    delta_ms: int

    def __post_init__(self) -> None:
        """Refuse what is no u64."""
        _check_u64(self.delta_ms, "a final expiry delta")


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackAddress:
    """Where to pay on chain instead; any text, nobody checks it."""

    text: str

    def __post_init__(self) -> None:
        """Refuse a text that has no UTF-8 form."""
        _utf8(self.text, "fallback_addr")


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What the payment may or must use: a bit vector, bit 0 first in the first byte.

    Unknown bits and trailing zero bytes are kept, since they are signed.
    """

    bits: bytes

    @classmethod
    def of(cls, names: Iterable[str]) -> "Features":
        """The shortest vector with these features, as fnn creates it (at least one byte).

        Raises:
            ValueError: A name that has no bit here.
        """
        vector = 0
        for name in names:
            if name not in FEATURE_NAMES:
                raise ValueError(f"{name!r} is not a feature of an invoice")
            vector |= 1 << _NAME_OF_BIT.index(name)
        return cls(bits=bytes([vector]))

    def names(self) -> tuple[str, ...]:
        """fnn's RPC names of the set bits in bit order, unknown ones included."""
        vector = int.from_bytes(self.bits, "little")
        known = [name for bit, name in enumerate(_NAME_OF_BIT) if vector >> bit & 1]
        unknown = (vector >> len(_NAME_OF_BIT)).bit_count()
        return (*known, *[UNKNOWN_FEATURE] * unknown)


@dataclass(frozen=True, slots=True, kw_only=True)
class UdtScript:
    """The type script of the asset to pay in; absent for CKB."""

    script: Script


@dataclass(frozen=True, slots=True, kw_only=True)
class PayeePubkey:
    """The node that must have signed the invoice; 33 bytes."""

    pubkey: Pubkey

    def __post_init__(self) -> None:
        """Refuse what is no compressed public key."""
        if len(self.pubkey) != 33 or self.pubkey[0] not in (2, 3):
            raise ValueError("Invalid payee public key")


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentHashAlgorithm:
    """How the payment hash follows from the preimage."""

    algorithm: HashAlgorithm


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentSecret:
    """32 bytes that the parts of a multi-part payment carry, so that only the payer's count."""

    secret: bytes

    def __post_init__(self) -> None:
        """Refuse what is not 32 bytes."""
        if len(self.secret) != 32:
            raise ValueError("a payment secret has 32 bytes")


Attribute = (
    ExpiryTime
    | Description
    | FinalTlcTimeout
    | FinalExpiryDelta
    | FallbackAddress
    | Features
    | UdtScript
    | PayeePubkey
    | PaymentHashAlgorithm
    | PaymentSecret
)


def _check_u64(value: int, what: str) -> None:
    if isinstance(value, bool) or not 0 <= value <= _MAX_U64:
        raise ValueError(f"{what} is an unsigned 64-bit integer")


def _utf8(text: str, what: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"Invalid UTF-8 in invoice {what} attribute") from None


def _read_utf8(raw: bytes, what: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"Invalid UTF-8 in invoice {what} attribute") from None


def _read_algorithm(value: int) -> PaymentHashAlgorithm:
    # fnn takes an unknown algorithm for the default one. We must not: the payer would lock money
    # to a hash that may open by another function.
    try:
        return PaymentHashAlgorithm(algorithm=HashAlgorithm(value))
    except ValueError:
        raise ValueError(f"Unknown Hash Algorithm: {value}") from None


_BYTES: Final = Bytes("Bytes", max_bytes=MAX_INVOICE_DATA_BYTES)
_BAD: Final = "invalid_invoice"


def _bytes_table(name: str) -> Codec[bytes]:
    return Table.of(name).field(_BYTES).mapped(lambda row: row[0], lambda value: (value,))


ATTRIBUTE: Final[Codec[Attribute]] = (
    TaggedUnion.of("InvoiceAttr")
    .item(0, ExpiryTime, UINT64.mapped(lambda n: ExpiryTime(expiry_s=n), lambda a: a.expiry_s))
    .item(
        1,
        Description,
        _bytes_table("Description").mapped(
            lambda raw: Description(text=_read_utf8(raw, "description")),
            lambda a: a.text.encode("utf-8"),
            code=_BAD,
        ),
    )
    .item(
        2,
        FinalTlcTimeout,
        UINT64.mapped(lambda n: FinalTlcTimeout(timeout_ms=n), lambda a: a.timeout_ms),
    )
    .item(
        3,
        FinalExpiryDelta,
        UINT64.mapped(lambda n: FinalExpiryDelta(delta_ms=n), lambda a: a.delta_ms),
    )
    .item(
        4,
        FallbackAddress,
        _bytes_table("FallbackAddr").mapped(
            lambda raw: FallbackAddress(text=_read_utf8(raw, "fallback_addr")),
            lambda a: a.text.encode("utf-8"),
            code=_BAD,
        ),
    )
    .item(
        5,
        Features,
        _bytes_table("Feature").mapped(lambda raw: Features(bits=raw), lambda a: a.bits),
    )
    .item(
        6,
        UdtScript,
        Table.of("UdtScript")
        .field(SCRIPT)
        .mapped(lambda row: UdtScript(script=row[0]), lambda a: (a.script,)),
    )
    .item(
        7,
        PayeePubkey,
        _bytes_table("PayeePublicKey").mapped(
            lambda raw: PayeePubkey(pubkey=Pubkey(raw)), lambda a: a.pubkey, code=_BAD
        ),
    )
    .item(
        8,
        PaymentHashAlgorithm,
        BYTE.mapped(_read_algorithm, lambda a: a.algorithm.value, code=_BAD),
    )
    .item(
        9,
        PaymentSecret,
        HASH32.mapped(lambda raw: PaymentSecret(secret=raw), lambda a: a.secret),
    )
)
