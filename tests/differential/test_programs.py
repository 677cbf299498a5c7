"""Programs made at random (`programs.py`), on psycopg_pool's pool and on ours.

While nothing fails a caller sees the same on both.  When the conversation is cut somewhere, the
program on ours ends as if nothing had happened, or with an error that is true: what was written is
what stood there before the act that failed, or behind it where the outcome is unknown.
"""

from __future__ import annotations

import os
import random
from typing import Any

import psycopg
import pytest

from resilient.errors import CommitOutcomeUnknown

from .pg import Server
from .play import Play, Proxy, call
from .programs import COMPOUND, SETUP, Act, Left, Playing, fresh, program

pytestmark = pytest.mark.lab
#: how many programs; a soak has more of them
PROGRAMS = int(os.environ.get("RESILIENT_TEST_PROGRAMS", "80"))
#: so many of them are cut, so often each
CUT, TIMES = PROGRAMS // 6, 4
SHELLS = ["threads", "tasks"]
ONE = {"max_size": 1}


@pytest.fixture(scope="module")
def written(differential_server: Server) -> Server:
    differential_server.admin(SETUP)
    differential_server.admin(SETUP, "led")
    return differential_server


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("resolver", ["lsn", "ledger"])
async def test_any_program_sees_what_it_sees_on_the_bare_pool(
    resolver: str, shell: str, written: Server, differential_proxy: Proxy
) -> None:
    dbname = "led" if resolver == "ledger" else "app"
    plays = [Play(written, differential_proxy, side, shell, dbname=dbname) for side in _SIDES]
    async with plays[0].pool(**ONE) as bare, plays[1].pool(**ONE) as ours:
        for seed in range(PROGRAMS):
            acts, autocommit = program(random.Random(seed)), bool(seed % 2)
            ends = []
            for play, pool in zip(plays, (bare, ours), strict=True):
                it = Playing(play, f"{play.side}{shell}{resolver}{seed}")
                ends.append(await _run(it, pool, acts, autocommit))
            assert ends[0] == ends[1], f"program {seed}: {acts}"


@pytest.mark.parametrize("shell", SHELLS)
async def test_any_program_that_is_cut_goes_on_or_tells_the_truth(
    shell: str, written: Server, differential_proxy: Proxy
) -> None:
    bare_play, play = (Play(written, differential_proxy, side, shell) for side in _SIDES)
    async with bare_play.pool(**ONE) as bare, play.pool(**ONE) as ours:
        for seed in range(CUT):
            rng = random.Random(seed)
            acts, autocommit = program(rng), bool(seed % 2)
            model = Playing(bare_play, f"whole{shell}{seed}")
            model.stood = []
            meant = await _run(model, bare, acts, autocommit)
            for number in range(TIMES):
                it = Playing(play, f"cut{shell}{seed}of{number}")
                end = await _run(it, ours, acts, autocommit, cut=rng)
                why = f"program {seed}, {number}: {acts}"
                broken = it.lost or isinstance(end.error, psycopg.OperationalError)
                if end.error is None or not broken:
                    assert end == meant, why
                elif meant.error is None:
                    _judge(it, end, [*model.stood, meant.rows], acts, autocommit, why)


_SIDES = ("bare", "ours")


class Told:
    """How a program ended: what its caller saw, its error, and what stands in the tables."""

    def __init__(self, seen: list[Any], error: BaseException | None, rows: Any) -> None:
        self.seen, self.error, self.rows = seen, error, rows

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Told) and self._shown == other._shown

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{self.seen}\n{self.error!r}\n{self.rows}"

    @property
    def _shown(self) -> Any:
        state = getattr(self.error, "sqlstate", None)
        return self.seen, type(self.error), state, self.rows


async def _run(
    it: Playing,
    pool: Any,
    acts: tuple[Act, ...],
    autocommit: bool,
    cut: random.Random | None = None,
) -> Told:
    proxy, error = it.play.proxy, None
    try:
        async with fresh(pool) as conn:
            await call(conn.set_autocommit(autocommit))
            if cut is not None:
                client = cut.random() < 0.4
                proxy.cut(
                    "client" if client else "server",
                    cut.randint(1, 20 if client else 40),
                    pid=conn.info.backend_pid,
                    side=cut.choice(("before", "within", "after")),
                    kind=cut.choice(("reset", "close")),
                )
            try:
                await it.all_of(conn, acts)
            finally:
                it.lost = conn.closed
    except (psycopg.Error, Left) as exc:
        error = exc
    finally:
        proxy.forget_watches()
    it.play.server.settle()
    return Told(it.seen, error, it.written())


def _judge(
    it: Playing, end: Told, stood: list[Any], acts: tuple[Act, ...], autocommit: bool, why: str
) -> None:
    """`stood`: what stood in the tables before each act of the program, and at its end."""
    if autocommit and it.at < len(acts) and acts[it.at].name in (*COMPOUND, "foreign cursor"):
        return  # several transactions; of a cursor that isn't ours psycopg's error is told
    may_be = [stood[min(it.at, len(acts))]] if it.at < len(acts) else [stood[len(acts) - 1]]
    if isinstance(end.error, CommitOutcomeUnknown):
        may_be += [stood[min(it.at + 1, len(acts))], stood[-1]]
    assert end.rows in may_be, f"{why}\n{end}\nmay be {may_be}"
