"""CKB addresses: full format, retired formats, networks."""

import pytest

from infern.core.ckb import bech32
from infern.core.ckb.address import MAX_ADDRESS_CHARS, decode_address, encode_address
from infern.core.ckb.script import SECP256K1_LOCK_CODE_HASH, HashType, Script
from infern.core.errors import LocalProtocolError, Money, RemoteProtocolError
from infern.core.units import Network

ARGS = bytes.fromhex("b39bbc0b3673c7d36450bc14cfcdad2d559c6c64")

# RFC 21's example, and the same account with other hash types as other CKB software writes it.
FULL = {
    HashType.TYPE: "ckb1qzda0cr08m85hc8jlnfp3zer7xulejywt49kt2rr0vthywaa50xwsqdnnw7qkdnnclfkg59uz"
    "n8umtfd2kwxceqxwquc4",
    HashType.DATA: "ckb1qzda0cr08m85hc8jlnfp3zer7xulejywt49kt2rr0vthywaa50xwsq9nnw7qkdnnclfkg59uz"
    "n8umtfd2kwxceqvguktl",
}
FULL_TESTNET_DATA1 = (
    "ckt1qzda0cr08m85hc8jlnfp3zer7xulejywt49kt2rr0vthywaa50xwsq4nnw7qkdnnclfkg59uzn8umtfd2kwxce"
    "qkkxdwn"
)
RETIRED_FULL_TYPE = (
    "ckb1qjda0cr08m85hc8jlnfp3zer7xulejywt49kt2rr0vthywaa50xw3vumhs9nvu786dj9p0q5elx66t24n3kxg"
    "j53qks"
)


def lock(hash_type: HashType = HashType.TYPE, args: bytes = ARGS) -> Script:
    return Script(code_hash=SECP256K1_LOCK_CODE_HASH, hash_type=hash_type, args=args)


def refusal(text: str, network: Network = Network.MAINNET) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_address(text, network)
    assert caught.value.code == "invalid_address"
    assert caught.value.money is Money.UNMOVED
    return caught.value.message


@pytest.mark.parametrize("hash_type", FULL)
def test_mainnet_examples(hash_type: HashType) -> None:
    assert encode_address(lock(hash_type), Network.MAINNET) == FULL[hash_type]
    assert decode_address(FULL[hash_type], Network.MAINNET) == lock(hash_type)
    assert decode_address(FULL[hash_type].upper(), Network.MAINNET) == lock(hash_type)


@pytest.mark.parametrize("network", [Network.TESTNET, Network.DEV])
def test_testnet_example_serves_every_network_but_mainnet(network: Network) -> None:
    assert encode_address(lock(HashType.DATA1), network) == FULL_TESTNET_DATA1
    assert decode_address(FULL_TESTNET_DATA1, network) == lock(HashType.DATA1)


def test_network_is_checked() -> None:
    assert "addresses begin with ckb1" in refusal(FULL_TESTNET_DATA1, Network.MAINNET)
    message = refusal(FULL[HashType.TYPE], Network.TESTNET)
    assert "of mainnet; on testnet addresses begin with ckt1" in message
    bitcoin = bech32.encode("bc", bytes(40), bech32.Variant.BECH32M)
    assert "begins with ckb1, not bc1" in refusal(bitcoin)


@pytest.mark.parametrize(
    ("retired", "full"),
    [
        ("ckb1qyqt8xaupvm8837nv3gtc9x0ekkj64vud3jqfwyw5v", FULL[HashType.TYPE]),
        (RETIRED_FULL_TYPE, FULL[HashType.TYPE]),
        # The short forms of the multisignature and of the anyone-can-pay lock.
        ("ckb1qyq5lv479ewscx3ms620sv34pgeuz6zagaaqklhtgg", "ckb1qpw9q60tppt7l3j7r09qcp7lxnp3vcanv"),
        ("ckb1qypt6p7e7v4uudxjw9f2dgper5ey77d2hp2qxz4u4u", "ckb1qrfkjktl73ljn77q637judm4xux3y59c2"),
    ],
)
def test_retired_formats_are_refused_with_the_address_to_use(retired: str, full: str) -> None:
    message = refusal(retired)
    assert "retired" in message
    assert full in message


def test_the_address_to_use_is_valid() -> None:
    message = refusal("ckb1qyq5lv479ewscx3ms620sv34pgeuz6zagaaqklhtgg")
    advice = message.split("use ")[1].split(",")[0]
    args = decode_address(advice, Network.MAINNET).args
    assert args.hex() == "4fb2be2e5d0c1a3b8694f832350a33c1685d477a"


def made(payload: bytes, variant: bech32.Variant = bech32.Variant.BECH32M) -> str:
    return bech32.encode("ckb", bech32.values_from_bytes(payload), variant)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "separator"),
        ("ckb1", "invalid length"),
        (FULL[HashType.TYPE][:-1] + "q", "invalid checksum"),
        ("ckb1" + "q" * MAX_ADDRESS_CHARS, "at most"),
        ("ckb1\ud800qqqqqq", "invalid character"),
        (made(b""), "empty"),
        (made(b"\3" + bytes(40)), "no format 3"),
        (made(b"\1\x03" + ARGS, bech32.Variant.BECH32), "no format 1"),
        (made(b"\1\x00" + ARGS[1:], bech32.Variant.BECH32), "no format 1"),
        (made(b"\2" + bytes(31), bech32.Variant.BECH32), "no format 2"),
        (made(b"\0" + bytes(32)), "too short"),
        (made(b"\0" + bytes(32) + b"\3"), "unknown hash type 3"),
        (made(b"\0" + bytes(32) + b"\1", bech32.Variant.BECH32), "bech32m checksum"),
    ],
)
def test_refuses_what_is_no_address(text: str, problem: str) -> None:
    assert problem in refusal(text)


def test_arguments_may_be_empty_or_long_but_not_too_long() -> None:
    for args in (b"", bytes(580)):
        text = encode_address(lock(args=args), Network.DEV)
        assert decode_address(text, Network.DEV) == lock(args=args)
    with pytest.raises(LocalProtocolError, match="too long") as caught:
        encode_address(lock(args=bytes(700)), Network.DEV)
    assert caught.value.code == "invalid_address"
