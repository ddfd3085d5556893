"""From the bytes of a request to what it can cost at most."""

from dataclasses import dataclass

from infern.core.errors import ProtocolError, RemoteProtocolError
from infern.core.f402.challenge import Terms
from infern.core.units import MAX_LEDGER_AMOUNT
from infern.core.wire.bounds import Bound, bound
from infern.core.wire.endpoints import Endpoint, InferenceRequest, parse_request
from infern.seller.backend import Backend, Listing


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A request that can be served, and its ceiling."""

    request: InferenceRequest
    listing: Listing
    terms: Terms

    @property
    def bound(self) -> Bound:
        """The token ceilings the request is forwarded with."""
        return Bound(
            prompt_tokens_max=self.terms.prompt_tokens_max,
            completion_tokens_max=self.terms.completion_tokens_max,
            n=self.terms.n,
        )


def price_request(backend: Backend, endpoint: Endpoint, body: bytes) -> Order:
    """Read a request and compute its ceiling.

    Raises:
        ProtocolError: Unreadable, unpriceable, or a model that is not served; unmoved.
    """
    request = parse_request(endpoint, body)
    listing = backend.find(request.model)
    if listing is None or endpoint not in listing.endpoints:
        raise ProtocolError(
            f"The model {request.model[:80]!r} is not served at {endpoint.path}; GET /v1/models "
            "lists what is.",
            code="model_not_found",
            param="model",
        )
    limits = bound(request, listing.limits)
    terms = Terms(
        price=listing.price,
        prompt_tokens_max=limits.prompt_tokens_max,
        completion_tokens_max=limits.completion_tokens_max,
        n=limits.n,
    )
    if terms.ceiling > MAX_LEDGER_AMOUNT:
        raise RemoteProtocolError(
            "This request would cost more than there is; ask for fewer tokens.",
            code="unpriceable_request",
        )
    return Order(request=request, listing=listing, terms=terms)
