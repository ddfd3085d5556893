"""Under payment frameworks nobody here wrote: what makes them and their callers' retries harmless.

A framework (x402, pympp) reads a 402, asks a scheme of ours to pay and repeats the request with a
proof. It does not know which bytes it sent, keeps no record, and whatever stands above it repeats
by status. So it runs between two ends of ours:

    SDK ─► ForeignTransport ─► the framework's transport ─► _Wire ─► seller

`ForeignTransport` shows a payment that is on record without asking the framework. `_Wire` sees the
bytes and the offer, so that the scheme can make every check, and shows the proof the framework
made until it is answered. In between, nothing can lead from one payment to another.

The wire itself is httpx2, as everywhere in this package; frameworks speak httpx.
"""

from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

import httpx2

from infern.client.delivery import AsyncWatchedStream, Delivery
from infern.client.drive import AsyncDriver, leave
from infern.client.effects import Ask, Reply, Steps, WireBroken
from infern.client.exchange import Exchange, Outcome
from infern.client.journal import Attempt
from infern.client.messages import (
    OFFER_HEADERS,
    SHOULD_RETRY_HEADER,
    aread_reply,
    broken_by,
    copy_for,
    has_key,
    is_payable,
    mark_final,
    order_of,
)
from infern.client.receipts import ReceiptLog
from infern.client.wallet import Wallet
from infern.core.errors import InfernError, InvariantViolation, PaymentError
from infern.core.wire.render import render_error

try:
    import httpx
except ImportError as error:
    raise ImportError(
        "payment frameworks need httpx: pip install 'infern[x402]' or 'infern[mpp]'"
    ) from error

_OF_THE_BODY: Final = frozenset({"content-length", "content-encoding", "transfer-encoding"})
_KEPT_EXTENSIONS: Final[tuple[str, ...]] = ("http_version", "reason_phrase")


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What a framework says it is about to pay, in the texts of the wire."""

    network: str
    amount: str
    asset: str
    pay_to: str
    invoice: str = field(repr=False)
    token: str = field(repr=False)


class ForeignTransport(httpx.AsyncBaseTransport):
    """One framework, made safe to repeat. For `httpx.AsyncClient(transport=...)`.

    What it raises is httpx's own, or the framework's about things that are not ours. A refusal to
    pay is a 402 answer in the OpenAI error shape, which no client repeats.

    Args:
        middle: Puts the framework's transport around the one it is given.
        wallet: What to pay with; its `node` pays.
        inner: Sends; `httpx2.AsyncHTTPTransport` by default. Closed with this one.
        receipts: Where checks of receipts are kept.
    """

    def __init__(
        self,
        middle: Callable[[httpx.AsyncBaseTransport], httpx.AsyncBaseTransport],
        wallet: Wallet,
        *,
        inner: httpx2.AsyncBaseTransport | None = None,
        receipts: ReceiptLog | None = None,
    ) -> None:
        self.wallet = wallet
        self.receipts = receipts or ReceiptLog()
        self._inner = inner or httpx2.AsyncHTTPTransport()
        self._middle = middle(_Wire(self._inner))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; pay for it, or show what was paid for it already."""
        outgoing = _outgoing(request, await request.aread())
        if not is_payable(outgoing):
            return await self._middle.handle_async_request(request)
        run = ForeignRun(outgoing, self.wallet, self.receipts, self._inner)
        token = _running.set(run)
        try:
            return await self._answer(request, outgoing, run)
        except BaseException:
            run.abandon()
            raise
        finally:
            _running.reset(token)
            leave(run.exchange.held, self.wallet)

    async def _answer(
        self, request: httpx.Request, outgoing: httpx2.Request, run: "ForeignRun"
    ) -> httpx.Response:
        try:
            attempt = await run.drive(run.exchange.resume())
            if attempt is not None:
                return _incoming(await run.prove(outgoing, attempt))
            return await self._middle.handle_async_request(request)
        except httpx.TransportError:
            raise
        except InfernError as error:
            return _rendered(error)
        except Exception as error:  # noqa: BLE001 - whatever the framework raises is put in our terms
            run.abandon()
            return run.explain(error)

    async def aclose(self) -> None:
        """Close the framework's transport and the wire."""
        await self._middle.aclose()


