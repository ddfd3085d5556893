"""What a seller is told once, at start-up."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from infern.core.errors import ConfigError
from infern.core.f402.challenge import MIN_KEY_BYTES
from infern.core.ids import Pubkey
from infern.core.units import Network

DAY_S: Final = 86_400
OPTIONAL: Final = frozenset({"replay_s"})
"""Limits that may be 0, which switches off what they limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SellerLimits:
    """Every bound of a seller. The defaults suit a home operator.

    Args:
        anonymous_body_bytes: Largest body without a key or proof.
        paid_body_bytes: Largest body with one.
        buffered_bytes: Request bodies and whole answers in memory at once, over all requests; the
            first 64 KB of each request do not count.
        body_timeout_ms: How long a body may take to arrive.
        first_byte_timeout_ms: How long the model server may take to begin.
        idle_timeout_ms: Longest silence between two pieces of an answer.
        total_timeout_ms: Longest answer.
        keepalive_ms: Silence after which a streaming client gets a comment line.
        stall_timeout_ms: How long one write may wait for a slow reader.
        response_bytes: Largest answer.
        replay_bytes: Largest answer that is kept to be given again.
        replay_total_bytes: Memory for all of them, under way or kept.
        replay_s: How long an answer is kept after its end; 0 keeps none.
        linger_ms: How long an answer that only its connection could want is still made when that
            is gone, in case its client tries again.
        open_requests: Paid requests served at once; more are refused before anything is held.
        open_unpaid: Anonymous requests looked at at once.
        invoice_expiry_s: How long an offer can be paid.
        redeem_s: How long a paid offer is honoured.
        mints_per_s: Invoices made per second for unpaid requests.
        mint_burst: How many at once after a quiet time.
        open_invoices: Unpaid request invoices alive at once.
        address_per_minute: Unpaid requests per address per minute that get an invoice.
        addresses: Addresses remembered for that.
        proof_wait_ms: How long a proof waits for its payment to arrive.
        proof_waiters: Proofs waiting at once.
        topup_expiry_s: How long a top-up invoice can be paid.
        topups_per_key: Unpaid top-ups of one key at once.
        topups_per_minute: New top-up invoices per address per minute.
        min_topup: Smallest top-up, base units.
        max_topup: Largest top-up, base units.
        keys_per_minute: New keys per address per minute.
        empty_key_s: Unfunded keys are forgotten after this.
        hold_max_amount: Largest ceiling offered in hold mode, base units; 1 turns the mode off.
        open_locks: Payments in hold mode at once, offered ones included.
        locks_per_address: Of them offered to one address and not claimed yet.
        lock_claim_ms: How long a payment that has arrived in hold mode waits for its proof.
        min_withdraw: Smallest withdrawal, base units.
        withdrawals_per_minute: New withdrawals per address per minute.
        withdraw_wait_ms: How long a request waits for its withdrawal to end.
        open_payouts: Payments out that have not ended; above it no withdrawal is taken.
        payouts_in_flight: Of them told to the node at once.
    """

    anonymous_body_bytes: int = 256 * 1024
    paid_body_bytes: int = 8 * 1024 * 1024
    buffered_bytes: int = 256 * 1024 * 1024
    body_timeout_ms: int = 30_000
    first_byte_timeout_ms: int = 120_000
    idle_timeout_ms: int = 60_000
    total_timeout_ms: int = 900_000
    keepalive_ms: int = 10_000
    stall_timeout_ms: int = 30_000
    response_bytes: int = 32 * 1024 * 1024
    replay_bytes: int = 256 * 1024
    replay_total_bytes: int = 64 * 1024 * 1024
    replay_s: int = 120
    linger_ms: int = 2_000
    open_requests: int = 512
    open_unpaid: int = 64
    invoice_expiry_s: int = 120
    redeem_s: int = DAY_S
    mints_per_s: int = 5
    mint_burst: int = 20
    open_invoices: int = 2_000
    address_per_minute: int = 10
    addresses: int = 10_000
    proof_wait_ms: int = 10_000
    proof_waiters: int = 128
    topup_expiry_s: int = 3_600
    topups_per_key: int = 5
    topups_per_minute: int = 10
    min_topup: int = 10_000
    max_topup: int = 100_000 * 100_000_000
    keys_per_minute: int = 10
    empty_key_s: int = 3_600
    hold_max_amount: int = 5 * 100_000_000
    open_locks: int = 60
    locks_per_address: int = 4
    lock_claim_ms: int = 30_000
    min_withdraw: int = 10_000
    withdrawals_per_minute: int = 10
    withdraw_wait_ms: int = 8_000
    open_payouts: int = 10_000
    payouts_in_flight: int = 60

    def __post_init__(self) -> None:
        """Every limit is a positive number, but those that may be switched off."""
        for name in self.__slots__:
            if getattr(self, name) < (0 if name in OPTIONAL else 1):
                raise ConfigError(f"the limit {name} must be positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class SellerSecrets:
    """Keys that never leave the seller; each is used for one thing only.

    Args:
        kid: Name of the key new tokens are made with.
        challenge_keys: By name, old ones included until their tokens' redeem-until.
        preimage_key: Derives the preimages of request invoices.
    """

    kid: str
    challenge_keys: Mapping[str, bytes] = field(repr=False)
    preimage_key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse short keys, and one key in two roles."""
        keys = [*self.challenge_keys.values(), self.preimage_key]
        if self.kid not in self.challenge_keys or len(set(keys)) != len(keys):
            raise ConfigError("a seller's secrets must be distinct and the current one present")
        if min(map(len, keys)) < MIN_KEY_BYTES:
            raise ConfigError(f"a seller's secrets have {MIN_KEY_BYTES} bytes or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class SellerConfig:
    """A seller's place in the world.

    Args:
        public_url: Where consumers reach it; its host and port are the realm of challenges.
        network: The CKB and Fiber network.
        pay_to: Its Fiber node.
        agent: The key that signs receipts.
        secrets: See `SellerSecrets`.
        limits: See `SellerLimits`.
        require_preimage: Accept a payment only with its preimage, for nodes shared with others.
    """

    public_url: str
    network: Network
    pay_to: Pubkey
    agent: Pubkey
    secrets: SellerSecrets
    limits: SellerLimits = field(default_factory=SellerLimits)
    require_preimage: bool = False
