"""httpx2 requests and responses as an exchange needs them.

Bodies that are no success are read up to a limit and put back, so that whoever gets the response
reads it as if nobody had. Local failures are rendered in the OpenAI error shape, because that is
what an unmodified SDK shows its user.
"""

import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Final

import httpx2

from infern.client.effects import Ask, Reply, WireBroken
from infern.client.exchange import Order
from infern.client.receipts import EVENT_STREAM
from infern.client.wallet import MAX_ERROR_BYTES
from infern.core.errors import InfernError, RemoteProtocolError
from infern.core.f402.challenge import Mode
from infern.core.f402.checks import origin_of
from infern.core.f402.credential import (
    ATTEMPT_HEADER,
    KEY_PREFIX,
    LEAVE_HEADER,
    MPP_HEADER,
    PROOF_HEADER,
)
from infern.core.f402.digest import request_digest
from infern.core.f402.mpp import PAYMENT_SCHEME
from infern.core.f402.offer import MODE_HEADER, PAYMENT_REQUIRED_HEADER
from infern.core.f402.refund import REFUND_HEADER
from infern.core.ids import Pubkey, parse_pubkey
from infern.core.wire.render import render_error

MAX_AMOUNT_HEADER: Final = "F402-Max-Amount"
SHOULD_RETRY_HEADER: Final = "x-should-retry"
OFFER_HEADERS: Final = (PAYMENT_REQUIRED_HEADER, "WWW-Authenticate")
"""What clients above us would pay."""
MAX_PLAIN_BYTES: Final = 1024 * 1024
"""Of a plain answer that is read before it is passed on: more than sellers keep to give again."""
SDK_NAME_PREFIX: Final = "stainless-python-retry-"
"""Of the names that the OpenAI SDK makes."""
NOTHING_MORE: Final[Mapping[str, str]] = {}
RETRY_COUNT_HEADER: Final = "x-stainless-retry-count"
_F402_PATH: Final = "/f402/"


class OneHopHeaders(httpx2.Headers):
    """Headers that carry a proof to the address they were made for and nowhere else.

    An httpx2 client that follows redirects copies a request's headers. The copy is made of the
    plain headers and has no proof; only what goes on the wire first has it. The proof shows in
    no `repr` and no header listing either.
    """

    def __init__(self, headers: httpx2.Headers, proof: str) -> None:
        self._proof = proof
        super().__init__(headers)

    @property
    def raw(self) -> list[tuple[bytes, bytes]]:
        """What goes on the wire."""
        return [*super().raw, (PROOF_HEADER.upper().encode(), self._proof.encode("ascii"))]


def is_payable(request: httpx2.Request) -> bool:
    """True for requests that may have a price: POSTs that are not the seller's own F402 API.

    One that carries a proof already is paid by somebody above us.
    """
    headers = request.headers
    scheme, _, _ = headers.get("authorization", "").partition(" ")
    return (
        request.method == "POST"
        and _F402_PATH not in request.url.path
        and PROOF_HEADER not in headers
        and MPP_HEADER not in headers
        and scheme.lower() != PAYMENT_SCHEME.lower()
    )


