"""Saying that a Fiber node went away or came back: once, however much waits for it."""

import logging

from infern.core.errors import InfernError

_log = logging.getLogger(__name__)


class AwayNotice:
    """Whether the node answers about one kind of thing.

    Args:
        what: What it is asked about, for the log.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._is_away = False

    def note(self, *, away: InfernError | None) -> None:
        """Log a change, with the error that showed it; None means that the node answered."""
        if away is not None and not self._is_away:
            _log.warning("the Fiber node does not answer about %s: %s", self._what, away.message)
        elif away is None and self._is_away:
            _log.info("the Fiber node answers about %s again", self._what)
        self._is_away = away is not None
