"""What a generator of ours asks of whoever waits on it, and what it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ...core.model import Endpoint

if TYPE_CHECKING:
    from ..replay.judge import Judge
    from .host import Gen
    from .wire import Wire


class Fresh(NamedTuple):
    """A connection that the pool has made for another one's sake: `conn` keeps it alive."""

    conn: object
    judge: Judge

    @property
    def wire(self) -> Wire:
        return self.judge.wire

    def finish(self) -> None:
        self.judge.wire.pgconn.finish()


class Detour:
    """What a generator asks of whoever waits on it: a new session, or a pause.

    `at`: the new session has to be this endpoint's; None: whoever fits now.  `rest`: it has ended,
    and this is to be gone on with, which may ask for more (see `Judge.parts`).
    """

    __slots__ = ("at", "deadline_at", "failure", "fresh", "pause_s", "rest")

    def __init__(
        self,
        deadline_at: float = 0.0,
        pause_s: float = 0.0,
        at: Endpoint | None = None,
        rest: Gen | None = None,
    ) -> None:
        self.deadline_at = deadline_at
        self.pause_s = pause_s
        self.at = at
        self.rest = rest
        self.fresh: Fresh | None = None
        self.failure: Exception | None = None

    def came(self, fresh: Fresh) -> None:
        """There is a new session."""
        self.fresh = fresh

    def failed(self, exc: Exception) -> None:
        """There is none."""
        self.failure = exc
