"""The machine's own clock and randomness."""

import asyncio
import secrets
import time


class SystemClock:
    """`Clock` of this machine."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000

    async def sleep_ms(self, duration_ms: int) -> None:
        """Wait; cancellable."""
        await asyncio.sleep(duration_ms / 1000)

    def wait_ms(self, duration_ms: int) -> None:
        """Wait in a thread without an event loop."""
        time.sleep(duration_ms / 1000)


class SystemEntropy:
    """`Entropy` of this machine's kernel."""

    def random_bytes(self, length: int) -> bytes:
        """`length` unpredictable bytes."""
        return secrets.token_bytes(length)
