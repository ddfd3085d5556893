"""Requests as bytes, answers as values or errors, and what a broken answer leaves open."""

import json

import pytest

from infern.core.errors import (
    ConfigError,
    InfernError,
    LocalProtocolError,
    Money,
    RemoteProtocolError,
    TransportError,
)
from infern.core.fiber import jsonrpc, rpc
from infern.core.fiber.endpoint import FiberEndpoint
from infern.core.fiber.errors import FiberUnauthorized, PaymentNotFound
from infern.core.ids import PaymentHash, Preimage, Pubkey
from infern.core.units import Network

HASH = PaymentHash(b"\x11" * 32)
KEY = Pubkey(b"\x02" + b"\x11" * 32)
QUERY = rpc.GetPayment(payment_hash=HASH)
SEND = rpc.SendPayment(invoice="fibd1x")

AT_STAKE = [
    (QUERY, Money.UNMOVED),
    (rpc.GetNodeInfo(), Money.UNMOVED),
    (rpc.ConnectPeer(pubkey=KEY), Money.UNMOVED),
    (rpc.NewInvoice(amount=1, network=Network.DEV), Money.UNMOVED),
    (rpc.UpdateChannel(channel_id=HASH, enabled=True), Money.UNMOVED),
    (rpc.SendPayment(invoice="fibd1x", dry_run=True), Money.UNMOVED),
    (SEND, Money.UNKNOWN),
    (rpc.SettleInvoice(payment_hash=HASH, preimage=Preimage(bytes(32))), Money.UNKNOWN),
    (rpc.CancelInvoice(payment_hash=HASH), Money.UNKNOWN),
    (rpc.OpenChannel(pubkey=KEY, funding_amount=1), Money.UNKNOWN),
    (rpc.ShutdownChannel(channel_id=HASH), Money.UNKNOWN),
]


@pytest.mark.parametrize(("call", "money"), AT_STAKE)
def test_what_a_call_without_answer_leaves_open(call, money: Money) -> None:
    assert jsonrpc.money_at_stake(call) is money
    assert jsonrpc.broken(call, "why").money is money
    assert jsonrpc.oversized(call, 5).money is money
    assert jsonrpc.not_sent(call, "why").money is Money.UNMOVED


def test_a_request() -> None:
    assert json.loads(jsonrpc.request_bytes(QUERY, 7)) == {
        "jsonrpc": "2.0",
        "id": 7,
        "method": "get_payment",
        "params": [{"payment_hash": "0x" + "11" * 32}],
    }


PAYMENT = {
    "payment_hash": "0x" + "11" * 32, "status": "Created", "created_at": "0x1",
    "last_updated_at": "0x2", "failed_error": None, "fee": "0x0",
}  # fmt: skip


def _body(**members: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 7} | members).encode()


def test_a_result() -> None:
    assert jsonrpc.read_answer(QUERY, _body(result=PAYMENT), 7).fee == 0
    assert jsonrpc.read_answer(QUERY, _body(result=PAYMENT, error=None), 7).fee == 0


UNREADABLE = [
    b"",
    b"<html>502</html>",
    b"\xff\xfe",
    b"[]",
    b"null",
    b"[" * 200_000,
    b'{"jsonrpc":"2.0","id":7,"result":NaN}',
    _body(),
    _body(id=8, result=PAYMENT),
    _body(id="7", result=PAYMENT),
    _body(id=True, result=PAYMENT),
    _body(id=None, result=PAYMENT),
    _body(error="no object"),
    _body(error={"message": "no code"}),
    _body(error={"code": "x", "message": "m"}),
    _body(error={"code": True, "message": "m"}),
    _body(error={"code": -32000}),
]


@pytest.mark.parametrize("body", UNREADABLE, ids=range(len(UNREADABLE)))
def test_an_answer_that_is_none_is_a_broken_transport(body: bytes) -> None:
    with pytest.raises(TransportError) as caught:
        jsonrpc.read_answer(QUERY, body, 7)
    assert (caught.value.code, caught.value.money) == ("fiber_unavailable", Money.UNMOVED)
    with pytest.raises(TransportError) as caught:
        jsonrpc.read_answer(SEND, body, 7)
    assert (caught.value.code, caught.value.money) == ("transport_error", Money.UNKNOWN)


@pytest.mark.parametrize("result", [None, {}, [], "x", PAYMENT | {"fee": 0}])
def test_a_result_of_another_shape_leaves_open_what_the_call_put_at_stake(result) -> None:
    for call, money in ((QUERY, Money.UNMOVED), (SEND, Money.UNKNOWN)):
        with pytest.raises(RemoteProtocolError) as caught:
            jsonrpc.read_answer(call, _body(result=result), 7)
        assert (caught.value.code, caught.value.money) == ("fiber_error", money)


def test_a_number_with_a_fraction_never_becomes_a_float() -> None:
    assert jsonrpc.load_json(b'{"a":1.5,"b":1e3,"c":2}') == {"a": "1.5", "b": "1e3", "c": 2}


def test_an_error() -> None:
    error = {"code": -32000, "message": "Payment session not found: x", "data": {"echo": 1}}
    with pytest.raises(PaymentNotFound):
        jsonrpc.read_answer(QUERY, _body(error=error), 7)


def test_an_error_of_a_request_the_node_could_not_read_has_no_id() -> None:
    with pytest.raises(LocalProtocolError):
        jsonrpc.read_answer(QUERY, _body(id=None, error={"code": -32700, "message": "Parse"}), 7)


@pytest.mark.parametrize("code", [-32000, -32602, -32603])
def test_an_echoed_preimage_gets_into_no_error(code: int) -> None:
    secret = "c0ffee" + "99" * 29
    for data in ({"payment_preimage": f"0x{secret}"}, f"invalid hash {secret} at line 1"):
        body = _body(error={"code": code, "message": "odd", "data": data})
        with pytest.raises(InfernError) as caught:
            jsonrpc.read_answer(SEND, body, 7)
        text = repr(caught.value) + str(caught.value.details) + repr(caught.value.__cause__)
        assert secret not in text


def test_http_statuses() -> None:
    assert isinstance(jsonrpc.http_refusal(SEND, 401), FiberUnauthorized)
    assert jsonrpc.http_refusal(SEND, 403).money is Money.UNMOVED
    assert jsonrpc.http_refusal(SEND, 502).money is Money.UNKNOWN
    assert jsonrpc.http_refusal(QUERY, 502).money is Money.UNMOVED


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:8227", "https://node.example/", "http://[::1]:8227/rpc?x=1", "http://h"],
)
def test_addresses(url: str) -> None:
    assert FiberEndpoint(url=url).headers() == {
        "Content-Type": "application/json",
        "Accept-Encoding": "identity",
    }


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8227", "ftp://h", "ws://h", "http://", "http://user:pass@h", "http://h/a b",
     "http://h\nX: y", "http://h:port", "HTTP://h"],
)  # fmt: skip
def test_wrong_addresses(url: str) -> None:
    with pytest.raises(ConfigError):
        FiberEndpoint(url=url)


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX: y", "é", "x" * 8193])
def test_wrong_tokens(token: str) -> None:
    with pytest.raises(ConfigError) as caught:
        FiberEndpoint(url="http://h", token=token)
    assert token == "" or token not in str(caught.value)


def test_a_token_is_sent_and_never_shown() -> None:
    endpoint = FiberEndpoint(url="http://h", token="EpYBCiwKsecret")
    assert endpoint.headers()["Authorization"] == "Bearer EpYBCiwKsecret"
    assert "EpYBC" not in repr(endpoint)
