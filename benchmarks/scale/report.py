"""Curves and tables from the rows of the three parts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import curves
from ..curves import COLOURS, Chart, Curve
from ..rows import Row, Rows

__all__ = ["report"]

TITLE = "One crash, many clients: recovery and load as clients grow (simulated, virtual time)"
SUBTITLE = "promotion after 1 s; four connections each; servers accept {accept:g} connections/s"
#: kind, TTL of the one name (0: several hosts), clients of one resolving cache (0: none)
KINDS = {
    "ours, several hosts": ("ours", 0.0, 0),
    "ours, CNAME, TTL 5 s": ("ours", 5.0, 0),
    "ours, CNAME, TTL 5 s, behind caches": ("ours", 5.0, 50),
    "naive retries": ("naive", 0.0, 0),
}
#: (title, unit, column, for which kinds, limit)
PANELS = (
    ("Longest wait of a caller after the promotion", "s", "held_longest_s", 4, None),
    ("All connections are there again", "s after the promotion", "full_all_s", 3, None),
    ("Attempts per operation since the crash", "", "amplification", 4, 1.2),
    ("Dials at the new primary", "per second, peak", "peak_dials_s", 4, None),
    ("Probes answered by a server", "per second, peak", "probes_peak_s", 3, None),
    ("Dials at the dead server", "per second, peak", "probes_dead_peak_s", 4, None),
    ("Probes per server while all is quiet", "per second", "probes_quiet_s", 3, None),
    ("Questions to DNS while nobody may write", "per second, peak", "queries_peak_s", 3, 2000),
)
SIMULATED = ("clients", "kind", "ttl_s", "caches", "ready_median_s", "ready_all_s", "held_median_s",
             "held_longest_s", "full_all_s", "amplification", "dials", "peak_dials_s",
             "probes_quiet_s", "probes_peak_s", "sides_peak", "queries_quiet_s",
             "queries_peak_s", "queries_own_peak_s")  # fmt: skip
MEASURED = ("clients", "held", "held_median_s", "held_longest_s", "full_all_s", "opened",
            "peak_accepted_s", "refused_53300", "errors", "unknown", "acked", "lost",
            "duplicated", "promote_after_s")  # fmt: skip
COMPARED = ("held_median_s", "held_longest_s", "full_all_s")


def report(out: Path) -> str:
    """Write what there is beside the rows; the text."""
    simulated = Rows(out / "scale-sim.jsonl").read()
    real = Rows(out / "scale-real.jsonl").read()
    soak = Rows(out / "scale-soak.jsonl").read()
    free = [row for row in simulated if not row["cores"]]
    parts = [*_simulated(free), *_real(real, simulated), *_soak(soak)]
    text = "\n".join(parts) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    (out / "scale.md").write_text(text)
    summary = {"simulated": simulated, "real": real, "soak": soak[-1:]}
    (out / "scale.json").write_text(json.dumps(summary, indent=1) + "\n")
    if free:
        (out / "scale.svg").write_text(_draw(free))
    return text


def _draw(rows: Sequence[Row]) -> str:
    charts = [
        Chart(title, unit, list(_curves(rows, column, kinds)), limit)
        for title, unit, column, kinds, limit in PANELS
    ]
    subtitle = SUBTITLE.format(accept=rows[0]["accept_rate_s"])
    return curves.draw(TITLE, subtitle, charts)


def _curves(rows: Sequence[Row], column: str, kinds: int) -> Iterator[Curve]:
    shown = list(zip(KINDS.items(), COLOURS, strict=False))[:kinds]
    for (name, (kind, ttl_s, each)), colour in shown:
        points = [
            (row["clients"], row[column])
            for row in rows
            if (row["kind"], row["ttl_s"], bool(row["caches"])) == (kind, ttl_s, bool(each))
            and row[column]
        ]
        if points:
            yield Curve(name, points, colour)


def _simulated(rows: Sequence[Row]) -> Iterator[str]:
    if rows:
        yield "### Simulated\n"
        yield from _table(SIMULATED, sorted(rows, key=_order))
        worst = max(row["amplification"] for row in rows if row["kind"] == "ours")
        yield f"\nAmplification of ours at most {worst:g} (target 1.2).\n"


def _order(row: Row) -> tuple[str, float, bool, int]:
    return row["kind"], row["ttl_s"], row["caches"] > 0, row["clients"]


def _real(rows: Sequence[Row], simulated: Sequence[Row]) -> Iterator[str]:
    if not rows:
        return
    yield "### Real processes, one machine\n"
    yield from _table(MEASURED, rows)
    yield ""
    for row in rows:
        like = [s for s in simulated if s["cores"] and s["clients"] == row["clients"]]
        for same in like:
            pairs = ", ".join(f"{name} {row[name]} ({same[name]})" for name in COMPARED)
            whose = f"a session costs {1e3 * same['dial_cost_s']:.1f} ms, {same.get('costs', '')}"
            yield f"- {row['clients']} processes, measured (simulated; {whose}): {pairs}"
    yield ""


def _soak(rows: Sequence[Row]) -> Iterator[str]:
    if not rows:
        return
    yield "### Soak\n"
    names = ("minute", "failovers", "acked", "errors", "rss_mb", "threads", "sockets", "files")
    step = max(1, len(rows) // 12)
    shown = [*rows[::step], *([rows[-1]] if (len(rows) - 1) % step else [])]
    yield from _table(names, shown)
    yield ""


def _table(names: Sequence[str], rows: Sequence[Row]) -> Iterator[str]:
    yield f"| {' | '.join(name.removesuffix('_s').replace('_', ' ') for name in names)} |"
    yield f"|{' --- |' * len(names)}"
    for row in rows:
        yield f"| {' | '.join(_told(row.get(name)) for name in names)} |"


def _told(value: Any) -> str:
    if value is None:
        return "never"
    return f"{value:g}" if isinstance(value, float) else str(value)
