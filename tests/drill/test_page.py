"""The page of timelines: for eyes by day and by night, on a phone and on paper, for a keyboard and
for a screen reader.  What a browser makes of it is asked of Chromium, where that is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from resilient.drill.flight import dumped, failovers
from resilient.drill.page import page
from resilient.drill.page_style import STYLE
from resilient.drill.timeline import Dot, Mark, Timeline, of_run
from tests.drill.make import case, failed, judged, trace
from tests.drill.test_timeline import EVENTS, RECORDING

ABOUT = {
    "command": "resilient drill --runs 1",
    "settings": {"RESILIENT_DEADLINE_S": "7"},
    "versions": {"resilient-connect": "0.1.0", "PostgreSQL": "15.18"},
}


def drilled(**more: Any) -> Timeline:
    told = trace()
    told.writes.append(failed(9, 100.5))
    told.writes.append(failed(10, 101.2, "CommitOutcomeUnknown: who knows"))
    told.snapshots[0].zone["127.0.1.10"] = "az1"
    found = judged(told, of=case())
    made = of_run(found, told, EVENTS, 2.0, at=1_790_000_000.0, about=ABOUT)
    return replace(made, **more)


def dump() -> dict[str, Any]:
    """As `resilient.recorder.dump` writes it."""
    events = [
        (100.0, "suspected", "10.0.1.5:5432", "refused"),
        (100.1, "lost", "10.0.1.5:5432", "refused"),
        (101.0, "promoted", "10.0.2.5:5432", "timeline 2"),
        (101.1, "reconnected", "10.0.2.5:5432", ""),
        (101.2, "resilient.waited", "", "seconds=0.9"),
        (101.3, "resilient.resolved", "", "outcome=unknown"),
    ]
    record = {
        "id": "1", "pool": "orders", "database": "shop", "result": "over",
        "started_at": 100.0, "ended_at": 101.1, "old": "10.0.1.5:5432 (db1.example)",
        "new": "10.0.2.5:5432", "cause": "refused", "reason": "connection refused", "calls": 1,
        "phases": {"detect_s": 0.1, "promote_s": 0.9, "reconnect_s": 0.1},
        "events": [dict(zip(("at", "name", "endpoint", "detail"), e, strict=True)) for e in events],
    }  # fmt: skip
    return {"failovers": [record]}


class Seen(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] != "style":
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_what_was_measured_when_with_what() -> None:
    text = Seen(page("Fire drill", [drilled()])).text
    assert "resilient drill --runs 1" in text
    assert "2026-09-21 14:13:20 UTC" in text
    assert "RESILIENT_DEADLINE_S 7" in text
    assert "PostgreSQL 15.18" in text
    assert "127.0.1.10 az1" in text
    assert "zones az1" in text


def test_a_screen_reader_finds_its_way() -> None:
    text = page("Fire drill", [drilled(), drilled()])
    seen = Seen(text)
    assert seen.all("html")[0]["lang"] == "en"
    assert [len(seen.all(tag)) for tag in ("header", "main", "footer", "h1")] == [1, 1, 1, 1]
    ids = [attrs["id"] for _, attrs in seen.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for section in seen.all("section"):
        assert section["aria-labelledby"] in ids
    images = [attrs for _, attrs in seen.tags if attrs.get("role") == "img"]
    assert len(images) > 10
    assert all(image["aria-label"] for image in images)
    labels = " | ".join(str(image["aria-label"]) for image in images)
    assert "127.0.1.10, az1: up from -0.60 to 0.02 s; suspect from 0.02 to 0.05 s; dead" in labels
    assert re.search(r"writes, sync: longest gap \S+ s, from \S+ s on, slowest .*1 failed", labels)
    assert len(seen.all("table")) == len(seen.all("caption")) > 0
    assert all("scope" in head for head in seen.all("th"))
    # what scrolls can be scrolled by keyboard, and is named
    regions = [attrs for attrs in seen.all("div") if attrs.get("role") == "region"]
    assert regions
    for region in regions:
        assert region["tabindex"] == "0"
        assert region.get("aria-label") or region.get("aria-labelledby") in ids
    assert ":focus-visible" in text
    assert len(seen.all("details")) == len(seen.all("summary")) == 2


def test_the_legend_is_of_what_is_drawn() -> None:
    def legend(*timelines: Timeline) -> str:
        return page("x", timelines).partition("Legend</h2>")[2].partition("</section>")[0]

    full = legend(drilled())
    for words in ("dead to the client", "writes go there", "told an error", "is unknown",
                  "a thread's call took", "dashed"):  # fmt: skip
        assert words in full, words
    calm = replace(drilled(), dots=(), marks=())
    assert "caller was" not in legend(calm)
    assert "dashed" not in legend(calm)
    assert legend(replace(calm, bars=())) == ""


@pytest.mark.parametrize("kind", ["watched", "dumped"])
def test_a_flight_speaks_of_no_limits_and_of_no_dots_that_it_lacks(kind: str) -> None:
    made = list(failovers(RECORDING) if kind == "watched" else dumped(dump()))
    text = Seen(page("Failovers", made)).text
    assert "limit" not in text
    assert "planned" not in text
    assert "fault" not in text
    assert ("Dots" in text) == (kind == "dumped")
    assert "not in this recording" in text
    assert "UTC" in text


def test_the_recorders_file() -> None:
    (one,) = dumped(dump(), lambda place: {"10.0.1.5:5432": "az1"}.get(place))
    assert one.title == "failover 1: 10.0.1.5:5432 (db1.example) was lost"
    assert "over after 1.100 s" in one.facts
    assert "cause: refused (connection refused)" in one.facts
    assert "1 call waited" in one.facts
    assert [bar.text for bar in one.bars] == [
        "10.0.1.5:5432 (db1.example), az1", "may write", "10.0.2.5:5432"
    ]  # fmt: skip
    waited, resolved = one.dots
    assert (waited.took_s, waited.outcome, resolved.outcome) == (0.9, "ok", "unknown")
    assert waited.at_s == pytest.approx(1.2)
    assert {phase.name: phase.measured_s for phase in one.phases}["promote"] == 0.9
    assert one.kind == "flight"
    unfinished = dump()
    unfinished["failovers"][0] |= {"result": "unfinished", "ended_at": None}
    (one,) = dumped(unfinished)
    assert one.verdict == ("it isn't over in this recording (unfinished)",)


def test_an_http_origins_failover_has_no_writer() -> None:
    recording = dump()
    record = recording["failovers"][0]
    del record["pool"], record["database"]
    record |= {"origin": "api.test:8080", "phases": {"detect_s": 0.1, "reconnect_s": 0.1}}
    record["events"] = [e for e in record["events"] if e["name"] != "promoted"]
    (one,) = dumped(recording)
    text = Seen(page("Failovers", [one])).text
    assert "write" not in text
    assert "promote" not in text
    assert "origin api.test:8080" in text


def test_failovers_that_overlap_are_told_apart_by_their_id() -> None:
    steps = [
        {"at": 1.0, "step": "lost", "endpoint": "a:1", "failover": "x"},
        {"at": 1.1, "step": "lost", "endpoint": "b:1", "failover": "y"},
        {"at": 1.2, "event": "endpoint", "endpoint": "a:1", "version": 7, "failover": None},
        {
            "at": 1.5,
            "step": "over",
            "old": "b:1",
            "total_s": 0.4,
            "promote_s": 0.3,
            "failover": "y",
        },
        {"at": 2.0, "step": "over", "old": "a:1", "total_s": 1, "promote_s": 0.9, "failover": "x"},
    ]
    first, second = failovers(steps)
    assert (first.title, first.facts) == ("failover 1: a:1 was lost", ("over after 1.000 s",))
    assert (second.title, second.facts) == ("failover 2: b:1 was lost", ("over after 0.400 s",))
    assert {phase.name: phase.measured_s for phase in second.phases} == {"promote": 0.3}


# -- colours


def variables(block: str) -> dict[str, str]:
    return dict(re.findall(r"--(\w+):(#[0-9a-f]{3,6})", block))


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(c * 2 for c in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_every_text_can_be_read_on_its_ground(scheme: str) -> None:
    light, _, rest = STYLE.partition("@media (prefers-color-scheme:dark)")
    block = {
        "light": light,
        "dark": rest.partition("*{")[0],
        "print": STYLE.partition("@media print")[2].partition("body{")[0],
    }[scheme]
    of = variables(light) | variables(block)
    for name in ("up", "writer", "suspect", "dead", "unknown", "gone"):
        assert contrast(of["ink"], of[name]) >= 4.5, name
    for name in ("ink", "soft", "ok", "bad", "doubt"):
        assert contrast(of[name], of["bg"]) >= 4.5, name
    for name in ("ok", "okb", "bad", "doubt", "mark", "focus"):  # signs: WCAG 2.2, 1.4.11
        assert contrast(of[name], of["bg"]) >= 3, name


# -- in a browser


MEASURE = """
const frame = document.getElementById('f'), result = document.getElementById('r');
frame.onload = () => {
  const doc = frame.contentDocument, root = doc.documentElement;
  const boxes = (what) => [...doc.querySelectorAll(what)].map(e => e.getBoundingClientRect());
  const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1
    && b.top < a.bottom - 1;
  const count = (some, others) => some.filter(a => others.some(b => a !== b && meet(a, b))).length;
  const text = (b) => ({left: b.left, right: b.right - 8, top: b.top, bottom: b.bottom});
  const words = boxes('.events span'), names = boxes('.lane > .name').map(text);
  const took = boxes('.took .name').map(text);
  const scale = boxes('.took .scale'), dots = boxes('.plot .dot'), signs = boxes('.events i');
  const tracks = boxes('.plot .track'), ticks = boxes('.grid span').filter(b => b.width);
  result.textContent = JSON.stringify({
    overflow: root.scrollWidth - root.clientWidth,
    words_on_words: count(words, words), words_on_signs: count(words, signs),
    names_on_dots: count([...names, ...took, ...scale], [...dots, ...tracks]),
    ticks: count(ticks, ticks),
    outside: [...words, ...names].filter(b => b.left < -1 || b.right > root.clientWidth + 1).length,
    smallest: Math.min(...[...doc.querySelectorAll('span, td, p, li')].filter(e => e.textContent)
      .map(e => parseFloat(getComputedStyle(e).fontSize))),
    whole: Math.max(...boxes('.whole').map(b => b.height)),
    ground: getComputedStyle(doc.body).backgroundColor,
    unseen: boxes('.scroll td:has(.bad, .fine)').filter(b => b.right > root.clientWidth).length,
    svg: boxes('.took svg').map(b => [b.width, b.height]),
  });
};
"""


@pytest.fixture(scope="module")
def chromium() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
    if found is None:
        pytest.skip("Chromium isn't installed (Debian: chromium): what a browser shows isn't seen")
    return found


def browse(chromium: str, folder: Path, text: str, width: int, *flags: str) -> dict[str, Any]:
    """The page in a frame of this width, measured by a script beside it."""
    outer = folder / "outer.html"
    outer.write_text(
        f"<!doctype html><meta charset=utf-8><iframe id=f width={width} height=900"
        f' srcdoc="{escape(text, quote=True)}"></iframe><pre id=r></pre>'
        f"<script>{MEASURE.replace('frame.onload = ', 'const look = ')}"
        "frame.onload = look;</script>"
    )
    argv = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000",
            "--virtual-time-budget=2000", *flags, "--dump-dom", outer.as_uri()]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    told = re.search(r"<pre id=\"?r\"?>(.*?)</pre>", done.stdout, re.DOTALL)
    assert told is not None, done.stderr
    measured = json.loads(unescape(told[1]))
    assert isinstance(measured, dict)
    return measured


def crowded() -> Timeline:
    """Events that fall together, with long words, and callers all the time."""
    marks = tuple(
        Mark("fault", at_s, f"event {number} of a rather long kind, at az{number}")
        for number, at_s in enumerate((0, 0.001, 0.02, 0.5, 0.501, 1.0, 1.58, 1.6))
    )
    dots = tuple(Dot("writes, sync", n / 100 - 0.6, "ok", 0.01) for n in range(220))
    return drilled(marks=marks, dots=(*drilled().dots, *dots))


@pytest.mark.parametrize(("width", "flags"), [(360, ()), (1200, ("--force-dark-mode",))])
def test_nothing_covers_anything(
    chromium: str, tmp_path: Path, width: int, flags: tuple[str, ...]
) -> None:
    made = [crowded(), *failovers(RECORDING), *dumped(dump())]
    seen = browse(chromium, tmp_path, page("Fire drill", made), width, *flags)
    for name in ("overflow", "words_on_words", "words_on_signs", "names_on_dots", "ticks",
                 "outside", "unseen"):  # fmt: skip
        assert seen[name] == 0, (name, seen)
    assert seen["smallest"] >= 10  # pixels
    assert seen["whole"] < 1000 or width < 1000  # a chart and its heading fit a sheet of paper
    assert len(seen["svg"]) == 2
    dark = "20, 24, 29" in seen["ground"]
    assert dark == bool(flags)


def test_on_paper_a_chart_keeps_its_heading(chromium: str, tmp_path: Path) -> None:
    """As many sheets as there are charts, and one more for the rest."""
    file, pdf = tmp_path / "page.html", tmp_path / "page.pdf"
    file.write_text(page("Fire drill", [crowded()] * 3))
    argv = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
            f"--print-to-pdf={pdf}", file.as_uri()]  # fmt: skip
    subprocess.run(argv, capture_output=True, timeout=60, check=True)
    sheets = len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes()))
    assert 3 <= sheets <= 5
    assert ".whole,table,.legend,dl{break-inside:avoid}" in STYLE
