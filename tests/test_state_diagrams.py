"""The diagrams of docs/states.md: up to date, and drawn from what the code decides."""

from __future__ import annotations

from pathlib import Path

import pytest

from resilient import state_diagrams
from resilient.core import reaction
from resilient.core.model import Health
from resilient.core.reaction import Action, Reaction, Sent

STATES = Path(__file__).parent.parent / "docs" / "states.md"


def arrows(drawn: str) -> dict[tuple[str, str], set[str]]:
    """(from, to) → what leads there."""
    found = {}
    for line in drawn.splitlines():
        if "-->" in line:
            ends, _, whats = line.strip().partition(": ")
            here, _, there = ends.partition(" --> ")
            found[here, there] = set(whats.split(" / "))
    return found


def test_the_document_is_up_to_date() -> None:
    text = STATES.read_text()
    assert state_diagrams.document(text) == text, "python -m resilient.state_diagrams"


def test_a_stale_document_is_found_and_drawn_anew(tmp_path: Path) -> None:
    file = tmp_path / "states.md"
    file.write_text(STATES.read_text().replace("it refuses", "it is refused"))
    assert state_diagrams.main(["--check", str(file)]) == 1
    assert "it is refused" in file.read_text()
    assert state_diagrams.main([str(file)]) == 0
    assert file.read_text() == STATES.read_text()


def test_a_document_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="endpoint:begin"):
        state_diagrams.document("# States")


def test_an_endpoint_is_judged_as_the_documentation_says() -> None:
    found = arrows(state_diagrams.endpoint())
    assert {here for here, _ in found} == {"[*]", *Health}
    assert "it refuses" in found["up", "dead"]
    assert "a probe is unanswered" in found["up", "suspect"]
    assert "silence for the window" in found["suspect", "dead"]
    assert found["dead", "up"] == {"it answers"}
    assert ("dead", "suspect") not in found


def test_a_connection_to_a_dead_server_is_held_until_there_is_somewhere_to_go() -> None:
    found = arrows(state_diagrams.connection())
    assert found["usable", "held"] == {"its server is dead"}
    assert "another server leads" in found["held", "aborted"]
    assert "another server leads" in found["usable", "aborted"]
    assert ("usable", "usable") not in found


def test_another_rule_is_another_diagram(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = {**reaction.LOST, Sent.READ: Reaction(Action.SURFACE, "nobody asked for it twice")}
    monkeypatch.setattr(state_diagrams, "LOST", changed)
    found = arrows(state_diagrams.transaction())
    assert found["sent_read", "surface"] == {"nobody asked for it twice"}
    with pytest.raises(AssertionError):
        test_the_document_is_up_to_date()


def test_every_label_is_one_that_mermaid_takes() -> None:
    for draw in (state_diagrams.endpoint, state_diagrams.connection, state_diagrams.transaction):
        for line in draw().splitlines()[2:]:
            label = line.partition(": ")[2]
            assert label
            assert not set(label) & set(":;")
