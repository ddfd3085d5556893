"""A provider's limits when all consumers share one address, as in tests on loopback."""

from typing import Final

ONE_ADDRESS_LIMITS: Final = """
[limits]
address_per_minute = 10000
mint_burst = 10000
mints_per_s = 1000
keys_per_minute = 10000
topups_per_minute = 10000
withdrawals_per_minute = 10000
"""
"""TOML for the end of a provider's configuration."""
