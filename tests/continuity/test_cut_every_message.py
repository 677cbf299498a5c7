"""Each kind of transaction, cut at each of its messages, in both directions and shells.

The server goes on living and is reached again at once, so what became of a transaction can
be found out exactly: it is done once, and the caller knows nothing of the cut.
"""

from __future__ import annotations

import contextlib
import select
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from resilient import postgres
from resilient.errors import CommitOutcomeUnknown
from resilient.lab import Lab
from resilient.lab.wire import Cut, Direction, Side, WireProxy
from resilient.lab.wire import Kind as How
from resilient.settings import Settings

from .kinds import KINDS, TABLES, Kind, both, call

pytestmark = [
    pytest.mark.lab,
    # psycopg can't close a server-side cursor whose session is gone, and complains later
    pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning"),
]

#: what may be raised, beside CommitOutcomeUnknown: a mismatch is an OperationalError too
DEFINITE = psycopg.OperationalError
#: a message more than this would be a conversation that doesn't end
MOST = 200
#: quick, and never short of a connection or of a retry
SETTINGS = Settings(
    deadline_s=5,
    probe_interval_s=0.5,
    connect_rate=100_000,
    retry_budget=1.0,
    retry_budget_floor=100_000,
    standby_min_size=0,
)
#: where, and in which way.  `before` a message is `after` the one before it, unless the other
#: side answers or the client stops to think in between: after these types
WAYS: tuple[tuple[Direction, Side, How, str], ...] = (
    ("client", "before", "reset", ""),
    ("client", "after", "reset", "QSH"),
    ("server", "before", "reset", ""),
    ("server", "after", "close", "Z"),
)


@dataclass(slots=True)
class Case:
    """One run of a kind with one cut."""

    number: int
    direction: Direction
    k: int
    side: Side
    how: How
    end: str = "well"
    text: str = ""

    def __str__(self) -> str:
        return f"{self.direction} {self.k} {self.side} {self.how}: {self.end} {self.text}"


@dataclass(slots=True)
class Runs:
    """All runs of one kind, on one pool."""

    proxy: WireProxy
    pool: Any
    kind: Kind
    number: int = 0
    client: list[str] = field(default_factory=list)
    server: list[str] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)

    async def uncut(self) -> int:
        """The dry run, which lists the messages; its number."""
        watches = []

        def armed(conn: Any) -> None:
            watches.append(self.proxy.watch(pid=conn.info.backend_pid))

        for _ in range(2):  # the first use of a connection says more
            self.number += 1
            await self.kind.work(self.pool, self.number, armed)
        for watch in watches:
            self.proxy.unwatch(watch)
        self.client, self.server = watches[-1].client, watches[-1].server
        return self.number

    async def cut_everywhere(self) -> None:
        for direction, side, how, only in WAYS:
            await self._cut_along(direction, side, how, only)

    async def _cut_along(self, direction: Direction, side: Side, how: How, only: str) -> None:
        """At the first message, the second, … until the work is over before it is cut.  A
        connection's first use says more than later ones do: one miss isn't the end."""
        heard = self.client if direction == "client" else self.server
        for k in range(1, MOST):
            if only and k <= len(heard) and heard[k - 1] not in only:
                continue
            if not await self._cut_at(direction, k, side, how) and k > len(heard):
                return
        raise AssertionError(f"{MOST} messages are too many")

    async def _cut_at(self, direction: Direction, k: int, side: Side, how: How) -> bool:
        self.number += 1
        case = Case(self.number, direction, k, side, how)
        cuts: list[Cut] = []

        def armed(conn: Any) -> None:
            if not cuts:  # not again in a rerun
                pid = conn.info.backend_pid
                cuts.append(self.proxy.cut(direction, k, side=side, kind=how, pid=pid))

        try:
            await self.kind.work(self.pool, self.number, armed)
        except CommitOutcomeUnknown as exc:
            case.end, case.text = "unknown", str(exc)
        except DEFINITE as exc:
            case.end, case.text = "refused", f"{type(exc).__name__}: {exc}"
        except Exception as exc:  # whatever else a caller would see
            case.end, case.text = "wrong", f"{type(exc).__name__}: {exc}"
        self.proxy.unwatch(cuts[0])
        self.cases.append(case)
        return cuts[0].fired.is_set()


def rows_of(conn: Any) -> dict[int, list[Any]]:
    """Number → its rows, without the number."""
    found: dict[int, list[Any]] = {}
    for id_, *rest in conn.execute("select id, n, note from cuts order by id, n, note"):
        found.setdefault(id_, []).append(rest)
    for (id_,) in conn.execute("select id from cuts_unique"):
        found.setdefault(id_, []).append("unique")
    return found


