"""What a JSON-RPC method is: its parameters, its code and the right it needs."""

from collections.abc import Callable
from dataclasses import dataclass

from infern.core.errors import JsonValue
from infern.devnet.fiber.node import Node
from infern.devnet.fiber.params import Field, Params

Handler = Callable[[Node, Params], JsonValue]


@dataclass(frozen=True, slots=True)
class Method:
    """One method.

    Args:
        fields: Members of its parameter object in fnn's order; None when it takes none.
        right: The fact a token must carry, e.g. `write("payments")`.
        since_0_9: Further members that 0.9 knows.
    """

    name: str
    fields: tuple[Field, ...] | None
    handler: Handler
    right: str
    since_0_9: tuple[Field, ...] = ()
