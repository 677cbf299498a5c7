"""What a cluster's monitor needs of others: who asks an endpoint, and who is told.

Both are used on the monitor's loop only.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple, Protocol

from ..core.model import Endpoint, FailureKind, Observation, Topology


class ProbeError(Exception):
    """A probe failed; `kind` says what that says of the endpoint."""

    def __init__(self, kind: FailureKind, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class Answer(NamedTuple):
    """What an endpoint says of itself, and for how many seconds it kept that back."""

    seen: Observation
    held_s: float = 0.0


class ClusterListener:
    """Something that follows a cluster's topology (a pool).  `name`: the caller's for it."""

    @property
    def name(self) -> str:
        return ""

    def topology_changed(self, old: Topology, new: Topology) -> None:
        """Called on the monitor's thread, after publishing.  Quick, and runs no user code."""
        raise NotImplementedError

    def rejected(self) -> None:
        """Called on the monitor's thread: a server refuses the credentials that it was told.
        Whoever can get others does so, on a thread of his own."""


class Gate(Protocol):
    """Who may log in where, of all who would (see `core.refusals`)."""

    def may_log_in(self, endpoint: Endpoint, secret: Hashable) -> float: ...
    def logged_in(self, endpoint: Endpoint, secret: Hashable, connected: bool) -> None: ...
    def log_in_refused(self, endpoint: Endpoint, secret: Hashable, words: str) -> None: ...
    def refusal(self, endpoint: Endpoint) -> str: ...


def _nobody(endpoint: Endpoint) -> None:
    """Nobody wants to know."""


class Prober:
    """What asks an endpoint what it is.  One per cluster.

    `reached` is told of an endpoint that is known to be a pooler when a new session got as far as
    to be ready for its question: it may wait in a queue from there.
    """

    reached: Callable[[Endpoint], None] = staticmethod(_nobody)
    #: what its lines say of whom it asks for
    labels: Callable[[], Mapping[str, str]] = staticmethod(dict)

    async def probe(self, endpoint: Endpoint) -> Observation:
        """One question, one answer.  `ProbeError` when there is none.  Never times out by
        itself: a late answer is still news, and the detector judges silence."""
        raise NotImplementedError

    async def ask_in_band(
        self, endpoint: Endpoint, listeners: list[ClusterListener], alone: bool, hold_s: float = 0.0
    ) -> Answer | None:
        """The same question on an idle connection that a listener lends; None: nobody does,
        or the answer isn't good enough to go by.  `alone`: no other probe is unanswered.
        `hold_s`: a standby may keep its answer back for so long, to tell of its promotion."""
        return None

    async def prune(self, keep: frozenset[Endpoint]) -> None:
        """Let go of dedicated connections to endpoints that are gone, and of idle extras."""

    async def close(self) -> None:
        """Let go of everything."""
