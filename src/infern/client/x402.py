"""A Fiber scheme for the `x402` package, so that its clients can pay F402 sellers.

    client = x402Client()
    transport = fiber_transport(client, open_wallet(), max_shannon=1_000_000)
    openai.AsyncOpenAI(base_url=..., api_key="none",
                       http_client=httpx.AsyncClient(transport=transport))

x402 reads the 402, picks an offer within its spend controls, asks the scheme to pay and sends the
request again with its own proof. Before it pays, the scheme makes every check a client of ours
makes, and writes the journal; `infern.client.foreign` keeps retries from paying twice.

Only `x402Client` is served. Under synchronous clients use `infern.F402Auth`.

Source: x402 2.25, whose schemes are called synchronously: paying happens in the asynchronous hook
before that call.
"""

from typing import Any, Final

import httpx2

from infern.client.foreign import Accepted, ForeignTransport, current_run
from infern.client.journal import Attempt
from infern.client.receipts import ReceiptLog
from infern.client.wallet import Wallet
from infern.core.errors import ConfigError, InvariantViolation
from infern.core.f402.offer import SCHEME
from infern.core.units import MAX_LEDGER_AMOUNT

try:
    from x402 import x402Client
    from x402.client_base import SpendControlAsset
    from x402.http.clients import x402_httpx_transport
    from x402.schemas import PaymentCreationContext, PaymentRequirements
except ImportError as error:
    raise ImportError(
        "infern.client.x402 needs the x402 package: pip install 'infern[x402]'"
    ) from error

NETWORKS: Final = "fiber:*"
ASSET: Final = "ckb"


class FiberScheme:
    """x402's `exact` scheme on `fiber:*`: pays the invoice of an offer from a Fiber node.

    It has no state of its own: what is paid, by which wallet, for which request, is the
    `ForeignTransport`'s around it. Without one it refuses.
    """

    scheme: Final = SCHEME

    @property
    def scheme_hooks(self) -> dict[str, Any]:
        """What x402 calls and when."""
        return {"before_payment_creation": self.before_payment_creation}

    async def before_payment_creation(self, context: PaymentCreationContext) -> None:
        """Check the selected offer and pay it.

        Raises:
            InfernError: As `ForeignRun.pay`; `money` says what happened to it.
        """
        await current_run().pay(_accepted(context.selected_requirements))

    def create_payment_payload(self, requirements: PaymentRequirements) -> dict[str, Any]:
        """The proof of the payment just made for these requirements."""
        attempt = current_run().paid
        if attempt is None or attempt.token != _accepted(requirements).token:
            raise InvariantViolation("x402 builds a payload for an offer that was not paid")
        return _payload(attempt)


def fiber_asset(max_shannon: int) -> SpendControlAsset:
    """The entry of x402's `allowed_assets` that lets CKB over Fiber be spent.

    Args:
        max_shannon: The most one payment may be.
    """
    if not 0 < max_shannon <= MAX_LEDGER_AMOUNT:
        raise ConfigError("max_shannon is the most one payment may be, in shannon, above zero")
    return {"network": NETWORKS, "asset": ASSET, "max_amount_per_payment": str(max_shannon)}


def register_fiber(client: x402Client, *, max_shannon: int) -> x402Client:
    """Register the scheme, and CKB with an explicit cap as the one more asset to be spent.

    x402 can only replace its spend controls as a whole. Who has others calls
    `client.set_spend_controls` afterwards, with `fiber_asset(...)` among its `allowed_assets`.

    Args:
        client: Of the x402 package.
        max_shannon: The most one payment may be.
    """
    client.register(NETWORKS, FiberScheme())
    return client.set_spend_controls({"allowed_assets": [fiber_asset(max_shannon)]})


def fiber_transport(
    client: x402Client,
    wallet: Wallet,
    *,
    max_shannon: int,
    inner: httpx2.AsyncBaseTransport | None = None,
    receipts: ReceiptLog | None = None,
) -> ForeignTransport:
    """The transport for an `httpx.AsyncClient`: x402 between our two ends.

    Args:
        client: Of the x402 package; the scheme is registered with it.
        wallet: What to pay with; its budget holds beside x402's cap.
        max_shannon: The most one payment may be.
        inner: Sends; `httpx2.AsyncHTTPTransport` by default.
        receipts: Where checks of receipts are kept.
    """
    register_fiber(client, max_shannon=max_shannon)
    return ForeignTransport(
        lambda wire: x402_httpx_transport(client, wire), wallet, inner=inner, receipts=receipts
    )


def _accepted(requirements: Any) -> Accepted:
    """An entry of `accepts`; what is not there is an empty text, which fits no offer."""
    extra = requirements.extra or {}
    return Accepted(
        network=str(requirements.network),
        amount=str(requirements.amount),
        asset=str(requirements.asset),
        pay_to=str(requirements.pay_to),
        invoice=str(extra.get("invoice", "")),
        token=str(extra.get("challenge", "")),
    )


def _payload(attempt: Attempt) -> dict[str, Any]:
    payload = {"invoice": attempt.invoice, "challenge": attempt.token}
    if attempt.preimage is not None:
        payload["paymentPreimage"] = attempt.preimage.hex()
    return payload
