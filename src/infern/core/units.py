"""Integer money: assets, amounts, named rounding, and how people read and write them.

An amount is always a Python int of the asset's base unit (shannon for CKB). There is no float
in this module and there must be none near money anywhere else.
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from infern.core.errors import RemoteProtocolError

SHANNON_PER_CKB: Final = 100_000_000
CKB_DECIMALS: Final = 8
MAX_AMOUNT: Final = 2**128 - 1
"""The widest amount any Infern message can carry (u128)."""
MAX_LEDGER_AMOUNT: Final = 2**63 - 1
"""The widest amount a ledger column holds; above all CKB issued so far (about 2^62)."""
MAX_AMOUNT_DIGITS: Final = 39
_UDT = re.compile(r"udt:0x(?!0{64})[0-9a-f]{64}")
_TYPED_NUMBER = re.compile(r"([0-9]{1,39})(?:\.([0-9]{1,39}))?")


class Network(Enum):
    """A CKB network with the names it has on each wire."""

    MAINNET = "mainnet"
    TESTNET = "testnet"
    DEV = "dev"

    @property
    def fiber_id(self) -> str:
        """The CAIP-2 style name used by x402, e.g. `fiber:testnet`."""
        return f"fiber:{self.value}"

    @property
    def currency(self) -> str:
        """fnn's RPC name of the invoice currency: `Fibb`, `Fibt` or `Fibd`."""
        return {"mainnet": "Fibb", "testnet": "Fibt", "dev": "Fibd"}[self.value]

    @classmethod
    def from_fiber_id(cls, text: str) -> "Network":
        """Parse `fiber:mainnet|testnet|dev`.

        Raises:
            RemoteProtocolError: Anything else (`unsupported_network`, money unmoved).
        """
        for network in cls:
            if network.fiber_id == text:
                return network
        raise RemoteProtocolError(
            f"network {text[:40]!r} is not one of fiber:mainnet, fiber:testnet, fiber:dev",
            code="unsupported_network",
        )


@dataclass(frozen=True, slots=True)
class Asset:
    """What an amount counts: CKB, or a UDT named by the hash of its type script.

    Args:
        udt_type_hash: 32 bytes, the ckb hash of the UDT's type script; None means CKB. Never all
            zero, which is how fixed layouts write CKB.
    """

    udt_type_hash: bytes | None = None

    def __post_init__(self) -> None:
        """Refuse a type hash that is not 32 bytes, or that reads as CKB."""
        type_hash = self.udt_type_hash
        if type_hash is not None and (len(type_hash) != 32 or not any(type_hash)):
            raise ValueError("a UDT type script hash has 32 bytes, not all zero")

    @property
    def is_ckb(self) -> bool:
        """True for CKB itself."""
        return self.udt_type_hash is None

    @property
    def id32(self) -> bytes:
        """32 bytes for fixed layouts: the type script hash, or zeros for CKB."""
        return self.udt_type_hash or bytes(32)

    def __str__(self) -> str:
        return "ckb" if self.udt_type_hash is None else f"udt:0x{self.udt_type_hash.hex()}"

    @classmethod
    def parse(cls, text: str) -> "Asset":
        """Read `ckb` or `udt:0x<64 lowercase hex>`, not all zero.

        Raises:
            RemoteProtocolError: Anything else (`asset_mismatch`, money unmoved).
        """
        if text == "ckb":
            return CKB
        if _UDT.fullmatch(text):
            return cls(bytes.fromhex(text[-64:]))
        raise RemoteProtocolError(f"asset {text[:80]!r} is not known", code="asset_mismatch")


CKB: Final = Asset()


def checked_amount(value: int, *, limit: int = MAX_AMOUNT) -> int:
    """Return `value` when it is an integer in 0..limit of base units.

    Raises:
        ValueError: A bool, a non-integer, a negative or an oversized value.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("an amount is an integer of base units")  # noqa: TRY004 - one error for callers
    if not 0 <= value <= limit:
        raise ValueError(f"an amount lies between 0 and {limit} base units")
    return value


def parse_amount(text: str, *, limit: int = MAX_AMOUNT) -> int:
    """Read a decimal integer of base units as it stands on the wire.

    Strict: ASCII digits only, no sign, no exponent, no leading zero, at most u128.

    Raises:
        RemoteProtocolError: Anything else (`invalid_request`, money unmoved).
    """
    plain = text.isascii() and text.isdigit() and len(text) <= MAX_AMOUNT_DIGITS
    if not plain or (len(text) > 1 and text[0] == "0") or int(text) > limit:
        raise RemoteProtocolError(f"{text[:48]!r} is not an amount in base units")
    return int(text)


def div_floor(numerator: int, denominator: int) -> int:
    """Divide and round towards the payer of the result (down)."""
    return numerator // denominator


def div_ceil(numerator: int, denominator: int) -> int:
    """Divide and round up; the one rounding a price ceiling uses."""
    return -(-numerator // denominator)


def parse_ckb(text: str) -> int:
    """Read what a person types: `12.5`, `12.5 CKB` or `1250 shannon`; returns shannon.

    Plain ASCII digits with at most one point: what looks odd may be a slip, and this is money.

    Raises:
        ValueError: Not such a number, or finer than one shannon.
    """
    words = text.strip().lower().split()
    if not words or len(words) > 2:
        raise ValueError(f"{text!r} is not an amount; write it like '12.5 CKB' or '1250 shannon'")
    unit = words[1] if len(words) == 2 else "ckb"
    if unit not in {"ckb", "shannon", "shannons"}:
        raise ValueError(f"{unit!r} is not a unit; use CKB or shannon")
    number = _TYPED_NUMBER.fullmatch(words[0])
    if number is None:
        raise ValueError(f"{words[0]!r} is not a number; write it like '12.5', in plain digits")
    whole, fraction = number[1], (number[2] or "").rstrip("0")
    decimals = CKB_DECIMALS if unit == "ckb" else 0
    if len(fraction) > decimals:
        raise ValueError("the smallest unit is one shannon, 0.00000001 CKB")
    return checked_amount(int(whole + fraction.ljust(decimals, "0")))


def format_amount(amount: int, asset: Asset = CKB) -> str:
    """Write an amount for people: exact, no rounding, e.g. `0.0018432 CKB`."""
    if not asset.is_ckb:
        return f"{amount} base units of {asset}"
    whole, rest = divmod(abs(amount), SHANNON_PER_CKB)
    sign = "-" if amount < 0 else ""
    fraction = f"{rest:0{CKB_DECIMALS}d}".rstrip("0")
    return f"{sign}{whole}.{fraction} CKB" if fraction else f"{sign}{whole} CKB"
