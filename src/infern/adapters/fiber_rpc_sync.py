"""A Fiber node over fnn's JSON-RPC, for plain calls.

The same calls, answers and errors as `infern.adapters.fiber_rpc`, without a subscription: a
blocking consumer polls by the plan of `infern.core.fiber.pay`.
"""

import itertools
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self, TypeVar

import httpx2

from infern.core.errors import TransportError
from infern.core.fiber.call import RpcCall
from infern.core.fiber.endpoint import FiberEndpoint
from infern.core.fiber.jsonrpc import (
    MAX_ANSWER_BYTES,
    broken,
    http_refusal,
    not_sent,
    oversized,
    read_answer,
    request_bytes,
)

T = TypeVar("T")

RETRY_DELAYS_S: Final = (0.05, 0.2)
"""Pauses before a query is repeated after a broken connection; then the error is raised."""
MAX_CONNECTIONS: Final = 16


class FiberRpcSyncClient:
    """One fnn node. Safe to share between threads.

    Args:
        url: The node's JSON-RPC, e.g. `http://127.0.0.1:8227`.
        token: A biscuit; None when the node needs none.
        default_timeout_ms: Deadline of a call, repetitions included, unless the call brings one.
            A node that drips its answer can stretch it to twice as long.
        max_answer_bytes: Largest answer that is read.
        sleep: Waits so many seconds.

    Raises:
        ConfigError: The address or token cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        default_timeout_ms: int = 10_000,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._endpoint = FiberEndpoint(url=url, token=token)
        self._default_timeout_ms = default_timeout_ms
        self._max_answer_bytes = max_answer_bytes
        self._sleep = sleep
        self._ids = itertools.count(1)
        self._client = httpx2.Client(
            limits=httpx2.Limits(max_connections=MAX_CONNECTIONS),
            follow_redirects=False,
            trust_env=False,
        )

    def __repr__(self) -> str:
        return f"FiberRpcSyncClient({self._endpoint.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connections. Later calls fail unsent."""
        self._client.close()

    def call(self, call: RpcCall[T], *, timeout_ms: int | None = None) -> T:
        """Make one call; a query is repeated after a broken connection, within its deadline.

        Raises:
            InfernError: The node's error, classified (`infern.core.fiber.errors`).
            TransportError: No readable answer in time. Money is unmoved for queries and for
                calls that never reached the node, unknown for others: ask the node again.
        """
        wait_ms = self._default_timeout_ms if timeout_ms is None else timeout_ms
        deadline_s = time.monotonic() + wait_ms / 1000
        delays_s = iter(RETRY_DELAYS_S if call.idempotent else ())
        while True:
            try:
                return self._attempt(call, deadline_s)
            except TransportError:
                delay_s = next(delays_s, None)
                if delay_s is None or time.monotonic() + delay_s >= deadline_s:
                    raise
                self._sleep(delay_s)

    def wait_change(self, payment_hash: bytes, *, timeout_ms: int) -> None:  # noqa: ARG002 - as FiberNode's
        """Sleep: there is no subscription here, so every wait lasts its whole time."""
        self._sleep(timeout_ms / 1000)

    def _attempt(self, call: RpcCall[T], deadline_s: float) -> T:
        if self._client.is_closed:
            raise not_sent(call, "the Fiber client is closed")
        request_id = next(self._ids)
        body = request_bytes(call, request_id)
        try:
            answer = self._post(call, body, deadline_s)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            why = f"no connection to the Fiber node ({type(error).__name__}); is it running?"
            raise not_sent(call, why) from error
        except httpx2.TimeoutException as error:
            raise broken(call, "the Fiber node did not answer in time") from error
        except httpx2.HTTPError as error:
            why = f"the connection to the Fiber node broke ({type(error).__name__})"
            raise broken(call, why) from error
        return read_answer(call, answer, request_id)

    def _post(self, call: RpcCall[T], body: bytes, deadline_s: float) -> bytes:
        with self._client.stream(
            "POST",
            self._endpoint.url,
            content=body,
            headers=dict(self._endpoint.headers()),
            timeout=max(deadline_s - time.monotonic(), 0.001),
        ) as response:
            if response.status_code != 200:
                raise http_refusal(call, response.status_code)
            answer = bytearray()
            for chunk in response.iter_raw():
                answer += chunk
                if len(answer) > self._max_answer_bytes:
                    raise oversized(call, self._max_answer_bytes)
                if time.monotonic() > deadline_s:
                    raise broken(call, "the Fiber node did not answer in time")
            return bytes(answer)
