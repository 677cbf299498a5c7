"""One question put to several name servers: a generator of commands.

Rules of this file: everything that decides whom to ask next, how, and what a reply means
stands here.  `question` yields a `Turn`, is sent what was heard (None: the turn's time is
over) with the time, and returns a `Result`; the shells carry out the asks and decide nothing.
`now` is real monotonic time, in seconds.

    server fails         the next one is asked at once
    server is silent     the next one is asked after `timeout_s`; the silent one is listened to
                         all the while, and what it says late counts
    all were asked       again: failing servers `tries` times, silent ones until the deadline,
                         or `tries` times where somebody chose that number
    round two and later  without EDNS: there are paths that drop it without a word
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import field
from typing import TypeAlias

from .._dataclass import dataclass
from .dns import Absent, Failed, Found, Record, Reply, Result, Soa, wire_ttl
from .dns_health import ServerHealth

__all__ = [
    "Ask",
    "Broken",
    "Heard",
    "Malformed",
    "News",
    "Outcome",
    "Policy",
    "Question",
    "ServerHealth",
    "Silence",
    "Turn",
    "follow",
    "question",
]

#: names in one chain, the asked one included; longer ones are refused like loops
MAX_CHAIN = 17
#: RCODEs by which old servers refuse EDNS (RFC 6891 section 7)
_NO_EDNS = frozenset({"FORMERR", "NOTIMP"})


@dataclass(frozen=True, slots=True)
class Question:
    """A name (lower case, no final dot) and a record type such as `"A"`."""

    name: str
    rdtype: str


@dataclass(frozen=True, slots=True)
class Ask:
    """Command: send `question` to the server with this index and listen until `until`.
    `number` tells it from the other asks of the question."""

    number: int
    server: int
    question: Question
    tcp: bool
    edns: bool
    until: float


@dataclass(frozen=True, slots=True)
class Turn:
    """Command: begin these asks, and come back with the first thing heard of any ask that
    was begun, or when `until` has passed."""

    asks: tuple[Ask, ...]
    until: float


@dataclass(frozen=True, slots=True)
class Silence:
    """Nothing was heard in time."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """Noise was heard: no message, or none that matched the question.  Over UDP it may be
    forged, and the true reply can still come."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The exchange itself failed: refused, reset, unreachable.  `local` if this process
    could not even begin (no descriptors left), which is no fault of the server."""

    reason: str
    local: bool = False


Outcome: TypeAlias = Reply | Silence | Malformed | Broken
Heard: TypeAlias = tuple[Ask, Outcome]
#: what `question` is sent
News: TypeAlias = tuple[Heard | None, float]


@dataclass(frozen=True, slots=True)
class Policy:
    """How long and how often to ask.  `deadline` is a point on the real monotonic clock.

    `timeout_s` is the pause before the next server or try, `tries` how often a server that
    fails is asked; `patient`: one that is silent is asked until the deadline.  `tcp`: never
    over UDP.
    """

    timeout_s: float
    tries: int
    deadline: float
    patient: bool = False
    tcp: bool = False


def question(
    asked: Question,
    servers: Sequence[str],
    health: ServerHealth,
    policy: Policy,
    *,
    now: float,
    dated: float,
    rotate: bool = False,
) -> Generator[Turn, News, Result]:
    """Ask until there is a result, an alias' target included (RFC 1034 section 3.6.2).

    `servers` are the names under which `health` knows them; `now` is real time, `dated` the
    injected clock (for `health`).
    """
    order = list(health.order(servers, dated, rotate))
    chain: tuple[str, ...] = (asked.name,)
    ttl_s = float("inf")
    while True:
        state = _Search(Question(chain[-1], asked.rdtype), servers, order, policy, health, dated)
        got, now = yield from state.run(now)
        if isinstance(got, Failed):
            return got
        step = follow(got, chain, asked.rdtype)
        if isinstance(step, Failed):
            return step
        if isinstance(step, Found) and not step.data:
            chain, ttl_s = step.chain, min(ttl_s, step.ttl_s)
            continue  # an alias whose target the reply left out
        if isinstance(step, Found):
            return Found(step.chain, step.data, min(ttl_s, step.ttl_s))
        return Absent(step.exists, min(ttl_s, step.ttl_s))


@dataclass(slots=True)
class _Search:
    """One name put to the servers.  `order`: who may still be asked, in order."""

    asked: Question
    servers: Sequence[str]
    order: list[int]
    policy: Policy
    health: ServerHealth
    dated: float
    heard: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    servfail: bool = False
    _round: int = 0
    _waiting: list[int] = field(default_factory=list)
    _failures: dict[int, int] = field(default_factory=dict)
    #: the asks that are listened to, the latest last
    _open: dict[int, Ask] = field(default_factory=dict)
    _number: int = 0

    def run(self, now: float) -> Generator[Turn, News, tuple[Reply | Failed, float]]:
        """Rounds over the servers until one answers."""
        ask = self._next()
        until = now
        while now < self.policy.deadline and (ask or self._open):
            if ask is not None:
                until = min(self.policy.deadline, now + self.policy.timeout_s)
            turn = Turn((ask,) if ask else (), until)
            ask = None
            heard, now = yield turn
            if heard is None:
                self._note_silence()
                ask, until = self._next(), self.policy.deadline
                if ask is None and not self.policy.patient:
                    break
            else:
                answer, ask = self._judge(*heard)
                if answer is not None:
                    return answer, now
        return self._failure(), now

    def _failure(self) -> Failed:
        """What became of it, once nobody is left: silence only if nobody said anything."""
        said = "; ".join(dict.fromkeys(self.heard + self.silent)) or "deadline passed"
        return Failed(timeout=not self.heard, reason=said, servfail=self.servfail)

    # -- asking

    def _next(self) -> Ask | None:
        """The next server, in this round or in another one."""
        if not self._waiting and (self._round < self.policy.tries or self.policy.patient):
            self._round += 1
            self._waiting = list(self.order)
        if not self._waiting:
            return None
        index = self._waiting.pop(0)
        edns = self._round == 1 and self.health.edns(self.servers[index], self.dated)
        return self._ask(index, self.policy.tcp, edns)

    def _ask(self, index: int, tcp: bool, edns: bool) -> Ask:
        self._number += 1
        ask = Ask(self._number, index, self.asked, tcp, edns, self.policy.deadline)
        self._open[ask.number] = ask
        return ask

    # -- hearing

    def _judge(self, ask: Ask, outcome: Outcome) -> tuple[Reply | None, Ask | None]:
        """The answer, or whom to ask at once; neither: go on listening."""
        noise = isinstance(outcome, Malformed) and not ask.tcp
        latest = not self._open or ask.number == max(self._open)
        if not noise:
            self._open.pop(ask.number, None)
        if isinstance(outcome, Reply):
            self._note_edns(ask, outcome.rcode)
            if ask.edns and outcome.rcode in _NO_EDNS:
                return None, self._ask(ask.server, ask.tcp, False)
            if outcome.truncated and not ask.tcp:
                return None, self._ask(ask.server, True, ask.edns)
            if self._answers(ask, outcome):
                return outcome, None
        else:
            self._note_trouble(ask, outcome)
        # While another server has its time, the failure of an earlier one hurries nobody.
        return None, self._next() if not noise and (latest or not self._open) else None

    def _answers(self, ask: Ask, reply: Reply) -> bool:
        """True if `reply` answers the question; else note why its server is passed over."""
        if reply.truncated:
            what = "truncated over TCP"
        elif reply.rcode not in ("NOERROR", "NXDOMAIN"):
            what = reply.rcode
            self.servfail = self.servfail or what == "SERVFAIL"
            if what != "SERVFAIL":
                self._leave(ask.server)  # REFUSED or worse will not change its mind
        elif _useless(self.asked, reply):
            what = "lame"
            self._leave(ask.server)
        else:
            self.health.worked(self.servers[ask.server])
            return True
        self._note_failure(ask.server, what)
        return False

    def _note_edns(self, ask: Ask, rcode: str) -> None:
        server = self.servers[ask.server]
        if ask.edns:
            self.health.heard_edns(server, rcode not in _NO_EDNS)
        elif rcode in ("NOERROR", "NXDOMAIN"):
            self.health.heard_plain(server, self.dated)

    def _note_trouble(self, ask: Ask, outcome: Outcome) -> None:
        if isinstance(outcome, Broken) and outcome.local:
            self._note_failure(ask.server, outcome.reason, blame=False)
        elif isinstance(outcome, Broken):
            self._note_failure(ask.server, outcome.reason)
        elif isinstance(outcome, Malformed):
            # Over UDP that is no end: the one who makes noise may not be the server.
            self._note_failure(ask.server, "malformed", final=ask.tcp)

    def _note_failure(
        self, index: int, what: str, *, blame: bool = True, final: bool = True
    ) -> None:
        self.heard.append(f"{self.servers[index]}: {what}")
        if final:
            self._failures[index] = self._failures.get(index, 0) + 1
            if self._failures[index] >= self.policy.tries:
                self._leave(index)
        if blame:
            self.health.failed(self.servers[index], self.dated)

    def _note_silence(self) -> None:
        if not self._open:
            return
        ask = self._open[max(self._open)]
        server = self.servers[ask.server]
        if ask.edns:
            self.health.heard_edns(server, False)
        self.silent.append(f"{server}: no answer")
        self.health.failed(server, self.dated)

    def _leave(self, index: int) -> None:
        if index in self.order:
            self.order.remove(index)
        if index in self._waiting:
            self._waiting.remove(index)


def _useless(asked: Question, reply: Reply) -> bool:
    """Neither an answer nor a proof of absence: a referral or an empty reply of a server that
    doesn't recurse (lame), or records of which none was asked for."""
    if reply.rcode != "NOERROR" or reply.soa:
        return False
    if not reply.records:
        return not reply.recursive
    return all(record.owner != asked.name for record in reply.records)


