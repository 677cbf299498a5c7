"""`resilient budget`: nines, downtime, redundancy and RTO, by `core.rto`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ..core import rto as arithmetic
from .wrong_use import wrong_use

__all__ = ["budget"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for; availabilities as fractions, times in seconds, None: not asked."""

    target: float | None
    rto_s: float | None
    phases: arithmetic.Rto | None
    series: tuple[float, ...]
    redundant: float | None
    instances: int | None
    instance_availability: float | None


def _option(help_text: str) -> Any:
    return typer.Option(help=help_text)


Number = float | None
Target = Annotated[Number, _option("Availability aimed at, in percent: 99.99.")]
RtoS = Annotated[Number, _option("Recovery time of one incident, in seconds.")]
Downtime = Annotated[Number, _option("Seconds of downtime a year, instead of --target.")]
Series = Annotated[str | None, _option("Availabilities in a chain, in percent: 99.9,99.9,99.9.")]
Redundant = Annotated[Number, _option("One instance's availability, for --instances of them.")]
Instances = Annotated[int | None, _option("How many (with --redundant).")]
OfInstance = Annotated[Number, _option("One instance's availability: how many reach --target?")]
Interval = Annotated[Number, _option("RTO by phase: seconds between two health checks.")]
Threshold = Annotated[int, _option("RTO by phase: failed checks in a row.")]
Promotion = Annotated[float, _option("RTO by phase: seconds to promote.")]
DnsTtl = Annotated[float, _option("RTO by phase: seconds of the DNS TTL.")]
Reconnect = Annotated[float, _option("RTO by phase: seconds to reconnect.")]
Decision = Annotated[float, _option("RTO by phase: seconds from the verdict to the promotion.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object.")]


def budget(  # noqa: PLR0917  # the options of the command line
    target: Target = None,
    rto: RtoS = None,
    downtime: Downtime = None,
    series: Series = None,
    redundant: Redundant = None,
    instances: Instances = None,
    instance_availability: OfInstance = None,
    probe_interval: Interval = None,
    threshold: Threshold = 1,
    promotion: Promotion = 0.0,
    dns_ttl: DnsTtl = 0.0,
    reconnect: Reconnect = 0.0,
    decision: Decision = 0.0,
    as_json: Json = False,
) -> None:
    """Nines and downtime, chains and redundancy, RTO and incidents a year.

    Failures are independent, a year has 365.25 days.  Exit 1: what was given misses the target.
    """
    try:
        phases = _phases(probe_interval, threshold, promotion, dns_ttl, reconnect, decision)
        found = answer(
            Asked(
                target=_target(target, downtime),
                rto_s=_rto(rto, phases),
                phases=phases,
                series=_percents(series),
                redundant=_percent("--redundant", redundant),
                instances=instances,
                instance_availability=_percent("--instance-availability", instance_availability),
            )
        )
    except ValueError as error:
        wrong_use("budget", str(error))
    if as_json:
        print(json.dumps(found))
    else:
        _print(found)
    raise typer.Exit(1 if found.get("meets_target") is False else 0)


def _phases(interval_s: float | None, threshold: int, *others_s: float) -> arithmetic.Rto | None:
    if interval_s is None and not any(others_s):
        return None
    return arithmetic.Rto(interval_s or 0.0, threshold, *others_s)


def _rto(rto_s: float | None, phases: arithmetic.Rto | None) -> float | None:
    if rto_s is not None and phases is not None:
        raise ValueError("give --rto or the phases of one, not both")
    return phases.total_s if phases is not None else rto_s


def answer(asked: Asked) -> dict[str, object]:
    """What follows, by name; ValueError says what is missing or out of range."""
    found: dict[str, object] = {}
    reached: list[float] = []
    if asked.target is not None:
        found |= _downtime(asked.target)
    if asked.phases is not None:
        found["detection_s"] = _tidy(asked.phases.detection_s)
    if asked.rto_s is not None:
        found["rto_s"] = _tidy(asked.rto_s)
        if asked.target is not None:
            count = arithmetic.incidents_per_year(asked.target, asked.rto_s)
            found["incidents_per_year"] = count
    if asked.series:
        reached.append(arithmetic.series(asked.series))
        found["series_availability"] = _tidy(reached[-1] * 100)
    if (asked.redundant is None) != (asked.instances is None):
        raise ValueError("--redundant and --instances belong together")
    if asked.redundant is not None and asked.instances is not None:
        reached.append(arithmetic.redundant(asked.redundant, asked.instances))
        found["redundant_availability"] = _tidy(reached[-1] * 100)
    if asked.instance_availability is not None:
        if asked.target is None:
            raise ValueError("--instance-availability needs --target")
        found["instances_needed"] = arithmetic.instances_needed(
            asked.target, asked.instance_availability
        )
    if not found:
        raise ValueError("nothing asked: try --target 99.99 --rto 55, or --help")
    if reached and asked.target is not None:
        found["meets_target"] = all(value >= asked.target - 1e-12 for value in reached)
    return found


def _downtime(target: float) -> dict[str, object]:
    nines = arithmetic.nines(target)
    return {
        "target": _tidy(target * 100),
        "nines": None if nines == float("inf") else _tidy(nines),
        "downtime_s_per_year": _tidy(arithmetic.downtime_s(target)),
        "downtime_s_per_month": _tidy(arithmetic.downtime_s(target, arithmetic.MONTH_S)),
    }


def _target(percent: float | None, downtime_s: float | None) -> float | None:
    if downtime_s is None:
        return _percent("--target", percent)
    if percent is not None:
        raise ValueError("give --target or --downtime, not both")
    return arithmetic.availability_of_downtime(downtime_s)


def _percent(name: str, value: float | None) -> float | None:
    if value is None:
        return None
    if not 0.0 <= value <= 100.0:
        raise ValueError(f"{name} {value:g}: accepted: percent, 0 to 100")
    return value / 100.0


def _percents(text: str | None) -> tuple[float, ...]:
    values: list[float] = []
    for part in text.split(",") if text is not None else ():
        try:
            value = _percent("--series", float(part))
        except ValueError:
            raise ValueError(f"--series {text}: accepted: percents, such as 99.9,99.99") from None
        values += [value] if value is not None else []
    return tuple(values)


def _tidy(value: float) -> float:
    """Without the dust of binary fractions."""
    return float(f"{value:.10g}")


_WORDS = {
    "target": "availability aimed at, %",
    "nines": "nines",
    "downtime_s_per_year": "downtime a year, s",
    "downtime_s_per_month": "downtime a month of 30 days, s",
    "detection_s": "detection (interval × threshold), s",
    "rto_s": "recovery time of one incident, s",
    "incidents_per_year": "whole incidents a year that fit",
    "series_availability": "all of the chain up, %",
    "redundant_availability": "any instance up, %",
    "instances_needed": "instances needed",
    "meets_target": "meets the target",
}


def _print(found: dict[str, object]) -> None:
    for name, value in found.items():
        shown = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
        print(f"{_WORDS[name]:<38} {shown}")
