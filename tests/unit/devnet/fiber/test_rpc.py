"""The JSON-RPC itself: strictness, batches, releases, tokens."""

import json
from typing import Any

import pytest

from infern.core.fiber.invoice import Invoice, PayeePubkey, encode_invoice
from infern.core.ids import PaymentHash, Pubkey
from infern.core.units import Network
from infern.devnet.fiber import Caller, NodeRpc, NodeSettings, Version

INVALID_DIGIT = "ParseIntError { kind: InvalidDigit }"
INVALID_CHARACTER = "InvalidHexCharacter { c: 'g', index: 1 }"
NEWER = NodeSettings(version=Version.V0_9_1)


@pytest.mark.parametrize(
    ("amount", "complaint"),
    [
        ("1000", "uint hex string does not start with 0x: 1000 at line 1 column 16"),
        ("0x", "uint hex string does not start with 0x: 0x at line 1 column 14"),
        ("0X10", "uint hex string does not start with 0x: 0X10 at line 1 column 16"),
        ("0x00", "uint hex string starts with redundant leading zeros: 0x00 at line 1 column 16"),
        (
            "0xzz",
            f"failed to parse uint hex 0xzz: {INVALID_DIGIT} at line 1 column 16",
        ),
        (1000, "invalid type: integer `1000`, expected a string at line 1 column 14"),
        (1.5, "invalid type: floating point `1.5`, expected a string at line 1 column 13"),
        (True, "invalid type: boolean `true`, expected a string at line 1 column 14"),
        (None, "invalid type: null, expected a string at line 1 column 14"),
        ([], "invalid type: sequence, expected a string at line 1 column 12"),
    ],
)
def test_amounts_are_strict_hex(world: Any, refused: Any, amount: Any, complaint: str) -> None:
    world.node("a")
    with pytest.raises(refused) as caught:
        world.call("a", "new_invoice", amount=amount, currency="Fibd")
    error = caught.value
    assert (error.code, error.message, error.data) == (-32602, "Invalid params", complaint)


@pytest.mark.parametrize(
    ("method", "params", "complaint"),
    [
        ("new_invoice", [], "No more params"),
        ("new_invoice", [{}], "missing field `amount` at line 1 column 2"),
        (
            "new_invoice",
            [{"amount": "0x1"}],
            "missing field `currency` at line 1 column 16",
        ),
        (
            "new_invoice",
            [{"currency": "BTC"}],
            "unknown variant `BTC`, expected one of `Fibb`, `Fibt`, `Fibd` at line 1 column 17",
        ),
        (
            "new_invoice",
            [{"hash_algorithm": "md5"}],
            "unknown variant `md5`, expected `ckb_hash` or `sha256` at line 1 column 23",
        ),
        (
            "get_invoice",
            [{"payment_hash": "0x1"}],
            "failed to decode hex string 0x1: OddLength at line 1 column 21",
        ),
        (
            "get_invoice",
            [{"payment_hash": "0x1g"}],
            f"failed to decode hex string 0x1g: {INVALID_CHARACTER} at line 1 column 22",
        ),
        (
            "get_invoice",
            [{"payment_hash": "0x0102"}],
            "failed to convert vector into type: [1, 2] at line 1 column 24",
        ),
        (
            "list_channels",
            [{"include_closed": "yes"}],
            'invalid type: string "yes", expected a boolean at line 1 column 23',
        ),
    ],
)
def test_parameters_are_read_like_serde_does(
    world: Any, refused: Any, method: str, params: Any, complaint: str
) -> None:
    world.node("a")
    with pytest.raises(refused) as caught:
        world.raw("a", method, params)
    assert (caught.value.code, caught.value.data) == (-32602, complaint)


def test_unknown_members_are_ignored_null_is_absent_and_prefixes_are_optional(world: Any) -> None:
    world.node("a")
    invoice = world.invoice("a", 5, final_cltv="0x18", description=None)
    bare = invoice["hash"].removeprefix("0x")
    assert world.call("a", "get_invoice", payment_hash=bare)["status"] == "Open"
    assert world.raw("a", "get_invoice", {"params": {"payment_hash": bare}})["status"] == "Open"


def test_new_invoice_refuses(world: Any, refused: Any) -> None:
    world.node("a")
    cases = {
        "Both payment_hash and payment_preimage are set": {
            "payment_hash": "11" * 32,
            "payment_preimage": "22" * 32,
        },
        "final_expiry_delta must be greater than or equal to 9600000": {
            "final_expiry_delta": "0x1"
        },
        "final_expiry_delta must be less than or equal to 1209600000": {
            "final_expiry_delta": hex(1_209_600_001)
        },
        "Description with length of 640 is too long, max length is 639": {"description": "x" * 640},
    }
    for text, more in cases.items():
        with pytest.raises(refused) as caught:
            world.invoice("a", 1, **more)
        assert (caught.value.code, caught.value.message) == (-32000, text)
    world.invoice("a", 1, payment_hash="11" * 32)
    with pytest.raises(refused, match=r"^invoice already exists$"):
        world.invoice("a", 1, payment_hash="11" * 32)


