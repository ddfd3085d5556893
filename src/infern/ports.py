"""Ports: what services need of the outside world, as protocols.

Services depend on these; `infern.adapters` implements them; `infern.cli.compose` wires both.
Every method says how it fails and what that means for the money.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from infern.core.crypto import SignatureVerifier, Signer
from infern.core.fiber.call import RpcCall

__all__ = [
    "Clock",
    "Entropy",
    "FiberNode",
    "ModelServer",
    "SignatureVerifier",
    "Signer",
    "UpstreamReply",
    "UpstreamRequest",
]

T = TypeVar("T")


class Clock(Protocol):
    """Wall-clock time and waiting. Tests use a virtual one."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        ...

    async def sleep_ms(self, duration_ms: int) -> None:
        """Wait; cancellable."""
        ...


class Entropy(Protocol):
    """Randomness fit for secrets. Tests use a seeded one."""

    def random_bytes(self, length: int) -> bytes:
        """`length` unpredictable bytes."""
        ...


class FiberNode(Protocol):
    """One fnn node, or an embedded node that speaks the same JSON-RPC."""

    async def call(self, call: RpcCall[T], *, timeout_ms: int | None = None) -> T:
        """Make one call and return its parsed result.

        Raises:
            InfernError: The node's error text, classified (`infern.core.fiber.errors`).
            TransportError: No answer in time or a broken connection. For a call that moves
                money the outcome is then unknown until the node is asked again.
        """
        ...

    async def wait_change(self, payment_hash: bytes, *, timeout_ms: int) -> None:
        """Return when the node reports a change of this invoice or payment, or after the timeout.

        Only a wake-up to poll sooner: a missed event costs time, never correctness.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamRequest:
    """One request to a model server.

    Args:
        path: Below the server's base URL, e.g. `/chat/completions`.
        body: Bytes to send as they are; empty for GET.
        headers: Extra headers; never a consumer's credentials.
    """

    method: str
    path: str
    body: bytes
    headers: Mapping[str, str]


class UpstreamReply(Protocol):
    """A reply whose headers have arrived and whose body has not been read."""

    @property
    def status(self) -> int:
        """HTTP status."""
        ...

    @property
    def content_type(self) -> str:
        """Media type without parameters, lower case; empty when absent."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, bounded in size and by an idle deadline.

        Raises:
            UpstreamUnavailable: The connection broke, stalled or sent too much.
        """
        ...

    async def aclose(self) -> None:
        """Give up the reply; a half-read stream is cancelled upstream."""
        ...


class ModelServer(Protocol):
    """Anything that answers OpenAI's HTTP API: the thing a provider sells access to."""

    async def send(
        self, request: UpstreamRequest, *, first_byte_timeout_ms: int, idle_timeout_ms: int
    ) -> UpstreamReply:
        """Send a request and return when the reply's headers are here.

        Raises:
            UpstreamUnavailable: No connection, no reply in time, or a reply that breaks HTTP.
                Nothing was delivered.
        """
        ...
