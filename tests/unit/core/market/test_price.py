"""Costs round once, up, and stay inside every message."""

import json
from pathlib import Path

import pytest

from infern.core.market.price import MAX_PRICE, MAX_TOKENS, Price
from infern.core.units import MAX_AMOUNT, Asset

VECTORS = json.loads((Path(__file__).parents[4] / "vectors/f402.json").read_text())


@pytest.mark.parametrize("case", VECTORS["cost"], ids=lambda case: case["name"])
def test_cost_vectors(case: dict[str, str]) -> None:
    price = Price(
        request_fee=int(case["request_fee"]),
        input_per_mtok=int(case["input_per_mtok"]),
        output_per_mtok=int(case["output_per_mtok"]),
    )
    assert (
        str(price.cost(int(case["prompt_tokens"]), int(case["completion_tokens"])))
        == (case["cost"])
    )


def test_the_largest_cost_fits_every_message() -> None:
    price = Price(request_fee=MAX_PRICE, input_per_mtok=MAX_PRICE, output_per_mtok=MAX_PRICE)
    assert price.cost(MAX_TOKENS, MAX_TOKENS) < MAX_AMOUNT


@pytest.mark.parametrize("tokens", [-1, MAX_TOKENS + 1, True, 1.5])
@pytest.mark.parametrize("position", [0, 1])
def test_cost_refuses_absurd_token_counts(tokens: int, position: int) -> None:
    price = Price(request_fee=0, input_per_mtok=1, output_per_mtok=1)
    counts = [1, 1]
    counts[position] = tokens
    with pytest.raises(ValueError, match="an amount"):
        price.cost(*counts)


@pytest.mark.parametrize("name", ["request_fee", "input_per_mtok", "output_per_mtok"])
@pytest.mark.parametrize("value", [-1, MAX_PRICE + 1, True, 0.5])
def test_prices_are_u64(name: str, value: int) -> None:
    numbers = {"request_fee": 0, "input_per_mtok": 0, "output_per_mtok": 0}
    with pytest.raises(ValueError, match="an amount"):
        Price(**{**numbers, name: value})


def test_json_shows_decimal_strings_and_the_unit() -> None:
    price = Price(request_fee=1, input_per_mtok=2, output_per_mtok=2**64 - 1)
    assert price.to_json() == {
        "asset": "ckb",
        "unit": "shannon",
        "request_fee": "1",
        "input_per_mtok": "2",
        "output_per_mtok": "18446744073709551615",
    }
    token = Price(
        asset=Asset(bytes([0xAB]) * 32), request_fee=1, input_per_mtok=2, output_per_mtok=3
    )
    assert token.to_json()["unit"] == "base unit"
    assert token.to_json()["asset"] == "udt:0x" + "ab" * 32
