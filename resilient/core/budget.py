"""How much retrying is allowed, and how long to wait before it.

With the symbols of the settings, the retries granted in any stretch of `t_s` seconds that
saw `n` requests are at most about

    max(retry_budget × n, retry_budget_floor × t_s) + retry_budget_floor

so that an outage in which everything fails sends at most 1.2 × the load (0.2 share), while
a quiet service may still retry.  Share and floor are not added up: what the share grants is
taken off the floor.  The balance fades (`FADE_S`), so that calm hours save up no storm: an
outage begins with at most `retry_budget` × `FADE_S` seconds of traffic to its credit.

Back-off is "full jitter": a draw from [0, base × 2ⁿ), capped.
"""

from __future__ import annotations

from dataclasses import replace
from math import exp

from .._dataclass import dataclass

#: unspent share fades to 1/e in this time, in seconds
FADE_S = 2.0
BACKOFF_BASE_S = 0.05
BACKOFF_CAP_S = 1.0


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """An immutable account; every method returns a new one.  Times are monotonic seconds.

    `share`: unspent retries earned by requests.  `floor`: unspent retries earned by time.
    """

    ratio: float = 0.2
    floor_per_s: float = 10.0
    share: float = 0.0
    floor: float = 10.0
    at_s: float = 0.0

    @classmethod
    def full(cls, ratio: float, floor_per_s: float, now: float) -> RetryBudget:
        """The account of an origin that was just met: one second's floor, no share."""
        return cls(ratio, floor_per_s, 0.0, floor_per_s, now)

    def deposit(self, requests: int, now: float) -> RetryBudget:
        """`requests` first attempts were made since the last deposit."""
        elapsed_s = max(0.0, now - self.at_s)
        earned = self.ratio * requests
        floor = self.floor + self.floor_per_s * elapsed_s - earned
        return replace(
            self,
            share=self.share * exp(-elapsed_s / FADE_S) + earned,
            floor=min(max(floor, 0.0), self.floor_per_s),
            at_s=max(now, self.at_s),
        )

    @property
    def balance(self) -> float:
        """Retries that would be granted now."""
        return self.share + self.floor

    def try_withdraw(self) -> tuple[RetryBudget, bool]:
        """One retry: the account after it, and whether it is granted."""
        if self.share >= 1:
            return replace(self, share=self.share - 1), True
        if self.balance < 1 - 1e-9:
            return self, False
        return replace(self, share=0.0, floor=max(0.0, self.balance - 1)), True


def backoff_s(retry: int, draw: float) -> float:
    """Seconds before the `retry`-th retry (from 1); `draw` is a number from [0, 1)."""
    return draw * min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** (retry - 1))
