"""The command line: JSON, exit codes, wrong use."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest
from rich.console import Console
from typer.testing import CliRunner

from resilient.cli import main
from resilient.cli.app import app
from resilient.cli.show import counts, legend, times
from resilient.drill.verdict import broken
from tests.drill.make import case, judged, trace


def run(*argv: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(argv))
    return done.exit_code, done.stdout, done.stderr


def ask(*argv: str) -> dict[str, object]:
    code, out, _ = run("budget", *argv, "--json")
    assert code == 0, out
    told = json.loads(out)
    assert isinstance(told, dict)
    return told


def test_the_budget_of_four_nines() -> None:
    told = ask("--target", "99.99", "--rto", "55")
    assert told["downtime_s_per_year"] == 3155.76
    assert told["incidents_per_year"] == 57
    assert told["nines"] == 4


def test_the_slip_is_not_copied() -> None:
    assert ask("--target", "99.95")["downtime_s_per_year"] == pytest.approx(4.383 * 3600)


def test_rto_by_phase() -> None:
    told = ask("--target", "99.99", "--probe-interval", "5", "--threshold", "3", "--decision",
               "1", "--promotion", "28", "--dns-ttl", "5", "--reconnect", "6")  # fmt: skip
    assert (told["detection_s"], told["rto_s"], told["incidents_per_year"]) == (15, 55, 57)


def test_chain_redundancy_instances() -> None:
    assert ask("--series", "99.9,99.9,99.9")["series_availability"] == pytest.approx(99.7003)
    assert ask("--redundant", "99", "--instances", "2")["redundant_availability"] == 99.99
    assert ask("--target", "99.99", "--instance-availability", "99")["instances_needed"] == 2
    assert ask("--downtime", "3155.76")["target"] == 99.99


def test_a_target_that_is_missed_is_a_finding() -> None:
    code, out, _ = run("budget", "--target", "99.9", "--series", "99.9,99.9", "--json")
    assert (code, json.loads(out)["meets_target"]) == (1, False)
    assert run("budget", "--target", "99.99", "--redundant", "99", "--instances", "2")[0] == 0


def test_in_words() -> None:
    code, out, _ = run("budget", "--target", "99.99", "--rto", "55")
    assert code == 0
    assert "whole incidents a year that fit" in out
    assert "57" in out


@pytest.mark.parametrize(
    "argv",
    [
        ["budget"],
        ["budget", "--target", "101"],
        ["budget", "--target", "many"],
        ["budget", "--target", "99", "--rto", "0"],
        ["budget", "--target", "99", "--downtime", "5"],
        ["budget", "--rto", "5", "--promotion", "3"],
        ["budget", "--series", "99.9,x"],
        ["budget", "--redundant", "99"],
        ["budget", "--redundant", "99", "--instances", "0"],
        ["budget", "--instance-availability", "99"],
        ["budget", "--promotion", "-3"],
        ["drill", "--fault", "fire"],
        ["drill", "--endpoint", "ip"],
        ["drill", "--runs", "0"],
        ["drill", "--promote-after", "soon"],
        ["drill", "--dns-after", "-1"],
        ["no-such-verb"],
    ],
)
def test_wrong_use_is_exit_2_and_says_why(argv: list[str]) -> None:
    code, out, err = run(*argv)
    assert code == 2
    assert out == ""
    assert err.strip()


@pytest.mark.parametrize(
    "argv",
    [
        ["budget", "--target", "99.95", "--tier", "zürich=99.9x2"],
        ["settings"],
        ["drill", "--dry-run"],
        ["doctor", "--dsn", "host=127.0.0.1 port=1"],
    ],
)
def test_a_terminal_that_lacks_a_sign_gets_another(argv: list[str]) -> None:
    environment = {
        **os.environ,
        "PYTHONIOENCODING": "ascii",
        "RESILIENT_ZONES": "zürich=10.0.0.0/8",
    }
    command = [sys.executable, "-m", "resilient.cli", *argv]
    done = subprocess.run(command, capture_output=True, env=environment, check=False, timeout=60)
    assert done.returncode in (0, 1)
    assert b"Traceback" not in done.stderr
    assert done.stdout.isascii()
    assert b"?" in done.stdout


@pytest.mark.parametrize(
    "argv", [["budget", "--target", "99.95"], ["settings", "--json"], ["--help"]]
)
def test_an_output_that_is_full_is_said_in_a_line(argv: list[str]) -> None:
    command = [sys.executable, "-m", "resilient.cli", *argv]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )
    assert done.returncode == 1
    assert done.stderr == "resilient: the output can't be written: No space left on device\n"


def test_an_interrupt_is_no_accident(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever it comes, while modules are imported too: 128 + SIGINT, as shells say it."""

    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("resilient.cli.app.app", interrupted)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130


def test_a_reader_that_leaves_is_no_accident() -> None:
    command = [sys.executable, "-m", "resilient.cli", "settings", "--all"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) in (0, 1)


def test_without_typer_one_sentence_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['typer'] = None\n"
        "from resilient.cli import main\n"
        "main()\n"
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'resilient-connect[cli,lab]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_table_has_a_line_a_run_and_the_legend_explains_it() -> None:
    findings = [judged(trace()), judged(trace(), [1, 2, 3], of=case("hang"))]
    console = Console(width=110, record=True, file=io.StringIO())
    verdicts = [tuple(broken(each)) for each in findings]
    console.print(times(findings, verdicts))
    console.print(counts(findings, verdicts))
    console.print(legend(True))
    shown = console.export_text()
    assert "crash" in shown
    assert "FAIL" in next(line for line in shown.splitlines() if line.strip().startswith("hang"))
    assert "an acknowledged write must survive" in shown
