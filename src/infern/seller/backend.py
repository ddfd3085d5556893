"""What a seller sells and where it forwards: its own model server, or other sellers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from infern.core.errors import ConfigError, JsonValue
from infern.core.f402.receipt import SellerIdentity
from infern.core.market.price import Price
from infern.core.wire.bounds import Bound, ModelLimits
from infern.core.wire.endpoints import Endpoint, InferenceRequest
from infern.ports import UpstreamReply


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One model on sale.

    Args:
        model: The name consumers use.
        price: What it costs.
        limits: Context, output and other ceilings.
        identity: How receipts name seller, listing and model.
        endpoints: What it may be used for.
        created_s: Unix seconds, for the model list.
        upstream_name: What the upstream calls the model; not told in our own messages.
    """

    model: str
    price: Price
    limits: ModelLimits
    identity: SellerIdentity
    endpoints: frozenset[Endpoint]
    created_s: int
    upstream_name: str = ""

    def __post_init__(self) -> None:
        """A request must always cost something: Fiber has no payment of zero."""
        if not self.price.request_fee and not self.price.input_per_mtok:
            raise ConfigError(
                f"model {self.model} needs a request fee or an input price above zero: a Fiber "
                "payment cannot be for nothing"
            )

    @property
    def listing_id(self) -> str:
        """Hex text of the listing's identity, as quotes and tokens carry it."""
        return "0x" + self.identity.listing.hex()

    def to_json(self) -> dict[str, JsonValue]:
        """Price and limits as the model list shows them."""
        return {
            "pricing": self.price.to_json(),
            "context_length": self.limits.context_tokens,
            "max_completion_tokens": self.limits.max_completion_tokens,
            "endpoints": [e.path for e in sorted(self.endpoints, key=lambda e: e.path)],
        }


class Backend(Protocol):
    """Where paid requests go."""

    def listings(self) -> Sequence[Listing]:
        """Everything on sale now."""
        ...

    def find(self, model: str) -> Listing | None:
        """The listing of a model name; None when it is not served."""
        ...

    async def send(
        self, listing: Listing, request: InferenceRequest, bound: Bound
    ) -> UpstreamReply:
        """Forward a request, limited to its bound.

        Raises:
            UpstreamUnavailable: Nothing was delivered.
        """
        ...

    async def ready(self) -> bool:
        """True when a request sent now would probably be answered."""
        ...
