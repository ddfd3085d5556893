from dataclasses import fields, replace

import pytest

from infern.core.errors import ConfigError
from infern.seller.config import OPTIONAL, SellerLimits, SellerSecrets

SECRETS = SellerSecrets(
    kid="k2", challenge_keys={"k1": b"\x01" * 32, "k2": b"\x02" * 32}, preimage_key=b"\x03" * 32
)


@pytest.mark.parametrize("name", [f.name for f in fields(SellerLimits)])
def test_a_limit_of_nothing_is_refused_by_name(name: str) -> None:
    for value in (-1,) if name in OPTIONAL else (0, -1):
        with pytest.raises(ConfigError, match=name):
            replace(SellerLimits(), **{name: value})


@pytest.mark.parametrize(
    "changes",
    [
        {"kid": "k3"},
        {"challenge_keys": {"k2": b"\x02" * 31}},
        {"challenge_keys": {"k1": b"\x02" * 32, "k2": b"\x02" * 32}},
        {"preimage_key": b"\x02" * 32},
        {"preimage_key": b"\x03" * 31},
    ],
)
def test_secrets_are_long_distinct_and_there(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        replace(SECRETS, **changes)  # type: ignore[arg-type] # one wrong part each


def test_secrets_are_not_printed() -> None:
    assert "\\x0" not in repr(SECRETS)
