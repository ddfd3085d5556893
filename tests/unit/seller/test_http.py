from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from infern.core.errors import PaymentRequired, ProtocolError
from infern.core.wire.strict_json import loads_object
from infern.seller.http import (
    MAX_HEADERS,
    MAX_TARGET_BYTES,
    SINGLE_HEADERS,
    ClientGone,
    HttpRequest,
    Responder,
    read_body,
    read_head,
)
from infern.testing.asgi import HttpClient, scope_of

CHAT = "/v1/chat/completions"


def head(*headers: tuple[str, str], target: str = CHAT) -> HttpRequest:
    return read_head(scope_of("POST", target, headers), request_id="req_1")


def test_a_head_is_read_as_it_stands_on_the_wire() -> None:
    got = head(("Authorization", "Bearer x"), ("X-Odd", "é"), target=CHAT + "?a=%20b")
    assert got.target == CHAT + "?a=%20b"
    assert got.path == CHAT
    assert got.headers == {"authorization": "Bearer x", "x-odd": "é"}
    assert (got.address, got.method, got.request_id) == ("192.0.2.1", "POST", "req_1")
    scope = scope_of("POST", CHAT, address="")
    del scope["raw_path"]
    assert read_head(scope, request_id="").target == CHAT
    assert read_head(scope, request_id="").address == ""


@pytest.mark.parametrize("name", sorted(SINGLE_HEADERS))
def test_a_header_about_money_comes_once(name: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        head((name, "a"), (name.title(), "a"))
    assert caught.value.code == "ambiguous_payment"
    assert head(("accept", "a"), ("Accept", "b")).headers["accept"] == "b"


@pytest.mark.parametrize(
    ("headers", "target"),
    [
        ([("x", "a" * 32_768)], CHAT),
        ([("a" * 32_769, "")], CHAT),
        ([(f"x{n}", "") for n in range(MAX_HEADERS + 1)], CHAT),
        ([], "/" + "a" * MAX_TARGET_BYTES),
        ([], CHAT + "?" + "a" * MAX_TARGET_BYTES),
    ],
)
def test_header_bombs_are_refused(headers: Any, target: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        head(*headers, target=target)
    assert caught.value.code == "headers_too_large"


Body = Callable[..., Awaitable[bytes]]


async def body_of(
    *pieces: bytes, headers: tuple[tuple[str, str], ...] = (), leaves: bool = False
) -> bytes:
    client = HttpClient()
    client.incoming = [
        {"type": "http.request", "body": piece, "more_body": at < len(pieces) - 1 or leaves}
        for at, piece in enumerate(pieces)
    ]
    if leaves:
        client.leave.set()
    return await read_body(head(*headers), client.receive, limit_bytes=10, timeout_ms=50)


async def test_a_body_is_put_together() -> None:
    assert await body_of(b"12345", b"", b"67890") == b"1234567890"
    assert await body_of(b"") == b""
    assert await body_of(b"1", headers=(("content-encoding", "Identity"),)) == b"1"


@pytest.mark.parametrize(
    ("pieces", "headers", "code"),
    [
        ([b"12345678901"], (), "request_too_large"),
        ([b"1"] * 11, (), "request_too_large"),
        ([b"1"], (("content-length", "11"),), "request_too_large"),
        ([b"1"], (("content-length", "9" * 15),), "request_too_large"),
        ([b"1"], (("content-length", "9" * 16),), "invalid_request"),
        ([b"1"], (("content-length", "-1"),), "invalid_request"),
        ([b"1"], (("content-length", "²"),), "invalid_request"),
        ([b"1"], (("content-encoding", "gzip"),), "unsupported_encoding"),
        ([b"1"], (("content-encoding", "identity, gzip"),), "unsupported_encoding"),
    ],
)
async def test_a_body_has_a_size_and_no_encoding(
    pieces: list[bytes], headers: Any, code: str
) -> None:
    with pytest.raises(ProtocolError) as caught:
        await body_of(*pieces, headers=headers)
    assert caught.value.code == code


async def test_a_body_that_never_ends_is_given_up() -> None:
    client = HttpClient()
    client.incoming = [{"type": "http.request", "body": b"1", "more_body": True}]
    with pytest.raises(ProtocolError) as caught:
        await read_body(head(), client.receive, limit_bytes=10, timeout_ms=20)
    assert caught.value.code == "request_timeout"


async def test_a_client_that_leaves_is_no_error() -> None:
    with pytest.raises(ClientGone):
        await body_of(b"1", leaves=True)


def responder(client: HttpClient, stall_timeout_ms: int = 1_000) -> Responder:
    return Responder(client.send, request_id="req_1", stall_timeout_ms=stall_timeout_ms)


async def test_every_answer_has_its_request_id_and_length() -> None:
    client = HttpClient()
    await responder(client).json(201, {"a": "b"}, {"X-More": "1"})
    got = client.answer()
    assert (got.status, got.json(), got.is_complete) == (201, {"a": "b"}, True)
    assert got.headers["x-request-id"] == "req_1"
    assert got.headers["content-length"] == str(len(got.body))
    assert got.headers["x-more"] == "1"


async def test_an_error_has_its_own_headers_and_the_callers() -> None:
    client = HttpClient()
    await responder(client).error(PaymentRequired("pay", retry_after_s=3), {"X-More": "1"})
    got = client.answer()
    assert got.status == 402
    assert (got.headers["retry-after"], got.headers["x-more"]) == ("3", "1")
    assert loads_object(got.body)["error"]["code"] == "payment_required"  # type: ignore[index,call-overload] # JSON


async def test_a_write_that_stalls_or_breaks_means_the_client_is_gone() -> None:
    client = HttpClient(stall_after=0)
    slow = responder(client, stall_timeout_ms=10)
    await slow.start(200, {})
    with pytest.raises(ClientGone):
        await slow.chunk(b"x")

    async def broken(_: Any) -> None:
        raise ConnectionResetError

    with pytest.raises(ClientGone):
        await Responder(broken, request_id="r", stall_timeout_ms=1_000).start(200, {})


async def test_a_deadline_of_somebody_else_is_not_a_gone_client() -> None:
    async def stuck(_: Any) -> None:
        await anyio.sleep_forever()

    with anyio.move_on_after(0.01) as scope:
        await Responder(stuck, request_id="r", stall_timeout_ms=60_000).start(200, {})
    assert scope.cancelled_caught