def has_key(request: httpx2.Request) -> bool:
    """True when the request carries a prepaid key."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and value.strip().startswith(KEY_PREFIX)


def naming(request: httpx2.Request) -> Mapping[str, str]:
    """Headers that name a request with a prepaid key: it is charged once however often it is sent.

    None where the client above counts its retries and names nothing: its next try would have
    another name here, and the seller would take that for another request. A name that is made here
    or by the SDK is good for repeating at once; nobody comes back with it later.
    """
    name = request.headers.get(ATTEMPT_HEADER)
    if not has_key(request) or (name is None and RETRY_COUNT_HEADER in request.headers):
        return {}
    if name is None:
        return {ATTEMPT_HEADER: f"infern-{secrets.token_hex(16)}", LEAVE_HEADER: "stop"}
    is_made = name.startswith(SDK_NAME_PREFIX) and LEAVE_HEADER not in request.headers
    return {LEAVE_HEADER: "stop"} if is_made else {}


def order_of(
    request: httpx2.Request, body: bytes, *, can_pay: bool, more: Mapping[str, str] = NOTHING_MORE
) -> Order:
    """The order for a request whose body has been read; `more` headers will be added to it."""
    origin, target = origin_of(str(request.url)), request.url.raw_path.decode("ascii")
    return Order(
        origin=origin,
        url=origin + target,
        digest=request_digest(request.method, target, body),
        can_pay=can_pay,
        target=target,
        body=body,
        is_keyed=has_key(request),
        is_named=ATTEMPT_HEADER in request.headers or ATTEMPT_HEADER in more,
        refund_to=_refund_asked(request),
        mode=_mode_asked(request),
    )


def _refund_asked(request: httpx2.Request) -> Pubkey | None:
    """The node the caller itself names for a remainder; the seller refuses what is none."""
    try:
        return parse_pubkey(request.headers.get(REFUND_HEADER, ""))
    except RemoteProtocolError:
        return None


def _mode_asked(request: httpx2.Request) -> Mode | None:
    """The mode the caller itself asks for; the seller refuses what is none."""
    try:
        header = request.headers.get(MODE_HEADER)
        return None if header is None else Mode.asked(header)
    except RemoteProtocolError:
        return None


def dress(request: httpx2.Request, todo: Ask) -> None:
    """Set the headers of one ask."""
    # Receipts are for the bytes as the seller made them; and a 402 must not be a zip bomb.
    request.headers["Accept-Encoding"] = "identity"
    if todo.proof is not None:
        request.headers = OneHopHeaders(request.headers, todo.proof)
        return
    if todo.max_amount is not None and MAX_AMOUNT_HEADER not in request.headers:
        request.headers[MAX_AMOUNT_HEADER] = str(todo.max_amount)
    if todo.refund_to is not None and REFUND_HEADER not in request.headers:
        request.headers[REFUND_HEADER] = todo.refund_to.hex()
    if todo.is_hold:
        request.headers[MODE_HEADER] = Mode.HOLD.value


def copy_for(
    request: httpx2.Request, body: bytes, todo: Ask, more: Mapping[str, str] = NOTHING_MORE
) -> httpx2.Request:
    """A fresh request with the same bytes and more headers, for one ask."""
    copy = httpx2.Request(
        request.method,
        request.url,
        headers=httpx2.Headers(request.headers),
        content=body,
        extensions=request.extensions,
    )
    copy.headers.update(more)
    dress(copy, todo)
    return copy


class PutBack(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """A body of which the beginning has been read already."""

    def __init__(
        self, head: bytes, rest: httpx2.SyncByteStream | httpx2.AsyncByteStream | None
    ) -> None:
        self._head = head
        self._rest = rest

    def __iter__(self) -> Iterator[bytes]:
        """The beginning, then the rest."""
        yield self._head
        if isinstance(self._rest, httpx2.SyncByteStream):
            yield from self._rest

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The beginning, then the rest."""
        yield self._head
        if isinstance(self._rest, httpx2.AsyncByteStream):
            async for chunk in self._rest:
                yield chunk

    def close(self) -> None:
        """Close the rest."""
        if isinstance(self._rest, httpx2.SyncByteStream):
            self._rest.close()

    async def aclose(self) -> None:
        """Close the rest."""
        if isinstance(self._rest, httpx2.AsyncByteStream):
            await self._rest.aclose()


def read_reply(
    response: httpx2.Response, request: httpx2.Request, *, wants_whole: bool = False
) -> Reply | WireBroken:
    """The answer to an ask; its body is still to be read by whoever gets the response.

    Args:
        response: The answer.
        request: The ask.
        wants_whole: A plain answer counts only when all of it is here, because the request can be
            repeated for the same answer; one over `MAX_PLAIN_BYTES` and streams count at once.
    """
    reply = _head_of(response, request)
    if _is_passed_on(reply, wants_whole) or not isinstance(response.stream, httpx2.SyncByteStream):
        return reply
    stream = response.stream
    chunks = iter(stream)
    read, limit = bytearray(), _limit_of(reply)
    try:
        for chunk in chunks:
            read += chunk
            if len(read) > limit:
                break
    except httpx2.TransportError as error:
        response.stream = PutBack(bytes(read), None)
        stream.close()
        return broken_by(error)
    response.stream = PutBack(bytes(read), _SyncRest(chunks, stream))
    return _with_body(reply, bytes(read))