def follow(reply: Reply, chain: tuple[str, ...], rdtype: str) -> Result:
    """What `reply` says about the last name of `chain`.

    Only records owned by a name of the chain count, whatever else the message holds.
    `Found` without data means that the chain goes on at a name that the reply left out.
    """
    ttl_s = float("inf")
    begun = len(chain)
    owned = _by_owner(reply.records)
    while True:
        at = owned.get(chain[-1], ())
        data = [r for r in at if r.rdtype == rdtype]
        if data:
            ttl_s = min(ttl_s, *(wire_ttl(r.ttl) for r in data))
            return Found(chain, tuple(dict.fromkeys(r.data for r in data)), ttl_s)
        aliases = [r for r in at if r.rdtype == "CNAME"]
        if not aliases:
            break
        target = aliases[0].data
        ttl_s = min(ttl_s, *(wire_ttl(r.ttl) for r in aliases))
        if target in chain:
            return Failed(timeout=False, reason=f"alias loop at {target}")
        chain = (*chain, target)
        if len(chain) > MAX_CHAIN:
            return Failed(timeout=False, reason=f"more than {MAX_CHAIN - 1} aliases")
    proof = _negative_ttl(reply.soa, chain)
    if reply.rcode == "NXDOMAIN" or proof is not None or len(chain) == begun:
        # Without an SOA a negative answer must not be kept (RFC 2308 section 5).
        ttl_s = min(ttl_s, proof if proof is not None else 0.0)
        return Absent(exists=reply.rcode != "NXDOMAIN", ttl_s=ttl_s)
    return Found(chain, (), ttl_s)


def _by_owner(records: Iterable[Record]) -> dict[str, list[Record]]:
    owned: dict[str, list[Record]] = {}
    for record in records:
        owned.setdefault(record.owner, []).append(record)
    return owned


def _negative_ttl(soas: Iterable[Soa], chain: tuple[str, ...]) -> float | None:
    """The lesser of an SOA's own TTL and its minimum (RFC 2308 section 5), if it is the SOA
    of a zone that holds a name of the chain."""
    for soa in soas:
        suffix = f".{soa.owner}"
        if soa.owner in ("", *chain) or any(name.endswith(suffix) for name in chain):
            return float(min(wire_ttl(soa.ttl), wire_ttl(soa.minimum)))
    return None
