"""A price and the two sums made with it: the ceiling of a request and the charge for an answer.

Prices are integers of the asset's base unit per million tokens, plus a fee per request. Each sum
rounds once, up, at the end: `request_fee + ceil((P·input + C·output) / 1 000 000)`.
"""

from dataclasses import dataclass
from typing import Final

from infern.core.errors import JsonValue
from infern.core.units import CKB, Asset, checked_amount, div_ceil

TOKENS_PER_MTOK: Final = 1_000_000
MAX_PRICE: Final = 2**64 - 1
"""Prices are u64 on chain."""
MAX_TOKENS: Final = 2**40
"""More tokens than any request can have; keeps products far inside u128."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a listing charges, in base units of `asset`.

    Args:
        asset: What the numbers count.
        request_fee: Base units per answered request, u64.
        input_per_mtok: Base units per million prompt tokens, u64.
        output_per_mtok: Base units per million completion tokens, u64.
    """

    asset: Asset = CKB
    request_fee: int
    input_per_mtok: int
    output_per_mtok: int

    def __post_init__(self) -> None:
        """Refuse anything that is not a u64."""
        for value in (self.request_fee, self.input_per_mtok, self.output_per_mtok):
            checked_amount(value, limit=MAX_PRICE)

    def cost(self, prompt_tokens: int, completion_tokens: int) -> int:
        """Base units for these tokens, rounded up once.

        Raises:
            ValueError: A negative or absurd token count.
        """
        for tokens in (prompt_tokens, completion_tokens):
            checked_amount(tokens, limit=MAX_TOKENS)
        variable = prompt_tokens * self.input_per_mtok + completion_tokens * self.output_per_mtok
        return self.request_fee + div_ceil(variable, TOKENS_PER_MTOK)

    def to_json(self) -> dict[str, JsonValue]:
        """Decimal strings, as quotes and model lists show it."""
        return {
            "asset": str(self.asset),
            "unit": "shannon" if self.asset.is_ckb else "base unit",
            "request_fee": str(self.request_fee),
            "input_per_mtok": str(self.input_per_mtok),
            "output_per_mtok": str(self.output_per_mtok),
        }
