"""Availability arithmetic.

Symbols: A, a availability in [0, 1]; a year has 365.25 days, a month 30.

    downtime   = (1 − A) · period                A         = 1 − downtime / period
    tiers      : A = ∏ (1 − (1 − aᵢ)^kᵢ), each needed, kᵢ equal instances in each
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
    "Tier",
    "architecture",
    "availability_of_downtime",
    "downtime_s",
    "incident_share",
    "incidents_per_year",
    "instances_needed",
    "nines",
    "redundant",
    "series",
    "shared_zones",
    "tiers",
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


@dataclass(frozen=True, slots=True)
class Tier:
    """`instances` equal ones of availability `each`, of which any one is enough.  `zones`: where
    they are; empty: nobody said."""

    name: str
    each: float
    instances: int = 1
    zones: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _availability(self.each)
        if self.instances < 1:
            raise ValueError(f"{self.name}: {self.instances} instances: accepted: 1 or more")

    @property
    def availability(self) -> float:
        """Any instance up."""
        return redundant(self.each, self.instances)


def tiers(chain: Iterable[Tier]) -> float:
    """Every tier is needed: redundant in itself, in series with the others."""
    return series(tier.availability for tier in chain)


def shared_zones(chain: Iterable[Tier]) -> dict[str, tuple[str, ...]]:
    """Zone → the tiers that have instances there, where there are several: they fail together,
    which the product of their availabilities doesn't know."""
    found: dict[str, tuple[str, ...]] = {}
    for tier in chain:
        for zone in dict.fromkeys(tier.zones):
            found[zone] = (*found.get(zone, ()), tier.name)
    return {zone: names for zone, names in found.items() if len(names) > 1}


def incident_share(availability: float, rto_s: float) -> float:
    """The part of a year's budget that one incident takes; infinite where there is no budget."""
    budget_s = downtime_s(availability)
    return rto_s / budget_s if budget_s else math.inf


#: (what it reaches, what it is): the least that reaches a target is what the target takes
_ARCHITECTURES = (
    (0.99, "one instance"),
    (0.999, "replicas behind a balancer, one zone"),
    (0.9999, "several zones, automatic failover in less than a minute, in every tier"),
    (1.0, "several regions, all serving (active-active)"),
)


def architecture(target: float) -> str:
    """What a target usually takes: 99.95 % is more than one zone reaches (99.9 %)."""
    return next(text for most, text in _ARCHITECTURES if _availability(target) <= most + 1e-12)


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
