"""The parts of a seller, put together once and shared by its endpoints."""

from dataclasses import dataclass

from infern.core.ids import RequestId, base32_id
from infern.ports import Clock, Entropy, FiberNode, Ledger, SignatureVerifier, Signer
from infern.seller.backend import Backend
from infern.seller.config import SellerConfig
from infern.seller.endings import Endings
from infern.seller.hold_offers import HoldOffers
from infern.seller.keys import KeyRing
from infern.seller.leases import LeaseKeeper
from infern.seller.locks import LockKeeper
from infern.seller.minting import Minter
from infern.seller.payouts import PayoutDesk
from infern.seller.proofs import ProofDesk
from infern.seller.topups import TopupWatch
from infern.seller.unclaimed import UnclaimedWatch


@dataclass(frozen=True, slots=True, kw_only=True)
class SellerParts:
    """Everything a seller's endpoints share."""

    config: SellerConfig
    backend: Backend
    ledger: Ledger
    agent: Signer
    clock: Clock
    entropy: Entropy
    minter: Minter
    proofs: ProofDesk
    keys: KeyRing
    topups: TopupWatch
    endings: Endings
    leases: LeaseKeeper
    locks: LockKeeper
    hold_offers: HoldOffers
    fiber: FiberNode
    verifier: SignatureVerifier
    payouts: PayoutDesk
    unclaimed: UnclaimedWatch

    def request_id(self) -> RequestId:
        """A new, unguessable request id."""
        return RequestId(base32_id("req_", self.entropy.random_bytes(16)))
