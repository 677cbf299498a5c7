"""What the sessions of all clients do, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["ROUND_TRIPS", "Operation", "Tally"]

#: round trips of one operation (BEGIN, statement, COMMIT)
ROUND_TRIPS = 3


@dataclass(slots=True)
class Tally:
    """What all clients did together; an operation's attempts include its first."""

    operations: int = 0
    attempts: int = 0
    failed: int = 0
    #: of those that began before the promotion: when they were done
    held: list[float] = field(default_factory=list)

    def done(self, began_at: float, now: float, promoted_at: float) -> None:
        """An operation came to its good end."""
        if began_at < promoted_at <= now:
            self.held.append(now)


@dataclass(slots=True)
class Operation:
    """One under way."""

    began_at: float
    attempts: int = 0
