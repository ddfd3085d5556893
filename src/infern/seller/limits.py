"""Rates and counts that keep strangers from spending what is ours: disk, CPU and patience."""

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from infern.core.errors import DeliveryError

BODIES_PER_ADDRESS: Final = 64
"""Bodies on their way from one address that nobody has paid for yet."""


SMALL_BYTES: Final = 64 * 1024
"""Of each request, in and out, that no budget counts, so that a few huge ones refuse no small one.
How many requests there are at once is limited elsewhere."""


class TokenBucket:
    """`per_s` tokens a second, at most `burst` saved up. Integer milliseconds throughout."""

    def __init__(self, *, tokens: int, period_ms: int, burst: int) -> None:
        self._period_ms = period_ms
        self._tokens = tokens
        self._burst = burst
        # The level is kept in token-milliseconds so that no fraction is ever lost.
        self._level = burst * period_ms
        self._at_ms = 0

    def take(self, now_ms: int) -> bool:
        """Take one token; False when there is none."""
        passed_ms = max(0, now_ms - self._at_ms) if self._at_ms else 0
        self._at_ms = max(self._at_ms, now_ms)
        ceiling = self._burst * self._period_ms
        self._level = min(ceiling, self._level + passed_ms * self._tokens)
        if self._level < self._period_ms:
            return False
        self._level -= self._period_ms
        return True


class AddressLimiter:
    """A bucket per network address (/64 for IPv6), for the most recent `capacity` addresses."""

    def __init__(self, *, per_minute: int, capacity: int) -> None:
        self._per_minute = per_minute
        self._capacity = capacity
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, address: str, now_ms: int) -> bool:
        """Take one of the address's tokens; False when it has none left."""
        name = address_prefix(address)
        bucket = self._buckets.pop(name, None)
        if bucket is None:
            bucket = TokenBucket(tokens=self._per_minute, period_ms=60_000, burst=self._per_minute)
        self._buckets[name] = bucket
        while len(self._buckets) > self._capacity:
            self._buckets.popitem(last=False)
        return bucket.take(now_ms)


def address_prefix(address: str) -> str:
    """What counts as one address: itself, or its /64 for IPv6."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            # How a socket for both families names IPv4 clients; one /64 would hold them all.
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False).network_address)
    return str(parsed)


class Slots:
    """A count of things under way, with a ceiling."""

    def __init__(self, ceiling: int, what: str) -> None:
        self._ceiling = ceiling
        self._what = what
        self.used = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Occupy a slot for the length of a `with` block.

        Raises:
            DeliveryError: `overloaded`; nothing was held or charged.
        """
        if self.used >= self._ceiling:
            raise DeliveryError(
                f"This seller is at its limit of {self._what}; try again in a moment.",
                code="overloaded",
                retry_after_s=2,
            )
        self.used += 1
        try:
            yield
        finally:
            self.used -= 1


class AddressSlots:
    """Things under way by address, with a ceiling for each; forgets addresses without any."""

    def __init__(self, ceiling: int, what: str) -> None:
        self._ceiling = ceiling
        self._what = what
        self._used: Counter[str] = Counter()

    @contextmanager
    def one(self, address: str) -> Iterator[None]:
        """Occupy one of the address's slots for the length of a `with` block.

        Raises:
            DeliveryError: `overloaded`; nothing was held or charged.
        """
        name = address_prefix(address)
        if self._used[name] >= self._ceiling:
            raise DeliveryError(
                f"Your address is at its limit of {self._what}; try again in a moment.",
                code="overloaded",
                retry_after_s=2,
            )
        self._used[name] += 1
        try:
            yield
        finally:
            self._used[name] -= 1
            if not self._used[name]:
                del self._used[name]


class ByteBudget:
    """Bytes of bodies and whole answers in memory at once, over all requests of a process."""

    def __init__(self, ceiling: int) -> None:
        self._left = ceiling

    @contextmanager
    def share(self) -> Iterator["ByteShare"]:
        """One request's share, given back at the end of the `with` block."""
        share = ByteShare(self)
        try:
            yield share
        finally:
            self._left += share.taken

    def take(self, count: int) -> bool:
        """Take bytes; False when there are not so many left."""
        if count > self._left:
            return False
        self._left -= count
        return True


class ByteShare:
    """What one request has taken of a `ByteBudget`: what it has above `SMALL_BYTES`."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._bytes = 0

    @property
    def taken(self) -> int:
        """Bytes of the budget."""
        return max(0, self._bytes - SMALL_BYTES)

    def take(self, count: int) -> None:
        """Take bytes that have arrived.

        Raises:
            DeliveryError: `overloaded`; nothing was held or charged.
        """
        more = max(0, self._bytes + count - SMALL_BYTES) - self.taken
        if not self._budget.take(more):
            raise DeliveryError(
                "This seller is holding as much in memory as it can; try again in a moment.",
                code="overloaded",
                retry_after_s=2,
            )
        self._bytes += count


class ExpiringCount:
    """How many things that were counted in have not expired yet; bounded by its ceiling."""

    def __init__(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self._expiries_ms: OrderedDict[int, int] = OrderedDict()
        self._count = 0

    def add(self, *, now_ms: int, expires_ms: int) -> bool:
        """Count one in; False at the ceiling."""
        while self._expiries_ms:
            second, number = next(iter(self._expiries_ms.items()))
            if second * 1000 > now_ms:
                break
            self._expiries_ms.popitem(last=False)
            self._count -= number
        if self._count >= self._ceiling:
            return False
        # Lifetimes are all equal, so seconds arrive in order and the oldest stay in front.
        second = -(-expires_ms // 1000)
        self._expiries_ms[second] = self._expiries_ms.get(second, 0) + 1
        self._count += 1
        return True
