"""Enums that survive versions of fnn nobody knew when they were written."""

from enum import Enum
from typing import Self


class WireEnum(Enum):
    """An enum of fnn's variant names with a member `UNKNOWN` for those of later versions."""

    @classmethod
    def read(cls, text: str) -> Self:
        """The member of this name; `UNKNOWN` when there is none."""
        for member in cls:
            if member.value == text:
                return member
        return cls("Unknown")
