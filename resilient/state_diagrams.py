"""Diagrams of the states, in Mermaid: drawn by asking the code that decides, so they can't differ.

python -m resilient.state_diagrams [docs/states.md]          draws them anew
python -m resilient.state_diagrams --check [docs/states.md]  exit 1 when they are out of date

An endpoint's comes from `core.topology.step`: each thing that can happen is played to an endpoint
in each state.  A connection's comes from `core.drain.fate` in the same way.  A transaction's is the
table of `core.reaction` for a session that ended, and what `core.outcome` may find out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path

from .core.drain import Phase, fate
from .core.model import Endpoint, FailureKind, Health, Observation, Role
from .core.outcome import Outcome
from .core.reaction import LOST, Action
from .core.topology import (
    Event,
    Evidence,
    Observed,
    ProbeFailed,
    ProbeSent,
    Resolved,
    State,
    Tick,
    step,
)

__all__ = ["connection", "document", "endpoint", "main", "transaction"]

#: (from, what happens, to)
Edge = tuple[str, str, str]
Play = tuple[State, float]

A, B = (Endpoint(name, address, 5432) for name, address in (("a", "10.0.0.1"), ("b", "10.0.0.2")))
PRIMARY = Observation(Role.PRIMARY, "cluster", 1, "run 1")
STANDBY = Observation(Role.REPLICA, "cluster", 1, "run 2", streams=True, lag_s=0.0)
PROMOTED = replace(STANDBY, role=Role.PRIMARY, timeline=2)
NEW, OVER = "[*]", "[*]"


def _after(play: Play, *events: Event) -> Play:
    state, now = play
    return reduce(lambda known, event: step(known, event, now), events, state), now


def _unanswered(play: Play, seconds: float) -> Play:
    """Probes are sent to A all the time, and nothing is heard of it."""
    state, now = play
    end = now + seconds
    number = int(now * 1000)
    while now < end:
        state = step(step(state, ProbeSent(A, number), now), Tick(), now)
        number, now = number + 1, now + state.config.burst_interval_s
    return step(state, Tick(), now), now


# -- an endpoint: its health

_HAPPENS: dict[str, Callable[[Play], Play]] = {
    "it answers": lambda play: _after(play, Observed(A, PRIMARY)),
    "a probe is unanswered": lambda play: _unanswered(play, play[0].config.timeout_s),
    "silence for the window": lambda play: _unanswered(play, play[0].config.window_s + 0.5),
    "it refuses": lambda play: _after(play, ProbeFailed(A, 0, FailureKind.REFUSED)),
    "it takes no sessions": lambda play: _after(play, ProbeFailed(A, 0, FailureKind.NOT_READY)),
    "a session is lost": lambda play: _after(play, _lost(play)),
}


def _lost(play: Play) -> Event:
    view = play[0].topology.find(A)
    return Evidence(A, FailureKind.LOST, view.generation if view is not None else 0)


def _health(play: Play) -> Health:
    view = play[0].topology.find(A)
    assert view is not None
    return view.health


def _endpoint_edges() -> Iterator[Edge]:
    start = _after((State(), 100.0), Resolved("a", (A,)))
    found = {_health(start): start}
    yield NEW, "a name gives its address", _health(start).value
    waiting = list(found)
    while waiting:
        here = waiting.pop(0)
        for what, happens in _HAPPENS.items():
            play = happens(found[here])
            there = _health(play)
            if there not in found:
                found[there] = play
                waiting.append(there)
            if there is not here:
                yield here.value, what, there.value


def endpoint() -> str:
    """What the probes and the connections say of an endpoint."""
    return _drawn(_endpoint_edges())


# -- a connection: may it be used?

_NEWS: dict[str, Callable[[Play], Play]] = {
    "its server is dead": lambda play: _after(play, ProbeFailed(A, 0, FailureKind.REFUSED)),
    "its server takes no sessions": lambda play: _after(
        play, ProbeFailed(A, 0, FailureKind.NOT_READY)
    ),
    "its server has restarted": lambda play: _after(
        play, Observed(A, replace(PRIMARY, incarnation="run 3"))
    ),
    "another server leads": lambda play: _after(play, Observed(B, PROMOTED)),
}


def _connection_edges() -> Iterator[Edge]:
    names = Resolved("a", (A,)), Resolved("b", (B,))
    start = _after((State(), 100.0), *names, Observed(A, PRIMARY), Observed(B, STANDBY))
    yield NEW, "dialled", Phase.CONNECTING.value
    yield Phase.CONNECTING.value, "made, checked", Phase.CONNECTING.made().value
    yield from _fates(Phase.CONNECTING, start)
    yield from _fates(Phase.USABLE, start)
    dead = _NEWS["its server is dead"](start)
    yield from _fates(Phase.HELD, dead)
    yield Phase.DRAINING.value, "its user has finished", OVER
    yield Phase.ABORTED.value, "its socket is shut down", OVER


def _fates(here: Phase, play: Play) -> Iterator[Edge]:
    old = play[0].topology
    view = old.find(A)
    assert view is not None
    connecting, held = here is Phase.CONNECTING, here is Phase.HELD
    made_in = view.generation - held  # a dead server's connections are of the generation before
    for what, happens in _NEWS.items():
        new = happens(play)[0].topology
        there = here.under(fate(old, new, A, made_in, connecting=connecting, held=held))
        if there is not here:
            yield here.value, what, there.value


def connection() -> str:
    """Of a connection: what becomes of it under a new snapshot."""
    return _drawn(_connection_edges())


# -- a transaction whose session ended


def _transaction_edges() -> Iterator[Edge]:
    for sent, reaction in LOST.items():
        yield f"sent {sent.value}", reaction.reason, reaction.action.value
    for outcome in Outcome:
        again = outcome is Outcome.RUNNING
        what, there = ("running", Action.RESOLVE) if again else ("found out", outcome)
        yield Action.RESOLVE.value, what, there.value


def transaction() -> str:
    """What is done when a session ended, by what had been sent on it."""
    return _drawn(_transaction_edges())


# -- drawing


def _drawn(edges: Iterator[Edge]) -> str:
    """Mermaid's text; what leads from one state to another is one arrow."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for here, what, there in edges:
        whats = arrows.setdefault((_id(here), _id(there)), [])
        label = what.replace(";", ",")  # a semicolon ends the arrow
        if label not in whats:
            whats.append(label)
    lines = [
        f"    {here} --> {there}: {' / '.join(whats)}" for (here, there), whats in arrows.items()
    ]
    return "\n".join(("stateDiagram-v2", "    direction LR", *lines))


def _id(name: str) -> str:
    return name if name in (NEW, OVER) else name.replace("-", "_").replace(" ", "_")


_PARTS = {"endpoint": endpoint, "connection": connection, "transaction": transaction}


def document(text: str) -> str:
    """The document with its diagrams drawn anew.  ValueError where a marker is missing."""
    for name, draw in _PARTS.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        before, found, rest = text.partition(begin)
        _, ended, after = rest.partition(end)
        if not found or not ended:
            raise ValueError(f"no {begin} … {end} in there")
        text = f"{before}{begin}\n```mermaid\n{draw()}\n```\n{end}{after}"
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; its exit code."""
    parser = argparse.ArgumentParser(prog="resilient.state_diagrams", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing")
    parser.add_argument("file", nargs="?", type=Path, default=Path("docs/states.md"))
    options = parser.parse_args(argv)
    text = options.file.read_text()
    new = document(text)
    if new == text:
        return 0
    if options.check:
        sys.stderr.write(f"{options.file}: a diagram is out of date\n")
        return 1
    options.file.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
