"""One endpoint as requests see it: its counters, and what connections to it are known by."""

from __future__ import annotations

from math import inf

from ..core.model import Endpoint
from ..core.upstream_failover import IN_USE_S


class Route:
    """What the core library's pool calls the origin of a connection: here, one endpoint.

    Equal to itself only, so that a pool that serves many endpoints tells their connections
    apart.  Host and port stay the URL's: they are what TLS verifies.
    """

    __slots__ = ("host", "port", "scheme")

    def __init__(self, scheme: str, host: str, port: int) -> None:
        self.scheme, self.host, self.port = scheme.encode("ascii"), host.encode("ascii"), port

    def __str__(self) -> str:
        return f"{self.scheme.decode()}://{self.host.decode()}:{self.port}"


class Slot:
    """One endpoint's counters.  `flying`: the ids of the attempts in flight (a set, as its
    methods are atomic and need no lock).  `losses`: how often it was lost; connections from
    before are kept no longer.  Monotonic seconds: `heard_at`, `asked_at`, of requests; `byte_at`,
    when anything came from it; `checked_at`, when a health check was answered; `back_at`, when
    it came back from being ejected; `timed_out_at`, when a request's timeout counted against it
    last, `doubt_s`, how long that request had waited, and `doubted_until`, when the next one may
    try; `hung_since`, since when health checks are silent, and `since`, when its failures began:
    None while it isn't so."""

    __slots__ = (
        "__weakref__",
        "asked_at",
        "back_at",
        "blameless",
        "byte_at",
        "checked_at",
        "doubt_s",
        "doubted_until",
        "endpoint",
        "flying",
        "heard_at",
        "hung_since",
        "losses",
        "retired",
        "route",
        "since",
        "spotless",
        "text",
        "timed_out_at",
        "zone",
    )  # fmt: skip

    def __init__(self, endpoint: Endpoint, route: Route) -> None:
        self.endpoint = endpoint
        self.route = route
        self.losses = 0
        self.back_at = -inf
        self.timed_out_at = -inf
        self.doubt_s = 0.0
        self.doubted_until = -inf
        self.checked_at = -inf
        address = endpoint.address
        self.text = (
            f"[{address}]:{endpoint.port}" if ":" in address else f"{address}:{endpoint.port}"
        )
        self.zone: str | None = None
        self.flying: set[int] = set()
        self.heard_at = -inf
        self.asked_at = -inf
        self.byte_at = -inf
        self.hung_since: float | None = None
        self.spotless = False
        self.blameless = False
        self.retired = False
        self.since: float | None = None

    @property
    def in_flight(self) -> int:
        return len(self.flying)

    def timed_out(self, waited_s: float, most_s: float, now: float) -> None:
        """A request had no answer in its own time, and nothing else was heard meanwhile.

        That is no evidence that the endpoint is dead.  But others go elsewhere, as long as this
        one has waited and at most `most_s`: then one of them tries it.
        """
        self.timed_out_at = now
        self.doubt_s = min(waited_s, most_s)
        self.doubted_until = now + self.doubt_s

    def owes_answer(self) -> bool:
        """The last that was seen of it is a request's timeout."""
        return self.timed_out_at > self.byte_at

    def in_use(self, now: float) -> bool:
        """It has served requests, lately or right now."""
        if self.heard_at == -inf:
            return False
        return bool(self.flying) or max(self.heard_at, self.asked_at) > now - IN_USE_S
