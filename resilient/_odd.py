"""Values of settings that are possible and that hardly anybody means.

Most are a unit: milliseconds where seconds are read, or a number that was meant for another
setting.  Each is told in one sentence that says what follows from it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ._dataclass import dataclass

if TYPE_CHECKING:
    from .settings import Settings

__all__ = ["oddities"]


@dataclass(frozen=True, slots=True)
class Usual:
    """The values that somebody may mean.  `follows`: what follows from others; `{}` is the value,
    `{inverse}` one divided by it."""

    follows: str
    least: float = 0.0
    most: float = math.inf


_HOUR_S = 3600.0
#: by the setting's name; those that speak of several settings are below
_USUAL = {
    "deadline_s": Usual("callers may wait for so many seconds", most=_HOUR_S),
    "probe_interval_s": Usual("{inverse} probes a second and endpoint", least=0.002),
    "probe_burst_interval_s": Usual("{inverse} probes a second and endpoint", least=0.002),
    "success_threshold": Usual("a server that is back waits for {} answers", most=100),
    "retry_attempts": Usual("one operation is tried {} times", most=100),
    "connect_rate": Usual("after a loss a connection is made every {inverse} s", least=0.1),
    "max_staleness_s": Usual("hardly any replica is ever that fresh", least=0.01),
    "dns_ttl_floor_s": Usual("whatever its TTL, a name is asked again after {} s", most=300),
    "dns_ttl_ceiling_s": Usual("a name that moves is maybe not followed for {} s", most=3599),
    "dns_negative_ceiling_s": Usual("a new name may be found only after {} s", most=_HOUR_S),
    "dns_deadline_s": Usual("one resolution may take so many seconds", most=300),
    "eject_after": Usual("an endpoint is in use until {} requests in a row failed", most=1000),
    "eject_s": Usual("an endpoint that is well again stays out for {} s", most=_HOUR_S),
}
#: a dead server that is noticed later than so was hardly to be
_MOST_WINDOW_S = 60.0
_WINDOW = ("probe_interval_s", "probe_timeout_s", "failure_threshold")


def oddities(settings: Settings) -> list[tuple[str, str]]:
    """(setting, what follows from its value), each setting once."""
    odd = {}
    for name, usual in _USUAL.items():
        value = getattr(settings, name)
        if value is not None and not usual.least <= value <= usual.most:
            inverse = f"{1 / value:g}" if value else ""
            odd[name] = usual.follows.format(f"{value:g}", inverse=inverse)
    window_s = settings.window_s
    if window_s > _MOST_WINDOW_S:
        blamed = max(
            _WINDOW, key=lambda name: getattr(settings, name) / settings.fields[name].default
        )
        odd[blamed] = f"a server that dies is noticed after {window_s:g} s"
    elif window_s > settings.deadline_s:
        odd["deadline_s"] = (
            "callers give up before a dead server is noticed"
            f" (interval + threshold × timeout = {window_s:g} s)"
        )
    chosen = settings.has_chosen("probe_burst_interval_s")
    if chosen and settings.probe_burst_interval_s > settings.probe_interval_s:
        odd["probe_burst_interval_s"] = (
            "an endpoint under suspicion is probed less often than a quiet one"
            f" (PROBE_INTERVAL_S={settings.probe_interval_s:g})"
        )
    if settings.dns_timeout_s > settings.dns_deadline_s:
        odd["dns_timeout_s"] = (
            f"above DNS_DEADLINE_S={settings.dns_deadline_s:g}: only one name server is ever asked"
        )
    if settings.zone is not None and not settings.zones.names():
        odd["zone"] = "without RESILIENT_ZONES nothing lies in a zone"
    return list(odd.items())
