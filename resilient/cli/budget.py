"""`resilient budget`: nines, downtime, redundancy and RTO, by `core.rto`."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from .._parse import visible
from ..core import rto as arithmetic
from ..drill.words import plural
from .wrong_use import wrong_use

__all__ = ["budget"]

#: of the column of words
WIDTH = 44
_TIER = re.compile(
    r"(?P<name>[^=]+)=(?P<each>\d*\.?\d+\s*%?)(?:[x×*](?P<count>\d+))?(?:@(?P<zones>.+))?"
)


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
    tiers: tuple[arithmetic.Tier, ...] = ()
    drill: str = ""


def _option(help_text: str) -> Any:
    return typer.Option(help=help_text)


Number = float | None
Percent = str | None
Target = Annotated[
    Percent, _option("Availability aimed at, in percent (99.99) or as a fraction (0.9999).")
]
RtoS = Annotated[Number, _option("Recovery time of one incident, in seconds.")]
Downtime = Annotated[Number, _option("Seconds of downtime a year, instead of --target.")]
Series = Annotated[str | None, _option("Availabilities in a chain, in percent: 99.9,99.9,99.9.")]
Redundant = Annotated[Percent, _option("One instance's availability, for --instances of them.")]
Instances = Annotated[int | None, _option("How many (with --redundant).")]
OfInstance = Annotated[Percent, _option("One instance's availability: how many reach --target?")]
Interval = Annotated[Number, _option("RTO by phase: seconds between two health checks.")]
Threshold = Annotated[int, _option("RTO by phase: failed checks in a row.")]
Promotion = Annotated[float, _option("RTO by phase: seconds to promote.")]
DnsTtl = Annotated[float, _option("RTO by phase: seconds of the DNS TTL.")]
Reconnect = Annotated[float, _option("RTO by phase: seconds to reconnect.")]
Decision = Annotated[float, _option("RTO by phase: seconds from the verdict to the promotion.")]
Tiers = Annotated[
    list[str] | None,
    typer.Option(
        "--tier",
        help="A tier that is needed: NAME=AVAILABILITY, with xN for N instances, with @az1,az2 for"
        " their zones: db=0.999x2@az1,az2 (repeatable).",
    ),
]
DrillFile = Annotated[
    Path | None,
    typer.Option(
        "--drill",
        help="RTO: the longest outage in what `drill --json` printed to this file; - is stdin.",
        dir_okay=False,
    ),
]
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
    tier: Tiers = None,
    drill: DrillFile = None,
    as_json: Json = False,
) -> None:
    """Nines and downtime, chains and redundancy, RTO and incidents a year.

    A year has 365.25 days, a month 30. Failures are taken to be independent. Exit code 1 when what
    was given misses the target.
    """
    try:
        phases = _phases(probe_interval, threshold, promotion, dns_ttl, reconnect, decision)
        found = answer(
            Asked(
                target=_target(target, downtime),
                rto_s=_rto(rto, phases, drill),
                phases=phases,
                series=_percents(series),
                redundant=_percent("--redundant", redundant),
                instances=instances,
                instance_availability=_percent("--instance-availability", instance_availability),
                tiers=tuple(_tier(text) for text in tier or ()),
                drill=str(drill or ""),
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


def _rto(rto_s: float | None, phases: arithmetic.Rto | None, drill: Path | None) -> float | None:
    if sum(given is not None for given in (rto_s, phases, drill)) > 1:
        raise ValueError("give --rto, the phases of one, or --drill, not several")
    if drill is not None:
        return _longest_outage(drill)
    return phases.total_s if phases is not None else rto_s


def answer(asked: Asked) -> dict[str, object]:
    """What follows, by name; ValueError says what is missing or out of range."""
    found: dict[str, object] = {}
    reached: list[float] = []
    if asked.target is not None:
        found |= _downtime(asked.target)
    found |= _recovery(asked)
    if asked.series:
        reached.append(arithmetic.series(asked.series))
        found["series_availability"] = _tidy(reached[-1] * 100)
    if (asked.redundant is None) != (asked.instances is None):
        raise ValueError("--redundant and --instances belong together")
    if asked.redundant is not None and asked.instances is not None:
        reached.append(arithmetic.redundant(asked.redundant, asked.instances))
        found["redundant_availability"] = _tidy(reached[-1] * 100)
    if asked.tiers:
        reached.append(arithmetic.tiers(asked.tiers))
        found |= _tiers(asked.tiers, reached[-1])
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
    if notes := _notes(asked):
        found["notes"] = notes
    return found


def _recovery(asked: Asked) -> dict[str, object]:
    found: dict[str, object] = {}
    if asked.phases is not None:
        found["detection_s"] = _tidy(asked.phases.detection_s)
    if asked.rto_s is not None:
        found["rto_s"] = _tidy(asked.rto_s)
        if asked.drill:
            found["rto_from"] = asked.drill
        if asked.target is not None:
            count = arithmetic.incidents_per_year(asked.target, asked.rto_s)
            found["incidents_per_year"] = count
            share = arithmetic.incident_share(asked.target, asked.rto_s)
            found["incident_share_percent"] = _tidy(share * 100) if share < math.inf else None
    return found


def _tiers(chain: tuple[arithmetic.Tier, ...], reached: float) -> dict[str, object]:
    return {
        "tiers": {tier.name: _tidy(tier.availability * 100) for tier in chain},
        "tiers_availability": _tidy(reached * 100),
        "tiers_downtime_s_per_year": _tidy(arithmetic.downtime_s(reached)),
        "weakest_tier": min(chain, key=lambda tier: tier.availability).name,
    }


def _notes(asked: Asked) -> list[str]:
    """What the numbers don't say."""
    notes = [
        f"{' and '.join(names)} have instances in {zone}: they fail together, which the product"
        " doesn't know"
        for zone, names in arithmetic.shared_zones(asked.tiers).items()
    ]
    notes += [
        f"{tier.name} has {tier.instances} instances in {plural(len(set(tier.zones)), 'zone')}"
        f" ({', '.join(dict.fromkeys(tier.zones))}): those of one zone fail together"
        for tier in asked.tiers
        if tier.zones and tier.instances > len(set(tier.zones))
    ]
    if any(tier.instances > 1 and not tier.zones for tier in asked.tiers):
        notes.append("zones weren't given (@az1,az2): instances in one zone fail together")
    if asked.target is not None and abs(asked.target - 0.9995) < 1e-9:
        notes.append("99.95 % is 263 minutes a year (4.38 h); 26 minutes, as is taught, would be"
                     " 99.995 %")  # fmt: skip
    return notes


