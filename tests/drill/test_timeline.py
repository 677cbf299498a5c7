"""Timelines: from a run, from a flight recording, and as a page that needs nothing else."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from resilient.cli.app import app
from resilient.drill.flight import failovers
from resilient.drill.page import page
from resilient.drill.timeline import Bar, Dot, Mark, Timeline, of_run
from resilient.errors import ConfigError
from tests.drill.make import FACTS, NEW, OLD, case, failed, judged, trace

EVENTS = [
    (100.0, "crash: az1 is hit"),
    (100.9, "promoting az2"),
    (101.0, "az2 accepts writes"),
    (101.5, "writer name points to az2"),
]


def timeline(**more: Any) -> Timeline:
    told = trace()
    told.writes.append(failed(9, 100.5))
    made = of_run(judged(told, of=case(**more)), told, EVENTS, window_s=2.0)
    assert Timeline.from_dict(json.loads(json.dumps(made.as_dict()))) == made
    return made


def test_a_run_as_lanes() -> None:
    made = timeline()
    assert made.title == "crash, several hosts known, run 1 of 1"
    assert made.lanes[:6] == ("fault", "promotion", "DNS", OLD, NEW, "writer")
    assert {"writes, sync", "writes, async", "reads, sync", "requests, sync"} <= {*made.lanes}
    old = [(round(bar.from_s, 3), bar.state) for bar in made.bars if bar.lane == OLD]
    assert old == [(-0.6, "up"), (0.02, "suspect"), (0.05, "dead")]
    writer = [(round(bar.from_s, 3), bar.text) for bar in made.bars if bar.lane == "writer"]
    assert writer == [(-0.6, OLD), (0.05, "may write"), (1.03, NEW)]
    assert Mark("promotion", 1.0, "az2 accepts writes") in made.marks
    assert Mark("DNS", 1.5, "writer name points to az2") in made.marks
    good = {mark.lane: mark.at_s for mark in made.marks if mark.text == "first good write"}
    assert good == pytest.approx({"writes, sync": 1.05, "writes, async": 1.08})
    assert Dot("writes, sync", 0.5, "error") in made.dots


def test_planned_against_measured() -> None:
    found = {p.name: (p.planned_s, p.measured_s) for p in timeline().phases}
    assert found["promote"] == (1.0, 1.0)
    assert found["detect"][0] == 0.0
    assert found["resolve"] == pytest.approx((0.0, 0.03))
    silent = {p.name: p.planned_s for p in timeline(fault="hang", endpoint="cname").phases}
    assert silent == {"detect": 2.0, "promote": 1.0, "resolve": 1.5, "reconnect": 0.0}
    assert timeline(fault="upstream-down").phases == ()


def test_a_crowd_of_good_answers_is_thinned_and_gaps_keep_their_edges() -> None:
    told = trace()
    first = told.writes[0]
    many = [replace(first, id=n, ended_at=99.5 + n / 1000) for n in range(400)]
    told.writes[:] = [*many, replace(first, id=999, ended_at=101.2)]
    made = of_run(judged(told), told, EVENTS, window_s=2.0)
    at = sorted(dot.at_s for dot in made.dots if dot.lane == "writes, sync")
    assert len(at) < 30
    assert at[-2:] == pytest.approx([-0.101, 1.2])  # the last one before the gap, and the next


class Outside(HTMLParser):
    """What a browser would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [str(v) for name, v in attrs if name in ("src", "href", "xlink:href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [str(v) for name, v in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else_and_is_well_formed() -> None:
    evil = replace(timeline(), title="<script>alert(1)</script>", verdict=("late: 1 < 2",))
    text = page("Fire & drill", [timeline(), evil])
    parser = Outside()
    parser.feed(text)
    parser.close()
    assert (parser.loads, parser.open) == ([], [])
    assert "<script" not in text
    assert "2 timelines, <span class='bad'>1 with a broken limit</span>" in text
    assert "late: 1 &lt; 2" in text
    assert text.count("<svg") == 2
    assert "<td class='n'>1.000</td>" in text
    assert "every limit held" in page("Fire drill", [timeline()])


def version(at: float, number: int, writer: str | None, **health: str) -> dict[str, Any]:
    endpoints = [
        {"endpoint": name, "health": state, "role": "replica", "zone": None}
        for name, state in health.items()
    ]
    return {"at": at, "version": number, "writer": writer, "endpoints": endpoints}


def step(at: float, text: str) -> dict[str, Any]:
    return {"at": at, "level": "info", "event": f"step={text}"}


RECORDING = [
    version(10, 3, "a", a="up", b="up"),
    step(500, "suspected endpoint=a detail='x'"),
    step(500.1, "lost endpoint=a detail='x'"),
    version(500.1, 4, None, a="dead", b="up"),
    step(500.5, "promoted endpoint=b detail='timeline 2'"),
    {"at": 500.5, "event": "endpoint", "endpoint": "b", "role": "primary", "version": 5},
    version(500.5, 5, "b", a="dead", b="up"),
    step(500.6, "over old=a new=b total_s=0.612 detect_s=0.100 promote_s=0.400 reconnect_s=0.112"),
    step(900, "lost endpoint=b detail='y'"),
    version(900, 6, None, a="dead", b="dead"),
]


def test_a_flight_recording() -> None:
    first, second = failovers(RECORDING)
    assert (first.title, first.facts) == ("failover 1: a was lost", ("over after 0.612 s",))
    assert first.lanes == ("steps", "a", "b", "writer")
    marks = [(round(mark.at_s, 3), mark.text) for mark in first.marks]
    assert marks == [(0, "lost a"), (0.4, "promoted b"), (0.5, "over a")]
    writers = [(round(b.from_s, 3), b.text) for b in first.bars if b.lane == "writer"]
    assert writers == [(-2, "a"), (0, "may write"), (0.4, "b")]
    measured = {phase.name: phase.measured_s for phase in first.phases}
    assert measured == {"detect": 0.1, "promote": 0.4, "reconnect": 0.112}
    assert first.verdict == ()
    assert second.verdict == ("it isn't over in this recording",)
    assert Bar("writer", -2.0, pytest.approx(0), "writer", "b") in second.bars
    assert list(failovers(RECORDING[:1])) == []


def run(*argv: str, stdin: str = "") -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["report", *argv], input=stdin)
    return done.exit_code, done.stdout, done.stderr


def test_the_command(tmp_path: Path) -> None:
    drilled, watched = tmp_path / "drill.jsonl", tmp_path / "watch.jsonl"
    drilled.write_text(json.dumps(timeline().as_dict()) + "\n\n")
    watched.write_text("".join(json.dumps(line) + "\n" for line in RECORDING))
    code, out, err = run(str(drilled))
    assert (code, out, err) == (0, f"1 timeline: {tmp_path / 'drill.html'}\n", "")
    assert (tmp_path / "drill.html").read_text().startswith("<!doctype html>")
    code, out, _ = run(str(watched), "--html", str(tmp_path / "x.html"))
    assert code == 1  # one isn't over
    assert "isn't over" in unescape((tmp_path / "x.html").read_text())
    code, out, _ = run("-", "--json", stdin=watched.read_text())
    assert [json.loads(line)["title"] for line in out.splitlines()] == [
        "failover 1: a was lost",
        "failover 2: b was lost",
    ]
    # what was printed can be read again
    again = run("-", "--json", stdin=out)
    assert again[1] == out
    assert run("-", "--html", str(tmp_path / "none.html"), stdin="")[0] == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no json\n", "line 1: accepted: the lines that `resilient drill --record`"),
        ('{"at": 1, "version": 1, "writer": null, "endpoints": []}\n[1]\n', "line 2: accepted"),
        ('{"format": "other"}\n', "accepted: resilient-timeline-1"),
        ('{"format": "resilient-timeline-1", "odd": 1}\n', "not a timeline"),
        ('{"at": 1, "version": 1}\n', "accepted: the lines"),
    ],
)
def test_what_isnt_a_recording(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "some.jsonl"
    file.write_text(text)
    code, out, err = run(str(file))
    assert (code, out) == (2, "")
    assert words in err
    assert file.read_text() == text
    assert not (tmp_path / "some.html").exists()


def test_files_that_arent_there_or_cant_be_written(tmp_path: Path) -> None:
    code, _, err = run(str(tmp_path / "none"))
    assert (code, "can't be read" in err) == (2, True)
    file = tmp_path / "d.jsonl"
    file.write_text(json.dumps(timeline().as_dict()))
    code, _, err = run(str(file), "--html", str(tmp_path / "no" / "x.html"))
    assert (code, "can't be written" in err) == (2, True)
    nowhere = str(tmp_path / "no" / "x.html")
    done = CliRunner().invoke(app, ["drill", "--html", nowhere])
    assert (done.exit_code, "can't be written" in done.stderr) == (2, True)


def test_another_format_is_refused() -> None:
    with pytest.raises(ConfigError, match=re.escape("accepted: resilient-timeline-1")):
        Timeline.from_dict({"format": "resilient-timeline-0"})
    assert FACTS.fault_at == 100.0
