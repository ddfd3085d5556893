"""CKB addresses: a lock script as one text with a checksum, for people.

Only the full format is written and accepted. The three formats that RFC 21 retired are recognised
to say which full address means the same lock: guessing silently would let two texts mean one
account.

Source: nervosnetwork/rfcs 0021, "CKB Address Format".
"""

from typing import Final

from infern.core.ckb import bech32
from infern.core.ckb.script import (
    MULTISIG_LOCK_CODE_HASH,
    SECP256K1_LOCK_CODE_HASH,
    HashType,
    Script,
)
from infern.core.errors import LocalProtocolError, RemoteProtocolError
from infern.core.units import Network

MAX_ADDRESS_CHARS: Final = 1023
"""The limit other CKB software sets as well; about 580 bytes of arguments."""

_FULL: Final = 0x00
_RETIRED_SHORT: Final = 0x01
_RETIRED_FULL: Final = {0x02: HashType.DATA, 0x04: HashType.TYPE}
_SHORT_ARGS_BYTES: Final = 20
_ANYONE_CAN_PAY_CODE_HASH: Final = {
    "ckb": bytes.fromhex("d369597ff47f29fbc0d47d2e3775370d1250b85140c670e4718af712983a2354"),
    "ckt": bytes.fromhex("3419a1c09eb2567f6552ee7a8ecffd64155cffe0f1796e6e61ec088d740c1356"),
}


def address_prefix(network: Network) -> str:
    """`ckb` on mainnet, `ckt` everywhere else."""
    return "ckb" if network is Network.MAINNET else "ckt"


def encode_address(lock: Script, network: Network) -> str:
    """Write a lock script as a full address.

    Raises:
        LocalProtocolError: The lock's arguments are too long for an address (`invalid_address`,
            money unmoved).
    """
    address = _full_address(lock, address_prefix(network))
    if len(address) > MAX_ADDRESS_CHARS:
        raise LocalProtocolError(
            f"the lock's {len(lock.args)} bytes of args are too long for an address",
            code="invalid_address",
        )
    return address


def decode_address(text: str, network: Network) -> Script:
    """Read a full address of this network.

    Raises:
        RemoteProtocolError: Not an address, of another network, or in a retired format; the
            message then holds the full address to use (`invalid_address`, money unmoved).
    """
    try:
        decoded = bech32.decode(text, max_chars=MAX_ADDRESS_CHARS)
        payload = bech32.bytes_from_values(decoded.values)
    except bech32.Bech32Error as error:
        raise _refuse(f"not a CKB address: {error}") from None
    expected = address_prefix(network)
    if decoded.hrp != expected:
        raise _refuse(_wrong_prefix(decoded.hrp, expected, network))
    if not payload:
        raise _refuse("the address is empty")
    kind, body = payload[0], payload[1:]
    if kind == _FULL:
        if decoded.variant is not bech32.Variant.BECH32M:
            raise _refuse("a full address has a bech32m checksum, this one has bech32's")
        return _read_full(body)
    retired = _read_retired(kind, body, expected)
    if retired is None:
        raise _refuse(f"a CKB address has no format {kind}")
    raise _refuse(
        f"the address is in a retired format; use {_full_address(retired, expected)}, "
        "which is the same account"
    )


def _refuse(message: str) -> RemoteProtocolError:
    return RemoteProtocolError(message, code="invalid_address")


def _wrong_prefix(found: str, expected: str, network: Network) -> str:
    if found in {"ckb", "ckt"}:
        other = "mainnet" if found == "ckb" else "testnet or a dev chain"
        return f"the address is of {other}; on {network.value} addresses begin with {expected}1"
    return f"a CKB address begins with {expected}1, not {found}1"


def _full_address(lock: Script, prefix: str) -> str:
    payload = bytes([_FULL]) + lock.code_hash + bytes([lock.hash_type.value]) + lock.args
    return bech32.encode(prefix, bech32.values_from_bytes(payload), bech32.Variant.BECH32M)


def _read_full(body: bytes) -> Script:
    if len(body) < 33:
        raise _refuse("the address is too short to hold a code hash and a hash type")
    try:
        hash_type = HashType(body[32])
    except ValueError:
        raise _refuse(f"the address has the unknown hash type {body[32]}") from None
    return Script(code_hash=body[:32], hash_type=hash_type, args=body[33:])


def _read_retired(kind: int, body: bytes, prefix: str) -> Script | None:
    if kind in _RETIRED_FULL and len(body) >= 32:
        return Script(code_hash=body[:32], hash_type=_RETIRED_FULL[kind], args=body[32:])
    if kind == _RETIRED_SHORT and body:
        index, args = body[0], body[1:]
        code_hashes = (
            SECP256K1_LOCK_CODE_HASH,
            MULTISIG_LOCK_CODE_HASH,
            _ANYONE_CAN_PAY_CODE_HASH[prefix],
        )
        # Anyone-can-pay locks may append two bytes of minimum amounts; the others are 20 bytes.
        longest = _SHORT_ARGS_BYTES + (2 if index == 2 else 0)
        if index < len(code_hashes) and _SHORT_ARGS_BYTES <= len(args) <= longest:
            return Script(code_hash=code_hashes[index], hash_type=HashType.TYPE, args=args)
    return None