def _downtime(target: float) -> dict[str, object]:
    nines = arithmetic.nines(target)
    return {
        "target": _tidy(target * 100),
        "architecture": arithmetic.architecture(target),
        "nines": None if nines == float("inf") else _tidy(nines),
        "downtime_s_per_year": _tidy(arithmetic.downtime_s(target)),
        "downtime_s_per_month": _tidy(arithmetic.downtime_s(target, arithmetic.MONTH_S)),
    }


def _target(percent: str | None, downtime_s: float | None) -> float | None:
    if downtime_s is None:
        return _percent("--target", percent)
    if percent is not None:
        raise ValueError("give --target or --downtime, not both")
    return arithmetic.availability_of_downtime(downtime_s)


def _percent(name: str, text: str | None) -> float | None:
    """`99.99`, `99.99%` or `0.9999`, as a fraction."""
    if text is None:
        return None
    number, sign, rest = text.partition("%")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if rest.strip() or not 0.0 <= value <= 100.0:
        raise ValueError(
            f"{name} {text}: accepted: percent, 0 to 100, or a fraction such as 0.9999"
        )
    if sign:
        return value / 100.0
    if value == 1.0:
        raise ValueError(f"{name} 1: 100 % or 1 %? accepted: 99.99, or 0.9999")
    # Nobody means a percent and less: 0.9999 is 99.99 %.
    return value if value < 1.0 else value / 100.0


def _tier(text: str) -> arithmetic.Tier:
    """`db=0.999x2@az1,az2`."""
    match = _TIER.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"--tier {text}: accepted: NAME=AVAILABILITY, NAME=0.999x2@az1,az2")
    each = _percent(f"--tier {match['name']}", match["each"])
    zones = tuple(zone.strip() for zone in (match["zones"] or "").split(",") if zone.strip())
    return arithmetic.Tier(match["name"], each or 0.0, int(match["count"] or 1), zones)


