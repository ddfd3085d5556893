"""Our agent without money: what the HTTP, the pricing and the relay cost by themselves.

Run as `python -m benchmarks.passthrough` with the arguments of `infern`. It is the whole real agent
(parsing, pricing, pipeline, relay, metering, uvicorn, aiohttp), except that holds and charges are
not booked and receipts are not signed. What a prepaid request costs more than one here is the
durable ledger and the signature.
"""

from typing import Any

from infern.adapters.secp256k1 import CoincurveSigner
from infern.adapters.sqlite_ledger import SqliteLedger
from infern.cli import compose
from infern.cli.main import main
from infern.core.ids import TabId
from infern.core.ledger.records import Captured, KeyRecord, StoredReceipt
from infern.core.ledger.tab import Tab, TabKind
from infern.core.units import CKB

TAB = Tab(tab_id=TabId("tab_bench"), kind=TabKind.KEY, asset=CKB, deposited=2**40)


class NoLedger(SqliteLedger):
    """Knows every key; what a prepaid request books is booked nowhere."""

    async def find_key(self, key_digest: bytes) -> KeyRecord:
        """Any key."""
        return KeyRecord(
            key_digest=key_digest,
            key_id="key_bench",
            tab_id=TAB.tab_id,
            session=bytes(16),
            asset=CKB,
            created_ms=1,
        )

    async def tab(self, _: Any) -> Tab:
        """The one tab."""
        return TAB

    async def hold(self, _: Any) -> Tab:
        """Hold nothing."""
        return TAB

    async def release(self, *_: Any, **__: Any) -> None:
        """Release nothing."""

    async def capture(self, hold_id: Any, receipt: Any, **more: Any) -> Captured:
        """Charge nothing."""
        stored = StoredReceipt(
            request_id=more["request_id"],
            hold_id=hold_id,
            packed=receipt.pack(),
            charged=receipt.charged,
            remainder=0,
            remainder_to="",
        )
        return Captured(stored=stored, payer=TAB)


class NoSigner(CoincurveSigner):
    """Signs nothing; its public key is real."""

    def sign(self, digest: bytes) -> bytes:
        """64 bytes, at once."""
        return digest + digest


if __name__ == "__main__":
    compose.SqliteLedger = NoLedger  # type: ignore[misc]  # the point of this module
    compose.CoincurveSigner = NoSigner  # type: ignore[misc]  # likewise
    main()