def judge(lab: Lab, runs: Runs, uncut: int) -> list[str]:
    """What is wrong: the ends that the kind doesn't allow, and those that aren't true."""
    with psycopg.connect(owner(lab)) as conn:
        settle(conn)
        rows = rows_of(conn)
    expected = rows.get(uncut, [])
    allowed = {"well": [expected], "unknown": [[], expected], "refused": [[]]}
    wrong = []
    for case in runs.cases:
        found = rows.get(case.number, [])
        if found not in allowed.get(case.end, [[]]):
            wrong.append(f"{case}: a lie, there is {found} (uncut: {expected})")
        elif case.end not in runs.kind.ends:
            wrong.append(f"{case}: no end that is allowed")
    return sorted(wrong, key=lambda text: ": a lie" not in text)


def owner(lab: Lab) -> str:
    return f"host={lab.primary.address} port={lab.port} user=app dbname=app"


def settle(conn: Any) -> None:
    """Wait until no session of a cut connection is still at work."""
    busy = "select count(*) from pg_stat_activity where backend_xid is not null"
    give_up_at = time.monotonic() + 5
    while conn.execute(busy).fetchone()[0]:
        conn.rollback()
        assert time.monotonic() < give_up_at, "a session of a cut connection goes on"
        time.sleep(0.01)


@asynccontextmanager
async def pool_through(proxy: WireProxy, shell: str, kind: Kind) -> AsyncIterator[Any]:
    host, port = proxy.address
    names = {"sync": "ConnectionPool", "async": "AsyncConnectionPool"}
    names |= {"null": "NullConnectionPool", "null-async": "AsyncNullConnectionPool"}
    size = {} if shell.startswith("null") else {"min_size": 2}
    pool = getattr(postgres, names[shell])(
        f"host={host} port={port} user=app dbname=app",
        settings=SETTINGS,
        kwargs=dict(kind.options),
        max_size=4,
        open=False,
        **size,
    )
    await call(pool.open())
    async with both(pool):
        await call(pool.wait(10))
        yield pool


@pytest.mark.parametrize("shell", ["sync", "async"])
@pytest.mark.parametrize("name", list(KINDS))
async def test_cut_at_every_message(lab: Lab, proxy: WireProxy, name: str, shell: str) -> None:
    """FAULTS 6, 7, 15: at each message, both ways."""
    await cut_at_every_message(lab, proxy, KINDS[name], shell)


@pytest.mark.parametrize("shell", ["null", "null-async"])
async def test_cut_on_a_connection_that_was_never_used(
    lab: Lab, proxy: WireProxy, shell: str
) -> None:
    await cut_at_every_message(lab, proxy, KINDS["plain"], shell)


async def cut_at_every_message(lab: Lab, proxy: WireProxy, kind: Kind, shell: str) -> None:
    with psycopg.connect(owner(lab), autocommit=True) as conn:
        conn.execute(TABLES)
    async with pool_through(proxy, shell, kind) as pool:
        runs = Runs(proxy, pool, kind)
        uncut = await runs.uncut()
        await runs.cut_everywhere()
    ends = Counter(case.end for case in runs.cases)
    print("".join(runs.client), "".join(runs.server), dict(ends))
    assert len(runs.cases) > len(runs.server)
    wrong = judge(lab, runs, uncut)
    assert not wrong, "\n".join([f"{len(wrong)} of {len(runs.cases)}:", *wrong[:12]])


@pytest.mark.parametrize("shell", ["sync", "async"])
async def test_a_session_that_ends_between_the_last_statement_and_the_end_of_the_block(
    lab: Lab, proxy: WireProxy, shell: str
) -> None:
    """libpq has read the end already: leaving the block must not pass for a COMMIT."""
    with psycopg.connect(owner(lab), autocommit=True) as conn:
        conn.execute(TABLES)
    opened = pool_through(proxy, shell, KINDS["plain"])
    async with opened as pool, both(pool.connection()) as conn:
        await call(conn.execute("insert into cuts values (1, 1, 'only')"))
        lab.admin(None, f"select pg_terminate_backend({conn.info.backend_pid})")
        give_up_at = time.monotonic() + 5
        while conn.pgconn.status == psycopg.pq.ConnStatus.OK:
            assert time.monotonic() < give_up_at
            select.select([conn.pgconn.socket], [], [], 5)
            with contextlib.suppress(psycopg.OperationalError):
                conn.pgconn.consume_input()
    with psycopg.connect(owner(lab)) as conn:
        assert rows_of(conn) == {1: [[1, "only"]]}
