"""The end of an exchange: the answer is read, the journal is told, the receipt is checked.

A payment counts as answered only when the last byte is here. An answer that breaks off leaves
it redeemable: the same request presents the same proof again and costs nothing more.
"""

import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock

import httpx2

from infern.client.journal import Attempt
from infern.client.paying import Held, moved
from infern.client.receipts import (
    COST_HEADER,
    EVENT_STREAM,
    RECEIPT_HEADER,
    RESERVED_HEADER,
    Agreed,
    AnswerReader,
    ReceiptLog,
    check_receipt,
)
from infern.client.wallet import Wallet
from infern.core.errors import InfernError, RemoteProtocolError
from infern.core.f402.client import ClientEvent
from infern.core.ids import Pubkey, RequestDigest, parse_pubkey
from infern.core.units import MAX_LEDGER_AMOUNT

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What is known about an answer when its headers arrive.

    Args:
        digest: Of the request.
        is_charged: The request was paid, or carried a prepaid key: a receipt is owed.
        agents: Agent keys known beforehand; the offer's own key is used when there are none.
    """

    digest: RequestDigest
    is_charged: bool
    agents: frozenset[Pubkey]


class Delivery:
    """Follows one successful answer to its end. Every ending is taken once, the first one."""

    def __init__(
        self,
        *,
        wallet: Wallet,
        held: Held,
        expected: Expected,
        headers: Mapping[str, str],
        log: ReceiptLog,
    ) -> None:
        self._wallet = wallet
        self._attempt, held.attempt = held.attempt, None
        self._expected = expected
        self._headers = headers
        self._log = log
        self._lock = Lock()
        self._over = False
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        self._is_stream = media_type == EVENT_STREAM
        self._reader = AnswerReader(is_stream=self._is_stream)

    def update(self, data: bytes) -> None:
        """Take the next bytes of the body."""
        self._reader.update(data)

    def ended(self) -> None:
        """The body came to its end.

        Raises:
            RemoteProtocolError: With strict receipts, `receipt_mismatch`.
        """
        if self._first():
            self._finish(whole=self._is_whole)

    async def aended(self) -> None:
        """`ended` without keeping the event loop waiting for the disk."""
        await self._wallet.offload(self.ended)

    def left(self) -> None:
        """The consumer closed the answer; a stream that said it was done has ended."""
        if not self._first():
            return
        if self._is_stream and self._is_whole:
            self._finish(whole=True)
        elif self._reader.saw_error:
            # SDKs leave at an error event; what it interrupted may not have been charged at all.
            self._settle(ClientEvent.SELLER_FAILED)
        else:
            # Its choice: what was delivered so far is charged, and a repetition is a new request.
            self._settle(ClientEvent.ANSWERED)

    def broke(self) -> None:
        """The connection failed or the reader was cancelled before the end.

        A stream that said it was done had ended all the same.
        """
        if not self._first():
            return
        with suppress(RemoteProtocolError):  # what broke is what the reader must hear of
            self._finish(whole=self._is_stream and self._is_whole)

    def _first(self) -> bool:
        with self._lock:
            first, self._over = not self._over, True
        return first

    @property
    def _is_whole(self) -> bool:
        reader = self._reader
        if not self._is_stream or reader.receipt_text is not None:
            return True
        return reader.saw_done and not reader.saw_error

    def _finish(self, *, whole: bool) -> None:
        self._settle(ClientEvent.ANSWERED if whole else ClientEvent.SELLER_FAILED)
        if whole:
            self._check()

    def _settle(self, event: ClientEvent) -> None:
        attempt = self._attempt
        if attempt is None:
            return
        try:
            after = moved(attempt, event, self._wallet.clock.now_ms())
            self._wallet.journal.record(attempt, after)
        except InfernError as error:
            # The answer is here; the journal will offer the proof again, which charges nothing.
            logger.warning("payment %s: %s", attempt.payment_hash.hex(), error)
        finally:
            self._wallet.journal.release(attempt.payment_hash)

    def _check(self) -> None:
        text = self._reader.receipt_text if self._is_stream else self._headers.get(RECEIPT_HEADER)
        if text is None and not self._expected.is_charged:
            return
        agreed = Agreed(
            digest=self._expected.digest,
            agents=self._expected.agents or _offered_agent(self._attempt),
            payment_hash=self._attempt.payment_hash if self._attempt else None,
            ceiling=self._attempt.amount if self._attempt else self._amount(RESERVED_HEADER),
            cost=self._amount(COST_HEADER),
            request_id=self._headers.get("x-request-id", "")[:128],
        )
        self._log.note(check_receipt(text, agreed, self._reader.root(), self._wallet.verifier))

    def _amount(self, header: str) -> int | None:
        text = self._headers.get(header, "")
        if not (text.isascii() and text.isdigit() and len(text) <= 19):
            return None
        return min(int(text), MAX_LEDGER_AMOUNT)


def _offered_agent(attempt: Attempt | None) -> frozenset[Pubkey]:
    if attempt is None or not attempt.provider:
        return frozenset()
    try:
        return frozenset({parse_pubkey(attempt.provider)})
    except RemoteProtocolError:
        return frozenset()


class WatchedStream(httpx2.SyncByteStream):
    """A body whose bytes pass unchanged and unbuffered while a delivery follows them."""

    def __init__(self, inner: httpx2.SyncByteStream, delivery: Delivery) -> None:
        self._inner = inner
        self._delivery = delivery

    def __iter__(self) -> Iterator[bytes]:
        """The bytes as they come."""
        try:
            for chunk in self._inner:
                self._delivery.update(chunk)
                yield chunk
        except GeneratorExit:
            self._delivery.left()
            raise
        except BaseException:
            self._delivery.broke()
            raise
        self._delivery.ended()

    def close(self) -> None:
        """Close the connection's side; an answer not read to its end is given up."""
        try:
            self._inner.close()
        finally:
            self._delivery.left()


class AsyncWatchedStream(httpx2.AsyncByteStream):
    """The asynchronous twin of `WatchedStream`."""

    def __init__(self, inner: httpx2.AsyncByteStream, delivery: Delivery) -> None:
        self._inner = inner
        self._delivery = delivery

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The bytes as they come."""
        try:
            async for chunk in self._inner:
                self._delivery.update(chunk)
                yield chunk
        except GeneratorExit:
            self._delivery.left()
            raise
        except BaseException:
            # Also when the task is cancelled, where nothing may be awaited any more.
            self._delivery.broke()
            raise
        await self._delivery.aended()

    async def aclose(self) -> None:
        """Close the connection's side; an answer not read to its end is given up."""
        try:
            await self._inner.aclose()
        finally:
            self._delivery.left()