def _longest_outage(file: Path) -> float:
    """The longest outage of the failovers in what `drill --json` printed."""
    outages = []
    try:
        raw = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise ValueError(f"--drill {file} can't be read: {error.strerror}") from None
    text = raw.decode(errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            told = json.loads(line)
            if told["outage_s"] is not None:
                outages.append(float(told["outage_s"]))
            elif told["promote_after_s"] is not None:
                raise ValueError(f"--drill {file}: run {number} didn't recover")
        except (KeyError, TypeError, json.JSONDecodeError):
            raise ValueError(
                f"--drill {file}: line {number} is none of `resilient drill --json`"
            ) from None
    if not outages:
        raise ValueError(f"--drill {file}: no outage in it")
    return max(outages)


def _percents(text: str | None) -> tuple[float, ...]:
    values: list[float] = []
    for part in text.split(",") if text is not None else ():
        try:
            value = _percent("--series", part)
        except ValueError:
            raise ValueError(f"--series {text}: accepted: percents, such as 99.9,99.99") from None
        values += [value] if value is not None else []
    return tuple(values)


def _tidy(value: float) -> float:
    """Without the dust of binary fractions."""
    return float(_digits(value, 10))


_WORDS = {
    "target": "availability aimed at, %",
    "architecture": "what that usually takes",
    "nines": "nines",
    "downtime_s_per_year": "downtime a year",
    "downtime_s_per_month": "downtime a month of 30 days",
    "detection_s": "detection (interval × threshold)",
    "rto_s": "recovery time of one incident",
    "rto_from": "… measured in",
    "incidents_per_year": "whole incidents a year that fit",
    "incident_share_percent": "one incident's share of the year's budget, %",
    "series_availability": "all of the chain up, %",
    "redundant_availability": "any instance up, %",
    "tiers_availability": "all tiers up, %",
    "tiers_downtime_s_per_year": "… so downtime a year",
    "weakest_tier": "weakest tier",
    "instances_needed": "instances needed",
    "meets_target": "meets the target",
}


def _print(found: dict[str, object]) -> None:
    notes = found.pop("notes", ())
    tiers = found.pop("tiers", {})
    assert isinstance(notes, tuple | list)
    assert isinstance(tiers, dict)
    for name, percent in tiers.items():
        print(f"{'tier ' + visible(name):<{WIDTH}} {_number(percent)} %")
    for name, value in found.items():
        _line(f"{_WORDS[name]:<{WIDTH}} {_shown(name, value)}", " " * (WIDTH + 1))
    for note in notes:
        _line(f"note: {visible(note)}", "      ")


def _line(text: str, indent: str) -> None:
    """On a terminal as wide as that is, the rest of it below."""
    if not sys.stdout.isatty():
        print(text)
        return
    width = max(60, shutil.get_terminal_size((80, 24)).columns)
    print(textwrap.fill(text, width, subsequent_indent=indent, break_on_hyphens=False))


def _shown(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "nines" and value is None:
        return "none: no downtime at all is no number of nines"
    if value is None:
        return "more than there is"
    if name.endswith(("_s", "_s_per_year", "_s_per_month")) and isinstance(value, float):
        return f"{value:,.10g} s" + (f" = {in_words(value)}" if value >= 60 else "")
    return _number(value) if isinstance(value, float) else visible(str(value))


def _number(value: float) -> str:
    """In six digits."""
    return _digits(value, 6)


def _digits(value: float, least: int) -> str:
    """Nearly 100 % isn't 100 %, however many digits it takes to say so."""
    shown = (f"{value:.{digits}g}" for digits in range(least, 17))
    return next(text for text in shown if float(text) != 100.0 or value == 100.0)


def in_words(seconds: float) -> str:
    """`15778.8` → `4 h 23 min`; `315_360` → `3 d 16 h`; under an hour with a decimal."""
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    if seconds < 86_400:
        minutes = round(seconds / 60)
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"