class ForeignRun:
    """One request under way below a framework: its exchange, and what the wire last said."""

    def __init__(
        self,
        request: httpx2.Request,
        wallet: Wallet,
        receipts: ReceiptLog,
        inner: httpx2.AsyncBaseTransport,
    ) -> None:
        self._wallet = wallet
        self._receipts = receipts
        self._inner = inner
        self._offered: Reply | None = None
        self._failure: InfernError | httpx.TransportError | None = None
        self._delivery: Delivery | None = None
        self._is_keyed = has_key(request)
        self.paid: Attempt | None = None
        """The payment made in this run."""
        self.left: BaseException | None = None
        """The cancellation that ended a leg; pympp makes an ordinary error of it."""
        can_pay = wallet.node is not None
        self.exchange = Exchange(order_of(request, request.content, can_pay=can_pay), wallet)

    async def drive(self, steps: Steps[Attempt | None]) -> Attempt | None:
        """Run steps that do not touch the wire."""
        ended = await AsyncDriver(steps, self._wallet, Ask).begin()
        if isinstance(ended, Ask):
            raise InvariantViolation("these steps have no Ask")
        return ended

    async def pay(self, accepted: Accepted) -> Attempt:
        """Check and pay the offer the wire last brought. For schemes.

        Raises:
            InfernError: As `Exchange.run`; what a framework makes of it does not matter.
        """
        try:
            if self.paid is not None:
                raise _refused(
                    "paid already", "this request was paid and its proof was not accepted yet"
                )
            offered = self._offered
            intended = None if offered is None else self.exchange.consider(offered)
            if intended is None or _accepted_of(intended) != accepted:
                raise _refused("accepted", "the framework accepted another offer than was made")
            self.paid = await self.drive(self.exchange.pay(intended))
        except InfernError as error:
            self._failure = error
            raise
        assert self.paid is not None
        return self.paid

    async def send(self, request: httpx2.Request) -> httpx2.Response:
        """One leg of the framework on the wire."""
        if not is_payable(request) and self.paid is not None:
            return await self.prove(request, self.paid)
        asked = copy_for(request, request.content, self.exchange.unpaid())
        response = await self._inner.handle_async_request(asked)
        reply = await aread_reply(response, asked)
        if isinstance(reply, WireBroken):
            raise reply.__cause__ or reply
        self._offered = reply if reply.status == 402 else None
        return response

    async def prove(self, request: httpx2.Request, attempt: Attempt) -> httpx2.Response:
        """Show a proof until it is answered: the framework's own when the request carries one."""
        try:
            return await self._prove(request, attempt)
        except WireBroken as broken:
            cause = broken.__cause__
            if not isinstance(cause, httpx2.TransportError):
                raise
            self._failure = _as_httpx(cause)
            raise self._failure from broken
        except InfernError as error:
            self._failure = error
            raise

    async def _prove(self, request: httpx2.Request, attempt: Attempt) -> httpx2.Response:
        driver = AsyncDriver(self.exchange.prove(attempt), self._wallet, Ask)
        carries_proof = not is_payable(request)
        response: httpx2.Response | None = None
        try:
            todo = await driver.begin()
            while isinstance(todo, Ask):
                if response is not None:
                    await response.aclose()
                dressed = copy_for(request, request.content, Ask() if carries_proof else todo)
                response, reply = await self._ask(dressed)
                todo = await driver.answer(reply)
            answer, response = response, None
        finally:
            if response is not None:
                await response.aclose()
        if answer is None:
            raise InvariantViolation("an exchange that ended without an error has an answer")
        self._finish(answer, todo)
        return answer

    async def _ask(
        self, request: httpx2.Request
    ) -> tuple[httpx2.Response | None, Reply | WireBroken]:
        try:
            response = await self._inner.handle_async_request(request)
        except httpx2.TransportError as error:
            return None, broken_by(error)
        return response, await aread_reply(response, request)

    def _finish(self, response: httpx2.Response, outcome: Outcome) -> None:
        if not outcome.reply.is_success:
            mark_final(response)
            return
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        self._delivery = self.exchange.delivery(
            outcome,
            is_keyed=self._is_keyed,
            agents=self._wallet.known_of(self.exchange.order.origin).agents,
            log=self._receipts,
        )
        response.stream = AsyncWatchedStream(response.stream, self._delivery)

    def abandon(self) -> None:
        """The framework dropped an answer: its payment stays redeemable."""
        if self._delivery is not None:
            self._delivery.broke()

    def explain(self, error: Exception) -> httpx.Response:
        """The answer for whoever called a framework that raised.

        A framework's own exception would be repeated by the SDK above it, so only what concerns a
        request that got no 402 passes.

        Raises:
            BaseException: The wire's failure, the framework's, or the task's cancellation.
        """
        if self.left is not None:
            raise self.left
        if isinstance(self._failure, InfernError):
            return _rendered(self._failure)
        if self._failure is not None:
            raise self._failure from error
        if self.paid is not None or self._offered is None:
            raise error
        if not any(name.lower() in self._offered.headers for name in OFFER_HEADERS):
            return _passed_on(self._offered)
        return _rendered(_refused("framework", f"the payment framework says: {error}"))


