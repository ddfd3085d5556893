"""What the endpoints beside inference share: errors in their shape, the caller's key, the body."""

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from infern.core.errors import IdentityRejected, InfernError
from infern.core.f402.credential import parse_credential
from infern.core.ledger.records import KeyRecord
from infern.core.wire.render import render_error
from infern.seller.http import ClientGone, read_body, read_head
from infern.seller.parts import SellerParts

MAX_BODY_BYTES: Final = 64 * 1024
CLIENT_GONE: Final = 499
NO_STORE: Final = {"cache-control": "no-store"}
Handler = Callable[[Request], Awaitable[Response]]


class Endpoints:
    """A group of plain endpoints over a seller's parts."""

    def __init__(self, parts: SellerParts) -> None:
        self._parts = parts

    def _routes(self, table: list[tuple[str, str, Handler]]) -> list[Route]:
        return [Route(path, self._handle(run), methods=[verb]) for verb, path, run in table]

    def _handle(self, run: Handler) -> Handler:
        async def handler(request: Request) -> Response:
            try:
                return await run(request)
            except InfernError as error:
                rendered = render_error(error, self._parts.request_id())
                return Response(rendered.body, rendered.status, rendered.headers)
            except ClientGone:
                return Response(status_code=CLIENT_GONE)  # nobody reads it

        return handler

    async def _key(self, request: Request) -> KeyRecord:
        head = read_head(request.scope, request_id="")
        credential = parse_credential(head.headers)
        if credential.key is None:
            raise IdentityRejected("This needs your prepaid key: Authorization: Bearer inf_sk_…")
        return await self._parts.keys.find(credential.key, head.address)

    async def _body(self, request: Request, limit: int = MAX_BODY_BYTES) -> bytes:
        head = read_head(request.scope, request_id="")
        return await read_body(
            head,
            request.receive,
            limit_bytes=limit,
            timeout_ms=self._parts.config.limits.body_timeout_ms,
        )
