"""The UDT whitelist of a node: which type scripts channels may hold."""

import re
from collections.abc import Iterable

from infern.core.ckb.script import Script
from infern.devnet.fiber.settings import UdtInfo


def find_udt(whitelist: Iterable[UdtInfo], script: Script) -> UdtInfo | None:
    """The entry that covers a type script, if any."""
    for info in whitelist:
        same = info.code_hash == script.code_hash and info.hash_type == script.hash_type
        if same and re.fullmatch(info.args_pattern, "0x" + script.args.hex()):
            return info
    return None


def accepts_udt(whitelist: Iterable[UdtInfo], script: Script, amount: int) -> bool:
    """Whether a channel of this UDT and opener's amount is accepted unasked."""
    info = find_udt(whitelist, script)
    return (
        info is not None
        and info.auto_accept_amount is not None
        and (amount >= info.auto_accept_amount)
    )
