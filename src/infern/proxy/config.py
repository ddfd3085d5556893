"""What the paying proxy is set up with. It is a wallet: every default is the careful one."""

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from infern.core.errors import ConfigError
from infern.core.f402.checks import LOOPBACK_HOSTS, origin_of
from infern.core.units import MAX_LEDGER_AMOUNT, checked_amount

DEFAULT_PORT: Final = 8402
MIN_TOKEN_CHARS: Final = 20
TOKEN_PREFIX: Final = "inf_proxy_"  # noqa: S105 - a prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepaid:
    """Keep a prepaid key at the seller and top it up within the budget.

    Args:
        threshold: Shannon; a balance below is topped up before the next request.
        amount: Shannon; of one top-up, greater than the threshold.
    """

    threshold: int
    amount: int

    def __post_init__(self) -> None:
        """Refuse sums that would top up on every request."""
        for sum_ in (self.threshold, self.amount):
            checked_amount(sum_, limit=MAX_LEDGER_AMOUNT)
        if self.amount <= self.threshold:
            raise ValueError("a top-up must lift the balance over the threshold")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyConfig:
    """The proxy's configuration.

    Args:
        base_url: The one seller requests go to, e.g. `https://router.example/v1`.
        token: What local clients pass as api_key; at least 20 characters.
        host: Address to listen on; loopback unless `allow_remote`.
        port: TCP port.
        allow_remote: Listen on any address. Whoever reaches it and has the token can spend.
        hosts: `Host` values answered besides loopback's own; others are a page's DNS trick.
        origins: Web origins whose pages may use the proxy; a request of any other is refused.
        prepaid: Keep a prepaid key; None pays per request.
        max_body_bytes: Largest request body.
        max_concurrent: Requests at the same time; more are refused, not queued.
        body_timeout_s: For a request body to arrive.
        connect_timeout_s: To reach the seller.
        idle_timeout_s: Silence of the seller that is waited for.
    """

    base_url: str
    token: str = field(repr=False)
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    allow_remote: bool = False
    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    prepaid: Prepaid | None = None
    max_body_bytes: int = 8 * 1024 * 1024
    max_concurrent: int = 32
    body_timeout_s: float = 30.0
    connect_timeout_s: float = 10.0
    idle_timeout_s: float = 300.0

    def __post_init__(self) -> None:
        """Refuse what would be unsafe or could not work.

        Raises:
            ConfigError: Says what to change.
        """
        url = urlsplit(self.base_url)
        if url.scheme != "https" and (url.hostname or "") not in LOOPBACK_HOSTS:
            raise ConfigError("the seller's base_url must be https, or a loopback address")
        if not url.hostname or url.query or url.fragment or url.username:
            raise ConfigError("base_url is an address with a path and nothing else")
        if len(self.token) < MIN_TOKEN_CHARS or not self.token.isascii():
            raise ConfigError(f"the proxy's token has {MIN_TOKEN_CHARS} characters or more")
        if self.host not in LOOPBACK_HOSTS and not self.allow_remote:
            raise ConfigError(
                f"the proxy is a wallet and listens on loopback; {self.host} needs allow_remote"
            )
        if "*" in self.origins or "null" in self.origins:
            raise ConfigError("every web page could spend; name the origins one by one")
        if not 0 <= self.port <= 65_535 or self.max_concurrent < 1 or self.max_body_bytes < 1:
            raise ConfigError("port, max_concurrent or max_body_bytes is out of range")

    @property
    def origin(self) -> str:
        """Scheme, host and port of the seller."""
        return origin_of(self.base_url)

    def answers_to(self, host: str, port: int) -> bool:
        """True for a `Host` header that names this proxy, listening on `port`."""
        own = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}
        if port == 80:
            own |= {"127.0.0.1", "localhost", "[::1]"}
        return host.lower() in own or host.lower() in self.hosts
