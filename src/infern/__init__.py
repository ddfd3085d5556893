"""Infern: serve an AI model from your own machine and get paid per request over Fiber."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infern.client.auth import F402Auth
    from infern.client.budget import Budget
    from infern.client.journal import Journal
    from infern.client.receipts import ReceiptCheck, ReceiptStatus
    from infern.client.wallet import Patience, Pinned, Wallet
    from infern.core.errors import (
        BudgetExceeded,
        InfernError,
        InsufficientBalance,
        Money,
        NoRoute,
        PaymentError,
        PaymentFailed,
        PaymentOutcomeUnknown,
        PaymentRequired,
        Retry,
    )
    from infern.core.units import Network
    from infern.sdk import AsyncInfern, Infern, open_wallet

__all__ = [
    "AsyncInfern",
    "Budget",
    "BudgetExceeded",
    "F402Auth",
    "Infern",
    "InfernError",
    "InsufficientBalance",
    "Journal",
    "Money",
    "Network",
    "NoRoute",
    "Patience",
    "PaymentError",
    "PaymentFailed",
    "PaymentOutcomeUnknown",
    "PaymentRequired",
    "Pinned",
    "ReceiptCheck",
    "ReceiptStatus",
    "Retry",
    "Wallet",
    "open_wallet",
]

_HOMES = {
    "infern.sdk": ("AsyncInfern", "Infern", "open_wallet"),
    "infern.client.auth": ("F402Auth",),
    "infern.client.budget": ("Budget",),
    "infern.client.journal": ("Journal",),
    "infern.client.receipts": ("ReceiptCheck", "ReceiptStatus"),
    "infern.client.wallet": ("Patience", "Pinned", "Wallet"),
    "infern.core.units": ("Network",),
    "infern.core.errors": (
        "BudgetExceeded",
        "InfernError",
        "InsufficientBalance",
        "Money",
        "NoRoute",
        "PaymentError",
        "PaymentFailed",
        "PaymentOutcomeUnknown",
        "PaymentRequired",
        "Retry",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import infern` costs nothing."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'infern' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