def test_an_invoice_parses_back_to_what_was_issued(world: Any) -> None:
    world.node("a")
    invoice = world.invoice("a", 5, description="täst", expiry="0x3c", fallback_address="ckt1")
    assert world.call("a", "parse_invoice", invoice=invoice["text"]) == {"invoice": invoice["view"]}
    names = [next(iter(attr)) for attr in invoice["view"]["data"]["attrs"]]
    assert names == [
        "description",
        "expiry_time",
        "fallback_addr",
        "final_htlc_minimum_expiry_delta",
        "payee_public_key",
    ]
    assert len(invoice["view"]["signature"]) == 208


def test_nine_one_shows_the_preimage_and_echoes_nothing(make_world: Any, refused: Any) -> None:
    world = make_world()
    world.line("a", "b", settings=NEWER)
    preimage = "0x" + "07" * 32
    invoice = world.invoice("b", 1_000, payment_preimage=preimage)
    sent = world.pay("a", invoice)
    assert list(sent)[:2] == ["payment_hash", "payment_preimage"]
    assert sent["payment_preimage"] is None
    world.quiet()
    assert world.payment("a", invoice)["payment_preimage"] == preimage
    assert world.call("a", "list_payments")["payments"][0]["payment_preimage"] == preimage
    with pytest.raises(refused) as caught:
        world.call("a", "get_payment", payment_hash="11" * 32)
    assert caught.value.data is None
    with pytest.raises(refused) as caught:
        world.raw("a", "nosuch", [])
    assert (caught.value.code, caught.value.message) == (-32601, "Method not found")
    with pytest.raises(refused, match="Invalid params"):
        world.call("a", "connect_peer", address="/ip4/1.2.3.4/tcp/1", addr_type="udp")


@pytest.mark.parametrize("version", list(Version))
def test_unsigned_invoices_are_paid_by_0_8_only(
    make_world: Any, refused: Any, version: Version
) -> None:
    world = make_world()
    world.line("a", "b", settings=NodeSettings(version=version))
    payee = Pubkey(world.network.nodes["b"].pubkey)
    bare = Invoice(
        network=Network.DEV,
        amount=5,
        timestamp_ms=world.clock.now_ms,
        payment_hash=PaymentHash(b"\x11" * 32),
        attributes=(PayeePubkey(pubkey=payee),),
    )
    text = encode_invoice(bare)
    if version is Version.V0_9_1:
        with pytest.raises(refused, match="invoice is invalid"):
            world.call("a", "send_payment", invoice=text)
    else:
        assert world.call("a", "send_payment", invoice=text)["status"] == "Created"


def test_batches_notifications_and_nonsense(world: Any) -> None:
    rpc = NodeRpc(world.node("a"))

    def ask(body: str) -> Any:
        text = rpc.answer_text(body.encode(), Caller())
        return json.loads(text) if text else None

    two = ask(
        '[{"jsonrpc":"2.0","id":1,"method":"node_info","params":[]},'
        '{"jsonrpc":"2.0","id":"x","method":"nosuch"},{"jsonrpc":"2.0","method":"node_info"},5]'
    )
    assert [answer["id"] for answer in two] == [1, "x", None]
    assert two[1]["error"] == {"code": -32999, "message": "Unauthorized"}
    assert two[2]["error"]["code"] == -32600
    assert ask("[]")["error"]["code"] == -32600
    assert ask("{nonsense")["error"] == {"code": -32700, "message": "Parse error"}
    assert ask('{"jsonrpc":"2.0","method":"node_info"}') is None
    assert ask('{"jsonrpc":"2.0","id":3,"method":"subscribe_store_changes"}')["error"] == {
        "code": -32603,
        "message": "Internal error",
    }


def test_a_method_fnn_has_and_this_network_does_not(world: Any, refused: Any) -> None:
    world.node("a")
    with pytest.raises(refused) as caught:
        world.raw("a", "receive_btc", [{}])
    assert caught.value.code == -32601


def test_tokens_grant_exactly_their_rights(make_world: Any, refused: Any) -> None:
    world = make_world()
    tokens = {
        "provider": {'read("node")', 'write("invoices")'},
        "reader": {'read("node")', 'read("invoices")'},
    }
    world.node("a", NodeSettings(tokens=tokens))
    new = [{"amount": "0x1", "currency": "Fibd"}]
    assert world.raw("a", "node_info", [], "provider")["version"] == "0.8.0"
    made = world.raw("a", "new_invoice", new, "provider")
    look = [{"payment_hash": made["invoice"]["data"]["payment_hash"]}]
    assert world.raw("a", "get_invoice", look, "reader")["status"] == "Open"
    for method, params, token in (
        ("node_info", [], None),
        ("node_info", [], "stranger"),
        ("get_invoice", look, "provider"),
        ("new_invoice", new, "reader"),
        ("list_channels", [{}], "reader"),
        ("nosuch", [], "reader"),
    ):
        with pytest.raises(refused) as caught:
            world.raw("a", method, params, token)
        error = caught.value
        assert (error.code, error.message, error.data) == (-32999, "Unauthorized", None)


def test_one_seed_gives_one_world(make_world: Any) -> None:
    texts = []
    for _ in range(2):
        world = make_world()
        world.line("a", "b")
        texts.append((world.invoice("b", 5)["text"], world.raw("a", "node_info", [])))
    assert texts[0] == texts[1]
