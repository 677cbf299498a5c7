"""Does 99.95 % hold?  Computed from what was measured, as values and as a page."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from html import escape
from importlib.metadata import version
from typing import Any

from keeper import Checks

from resilient.core import rto
from resilient.drill.page_style import STYLE

#: promotions of managed databases take so long, as the lesson has it, seconds
MANAGED_S = 60.0


@dataclass(frozen=True, slots=True)
class Loss:
    """A zone was lost.  Seconds since then; None: that didn't happen.

    `bad_s`: in which some payment failed or took longer than `slow_s`; `silent_s`: the longest
    time in which none succeeded.
    """

    zone: str
    role: str
    bad_s: float
    silent_s: float
    detected_s: float | None
    promoted_s: float | None
    sync_off_s: float | None
    out_of_rotation_s: float | None
    failed: int
    tries: int
    ready_while_stuck: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """All that the page says.  `paid_lost`, `paid_twice`, `charged_unpaid`: payments."""

    checks: Checks
    slow_s: float
    losses: tuple[Loss, ...]
    payments: int
    paid_lost: int
    charged_unpaid: int
    charged_not: int
    losses_a_year: int
    target: float = 0.9995
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    at: str = ""

    @property
    def budget_s(self) -> float:
        """Of a year, seconds."""
        return rto.downtime_s(self.target)

    @property
    def worst_s(self) -> float:
        """Of one loss of a zone, whichever is worse."""
        return max(loss.bad_s for loss in self.losses)

    @property
    def downtime_s(self) -> float:
        """Of a year: so many losses of each zone."""
        return self.losses_a_year * sum(loss.bad_s for loss in self.losses)

    @property
    def availability(self) -> float:
        """That this comes to."""
        return rto.availability_of_downtime(self.downtime_s)

    @property
    def managed_s(self) -> float:
        """The worst, were the primary's promotion a managed database's."""
        slower = [
            loss.bad_s + max(0.0, MANAGED_S - self.checks.promotion_s)
            for loss in self.losses
            if loss.promoted_s is not None
        ]
        return max([self.worst_s, *slower])

    @property
    def correct(self) -> bool:
        """No payment is lost, and nobody is charged for nothing."""
        return not (self.paid_lost or self.charged_unpaid or self.charged_not)

    @property
    def holds(self) -> bool:
        """The target, and every payment."""
        return self.downtime_s <= self.budget_s and self.correct

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **asdict(self),
            "budget_s": self.budget_s,
            "downtime_s_a_year": self.downtime_s,
            "availability": self.availability,
            "incidents_that_fit": rto.incidents_per_year(self.target, self.worst_s),
            "incidents_that_fit_managed": rto.incidents_per_year(self.target, self.managed_s),
            "correct": self.correct,
            "holds": self.holds,
        }


def circumstances() -> dict[str, str]:
    """Versions, and when."""
    names = ("resilient-connect", "psycopg", "httpx2")
    return {"Python": platform.python_version(), **{name: version(name) for name in names}}


def now() -> str:
    """The date."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def page(result: Result) -> str:
    """One file that needs nothing else."""
    verdict = "holds" if result.holds else "does not hold"
    percent = f"{result.target * 100:g} %"
    parts = (*_measured(result), *_arithmetic(result), *_payments(result), *_how(result))
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>Checkout in two zones</title><style>{STYLE}</style></head><body>\n"
        "<header><h1>Checkout in two zones</h1>"
        f"<p><span class='{'fine' if result.holds else 'bad'}'>{percent} {verdict}</span>,"
        f" with {result.losses_a_year} losses of each zone a year: {_words(result.downtime_s)} of"
        f" {_words(result.budget_s)}, which is {result.availability * 100:.4f} %.</p></header>\n"
        f"<main>{''.join(parts)}</main>\n"
        f"<footer><p>{escape(result.at)}, by <code>{escape(result.command)}</code></p></footer>"
        "</body></html>\n"
    )


