"""Where a Fiber node listens and what it wants to see."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from infern.core.errors import ConfigError

_URL = re.compile(r"https?://(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?(?:/[!-~]*)?")
_TOKEN = re.compile(r"[!-~]+")
MAX_TOKEN_CHARS: Final = 8_192


@dataclass(frozen=True, slots=True, kw_only=True)
class FiberEndpoint:
    """A node's JSON-RPC address and token.

    Args:
        url: `http://` or `https://`, without user name or password.
        token: A biscuit, base64; None when the node has no `biscuit_public_key`. Whoever has it
            can spend the node's money, so it appears in no `repr`, message or log.

    Raises:
        ConfigError: Not such an address, or a token that cannot stand in a header.
    """

    url: str
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse an address or token that cannot be used."""
        if not _URL.fullmatch(self.url):
            raise ConfigError(
                "the Fiber node's address must look like http://127.0.0.1:8227, without user name"
                " or password"
            )
        token = self.token
        if token is not None and not (len(token) <= MAX_TOKEN_CHARS and _TOKEN.fullmatch(token)):
            raise ConfigError("the Fiber node's token must be printable ASCII without spaces")

    def headers(self) -> Mapping[str, str]:
        """Headers of every request. Answers are asked for uncompressed: their size is limited."""
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        return headers
