"""One question put to several name servers: a generator of commands.

Rules of this file: everything that decides whom to ask next, how, and what a reply means
stands here.  `question` yields an `Ask`, is sent (outcome, now) and returns a `Result`; the
shells carry out the asks and decide nothing.  `now` is real monotonic time, in seconds.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import field
from typing import TypeAlias

from .._dataclass import dataclass
from .dns import Absent, Failed, Found, Record, Reply, Result, Soa, wire_ttl

__all__ = [
    "Ask",
    "Broken",
    "Malformed",
    "Outcome",
    "Policy",
    "Question",
    "ServerHealth",
    "Silence",
    "follow",
    "question",
]

#: names in one chain, the asked one included; longer ones are refused like loops
MAX_CHAIN = 17
#: first pause before a failing server may be asked first again, and the longest, in seconds
PENALTY_S = 30.0
MAX_PENALTY_S = 300.0
#: RCODEs by which old servers refuse EDNS (RFC 6891 section 7)
_NO_EDNS = frozenset({"FORMERR", "NOTIMP"})


@dataclass(frozen=True, slots=True)
class Question:
    """A name (lower case, no final dot) and a record type such as `"A"`."""

    name: str
    rdtype: str


@dataclass(frozen=True, slots=True)
class Ask:
    """Command: send `question` to the server with this index and wait until `until`."""

    server: int
    question: Question
    tcp: bool
    edns: bool
    until: float


@dataclass(frozen=True, slots=True)
class Silence:
    """Nothing was heard in time."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """Only noise was heard: no message, or none that matched the question."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The exchange itself failed: refused, reset, unreachable.  `local` if this process
    could not even begin (no descriptors left), which is no fault of the server."""

    reason: str
    local: bool = False


Outcome: TypeAlias = Reply | Silence | Malformed | Broken


@dataclass(frozen=True, slots=True)
class Policy:
    """How long and how often to ask.  `deadline` is a point on the real monotonic clock."""

    timeout_s: float
    tries: int
    deadline: float


@dataclass(slots=True)
class _Record:
    failures: int = 0
    until: float = 0.0
    edns: bool = True


@dataclass(slots=True)
class ServerHealth:
    """Who failed lately.  A failing or lame server isn't asked first again for 30 s, then
    60 s … 300 s, as long as another is there; one success clears it.

    `now` is the resolver's injected clock, as this is a cached failure.
    """

    _records: dict[str, _Record] = field(default_factory=dict)
    _turn: int = 0

    def order(self, servers: Sequence[str], now: float, rotate: bool) -> tuple[int, ...]:
        """Indexes of `servers` in the order to ask them."""
        first = 0
        if rotate and servers:
            first, self._turn = self._turn % len(servers), self._turn + 1
        turned = [(first + i) % len(servers) for i in range(len(servers))]
        return tuple(sorted(turned, key=lambda i: self._penalised(servers[i], now)))

    def _penalised(self, server: str, now: float) -> bool:
        record = self._records.get(server)
        return record is not None and now < record.until

    def failed(self, server: str, now: float) -> None:
        """Note a failure of `server`."""
        record = self._records.setdefault(server, _Record())
        if now < record.until:
            return  # one outage counts once, however many callers meet it
        record.failures += 1
        record.until = now + min(MAX_PENALTY_S, PENALTY_S * 2 ** min(record.failures - 1, 8))

    def worked(self, server: str) -> None:
        """Note an answer of `server`."""
        record = self._records.get(server)
        if record is not None:
            record.failures, record.until = 0, 0.0

    def edns(self, server: str) -> bool:
        """False once `server` refused EDNS and then answered without it."""
        record = self._records.get(server)
        return record is None or record.edns

    def without_edns(self, server: str) -> None:
        """Remember that `server` must be asked without EDNS."""
        self._records.setdefault(server, _Record()).edns = False


@dataclass(slots=True)
class _Round:
    """The state of one question: who is left to ask, and the worst that was heard."""

    servers: Sequence[str]
    order: list[int]
    policy: Policy
    health: ServerHealth
    dated: float
    heard: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)

    def failure(self) -> Failed:
        """What became of it, once nobody is left: silence only if nobody said anything."""
        said = "; ".join(dict.fromkeys(self.heard + self.silent)) or "deadline passed"
        return Failed(timeout=not self.heard, reason=said)


def question(
    asked: Question,
    servers: Sequence[str],
    health: ServerHealth,
    policy: Policy,
    *,
    now: float,
    dated: float,
    rotate: bool = False,
) -> Generator[Ask, tuple[Outcome, float], Result]:
    """Ask until there is a result, an alias' target included (RFC 1034 section 3.6.2).

    `servers` are the names under which `health` knows them; `now` is real time, `dated` the
    injected clock (for `health`).
    """
    order = list(health.order(servers, dated, rotate))
    chain: tuple[str, ...] = (asked.name,)
    ttl_s = float("inf")
    while True:
        state = _Round(servers, order, policy, health, dated)
        got, now = yield from _ask_servers(Question(chain[-1], asked.rdtype), state, now)
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


def _ask_servers(
    asked: Question, state: _Round, now: float
) -> Generator[Ask, tuple[Outcome, float], tuple[Reply | Failed, float]]:
    """Rounds over the servers until one answers."""
    for _ in range(state.policy.tries):
        for index in tuple(state.order):
            if now >= state.policy.deadline:
                return state.failure(), now
            outcome, now = yield from _ask_one(asked, index, state, now)
            if _judge(asked, outcome, index, state):
                assert isinstance(outcome, Reply)
                return outcome, now
    return state.failure(), now


def _ask_one(
    asked: Question, index: int, state: _Round, now: float
) -> Generator[Ask, tuple[Outcome, float], tuple[Outcome, float]]:
    """Ask one server over UDP; over TCP if the reply was cut, without EDNS if it minds."""
    server, policy = state.servers[index], state.policy
    edns, tcp = state.health.edns(server), False
    outcome: Outcome = Silence()
    for _ in range(3):  # UDP, at most one change of EDNS and one of transport
        until = min(policy.deadline, now + policy.timeout_s)
        outcome, now = yield Ask(index, asked, tcp, edns, until)
        if not isinstance(outcome, Reply):
            break
        if edns and outcome.rcode in _NO_EDNS:
            edns = False
        elif outcome.truncated and not tcp:
            tcp = True
        else:
            if not edns and outcome.rcode in ("NOERROR", "NXDOMAIN"):
                state.health.without_edns(server)
            break
    return outcome, now


def _judge(asked: Question, outcome: Outcome, index: int, state: _Round) -> bool:
    """True if `outcome` answers the question; else note why this server is passed over."""
    server = state.servers[index]
    if isinstance(outcome, Silence):
        state.silent.append(f"{server}: no answer")
    elif isinstance(outcome, Malformed):
        state.heard.append(f"{server}: malformed")
    elif isinstance(outcome, Broken):
        state.heard.append(f"{server}: {outcome.reason}")
    elif outcome.truncated:
        state.heard.append(f"{server}: truncated over TCP")
    elif outcome.rcode not in ("NOERROR", "NXDOMAIN"):
        state.heard.append(f"{server}: {outcome.rcode}")
        if outcome.rcode != "SERVFAIL":
            state.order.remove(index)  # REFUSED or worse will not change its mind
    elif _useless(asked, outcome):
        state.heard.append(f"{server}: lame")
        state.order.remove(index)
    else:
        state.health.worked(server)
        return True
    if not (isinstance(outcome, Broken) and outcome.local):
        state.health.failed(server, state.dated)
    return False


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
