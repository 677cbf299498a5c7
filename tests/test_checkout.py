"""examples/checkout: the arithmetic of its page, and the whole of it in a short form."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from resilient.lab.binaries import find_binaries
from resilient.lab.options import LabError

EXAMPLE = Path(__file__).parents[1] / "examples" / "checkout"


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The example's modules, as `python examples/checkout` finds them."""
    names = ("keeper", "customers", "page")
    monkeypatch.syspath_prepend(str(EXAMPLE))
    import importlib

    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        sys.modules.pop(name)


def result(parts: dict[str, ModuleType], **more: Any) -> Any:
    page = parts["page"]
    losses = (
        page.Loss("az2", "standby", 10.5, 10.0, 10.0, None, 10.1, 9.5, 1, 100, True),
        page.Loss("az1", "primary", 12.0, 11.0, 10.0, 10.2, 10.3, 9.0, 5, 100),
    )
    given: dict[str, Any] = {
        "checks": parts["keeper"].Checks(), "slow_s": 2.0, "losses": losses, "payments": 200,
        "paid_lost": 0, "charged_unpaid": 0, "charged_not": 0, "losses_a_year": 4,
    }  # fmt: skip
    return page.Result(**(given | more))


def test_whether_it_holds_is_computed_from_what_was_measured(parts: dict[str, ModuleType]) -> None:
    told = result(parts)
    assert told.budget_s == pytest.approx(15_778.8)  # 4.383 h, not 26 minutes
    assert told.downtime_s == 4 * 22.5
    assert told.availability == pytest.approx(1 - 90 / (365.25 * 86_400))
    assert told.holds
    row = told.as_dict()
    assert row["incidents_that_fit"] == 1314  # ⌊15 778.8 / 12⌋
    assert row["incidents_that_fit_managed"] == 219  # ⌊15 778.8 / 72⌋
    assert not result(parts, losses_a_year=702).holds
    assert not result(parts, paid_lost=1).holds  # whatever the downtime
    text = parts["page"].page(told)
    for words in ("99.95 % holds", "263 minutes", "1314 a year", "stayed ready", "sync off"):
        assert words in text, words
    assert "<script" not in text
    assert "prefers-color-scheme" in text
    assert "does not hold" in parts["page"].page(result(parts, losses_a_year=702))


def test_bad_time_is_counted_once_and_with_the_pauses_between_tries(
    parts: dict[str, ModuleType],
) -> None:
    customers = parts["customers"]
    tries = [
        customers.Try("a", 0.0, 1.0),  # good
        customers.Try("b", 9.0, 13.0),  # slow; it began before
        customers.Try("c", 11.0, 11.5, "503"),  # failed,
        customers.Try("c", 14.0, 14.5),  # and was paid later
        customers.Try("d", 20.0, 20.5),
    ]
    assert customers.bad_time(tries, 2.0, 10.0, 30.0) == pytest.approx(4.5)  # 10 to 14.5
    assert customers.bad_time(tries, 2.0, 10.0, 12.0) == pytest.approx(2.0)
    assert customers.bad_time(tries[:1], 2.0, 0.0, 30.0) == 0.0
    assert customers.silence(tries, 1.0, 21.0) == pytest.approx(12.0)  # 1 to 13


@pytest.mark.lab
def test_each_zone_is_lost_in_turn(tmp_path: Path) -> None:
    """Long, since it has to wait for checks to miss and zones to come back: the one run of it."""
    if shutil.which("haproxy") is None:
        pytest.skip("HAProxy isn't installed (Debian: haproxy)")
    try:
        find_binaries()
    except LabError as error:
        pytest.skip(str(error))
    html = tmp_path / "checkout.html"
    # a check's time is long: here others' tests run beside it
    argv = [sys.executable, str(EXAMPLE), "--interval", "0.3", "--timeout", "2", "--quick"]
    argv += ["--json", "--html", str(html)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=150)
    assert done.stdout, done.stderr
    told = json.loads(done.stdout)
    assert (done.returncode, told["correct"], told["holds"]) == (0, True, True), done.stderr
    assert (told["paid_lost"], told["charged_unpaid"], told["charged_not"]) == (0, 0, 0)
    assert told["payments"] > 50
    standby, primary = told["losses"]
    assert (standby["zone"], standby["role"]) == ("az2", "standby")
    assert (primary["zone"], primary["role"]) == ("az1", "primary")
    # nobody's COMMIT comes back before the standby is given up
    assert standby["promoted_s"] is None
    assert standby["detected_s"] <= standby["sync_off_s"]
    assert standby["silent_s"] >= standby["sync_off_s"] - 0.6
    assert primary["detected_s"] <= primary["promoted_s"] <= primary["sync_off_s"]
    for loss in (standby, primary):
        assert 0.3 < loss["sync_off_s"] < 30
        assert loss["bad_s"] > 0
    assert "99.95 % holds" in html.read_text()