def _measured(result: Result) -> Iterator[str]:
    heads = ("zone lost", "bad, s", "silent, s", "noticed, s", "promoted, s", "sync off, s",
             "out of rotation, s", "failed tries")  # fmt: skip
    rows = [
        (f"{loss.zone}, the {loss.role}'s", *map(_s, (loss.bad_s, loss.silent_s, loss.detected_s,
         loss.promoted_s, loss.sync_off_s, loss.out_of_rotation_s)),
         f"{loss.failed} of {loss.tries}")
        for loss in result.losses
    ]  # fmt: skip
    yield "<section aria-labelledby='m'><h2 id='m'>What was measured</h2>"
    yield from _table("Seconds since the zone was lost", heads, rows)
    yield "<dl>"
    yield from _pairs({
        "bad": f"some payment failed, or took longer than {result.slow_s:g} s",
        "silent": "the longest time in which no payment succeeded",
        "noticed": "the keeper's checks had missed often enough",
        "sync off": "synchronous_standby_names was turned off: until then every COMMIT waits",
        "out of rotation": "HAProxy sends no more customers to that zone's service",
    })  # fmt: skip
    yield "</dl>"
    if any(loss.ready_while_stuck for loss in result.losses):
        yield ("<p>While every COMMIT waited for the lost standby, <code>SELECT 1</code> answered"
               " and the services stayed ready. A check that only reads doesn't see it; the"
               " keeper's did.</p>")  # fmt: skip
    yield "</section>"


def _arithmetic(result: Result) -> Iterator[str]:
    checks = result.checks
    detection_s = checks.interval_s * checks.threshold
    fit = rto.incidents_per_year(result.target, result.worst_s)
    managed = rto.incidents_per_year(result.target, result.managed_s)
    percent = f"{result.target * 100:g} %"
    yield f"<section aria-labelledby='a'><h2 id='a'>Does {percent} hold?</h2><dl>"
    yield from _pairs({
        "budget of a year": f"(1 − {result.target:g}) × 365.25 d = {_words(result.budget_s)}"
        f" ({result.budget_s / 60:.0f} minutes)",
        "detection": f"{checks.interval_s:g} s × {checks.threshold} = {detection_s:g} s at most,"
        " and a check's own time",
        "worst loss of a zone": f"{result.worst_s:.1f} s"
        f" = {result.worst_s / result.budget_s * 100:.2f} % of the budget",
        "such losses that fit": f"⌊{result.budget_s:.0f} / {result.worst_s:.1f}⌋ = {fit} a year",
        "with a managed database": f"its promotion takes up to {MANAGED_S:g} s:"
        f" {result.managed_s:.1f} s a loss, {managed} fit",
        "expected": f"{result.losses_a_year} losses of each zone a year:"
        f" {_words(result.downtime_s)}, {result.availability * 100:.4f} %",
    })  # fmt: skip
    yield "</dl><p>Only losses of a zone are counted, and they are taken to be independent."
    yield " Faults of both zones, of the balancer and of releases come out of the same budget.</p>"
    if abs(result.target - 0.9995) < 1e-9:
        yield "<p>26 minutes a year, as is sometimes taught for 99.95 %, would be 99.995 %.</p>"
    yield "</section>"


def _payments(result: Result) -> Iterator[str]:
    yield "<section aria-labelledby='p'><h2 id='p'>What became of the payments</h2><dl>"
    yield from _pairs({
        "answered with 201": str(result.payments),
        "of these not paid in the end": str(result.paid_lost),
        "of these not charged": str(result.charged_not),
        "charged, and not paid": str(result.charged_unpaid),
    })  # fmt: skip
    yield "</dl></section>"


def _how(result: Result) -> Iterator[str]:
    yield "<section aria-labelledby='h'><h2 id='h'>How it was measured</h2><dl>"
    yield from _pairs({
        "checks": f"every {result.checks.interval_s:g} s, {result.checks.threshold} misses;"
        f" the keeper's SELECT 1 within {result.checks.timeout_s * 1000:.0f} ms; the services'"
        " SELECT 1, fraud check and gateway within 500 ms",
        "versions": " · ".join(f"{name} {each}" for name, each in result.versions.items()),
    })  # fmt: skip
    yield "</dl></section>"


def _table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"<div class='scroll' role='region' aria-label='{caption}' tabindex='0'><table>"
    yield f"<caption>{caption}</caption><thead><tr>"
    yield "".join(f"<th scope='col' class='n'>{escape(head)}</th>" for head in heads)
    yield "</tr></thead><tbody>"
    for first, *rest in rows:
        cells = "".join(f"<td class='n'>{escape(cell)}</td>" for cell in rest)
        yield f"<tr><th scope='row'>{escape(first)}</th>{cells}</tr>"
    yield "</tbody></table></div>"


def _pairs(told: Mapping[str, str]) -> Iterator[str]:
    for name, value in told.items():
        yield f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"


def _s(value: float | None) -> str:
    return "–" if value is None else f"{max(value, 0.0):.1f}"


def _words(seconds: float) -> str:
    """`4 h 23 min`, `95 s`."""
    if seconds < 300:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
