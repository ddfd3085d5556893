"""The seller's ASGI application: the priced endpoints by hand, everything else by Starlette."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from infern.core.errors import InfernError, InvariantViolation, ProtocolError
from infern.core.ids import base32_id
from infern.core.ledger.books import violations
from infern.core.wire.endpoints import Endpoint
from infern.core.wire.render import render_error
from infern.ports import Clock, Entropy, FiberNode, Ledger, SignatureVerifier, Signer
from infern.seller.accounts import Accounts
from infern.seller.answers import Answers
from infern.seller.backend import Backend
from infern.seller.config import SellerConfig
from infern.seller.endings import Endings
from infern.seller.hold_offers import HoldOffers
from infern.seller.http import Receive, Scope, Send
from infern.seller.keys import KeyRing
from infern.seller.leases import LeaseKeeper
from infern.seller.locks import LockKeeper
from infern.seller.minting import Minter
from infern.seller.parts import SellerParts
from infern.seller.payouts import PayoutDesk
from infern.seller.pipeline import Pipeline
from infern.seller.proofs import ProofDesk
from infern.seller.sending import Sender
from infern.seller.solvency import Solvency
from infern.seller.topups import TopupWatch
from infern.seller.unclaimed import UnclaimedWatch
from infern.seller.waiting import keep_running
from infern.seller.withdrawals import Withdrawals

DRAIN_S: Final = 10
"""For held payments to be settled or given back before the process ends."""
HOT: Final[Mapping[str, Endpoint]] = {endpoint.path: endpoint for endpoint in Endpoint}
_log = logging.getLogger(__name__)


def assemble(
    config: SellerConfig,
    *,
    backend: Backend,
    ledger: Ledger,
    fiber: FiberNode,
    agent: Signer,
    verifier: SignatureVerifier,
    clock: Clock,
    entropy: Entropy,
) -> SellerParts:
    """Put a seller's parts together."""
    keys = KeyRing(ledger, clock)
    endings = Endings(clock)
    minter = Minter(config, fiber=fiber, clock=clock, entropy=entropy)
    payouts = PayoutDesk(
        ledger=ledger,
        sender=Sender(fiber=fiber, clock=clock, verifier=verifier),
        clock=clock,
        in_flight=config.limits.payouts_in_flight,
    )
    locks = LockKeeper(
        ledger=ledger,
        fiber=fiber,
        clock=clock,
        preimage_key=config.secrets.preimage_key,
        claim_ms=config.limits.lock_claim_ms,
        on_payout=payouts.wake,
    )
    return SellerParts(
        config=config,
        backend=backend,
        ledger=ledger,
        agent=agent,
        clock=clock,
        entropy=entropy,
        minter=minter,
        proofs=ProofDesk(config, fiber=fiber, clock=clock),
        keys=keys,
        topups=TopupWatch(
            ledger=ledger,
            fiber=fiber,
            clock=clock,
            keys=keys,
            empty_key_s=config.limits.empty_key_s,
        ),
        endings=endings,
        leases=LeaseKeeper(
            ledger=ledger,
            clock=clock,
            owner=base32_id("seller_", entropy.random_bytes(16)),
            waiting=endings.hold_ids,
        ),
        locks=locks,
        hold_offers=HoldOffers(
            config, minter=minter, locks=locks, ledger=ledger, fiber=fiber, clock=clock
        ),
        fiber=fiber,
        verifier=verifier,
        payouts=payouts,
        unclaimed=UnclaimedWatch(ledger=ledger, fiber=fiber, clock=clock, entropy=entropy),
    )


async def open_books(parts: SellerParts) -> int:
    """Release what a dead process left held, and check that no unit is missing.

    Raises:
        InvariantViolation: The ledger does not add up; nothing must be sold on it.
    """
    released = await parts.ledger.recover(now_ms=parts.clock.now_ms())
    if released:
        _log.warning("released %d holds of a process that died; nobody was charged", released)
    wrong = violations(await parts.ledger.books())
    if wrong:
        raise InvariantViolation("; ".join(wrong))
    return released


class SellerApp:
    """The ASGI callable. Starlette's lifespan runs the seller's background tasks.

    Attributes:
        answers: Answers under way; whoever runs no lifespan begins them by hand.
    """

    def __init__(self, parts: SellerParts) -> None:
        self._parts = parts
        self.answers = Answers(parts.config.limits)
        self._pipeline = Pipeline(parts, self.answers)
        self._looking = anyio.Lock()
        self._looks = 0
        self._is_ready = False
        self._rest = Starlette(
            routes=[
                *Accounts(parts).routes(),
                *Withdrawals(parts).routes(),
                *Solvency(parts).routes(),
                Route("/health", self._health),
                Route("/ready", self._ready),
            ],
            exception_handlers={HTTPException: self._not_here, Exception: self._bug},
            lifespan=self._lifespan,
        )
        # A redirect would name the Host that the request claims, and plain http behind TLS.
        self._rest.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        endpoint = HOT.get(scope.get("path", "")) if scope["type"] == "http" else None
        if endpoint is None:
            await self._rest(scope, receive, send)
        else:
            await self._pipeline(endpoint, scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        await open_books(self._parts)
        async with anyio.create_task_group() as group:
            for what, work in self._watchers().items():
                group.start_soon(keep_running, what, work, self._parts.clock)
            async with anyio.create_task_group() as answers:
                self.answers.begin(answers)
                yield
                answers.cancel_scope.cancel()
            with anyio.move_on_after(DRAIN_S):
                await self._parts.locks.drain()
            group.cancel_scope.cancel()
        # Ends that waited for the ledger get a last chance; start-up would release them unbilled.
        await self._parts.endings.finish()

    def _watchers(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """What looks after money for as long as the seller runs, by what it looks after."""
        parts = self._parts
        return {
            "top-ups": parts.topups.run,
            "ends of holds": parts.endings.run,
            "leases": parts.leases.run,
            "held payments": parts.locks.run,
            "payouts": parts.payouts.run,
            "unclaimed payments": parts.unclaimed.run,
        }

    async def _health(self, _: Request) -> Response:
        """The process runs."""
        return JSONResponse({"status": "ok"})

    async def _ready(self, _: Request) -> Response:
        """The model server answers."""
        looks = self._looks
        # One look at a time, shared by all who wait for it: asking costs a stranger nothing, and
        # the model server's connections are for those who pay.
        async with self._looking:
            if self._looks == looks:
                self._is_ready = await self._parts.backend.ready()
                self._looks += 1
        return JSONResponse({"ready": self._is_ready}, 200 if self._is_ready else 503)

    async def _not_here(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        code = "method_not_allowed" if status == 405 else "not_found"
        return self._render(
            ProtocolError(f"there is no such path here, or not for {request.method}", code=code)
        )

    async def _bug(self, request: Request, error: Exception) -> Response:
        _log.exception("unexpected failure at %s", request.url.path, exc_info=error)
        return self._render(InfernError("Something broke here; the operator's log has more."))

    def _render(self, error: InfernError) -> Response:
        rendered = render_error(error, self._parts.request_id())
        return Response(rendered.body, rendered.status, rendered.headers)
