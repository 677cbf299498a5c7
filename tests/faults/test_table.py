"""`docs/faults.md` is what the tests say of themselves."""

from __future__ import annotations

import re

from .table import FAULTS, LINE, NOT_RUN, PAGE, kept, named, page, rows_of

AGAIN = "run `python -m tests.faults.table --write` on them"


def test_rows_are_read_from_docstrings() -> None:
    assert rows_of("(FAULTS 19–21, 37)") == [19, 20, 21, 37]
    assert rows_of("FAULTS 8 and 14: slow") == [8, 14]
    assert rows_of("no faults") == []


def test_the_page_has_every_test_that_names_a_row() -> None:
    text = PAGE.read_text()
    assert [*page(kept()).splitlines()] == text.splitlines(), AGAIN
    assert set(kept()) == set(named()), AGAIN


def test_no_result_is_a_failure() -> None:
    results = kept()
    wrong = {name for name, told in results.items() if told not in ("passed", "skipped", NOT_RUN)}
    assert not wrong, AGAIN
    assert len(LINE.findall(PAGE.read_text())) == sum(map(len, named().values()))


def test_the_rows_are_known() -> None:
    told = {int(row) for row in re.findall(r"^\| (\d+) \|", PAGE.read_text(), re.M)}
    assert told <= set(FAULTS)
