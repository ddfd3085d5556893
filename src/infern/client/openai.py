"""`Infern` and `AsyncInfern`: the OpenAI clients, paying as they go.

    client = Infern(base_url="https://router.example/v1", wallet=wallet)
    client.chat.completions.create(model=..., messages=...)

Without a key every request is paid by itself; with a prepaid key (`api_key="inf_sk_..."`) the key
pays, and a request it cannot cover is paid by itself if the budget allows. Everything else is
the OpenAI SDK's. Local refusals are raised as they are (`BudgetExceeded`, `PaymentFailed`,
`PaymentOutcomeUnknown`, ...), answers of the seller as `openai.APIStatusError`.

Each request has an `Idempotency-Key`. Where a plain answer is lost, the transport asks for it again
with the same proof or the same name, which costs nothing, as often as the wallet's patience allows
and not after a time-out. So the SDK's own retries are off by default.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final, Self

import httpx2
import openai

from infern.client.api import AsyncF402Api, F402Api
from infern.client.receipts import ReceiptLog
from infern.client.transport import AgentBook, AsyncF402Transport, F402Transport
from infern.client.wallet import Wallet
from infern.core.errors import InfernError

NO_KEY: Final = "none"
"""What is sent as the key by who has none; sellers treat it as absent."""
DEFAULT_TIMEOUT: Final = httpx2.Timeout(600.0, connect=10.0)


class Infern(openai.OpenAI):
    """The synchronous client.

    Args:
        base_url: The seller's API, e.g. `https://router.example/v1`.
        wallet: What to pay with; its `sync_node` pays.
        api_key: A prepaid key of this seller; None pays per request. Keys in the environment are
            not used: an OpenAI key is no business of a stranger's server.
        strict_receipts: Raise `RemoteProtocolError` (`receipt_mismatch`) when the receipt of an
            answer is missing or does not fit, instead of logging a warning.
        max_retries: The SDK's retries. With more than 0 a local refusal is tried again, too.
        timeout: As the SDK's; for the answer of one attempt.
        transport: What sends; for tests and special networks.
        http_client: Used as it is, which must then pay by itself; `copy` passes it on.
        options: Further arguments of `openai.OpenAI`.
    """

    def __init__(
        self,
        *,
        base_url: str | httpx2.URL,
        wallet: Wallet,
        api_key: str | None = None,
        strict_receipts: bool = False,
        max_retries: int = 0,
        timeout: float | httpx2.Timeout | None = DEFAULT_TIMEOUT,
        transport: httpx2.BaseTransport | None = None,
        http_client: httpx2.Client | None = None,
        **options: Any,
    ) -> None:
        self.wallet = wallet
        self.receipt_log = ReceiptLog(strict=strict_receipts)
        if http_client is None:
            http_client = httpx2.Client(
                transport=F402Transport(
                    transport or httpx2.HTTPTransport(),
                    wallet,
                    receipts=self.receipt_log,
                    book=AgentBook(_models_url(base_url)),
                ),
                follow_redirects=False,
                timeout=timeout,
            )
        self.http_client = http_client
        super().__init__(
            base_url=base_url,
            api_key=api_key or NO_KEY,
            max_retries=max_retries,
            timeout=timeout,
            http_client=http_client,
            **_private(options),
        )
        _own_ways(self)

    @cached_property
    def f402(self) -> F402Api:
        """Prepaid keys, balances, receipts and redeeming."""
        return F402Api(self)

    def copy(self, **options: Any) -> Self:
        """A client with some options changed, sharing wallet and connections."""
        extra = {"wallet": self.wallet, **options.pop("_extra_kwargs", {})}
        copied = super().copy(**options, _extra_kwargs=extra)
        # The checks are made by the transport, which both share.
        copied.receipt_log = self.receipt_log
        return copied

    with_options = copy

    def request(self, cast_to: Any, options: Any, **how: Any) -> Any:
        """Send one request; as the SDK's, with our own errors not wrapped into its own."""
        try:
            return super().request(cast_to, options, **how)
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, InfernError):
                raise error.__cause__ from None
            raise


class AsyncInfern(openai.AsyncOpenAI):
    """The asynchronous client; arguments as `Infern`, paid by `wallet.node`."""

    def __init__(
        self,
        *,
        base_url: str | httpx2.URL,
        wallet: Wallet,
        api_key: str | None = None,
        strict_receipts: bool = False,
        max_retries: int = 0,
        timeout: float | httpx2.Timeout | None = DEFAULT_TIMEOUT,
        transport: httpx2.AsyncBaseTransport | None = None,
        http_client: httpx2.AsyncClient | None = None,
        **options: Any,
    ) -> None:
        self.wallet = wallet
        self.receipt_log = ReceiptLog(strict=strict_receipts)
        if http_client is None:
            http_client = httpx2.AsyncClient(
                transport=AsyncF402Transport(
                    transport or httpx2.AsyncHTTPTransport(),
                    wallet,
                    receipts=self.receipt_log,
                    book=AgentBook(_models_url(base_url)),
                ),
                follow_redirects=False,
                timeout=timeout,
            )
        self.http_client = http_client
        super().__init__(
            base_url=base_url,
            api_key=api_key or NO_KEY,
            max_retries=max_retries,
            timeout=timeout,
            http_client=http_client,
            **_private(options),
        )
        _own_ways(self)

    @cached_property
    def f402(self) -> AsyncF402Api:
        """Prepaid keys, balances, receipts and redeeming."""
        return AsyncF402Api(self)

    def copy(self, **options: Any) -> Self:
        """A client with some options changed, sharing wallet and connections."""
        extra = {"wallet": self.wallet, **options.pop("_extra_kwargs", {})}
        copied = super().copy(**options, _extra_kwargs=extra)
        # The checks are made by the transport, which both share.
        copied.receipt_log = self.receipt_log
        return copied

    with_options = copy

    async def request(self, cast_to: Any, options: Any, **how: Any) -> Any:
        """Send one request; as the SDK's, with our own errors not wrapped into its own."""
        try:
            return await super().request(cast_to, options, **how)
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, InfernError):
                raise error.__cause__ from None
            raise


def _models_url(base_url: str | httpx2.URL) -> str:
    return str(base_url).rstrip("/") + "/models"


def _private(options: Mapping[str, Any]) -> dict[str, Any]:
    """The caller's options without what `copy` hands around and we do not use."""
    return {name: value for name, value in options.items() if name != "admin_api_key"}


def _own_ways(client: openai.OpenAI | openai.AsyncOpenAI) -> None:
    """Name requests, and drop what the SDK took from the environment of an OpenAI account.

    The SDK can name each request, the same on all its tries; it does not do so for OpenAI.
    """
    # Every Stainless client has it, and nothing public sets it; a test sees whether it works.
    client._idempotency_header = "Idempotency-Key"  # noqa: SLF001
    client.organization = None
    client.project = None
    client.admin_api_key = None
    client.webhook_secret = None
