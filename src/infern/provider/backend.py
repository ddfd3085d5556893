"""`Backend` over one's own model server: the paid request, rewritten to exactly what was priced."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import anyio

from infern.core.ckb.hashing import ckb_hash
from infern.core.errors import InfernError
from infern.core.f402.receipt import SellerIdentity
from infern.core.ids import Pubkey
from infern.core.wire.bounds import Bound
from infern.core.wire.endpoints import InferenceRequest
from infern.core.wire.jcs import canonicalize
from infern.core.wire.rewrite import to_upstream
from infern.ports import ModelServer, UpstreamReply, UpstreamRequest
from infern.provider.config import ModelConfig
from infern.seller.backend import Listing

READY_TIMEOUT_S: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    listing: Listing
    config: ModelConfig


class ModelServerBackend:
    """Sells the configured models of one model server.

    Args:
        server: The model server.
        models: What is on sale.
        agent: The agent key, part of the identities before the chain names them.
        genesis_hash: 32 bytes, the chain of the Fiber node.
        created_s: Unix seconds, shown in the model list.
    """

    def __init__(
        self,
        server: ModelServer,
        models: Sequence[ModelConfig],
        *,
        agent: Pubkey,
        genesis_hash: bytes,
        created_s: int,
    ) -> None:
        self._server = server
        self._entries: Mapping[str, _Entry] = {
            model.name: _Entry(
                config=model,
                listing=Listing(
                    model=model.name,
                    price=model.price,
                    limits=model.limits,
                    identity=configured_identity(model, agent=agent, genesis_hash=genesis_hash),
                    endpoints=model.endpoints,
                    created_s=created_s,
                    upstream_name=model.upstream_name,
                ),
            )
            for model in models
        }

    def listings(self) -> Sequence[Listing]:
        """Everything on sale now."""
        return [entry.listing for entry in self._entries.values()]

    def find(self, model: str) -> Listing | None:
        """The listing of a model name; None when it is not served."""
        entry = self._entries.get(model)
        return entry.listing if entry else None

    async def send(
        self, listing: Listing, request: InferenceRequest, bound: Bound
    ) -> UpstreamReply:
        """Forward a request, limited to its bound.

        Raises:
            UpstreamUnavailable: Nothing was delivered.
        """
        config = self._entries[listing.model].config
        body = to_upstream(
            request,
            bound,
            upstream_model=config.upstream_name,
            dialect=config.dialect,
        )
        return await self._server.send(
            UpstreamRequest(
                method="POST",
                path=request.endpoint.upstream_path,
                body=body,
                headers={"content-type": "application/json"},
            )
        )

    async def ready(self) -> bool:
        """True when the model server answers its model list."""
        request = UpstreamRequest(method="GET", path="/models", body=b"", headers={})
        with anyio.move_on_after(READY_TIMEOUT_S):
            try:
                reply = await self._server.send(request)
            except InfernError:
                return False
            await reply.aclose()
            return reply.status == 200
        return False


def configured_identity(
    model: ModelConfig, *, agent: Pubkey, genesis_hash: bytes
) -> SellerIdentity:
    """The identities of a provider that is not on chain yet, derived from its configuration.

    Each is a ckb hash under its own prefix, so that none can be taken for a cell's.
    """
    terms = canonicalize(
        {
            "model": model.name,
            "price": model.price.to_json(),
            "context_tokens": model.limits.context_tokens,
            "max_completion_tokens": model.limits.max_completion_tokens,
        }
    )
    return SellerIdentity(
        genesis_hash=genesis_hash,
        provider=ckb_hash(b"infern/configured/provider" + agent),
        listing=ckb_hash(b"infern/configured/listing" + agent + model.name.encode()),
        listing_data_hash=ckb_hash(b"infern/configured/terms" + terms),
        model_id=ckb_hash(b"infern/configured/model" + model.upstream_name.encode()),
    )
