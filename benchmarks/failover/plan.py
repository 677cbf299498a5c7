"""Which cases are run, in which order.

The order is by rounds: whoever stops in the middle has every client's figures of the rounds so far.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

from .clients import CLIENTS

__all__ = ["ENDPOINTS", "FAULTS", "Case", "Choice", "plan", "zones"]

#: promotions begin this long after the fault; the others' promotion begins after 1 s
SPREAD_S: Final = (1.0, 0.5, 1.5, 2.0, 3.0, 5.0)
FAULTS: Final = {
    "switchover": SPREAD_S,
    "crash": SPREAD_S,
    "hang": (1.0,),
    "blackhole": (1.0,),
    "zombie": (1.0,),
    "double": (1.0,),  # the new primary crashes too, within 5 s
    "flap": (0.0,),  # the primary crashes and is back, three times; nobody is promoted
    "brownout": (0.0,),  # three seconds of slowness; who leaves loses
}
ENDPOINTS: Final = ("multi", "cname")
QUICK: Final = ("crash", "hang", "switchover")


@dataclass(frozen=True, slots=True)
class Case:
    """One run to be; `number` counts the runs with all else equal."""

    client: str
    way: str
    fault: str
    endpoint: str
    promote_after_s: float
    number: int

    @property
    def key(self) -> str:
        """What makes two runs the same one, for resuming."""
        return "/".join(map(str, asdict(self).values()))

    def as_dict(self) -> dict[str, Any]:
        """For a row."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Choice:
    """What was asked for; empty means all.  `runs`: rounds of ours, `peer_runs`: of the others.

    A round has a run for each promotion time.
    """

    clients: tuple[str, ...] = ()
    ways: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    promote_after_s: tuple[float, ...] = ()
    runs: int | None = None
    peer_runs: int | None = None


def zones(fault: str) -> int:
    """How many the lab needs: after two crashes a synchronous standby must be left."""
    return 4 if fault == "double" else 3


def plan(choice: Choice) -> list[Case]:
    """The cases, those of one size of lab together."""
    faults = choice.faults or tuple(FAULTS)
    cases = [
        (zones(fault), number, order, case)
        for fault in faults
        for endpoint in choice.endpoints or ENDPOINTS
        for order, (case, number) in enumerate(_cases(fault, endpoint, choice))
    ]
    # sorted() is stable: within a round by fault, endpoint and promotion time, then by client
    return [case for *_, case in sorted(cases, key=lambda item: item[:2])]


def _cases(fault: str, endpoint: str, choice: Choice) -> Iterable[tuple[Case, int]]:
    delays = FAULTS[fault]
    if len(delays) > 1 and choice.promote_after_s:
        delays = choice.promote_after_s
    for number in range(1, max(_rounds(len(delays), ours, choice) for ours in (True, False)) + 1):
        for delay in delays:
            for name in choice.clients or [
                name for name in CLIENTS if not CLIENTS[name].only_named
            ]:
                entry = CLIENTS[name]
                if number > _rounds(len(delays), entry.ours, choice):
                    continue
                if endpoint == "cname" and entry.no_cname:
                    continue
                for way in entry.ways:
                    if not choice.ways or way in choice.ways:
                        yield Case(name, way, fault, endpoint, delay, number), number


def _rounds(delays: int, ours: bool, choice: Choice) -> int:
    """Ten runs of ours at least for every fault and endpoint, two of a peer."""
    given = choice.runs if ours else choice.peer_runs
    return given or (-(-10 // delays) if ours else -(-2 // delays))
