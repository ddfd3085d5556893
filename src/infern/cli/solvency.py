"""Reading a seller's public report of what it owes and what its node has."""

from dataclasses import dataclass
from typing import Any, Final

import httpx2

from infern.core.units import Asset, format_amount

TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """One asset of a report.

    Args:
        text: The sums, for people.
        is_covered: The node has what is owed; None when the node did not say.
    """

    text: str
    is_covered: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A whole report.

    Args:
        adds_up: The seller's books balance.
        assets: What is owed and what is there, by asset.
    """

    adds_up: bool
    assets: tuple[Coverage, ...]


async def ask(client: httpx2.AsyncClient, base_url: str) -> Report | None:
    """A seller's report; None from one that gives none.

    Raises:
        httpx2.HTTPError: No answer, or an error.
        ValueError: An answer of another shape.
    """
    response = await client.get(base_url + "/f402/solvency")
    if response.status_code == 404:
        return None
    response.raise_for_status()
    try:
        report = response.json()
        return Report(
            adds_up=report["conservation"]["ok"] is True,
            assets=tuple(_coverage(row) for row in report["assets"]),
        )
    except (KeyError, TypeError) as error:
        raise ValueError("the seller's solvency report cannot be read") from error


def _coverage(row: Any) -> Coverage:
    asset = Asset.parse(row["asset"])
    held, owed = int(row["held"]), int(row["owed"])
    text = (
        f"owes {format_amount(int(row['liability']), asset)} (balances "
        f"{format_amount(int(row['balance']), asset)}, held by requests "
        f"{format_amount(held - owed, asset)}, on its way out {format_amount(owed, asset)}; "
        f"held payments that are no money yet {format_amount(int(row['locked']), asset)})"
    )
    if row["node"] is None:
        return Coverage(text=f"{text}; its node did not say what it has", is_covered=None)
    local, shortfall = int(row["node"]["local"]), int(row["shortfall"])
    missing = f", {format_amount(shortfall, asset)} too little" if shortfall else ""
    return Coverage(
        text=f"{text}; has {format_amount(local, asset)} in "
        f"{int(row['node']['channels'])} channels{missing}",
        is_covered=not shortfall,
    )
