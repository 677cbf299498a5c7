"""Plays one case on the three upstreams."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from ..judge.checker import judge
from ..judge.history import Op
from ..subject.parent import Subject, SubjectFailed
from .clients import CLIENTS
from .plan import FAULTS, Case, Fault
from .subject import SESSIONS
from .world import NAME, World, Zone

__all__ = ["figures", "play"]

READY_S, WARM_S, AFTER_S, RUNNING = 20.0, 1.0, 0.5, 5


def play(world: World, case: Case, give_up_s: float) -> dict[str, Any]:
    """The case's row.  `give_up_s`: a client that isn't back so long after all is over never is."""
    row = {**case.as_dict(), "key": case.key, "versions": CLIENTS[case.client].versions()}
    row["at"] = time.strftime("%Y-%m-%dT%H:%M:%S")
    world.heal()
    argv = [case.client, case.way, world.url]
    subject = Subject("benchmarks.http_failover.subject", *argv)
    fault, trouble, since = FAULTS[case.fault], "", None
    zone = next(iter(world.zones.values()))
    try:
        _warm_up(subject)
        zone = world.zones[[op.server for op in subject.ops if op.server][-1] or zone.zone]
        since = time.monotonic()
        _follow(world, zone, fault, subject, since, give_up_s)
        subject.tell("stop", "stopped", 10)
    except SubjectFailed as error:
        trouble = str(error)
    ended_at = time.monotonic()
    subject.kill()
    world.settle()
    if since is not None:
        opened = [at for z in world.zones.values() for at in z.connections if at >= since]
        row |= figures(subject.ops, fault, zone.zone, since, ended_at)
        row |= judge(subject.ops, world.orders).as_dict() | {"connections": len(opened)}
    return row | {"trouble": trouble}


def _warm_up(subject: Subject) -> None:
    subject.wait("loaded", READY_S)
    subject.tell("open", "ready", READY_S)
    subject.tell("go", "running", 5)
    give_up_at = time.monotonic() + READY_S
    while True:
        subject.pump(0.02)
        good = Counter(op.session for op in subject.ops if op.outcome == "ok")
        if all(good[name] >= RUNNING for name in SESSIONS):
            break
        if time.monotonic() > give_up_at:
            raise SubjectFailed(f"before the fault: not running; {subject.ops[-1:]}")
    until = time.monotonic() + WARM_S
    while time.monotonic() < until:
        subject.pump(0.05)


def _follow(
    world: World, zone: Zone, fault: Fault, subject: Subject, since: float, give_up_s: float
) -> None:
    steps = list(fault.steps)
    over_at, settled_at = since + fault.over_s, None
    seen, missing = len(subject.ops), set(SESSIONS)
    while True:
        while steps and time.monotonic() >= since + steps[0][0]:
            _step(world, zone, steps.pop(0)[1])
        subject.pump(min(0.02, max(0.0, since + steps[0][0] - time.monotonic())) if steps else 0.02)
        missing -= {
            op.session for op in subject.ops[seen:] if op.outcome == "ok" and op.began_at >= over_at
        }
        seen = len(subject.ops)
        now = time.monotonic()
        if settled_at is None and not missing and now > since + fault.watch_s:
            settled_at = now
        if (settled_at or now) + AFTER_S < now or now > over_at + max(give_up_s, fault.watch_s):
            return


def _step(world: World, zone: Zone, what: str) -> None:
    if what == "kill":
        zone.kill()
    elif what == "pause":
        zone.pause()
    elif what == "leave":
        world.dns.remove_address(NAME, zone.address)
    elif what == "kill all":
        for each in world.zones.values():
            each.kill()
    elif what == "start all":
        for each in world.zones.values():
            each.resume()
    else:
        zone.set_mode(what)


def figures(
    ops: Sequence[Op], fault: Fault, zone: str, since: float, ended_at: float
) -> dict[str, Any]:
    """Times in seconds, None: not while we looked.

    `stall_s`: the longest time without a good answer that any session had.  `back_s`: from the end
    of what was planned until every session had one.  `left_s`: when the upstream that was hit gave
    the last good answer.  `slowest_s`: the longest single call, whatever came of it.
    """
    over_at = since + fault.over_s
    ops = sorted(ops, key=lambda op: op.ended_at)
    hit = [op for op in ops if op.ended_at >= since]
    good = {name: [op for op in ops if op.session == name and op.outcome == "ok"]
            for name in SESSIONS}  # fmt: skip
    back = [min((op.ended_at for op in mine if op.began_at >= over_at), default=None)
            for mine in good.values()]  # fmt: skip
    last = max(
        (op.ended_at for op in hit if op.outcome == "ok" and op.server == zone), default=None
    )
    failed = [op for op in hit if op.outcome != "ok"]
    stuck = [op for op in failed if op.outcome == "stuck"]
    never = any(at is None for at in back)
    known = [at for at in back if at is not None]
    return {
        "never": never,
        "stall_s": round(max(_stall(mine, since, ended_at) for mine in good.values()), 4),
        "back_s": None if never else round(max(known) - over_at, 4),
        "left_s": None if last is None else round(last - since, 4),
        "slowest_s": round(max((op.ended_at - op.began_at for op in hit), default=0.0), 4),
        "errors": sum(op.attempts - (op.outcome == "ok") for op in hit) - len(stuck),
        "told": len(failed) - len(stuck),
        "stuck": len(stuck),
        "answers": sum(len(mine) for mine in good.values()),
        "texts": dict(Counter(op.error for op in failed if op not in stuck).most_common(4)),
        "watched_s": round(ended_at - since, 4),
    }


def _stall(good: Sequence[Op], since: float, ended_at: float) -> float:
    before = max((op.ended_at for op in good if op.ended_at <= since), default=since)
    moments = [before, *(op.ended_at for op in good if op.ended_at > since), ended_at]
    return max(b - a for a, b in pairwise(moments))
