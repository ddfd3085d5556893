"""A small client of the embedded network's control JSON-RPC."""

from typing import Any, Final

import httpx2

from infern.core.errors import ConfigError, TransportError

TIMEOUT_S: Final = 10


class ControlClient:
    """Calls `devnet_*` methods; only the embedded network has them."""

    def __init__(self, url: str) -> None:
        self._url = url

    def call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """Call one method.

        Raises:
            TransportError: The devnet does not answer.
            ConfigError: It refused the parameters.
        """
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": [params or {}]}
        try:
            answer = httpx2.post(self._url, json=request, timeout=TIMEOUT_S).json()
        except (httpx2.HTTPError, ValueError) as error:
            raise TransportError(f"the devnet does not answer: {error}") from error
        if "error" in answer:
            raise ConfigError(f"{method}: {answer['error']['message']}")
        return answer["result"]
