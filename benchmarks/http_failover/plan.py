"""Which cases are run, in which order: by rounds, as in the other failover benchmark."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from .clients import CLIENTS

__all__ = ["FAULTS", "Case", "Fault", "plan"]


@dataclass(frozen=True, slots=True)
class Fault:
    """`steps`: (seconds after the fault, what happens); `watch_s`: how long at least we look."""

    steps: tuple[tuple[float, str], ...]
    watch_s: float

    @property
    def over_s(self) -> float:
        """When nothing more is going to happen."""
        return self.steps[-1][0]


#: they hit the upstream that serves the client, `down` hits all
FAULTS: Final = {
    "killed": Fault(((0.0, "kill"),), 3.0),
    "hung": Fault(((0.0, "pause"),), 3.0),
    "reset": Fault(((0.0, "reset"), (3.0, "ok")), 4.0),
    "busy": Fault(((0.0, "busy"), (3.0, "ok")), 4.0),
    "gone": Fault(((0.0, "leave"), (5.0, "kill")), 7.0),
    "down": Fault(((0.0, "kill all"), (3.0, "start all")), 4.0),
}
QUICK: Final = ("killed", "hung", "reset")


@dataclass(frozen=True, slots=True)
class Case:
    """One run to be."""

    client: str
    way: str
    fault: str
    number: int

    @property
    def key(self) -> str:
        """What makes two runs the same one."""
        return "/".join(map(str, asdict(self).values()))

    def as_dict(self) -> dict[str, Any]:
        """For a row."""
        return asdict(self)


def plan(
    clients: tuple[str, ...],
    ways: tuple[str, ...],
    faults: tuple[str, ...],
    runs: int,
    peer_runs: int,
) -> list[Case]:
    """Empty means all."""
    return [
        Case(name, way, fault, number)
        for number in range(1, max(runs, peer_runs) + 1)
        for fault in faults or FAULTS
        for name in clients or CLIENTS
        for way in CLIENTS[name].ways
        if (not ways or way in ways) and number <= (runs if CLIENTS[name].ours else peer_runs)
    ]
