"""A drill's tables and words on any screen: nothing cut off, no `-0`, one run is `1 run`."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from resilient.cli import drill as command
from resilient.cli.app import app
from resilient.cli.show import Talk, counts, legend, times
from resilient.drill.checker import Finding
from resilient.drill.plan import ALL
from resilient.drill.timeline import of_run
from resilient.drill.verdict import as_json
from resilient.drill.words import milliseconds, plural, seconds
from tests.drill.make import NEW, case, judged, snapshot, trace, write


def findings() -> list[Finding]:
    """Every fault, with numbers as long as they get."""
    found = [judged(trace(), of=case(fault, "cname", 0.5)) for fault in ALL]
    found[0] = replace(found[0], acked=1_234_567, reads=987_654, requests=123_456, outage_s=312.25)
    return found


def shown(width: int) -> tuple[str, list[Finding], list[tuple[str, ...]]]:
    console = Console(width=width, file=io.StringIO(), record=True)
    runs = findings()
    verdicts: list[tuple[str, ...]] = [("it burnt",), *(() for _ in runs[1:])]
    for table in (times(runs, verdicts), counts(runs, verdicts)):
        console.print(table, crop=False)
    console.print(legend(True), crop=False)
    return console.export_text(), runs, verdicts


@pytest.mark.parametrize("width", [126, 100, 80, 60, 40, 30, 20])
def test_nothing_is_cut_off(width: int) -> None:
    text, runs, _ = shown(width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    words = text.split()
    for run in runs:
        assert words.count(run.case.fault) >= 2  # in both tables at least
    for number in ("1234567", "987654", "123456", "312.25"):
        assert number in words
    # a verdict beside each run, in each table or list
    assert words.count("FAIL") == words.count(runs[0].case.fault) - legend_names(runs[0])
    assert words.count("pass") == (len(runs) - 1) * words.count("FAIL")


def legend_names(run: Finding) -> int:
    """How often the limits name this fault as a word of its own."""
    console = Console(width=126, file=io.StringIO(), record=True)
    console.print(legend(True))
    return console.export_text().split().count(run.case.fault)


@pytest.mark.parametrize("width", [126, 80, 40])
def test_columns_are_each_there_once(width: int) -> None:
    text, *_ = shown(width)
    heads = text.partition("multi: the client")[0]
    for name in ("writable", "sync", "async", "DNS", "promote", "resolve", "reconn.", "ghost",
                 "acked", "requests"):  # fmt: skip
        assert len(re.findall(rf"(?<![\w.]){re.escape(name)}(?![\w.])", heads)) >= 1, name


def test_a_client_that_knows_before_the_observer_took_no_time() -> None:
    """It was served 3 ms before the observer's own write came back."""
    told = trace()
    told.snapshots[-1] = snapshot(100.996, NEW, "dead")
    told.writes[2:] = [write(3, 100.997, NEW), write(4, 100.9999, NEW, "async")]
    found = judged(told)
    assert found.after_writable_s == 0.0
    row = as_json(found, ())
    assert min(row["phases"].values()) >= 0  # type: ignore[attr-defined]
    assert "-0" not in json.dumps(row)
    drawn = of_run(found, told, [], 2.0)
    assert not [phase for phase in drawn.phases if (phase.measured_s or 0) < 0]
    assert "good again 0 ms after writable" in drawn.facts
    console = Console(width=126, file=io.StringIO(), record=True)
    console.print(times([found], [()]))
    Talk(console).verdict(found, ())
    assert "-" not in console.export_text()
    # by name: it was served before the name moved
    by_name = judged(told, of=case("crash", "cname"))
    assert by_name.after_dns_s == 0.0


def test_numbers_and_nouns() -> None:
    assert (milliseconds(-0.0004), milliseconds(None), seconds(-0.0004, 2)) == ("0", "–", "0.00")
    assert (milliseconds(0.0806), seconds(1.005, 1)) == ("81", "1.0")
    assert [plural(n, "run") for n in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
    assert plural(2, "reply", "replies") == "2 replies"
    one = replace(judged(trace()), acked=1, unknown=1, requests=1)
    console = Console(width=126, file=io.StringIO(), record=True)
    Talk(console).verdict(one, ())
    assert "1 write acknowledged" in console.export_text()
    facts = of_run(one, trace(), [], 2.0).facts
    assert "1 write acknowledged" in facts
    assert "1 unknown outcome" in facts
    assert "1 request, 0 failed" in facts


def test_without_a_terminal_and_without_colour(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    console = command._console()
    command._report(console, Talk(console), [judged(trace())], [("it burnt",)])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 80
    assert "1 run, 1 with a broken limit." in out
    assert "BROKEN  crash (multi) run 1: it burnt" in out
    monkeypatch.delenv("COLUMNS")
    assert command._console().width == command.WIDE  # a file of a CI job


def test_a_preview_of_the_lab_says_what_it_would_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_enter_namespace", lambda: None)
    argv = ["drill", "--dry-run", "--fault", "crash", "--runs", "1", "--endpoint", "multi"]
    done = CliRunner().invoke(app, argv)
    assert "Nothing has been touched" in done.stdout
    assert "127.0.1.10" in done.stdout
    assert "1 run: crash (multi) 1 ×" in done.stdout
    done = CliRunner().invoke(app, [*argv, "--json"])
    told = json.loads(done.stdout)
    assert told["dry_run"] is True
    assert [(run["fault"], run["runs"]) for run in told["runs"]] == [("crash", 1)]
    assert done.exit_code == (0 if told["ok"] else 1)
