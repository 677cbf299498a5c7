"""What was seen, and what is said about it: values only."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.model import Endpoint, Role

__all__ = ["Facts", "Finding", "NameFacts", "Record", "ServerFacts", "UrlFacts", "in_words"]


@dataclass(frozen=True, slots=True)
class Record:
    """A record set on the way from a name to its addresses.  `exact`: its zone's own servers
    said so; else a cache did, whose TTLs count down from something longer."""

    name: str
    rdtype: str
    ttl_s: float
    exact: bool = True


@dataclass(frozen=True, slots=True)
class NameFacts:
    """A configured host.  `kind`: `name`; `literal` (an address); `hosts` (this machine's own
    knowledge: its hosts file, localhost); `socket` (a directory); `listed` (a target of an SRV
    record, which moves with it); or `service` (libpq's service file names the host)."""

    host: str
    kind: str = "name"
    chain: tuple[Record, ...] = ()
    addresses: tuple[str, ...] = ()
    error: str = ""

    @property
    def aliased(self) -> bool:
        """Is there a CNAME on the way?"""
        return any(record.rdtype == "CNAME" for record in self.chain)

    @property
    def canonical(self) -> str:
        """The last name on the way."""
        return self.chain[-1].name.rstrip(".") if self.chain else self.host


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """One database server, as it answered at one address.

    `standbys`: how many follow it (None: it doesn't tell); `synchronous`: a commit waits for
    one; `timeouts_s`: `statement_timeout` and `idle_in_transaction_session_timeout` of a
    session, 0: none; `pooled`: somebody stands in between; `others`: further connections met other
    servers; `exact`: a standby tells its timeline, and not just the one of its control file;
    `paused`: a standby's replay is (None: it doesn't tell); `user`: whose session that was.
    """

    endpoint: Endpoint
    zone: str | None = None
    error: str = ""
    role: Role = Role.UNKNOWN
    system_id: str = ""
    incarnation: str = ""
    timeline: int | None = None
    lag_s: float | None = None
    standbys: int | None = None
    synchronous: bool | None = None
    timeouts_s: tuple[float, float] | None = None
    pooled: bool = False
    others: bool = False
    exact: bool = True
    paused: bool | None = None
    user: str = ""

    @property
    def where(self) -> str:
        """For people."""
        return str(self.endpoint) if self.endpoint.port else "the service file's server"


@dataclass(frozen=True, slots=True)
class UrlFacts:
    """An HTTP dependency.  `named`: the dependencies that its health body names; `status`: of
    the health path, None: not asked, or no answer (`error` says which); `refused`: addresses that
    take no connections, with the reason."""

    url: str
    name: NameFacts
    health_path: str = ""
    status: int | None = None
    named: tuple[str, ...] = ()
    error: str = ""
    refused: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """All that was seen.  `alias_of`: other names of this environment (variable, facts);
    `fallbacks`: URLs to go to where one has no endpoint."""

    names: tuple[NameFacts, ...] = ()
    servers: tuple[ServerFacts, ...] = ()
    urls: tuple[UrlFacts, ...] = ()
    aliases: tuple[tuple[str, NameFacts], ...] = ()
    name_servers: tuple[str, ...] = ()
    fallbacks: tuple[str, ...] = ()
    sslmode: str = ""
    zone: str | None = None
    zones: tuple[str, ...] = ()
    max_staleness_s: float | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a failover would bring to light.  `grave`: it counts (exit 1); else it is
    a note."""

    check: str
    where: str
    symptom: str
    cause: str
    fix: str
    grave: bool = True

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return {
            "check": self.check,
            "where": self.where,
            "symptom": self.symptom,
            "cause": self.cause,
            "fix": self.fix,
        }


def in_words(seconds: float) -> str:
    """`90.0` → `1.5 min`."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"
