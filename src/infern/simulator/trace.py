"""What happened in a run: counted, hashed, and kept or shown on demand."""

import hashlib
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

KEPT_LINES: Final = 60
"""Last lines that a failing run shows."""


class Trace:
    """The events of one run in order. Two runs of one seed have the same digest.

    Args:
        show: Given every line as it happens.
    """

    def __init__(self, show: Callable[[str], None] | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self.last: deque[str] = deque(maxlen=KEPT_LINES)
        self._hash = hashlib.sha256()
        self._show = show

    def note(self, now_us: int, who: str, what: str, detail: str = "") -> None:
        """Count an event by its name, and put all of it into the digest."""
        self.counts[what] += 1
        line = f"{now_us / 1e6:14.6f} {who:14} {what} {detail}"
        self._hash.update(line.encode())
        self.last.append(line)
        if self._show is not None:
            self._show(line)

    @property
    def digest(self) -> str:
        """Hex; equal for equal runs."""
        return self._hash.hexdigest()