_running: ContextVar[ForeignRun | None] = ContextVar("infern_foreign_run", default=None)


def current_run() -> ForeignRun:
    """The request this task is paying for.

    Raises:
        PaymentError: There is none: the framework was not put inside a `ForeignTransport`.
    """
    run = _running.get()
    if run is None:
        raise _refused(
            "request", "the request was not seen; send it through fiber_transport() of this module"
        )
    return run


class _Wire(httpx.AsyncBaseTransport):
    """The framework's inner transport."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        outgoing = _outgoing(request, await request.aread())
        run = _running.get()
        try:
            if run is None:
                return _incoming(await self._inner.handle_async_request(outgoing))
            return _incoming(await run.send(outgoing))
        except httpx2.TransportError as error:
            raise _as_httpx(error) from error
        except Exception:
            raise
        except BaseException as left:
            if run is not None:
                run.left = left
            raise

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Stream(httpx.AsyncByteStream):
    """An httpx2 body for httpx."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                yield chunk
        except httpx2.TransportError as error:
            raise _as_httpx(error) from error

    async def aclose(self) -> None:
        await self._stream.aclose()


def _outgoing(request: httpx.Request, body: bytes) -> httpx2.Request:
    return httpx2.Request(
        request.method,
        str(request.url),
        headers=request.headers.raw,
        content=body,
        extensions=request.extensions,
    )


def _incoming(response: httpx2.Response) -> httpx.Response:
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    kept = {n: response.extensions[n] for n in _KEPT_EXTENSIONS if n in response.extensions}
    return httpx.Response(
        response.status_code,
        headers=response.headers.raw,
        stream=_Stream(response.stream),
        extensions=kept,
    )


def _as_httpx(error: httpx2.TransportError) -> httpx.TransportError:
    """The same failure under httpx's name."""
    kind = getattr(httpx, type(error).__name__, httpx.TransportError)
    found: httpx.TransportError = kind(str(error))
    return found


def _accepted_of(attempt: Attempt) -> Accepted:
    claims = attempt.offer().challenge
    return Accepted(
        network=claims.network.fiber_id,
        amount=str(claims.amount),
        asset=str(claims.asset),
        pay_to=claims.pay_to.hex(),
        invoice=attempt.invoice,
        token=attempt.token,
    )


def _refused(check: str, complaint: str) -> PaymentError:
    return PaymentError(
        f"Refused to pay: {complaint}. Nothing was paid.",
        code="offer_refused",
        details={"check": check},
    )


def _rendered(error: InfernError) -> httpx.Response:
    rendered = render_error(error, "")
    headers = {**rendered.headers, SHOULD_RETRY_HEADER: "false"}
    return httpx.Response(rendered.status, headers=headers, content=rendered.body)


def _passed_on(reply: Reply) -> httpx.Response:
    headers = {n: v for n, v in reply.headers.items() if n not in _OF_THE_BODY}
    return httpx.Response(reply.status, headers=headers, content=reply.body)
