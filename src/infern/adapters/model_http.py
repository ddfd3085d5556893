"""`ModelServer` over HTTP with aiohttp: any server that speaks the OpenAI API.

Redirects are not followed, compressed bodies are not asked for and not decoded, and nothing of
the consumer's headers goes upstream.
"""

import asyncio
from typing import Final, Self

import aiohttp

from infern.core.errors import UpstreamUnavailable
from infern.ports import UpstreamReply, UpstreamRequest

CONNECT_TIMEOUT_S: Final = 10
KEEPALIVE_S: Final = 60
MAX_CONNECTIONS: Final = 1_024
READ_BUFFER_BYTES: Final = 64 * 1024
"""Of one answer; twice as much may wait for a consumer that reads slowly."""
PIECE_BYTES: Final = 8 * 1024
"""Most that one read returns; between two full ones everybody else gets a turn."""


class HttpModelServer:
    """A model server behind a base URL such as `http://127.0.0.1:8000/v1`.

    Args:
        base_url: Ends before `/chat/completions`.
        api_key: Sent as a Bearer key when given; never in `repr` or logs.
        response_limit_bytes: Largest body that is read.
    """

    def __init__(
        self, base_url: str, *, api_key: str | None = None, response_limit_bytes: int
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._limit = response_limit_bytes
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"HttpModelServer({self._base_url!r})"

    async def __aenter__(self) -> Self:
        headers = {"accept-encoding": "identity", "user-agent": "infern"}
        if self._api_key:
            headers["authorization"] = f"Bearer {self._api_key}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, keepalive_timeout=KEEPALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=READ_BUFFER_BYTES,
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(self, request: UpstreamRequest) -> UpstreamReply:
        """Send a request and return when the reply's headers are here.

        Raises:
            UpstreamUnavailable: No connection, or a reply that breaks HTTP. Nothing was delivered.
        """
        if self._session is None:
            raise UpstreamUnavailable("the model server's client is not open")
        try:
            reply = await self._session.request(
                request.method,
                self._base_url + request.path,
                data=request.body or None,
                headers=request.headers,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UpstreamUnavailable(
                f"The model server does not answer ({type(error).__name__}). Nothing was charged."
            ) from error
        return _Reply(reply, self._limit)


class _Reply:
    """`UpstreamReply` over an aiohttp response."""

    def __init__(self, reply: aiohttp.ClientResponse, limit: int) -> None:
        self._reply = reply
        self._left = limit
        self._was_full = False
        encoding = reply.headers.get("content-encoding", "identity")
        self._readable = encoding.lower() == "identity"

    @property
    def status(self) -> int:
        """HTTP status."""
        return self._reply.status

    @property
    def content_type(self) -> str:
        """Media type without parameters, lower case; empty when absent."""
        return self._reply.headers.get("content-type", "").split(";")[0].strip().lower()

    async def read(self) -> bytes:
        """The next bytes of the body; empty at its end. Safe to cancel."""
        if self._was_full:
            # A model server that writes faster than its answer can be passed on would keep all
            # other requests waiting. Before the read, as a cancelled one must lose nothing.
            self._was_full = False
            await asyncio.sleep(0)
        if not self._readable:
            raise UpstreamUnavailable("the model server compressed its answer unasked")
        try:
            data = await self._reply.content.read(PIECE_BYTES)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UpstreamUnavailable(
                f"The model server broke off ({type(error).__name__})."
            ) from error
        self._was_full = len(data) == PIECE_BYTES
        self._left -= len(data)
        if self._left < 0:
            raise UpstreamUnavailable("the model server's answer is over the size limit")
        return data

    async def aclose(self) -> None:
        """Give up the reply; an unread body closes the connection and so the work upstream."""
        if self._reply.content.at_eof():
            self._reply.release()
        else:
            self._reply.close()
