"""Which rounds are played: one client and a few failovers each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ..failover.clients import CLIENTS

__all__ = ["FAULTS", "ROUNDS_OF", "TOLD_LOST", "USUAL", "Round", "plan"]

FAULTS: Final = ("crash", "switchover", "hang", "zombie")
#: failovers of one round: one of each kind
ROUNDS_OF: Final = len(FAULTS)
#: in a row's steps: acknowledged commits of which the library itself told that they are gone
TOLD_LOST: Final = "told-lost"
#: measured unless others are named
USUAL: Final = (
    "psycopg_pool",
    "psycopg_pool-async",
    "aws-tuned",
    "resilient",
    "resilient-async",
    "resilient-ledger",
    "resilient-ledger-async",
)


@dataclass(frozen=True, slots=True)
class Round:
    """One client through `faults`, one after the other; `number` counts its rounds.

    `endpoint` is what the failover benchmark calls it: every host is known.
    """

    client: str
    number: int
    faults: tuple[str, ...]
    sync: bool = True
    endpoint: str = "multi"

    @property
    def way(self) -> str:
        """Ours goes without a loop around it, the others need one."""
        return "plain" if CLIENTS[self.client].ours else "retry"

    @property
    def replication(self) -> str:
        """Whether a COMMIT waits for a standby."""
        return "sync" if self.sync else "async"

    @property
    def key(self) -> str:
        """What makes two rounds the same one, for resuming."""
        return f"{self.replication}/{self.client}/{self.number}/{'+'.join(self.faults)}"


def plan(failovers: int, clients: Sequence[str] = (), sync: bool = True) -> list[Round]:
    """By rounds, in each all clients: who stops in the middle has figures of all."""
    rounds = []
    for first in range(0, failovers, ROUNDS_OF):
        faults = FAULTS[: min(ROUNDS_OF, failovers - first)]
        number = first // ROUNDS_OF + 1
        rounds += [Round(name, number, faults, sync) for name in clients or USUAL]
    return rounds
