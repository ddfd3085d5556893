"""One JSON-RPC call as a value: method, parameters and how to read the result.

Transports (sync, async, recorded) need nothing else, so each call is written once.
"""

from typing import Protocol, TypeVar

from infern.core.errors import JsonValue

T_co = TypeVar("T_co", covariant=True)


class RpcCall(Protocol[T_co]):
    """A typed call of fnn's JSON-RPC.

    `idempotent` tells a transport whether it may send the call again after a broken connection:
    queries, and effects that fnn keys by payment hash.
    """

    @property
    def method(self) -> str:
        """The JSON-RPC method name, e.g. `new_invoice`."""
        ...

    @property
    def idempotent(self) -> bool:
        """True when repeating the call cannot do anything twice."""
        ...

    def params(self) -> list[JsonValue]:
        """The positional parameter array."""
        ...

    def parse(self, result: JsonValue) -> T_co:
        """Read the result.

        Raises:
            RemoteProtocolError: The node answered something else than this method's result.
        """
        ...
