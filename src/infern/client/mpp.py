"""A `fiber/charge` method for `pympp`, so that MPP clients can pay F402 sellers.

    transport = fiber_transport(open_wallet())
    openai.AsyncOpenAI(base_url=..., api_key="none",
                       http_client=httpx.AsyncClient(transport=transport))

pympp announces `fiber/charge`, reads the challenge, asks the method for a credential and sends the
request again with it. Before the method pays it makes every check a client of ours makes, and
writes the journal; `infern.client.foreign` keeps pympp's loop and everybody's retries from paying
twice.

Source: pympp 0.16.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import httpx2

from infern.client.foreign import Accepted, ForeignTransport, current_run
from infern.client.receipts import ReceiptLog
from infern.client.wallet import Wallet
from infern.core.f402.mpp import INTENT, METHOD

try:
    from mpp import Challenge, Credential
    from mpp.client.transport import PaymentTransport
    from mpp.methods import Method
    from mpp.runtime import ClientMethod, CredentialParams
    from pydantic import BaseModel
except ImportError as error:
    raise ImportError(
        "infern.client.mpp needs the pympp package: pip install 'infern[mpp]'"
    ) from error

EMPTY_PREIMAGE: Final = ""
"""What a payer shows whose node tells it no preimage; the seller asks its own node."""


class ChargeDetails(BaseModel):
    """`methodDetails` of a `fiber/charge` request."""

    invoice: str
    network: str
    paymentHash: str  # noqa: N815 - the wire's name


class ChargeRequest(BaseModel):
    """What is to be paid: amounts are decimal strings of base units."""

    amount: str
    currency: str
    recipient: str
    methodDetails: ChargeDetails  # noqa: N815 - the wire's name


class ChargePayload(BaseModel):
    """What shows that it was paid."""

    preimage: str = EMPTY_PREIMAGE


def fiber_charge() -> ClientMethod:
    """The client method to give to pympp. It pays only inside a `ForeignTransport`."""
    return ClientMethod(
        method=Method(
            name=METHOD,
            intent=INTENT,
            request_model=ChargeRequest,
            payload_model=ChargePayload,
        ),
        create_credential=_create_credential,
    )


def fiber_transport(
    wallet: Wallet,
    *,
    methods: Sequence[ClientMethod] = (),
    inner: httpx2.AsyncBaseTransport | None = None,
    receipts: ReceiptLog | None = None,
) -> ForeignTransport:
    """The transport for an `httpx.AsyncClient`: pympp between our two ends.

    Args:
        wallet: What to pay with; its budget is the cap.
        methods: More methods pympp may pay with; Fiber is tried first.
        inner: Sends; `httpx2.AsyncHTTPTransport` by default.
        receipts: Where checks of receipts are kept.
    """
    return ForeignTransport(
        lambda wire: PaymentTransport([fiber_charge(), *methods], wire),
        wallet,
        inner=inner,
        receipts=receipts,
    )


async def _create_credential(params: CredentialParams) -> str:
    attempt = await current_run().pay(_accepted(params.challenge))
    preimage = attempt.preimage.hex() if attempt.preimage is not None else EMPTY_PREIMAGE
    credential = Credential(challenge=params.challenge.to_echo(), payload={"preimage": preimage})
    return credential.to_authorization()


def _accepted(challenge: Challenge) -> Accepted:
    """A challenge's parts; what is not there is an empty text, which fits no offer."""
    request = challenge.request
    details = request.get("methodDetails")
    details = details if isinstance(details, Mapping) else {}
    return Accepted(
        network=f"{METHOD}:{details.get('network', '')}",
        amount=_text(request, "amount"),
        asset=_text(request, "currency"),
        pay_to=_text(request, "recipient"),
        invoice=_text(details, "invoice"),
        token=_text(challenge.opaque or {}, "f402"),
    )


def _text(members: Mapping[str, Any], name: str) -> str:
    value = members.get(name)
    return value if isinstance(value, str) else ""
