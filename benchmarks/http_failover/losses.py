"""Where a peer is better than ours, used in the same way, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Loss", "losses"]

UNEXPLAINED = "not explained yet"
#: a peer is better when it is by more than this: seconds, or a count
NOISE = {"stall_s": 0.1, "errors": 0.5, "duplicated": 0.0, "ghosts": 0.0, "lost": 0.0}
#: (column, fault or "", reason); the first that fits
REASONS = (
    ("errors", "hung", "an order that was sent can't be sent again; the peer had none under way"),
    ("errors", "reset", "an order that was sent can't be sent again; the peer had none under way"),
    ("errors", "busy", "a 503 to an order is the caller's: it isn't safe to send it elsewhere"),
    ("errors", "down", "orders fail at once while nobody listens; the peer's wait, or are fewer"),
    ("ghosts", "", "chance: an order was under way, and its upstream carried it out all the same"),
    ("stall_s", "hung", "an order under way waits for its own timeout (5 s): it can't be resent"),
    ("stall_s", "down", "waits for the names' next answer instead of dialling all the time"),
)


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
        for column, fault, text in REASONS:
            if column == self.column and fault in ("", self.ours.fault):
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
