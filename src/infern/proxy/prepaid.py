"""The proxy's prepaid key: kept at the seller, topped up before it runs dry, within the budget."""

import logging
from typing import Final

import anyio

from infern.client.openai import AsyncInfern
from infern.core.errors import InfernError
from infern.core.f402.credential import KEY_PREFIX
from infern.proxy.config import Prepaid

logger = logging.getLogger(__name__)

ASK_AGAIN_MS: Final = 5_000
"""After a failed top-up or balance query the next one waits so long."""


class KeyKeeper:
    """One key, shared by all requests; one of them at a time looks after it.

    Args:
        client: Of the seller; takes the key as its own.
        prepaid: When and how much to top up.
    """

    def __init__(self, client: AsyncInfern, prepaid: Prepaid) -> None:
        self._client = client
        self._prepaid = prepaid
        self._lock = anyio.Lock()
        self._balance: int | None = None
        self._not_before_ms = 0

    @property
    def balance(self) -> int | None:
        """Shannon, as last heard; None when not known."""
        return self._balance

    async def key(self) -> str:
        """The key to send, made and topped up when needed; empty when none can be had.

        A request is not held back by a failed top-up: the key may still cover it, and what it
        does not cover is paid by itself or refused by the seller.
        """
        async with self._lock:
            if self._client.wallet.clock.now_ms() >= self._not_before_ms:
                try:
                    await self._look_after()
                except InfernError as error:
                    logger.warning("prepaid key: %s", error)
                    self._not_before_ms = self._client.wallet.clock.now_ms() + ASK_AGAIN_MS
            key = self._client.api_key
        return key if key.startswith(KEY_PREFIX) else ""

    async def _look_after(self) -> None:
        api = self._client.f402
        if not api.use_stored_key():
            await api.create_key()
            self._balance = 0
        if self._balance is None:
            self._balance = (await api.balance()).balance
        if self._balance < self._prepaid.threshold:
            await api.topup(self._prepaid.amount)
            self._balance = (await api.balance()).balance

    def heard(self, balance: str | None) -> None:
        """Take the balance an answer names; an answer without one makes it unknown."""
        known = balance is not None and balance.isascii() and balance.isdigit()
        self._balance = int(balance) if balance is not None and known else None
