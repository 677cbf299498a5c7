"""Availability arithmetic.

Symbols: A, a availability in [0, 1]; a year has 365.25 days, a month 30.

    downtime   = (1 − A) · period                A         = 1 − downtime / period
    series     : A = ∏ aᵢ                        redundant : A = 1 − (1 − a)ᵏ
    instances  : k = ⌈log(1 − A) / log(1 − a)⌉   incidents : ⌊downtime / RTO⌋ a year
    RTO        = interval · threshold + promotion + TTL + reconnect

All of it assumes that failures are independent: two tiers in one zone fail together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from .._dataclass import dataclass

__all__ = [
    "MONTH_S",
    "YEAR_S",
    "Rto",
    "availability_of_downtime",
    "downtime_s",
    "incidents_per_year",
    "instances_needed",
    "nines",
    "redundant",
    "series",
]

YEAR_S = 365.25 * 86_400
MONTH_S = 30 * 86_400.0
#: quotients this close to a whole number are that number: 1 − 0.99 isn't exactly 0.01
_CLOSE = 1e-9


@dataclass(frozen=True, slots=True)
class Rto:
    """Recovery time of an active-passive failover, by phase; seconds, `threshold` a count.

    `decision_s` is what lies between the verdict and the beginning of the promotion.
    """

    probe_interval_s: float = 0.0
    threshold: int = 1
    promotion_s: float = 0.0
    dns_ttl_s: float = 0.0
    reconnect_s: float = 0.0
    decision_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("probe_interval_s", "promotion_s", "dns_ttl_s", "reconnect_s", "decision_s"):
            _not_negative(name, getattr(self, name))
        if self.threshold < 1:
            raise ValueError(f"threshold {self.threshold}: must be a whole number ≥ 1")

    @property
    def detection_s(self) -> float:
        """Period × threshold."""
        return self.probe_interval_s * self.threshold

    @property
    def total_s(self) -> float:
        """All phases one after the other."""
        after = self.decision_s + self.promotion_s + self.dns_ttl_s + self.reconnect_s
        return self.detection_s + after


def downtime_s(availability: float, period_s: float = YEAR_S) -> float:
    """Seconds of downtime that an availability allows in a period."""
    _availability(availability)
    return (1.0 - availability) * period_s


def availability_of_downtime(downtime: float, period_s: float = YEAR_S) -> float:
    """The inverse of `downtime_s`; ValueError for more downtime than there is time."""
    if not 0.0 <= downtime <= period_s:
        raise ValueError(f"downtime {downtime:g} s: must be 0 to {period_s:g} s")
    return 1.0 - downtime / period_s


def nines(availability: float) -> float:
    """−log₁₀(1 − A): 0.9999 → 4; infinite for 1."""
    _availability(availability)
    return math.inf if availability == 1.0 else _snap(-math.log10(1.0 - availability))


def series(availabilities: Iterable[float]) -> float:
    """Every one of them is needed."""
    return math.prod(map(_availability, availabilities))


def redundant(availability: float, instances: int) -> float:
    """Any one of k equal instances is enough."""
    _availability(availability)
    if instances < 1:
        raise ValueError(f"instances {instances}: must be a whole number ≥ 1")
    return 1.0 - (1.0 - availability) ** instances


def instances_needed(target: float, availability: float) -> int:
    """The smallest k for which `redundant(availability, k)` reaches the target."""
    _availability(target)
    _availability(availability)
    if target == 0.0 or availability == 1.0:
        return 1
    if availability == 0.0 or target == 1.0:
        raise ValueError("no number of such instances reaches the target")
    return max(1, math.ceil(_snap(math.log(1.0 - target) / math.log(1.0 - availability))))


def incidents_per_year(availability: float, rto_s: float) -> int:
    """Whole incidents of this length that a year's budget pays for."""
    if not (rto_s > 0 and math.isfinite(rto_s)):
        raise ValueError(f"RTO {rto_s:g} s: must be more than 0")
    return math.floor(_snap(downtime_s(availability) / rto_s))


def _snap(value: float) -> float:
    near = round(value)
    return float(near) if abs(value - near) <= _CLOSE * max(1.0, abs(value)) else value


def _availability(value: float) -> float:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"availability {value:g}: must be between 0 and 1")
    return value


def _not_negative(name: str, value: float) -> None:
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{name} {value:g}: must not be negative")
