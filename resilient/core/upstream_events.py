"""What happens to an origin's endpoints: observations in, news out.  Values only."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from .._dataclass import dataclass
from .model import Endpoint


class Trouble(StrEnum):
    """Why an endpoint is ejected."""

    REFUSED = "refused"  # refused, unreachable, TLS failed: nothing was sent
    CONNECT_SILENT = "connect-silent"  # no answer to the connect while others gave one
    SILENT = "silent"  # connected, asked, and no answer for a window
    FAILURES = "failures"  # errors in a row
    PROBES = "probes"  # active health checks say so


# -- events in


@dataclass(frozen=True, slots=True)
class Answered:
    """DNS answered.  `zones` runs parallel to `addresses`."""

    addresses: tuple[str, ...]
    zones: tuple[str | None, ...] = ()
    canonical: str = ""
    mode: Literal["strict", "rotating"] | None = None


@dataclass(frozen=True, slots=True)
class Gone:
    """DNS answered that there is no such name (NXDOMAIN)."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Evidence that the endpoint is dead.

    `since_s`: with `SILENT`, its health checks have had no answer since then.
    """

    endpoint: Endpoint
    trouble: Trouble
    detail: str = ""
    since_s: float | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """One failed request: a connection lost, a 5xx, a timeout where no health checks go on."""

    endpoint: Endpoint
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Succeeded:
    """A request that began at `began_s` was answered (any status below 500)."""

    endpoint: Endpoint
    began_s: float


@dataclass(frozen=True, slots=True)
class Probed:
    """An active health check ended."""

    endpoint: Endpoint
    healthy: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class TrialStarted:
    """A request goes to an endpoint that was due; keep the others away meanwhile."""

    endpoint: Endpoint


Input = Answered | Gone | Lost | Failed | Succeeded | Probed | TrialStarted


# -- events out


@dataclass(frozen=True, slots=True)
class UpstreamEvent:
    """Something that people want to know.  `at_s`: monotonic seconds.  `reason` says why in words,
    `cause` as one of a few (a `Trouble`'s)."""

    at_s: float
    endpoint: Endpoint
    zone: str | None = None
    reason: str = ""
    cause: str = ""


@dataclass(frozen=True, slots=True)
class EndpointAdded(UpstreamEvent):
    """DNS named it."""


@dataclass(frozen=True, slots=True)
class EndpointLost(UpstreamEvent):
    """It is dead: its idle connections are dropped."""


@dataclass(frozen=True, slots=True)
class EndpointEjected(UpstreamEvent):
    """It answers, but badly: no new requests for a while."""


@dataclass(frozen=True, slots=True)
class EndpointBack(UpstreamEvent):
    """It is used again."""


@dataclass(frozen=True, slots=True)
class EndpointRetired(UpstreamEvent):
    """DNS no longer names it: in-flight requests finish, idle connections are dropped."""