async def aread_reply(
    response: httpx2.Response, request: httpx2.Request, *, wants_whole: bool = False
) -> Reply | WireBroken:
    """The asynchronous twin of `read_reply`."""
    reply = _head_of(response, request)
    if _is_passed_on(reply, wants_whole) or not isinstance(response.stream, httpx2.AsyncByteStream):
        return reply
    stream = response.stream
    chunks = aiter(stream)
    read, limit = bytearray(), _limit_of(reply)
    try:
        async for chunk in chunks:
            read += chunk
            if len(read) > limit:
                break
    except httpx2.TransportError as error:
        response.stream = PutBack(bytes(read), None)
        await stream.aclose()
        return broken_by(error)
    response.stream = PutBack(bytes(read), _AsyncRest(chunks, stream))
    return _with_body(reply, bytes(read))


def _is_passed_on(reply: Reply, wants_whole: bool) -> bool:
    """True for an answer of which nothing is read here."""
    media_type = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    return reply.is_success and not (wants_whole and media_type != EVENT_STREAM)


def _limit_of(reply: Reply) -> int:
    return MAX_PLAIN_BYTES if reply.is_success else MAX_ERROR_BYTES


class _SyncRest(httpx2.SyncByteStream):
    def __init__(self, chunks: Iterator[bytes], stream: httpx2.SyncByteStream) -> None:
        self._chunks = chunks
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        yield from self._chunks

    def close(self) -> None:
        self._stream.close()


class _AsyncRest(httpx2.AsyncByteStream):
    def __init__(self, chunks: AsyncIterator[bytes], stream: httpx2.AsyncByteStream) -> None:
        self._chunks = chunks
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._chunks:
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


def _head_of(response: httpx2.Response, request: httpx2.Request) -> Reply:
    try:
        came_from = response.request.url
    except RuntimeError:
        came_from = request.url  # a transport's response, before a client has bound it
    return Reply(
        status=response.status_code,
        headers={name.lower(): value for name, value in response.headers.items()},
        redirected=came_from != request.url,
    )


def _with_body(reply: Reply, body: bytes) -> Reply:
    if reply.is_success:
        return reply
    if len(body) > MAX_ERROR_BYTES:
        if reply.status == 402:
            raise RemoteProtocolError("the 402 body is too large", code="offer_refused")
        body = b""
    if reply.headers.get("content-encoding", "identity").lower() != "identity":
        body = b""  # not asked for, and not unpacked before it is known to be worth it
    return Reply(status=reply.status, headers=reply.headers, body=body, redirected=reply.redirected)


def broken_by(error: httpx2.TransportError) -> WireBroken:
    """A transport failure as the exchange knows it, with httpx2's own error as its cause."""
    broken = WireBroken(
        f"no answer from the seller: {str(error) or type(error).__name__}",
        timed_out=isinstance(error, httpx2.TimeoutException),
    )
    broken.__cause__ = error
    return broken


def outward(broken: WireBroken) -> Exception:
    """What the client above sees of a broken connection: httpx2's own error."""
    return broken.__cause__ if isinstance(broken.__cause__, httpx2.TransportError) else broken


def mark_final(response: httpx2.Response) -> None:
    """An answer to a proof is final for the layers above: this one did all the repeating."""
    response.headers[SHOULD_RETRY_HEADER] = "false"
    for name in OFFER_HEADERS:
        response.headers.pop(name, None)


def replace_by_error(response: httpx2.Response, error: InfernError) -> None:
    """Turn a response into the rendering of a local failure; its connection is closed later."""
    inner = response.stream
    rendered = render_error(error, response.headers.get("x-request-id", ""))
    response.status_code = rendered.status
    for name in ("content-length", "content-encoding", "transfer-encoding"):
        response.headers.pop(name, None)
    response.headers.update(rendered.headers)
    mark_final(response)
    response.stream = _Instead(rendered.body, inner)


class _Instead(PutBack):
    """Other bytes than the connection would give; closing still closes the connection."""

    def __iter__(self) -> Iterator[bytes]:
        yield self._head

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._head
