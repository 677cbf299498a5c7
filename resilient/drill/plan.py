"""Which faults are forced, in which order, with which delays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from ..errors import ConfigError

__all__ = ["ENDPOINTS", "Case", "Choice", "Endpoint", "plan"]

#: how the client knows the database: every host by address, or one CNAME that the failover moves
Endpoint = Literal["multi", "cname"]
ENDPOINTS: Final[tuple[Endpoint, ...]] = ("multi", "cname")

DATABASE: Final = ("switchover", "crash", "hang", "blackhole", "zombie")
HTTP: Final = ("upstream-down", "upstream-hang", "upstream-gone")
ALL: Final = (*DATABASE, "dns-flip", *HTTP)
#: a command of the operator's, on a system that is there
EXEC: Final = "exec"

#: promotions begin this long after the fault, in turn; 1 s first, so that one run is typical
SPREAD_S: Final = (1.0, 0.5, 1.5, 2.0, 3.0, 5.0)
#: without --promote-after: the spread for those whose promptness is the question, else 1 s
_DELAYS: Final = {"switchover": SPREAD_S, "crash": SPREAD_S}
_KINDS: Final[dict[str, tuple[Endpoint, ...]]] = {
    "switchover": ("multi",),
    "crash": ENDPOINTS,
    "hang": ENDPOINTS,
    "blackhole": ENDPOINTS,
    "zombie": ("multi",),
    "dns-flip": ("cname",),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One run to be.  `number` of `of` within its fault and endpoint kind; seconds."""

    fault: str
    endpoint: Endpoint
    number: int
    of: int
    promote_after_s: float
    dns_after_s: float

    @property
    def is_failover(self) -> bool:
        """Whether another server becomes the primary."""
        return self.fault in DATABASE

    @property
    def is_http(self) -> bool:
        """Whether it hits the HTTP upstreams only."""
        return self.fault in HTTP


@dataclass(frozen=True, slots=True)
class Choice:
    """What was asked for; empty or None means the default of each fault.

    `runs`: per fault and endpoint kind; the delays are taken in turn.
    """

    faults: tuple[str, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    runs: int | None = None
    promote_after_s: tuple[float, ...] = ()
    dns_after_s: float = 0.5
    skipped: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        for fault in self.faults:
            if fault not in ALL:
                raise ConfigError(f"--fault {fault}: accepted: {', '.join(ALL)}")
        for endpoint in self.endpoints:
            if endpoint not in ENDPOINTS:
                raise ConfigError(f"--endpoint {endpoint}: accepted: multi, cname, both")
        if self.runs is not None and self.runs < 1:
            raise ConfigError(f"--runs {self.runs}: accepted: a whole number ≥ 1")
        for delay in (*self.promote_after_s, self.dns_after_s):
            if not 0 <= delay <= 60:
                raise ConfigError(f"a delay of {delay:g} s: accepted: 0 to 60 seconds")


def plan(choice: Choice) -> list[Case]:
    """The runs, all of one endpoint kind together (a kind has one client process)."""
    cases: list[Case] = []
    for endpoint in ENDPOINTS:
        for fault in choice.faults or ALL:
            if fault not in choice.skipped and endpoint in _kinds(fault, choice):
                cases += _cases(fault, endpoint, choice)
    return cases


def _kinds(fault: str, choice: Choice) -> tuple[Endpoint, ...]:
    if fault in HTTP:  # the database's endpoint doesn't matter: once is enough
        return choice.endpoints[:1] or ("multi",)
    if not choice.endpoints:
        return _KINDS[fault]
    if choice.faults:
        return choice.endpoints
    return tuple(kind for kind in _KINDS[fault] if kind in choice.endpoints)


def _cases(fault: str, endpoint: Endpoint, choice: Choice) -> list[Case]:
    delays = choice.promote_after_s
    if not delays:
        delays = _DELAYS.get(fault, (1.0,)) if endpoint == "multi" else (1.0,)
    runs = choice.runs or (len(delays) if len(delays) > 1 else 2)
    if fault not in DATABASE:  # nobody is promoted
        delays, runs = (0.0,), choice.runs or 1
    return [
        Case(fault, endpoint, n + 1, runs, delays[n % len(delays)], choice.dns_after_s)
        for n in range(runs)
    ]
