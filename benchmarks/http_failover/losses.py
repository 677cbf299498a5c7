"""Where a peer is better than ours, used in the same way, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Loss", "losses"]

UNEXPLAINED = "not explained yet"
#: a peer is better when it is by more than this: seconds, or a count
NOISE = {
    "stall_s": 0.1,
    "back_s": 0.1,
    "slowest_s": 0.1,
    "errors": 0.5,
    "stuck": 0.0,
    "lost": 0.0,
    "duplicated": 0.0,
    "ghosts": 0.0,
    "connections": 0.5,
}
TIMES = ("stall_s", "back_s", "slowest_s", "stuck")
UNDER_WAY = "an order that was sent can't be sent again; the peer had none under way"
SLOW_OR_DEAD = (
    "an order under way waits for its own timeout (5 s): with nothing set nobody can tell an "
    "upstream that hangs from one that takes long (one worker, busy with just this order, is as "
    "silent). The peer's timeout of 2 s cuts both; ours with health checks ends the dead one only"
)
PROVED = (
    "an order waits until health checks prove its upstream dead: a window (2 s) after the later "
    "of its sending and the upstream's last word"
)
ONCE_ELSEWHERE = (
    "as under stall, and luck: a peer's session that is served elsewhere once is back, though it "
    "meets the upstream that hangs later"
)
FINDS_OUT = (
    "a 503 to an order is the caller's, as it isn't safe to send it elsewhere: the first one finds "
    "out. The peer sent none there (it doesn't repeat orders either)"
)
HEALTH_CHECKS = (
    "health checks: one connection more to each upstream, up to eight to one that is silent, and "
    "a new one for each check of one that resets them"
)
#: (columns, fault or "", client's end or "", way or "", reason); the first that fits
REASONS: tuple[tuple[tuple[str, ...], str, str, str, str], ...] = (
    (("back_s",), "hung", "", "", ONCE_ELSEWHERE),
    (TIMES, "hung", "tuned", "", PROVED),
    (TIMES, "hung", "", "", SLOW_OR_DEAD),
    (TIMES, "down", "", "", "waits up to 0.25 s until it dials again; the peer dials all the time"),
    (("errors",), "busy", "", "", FINDS_OUT),
    (("errors",), "down", "", "", "orders fail at once while nobody listens; the peer's are fewer"),
    (("errors",), "", "", "", UNDER_WAY),
    (("duplicated",), "", "", "retry", "a naive loop orders again whatever the error was; the peer "
     "had no order under way"),
    (("ghosts",), "", "", "", "chance: an order was under way, and its upstream carried it out"),
    (("connections",), "", "tuned", "", HEALTH_CHECKS),
    (("connections",), "", "", "", "keeps connections to every upstream, and opens more to those "
     "that are left; the peer replaces those that it lost"),
)  # fmt: skip


class Cell(Protocol):
    """What is compared; see report.py."""

    @property
    def fault(self) -> str: ...
    @property
    def client(self) -> str: ...
    @property
    def way(self) -> str: ...
    @property
    def ours(self) -> bool: ...
    @property
    def never(self) -> int: ...
    def value(self, column: str) -> float: ...


@dataclass(frozen=True, slots=True)
class Loss:
    """One cell's column, and who is better there."""

    ours: Cell
    peer: Cell
    column: str

    @property
    def why(self) -> str:
        """In a sentence."""
        for columns, fault, client, way, text in REASONS:
            if (
                self.column in columns
                and fault in ("", self.ours.fault)
                and self.ours.client.endswith(client)
                and way in ("", self.ours.way)
            ):
                return text
        return UNEXPLAINED


def losses(found: Sequence[Cell]) -> Iterator[Loss]:
    """Against the best peer that came back, column by column."""
    for cell in found:
        peers = [
            peer
            for peer in found
            if not peer.ours and (peer.fault, peer.way) == (cell.fault, cell.way) and not peer.never
        ]
        for column, noise in NOISE.items() if cell.ours and peers else ():
            best = min(peers, key=lambda peer: peer.value(column))
            if best.value(column) + noise < cell.value(column):
                yield Loss(cell, best, column)
