"""A guarded connect: one attempt at one endpoint.

A connect that runs inside `dialling` registers its socket while it is still connecting, keeps
its deadline (psycopg raises a `connect_timeout` to 2 s at least), and asks the server what it is
before anybody else gets the connection.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from weakref import ref

from psycopg import errors as e
from psycopg import pq, waiting
from psycopg.abc import RV, PQGenConn

from ...core.model import Endpoint, FailureKind, Observation, Role
from ...monitor.sockets import Link
from ..bounded import TooMuch, answer, unbearable
from ..role import RoleError, observe, with_descriptor

#: how often a wait looks up from its socket (a Ctrl-C), in seconds; psycopg's own value
INTERVAL_S = 0.1


class Dial:
    """One attempt to connect to one endpoint.

    `judge` is given what the server said of itself; it raises to refuse the connection.
    """

    __slots__ = (
        "began_at",
        "deadline_at",
        "endpoint",
        "gen",
        "judge",
        "link",
        "made",
        "seen",
        "session",
        "watch",
        "watched",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        link: Link,
        deadline_at: float,
        judge: Callable[[Observation], None],
        watch: Callable[[Link], None],
    ) -> None:
        self.endpoint = endpoint
        self.link = link
        self.deadline_at = deadline_at
        self.judge = judge
        self.watch = watch
        self.watched = self.made = False
        #: weakly: the context of what was started meanwhile keeps the dial
        self.session: ref[pq.abc.PGconn] | None = None
        #: what is waited for
        self.gen: PQGenConn[object] | None = None
        self.began_at = time.monotonic()
        self.seen: Observation | None = None

    def guard(self, gen: PQGenConn[RV]) -> PQGenConn[RV]:
        """Pass a connecting generator through, watching its socket and the time."""
        ready: waiting.Ready | int = 1
        self.gen = gen
        try:
            item = next(gen)
            while True:
                self.link.bind(item[0])
                self._keep_deadline(ready)
                ready = yield item
                if time.monotonic() >= self.deadline_at:
                    gen.close()
                    raise self._timeout()
                if self.link.evicted:
                    gen.close()
                    raise e.OperationalError(f"connecting abandoned: {self.link.evicted}")
                if why := unbearable(item[0]):
                    gen.close()
                    raise TooMuch(why)
                item = gen.send(ready)
        except StopIteration as stop:
            found: RV = stop.value
            return found
        except e.OperationalError as exc:
            # The monitor keeps the deadline too, by shutting the socket down.
            if self.link.evicted and time.monotonic() >= self.deadline_at:
                raise self._timeout() from exc
            raise

    def _keep_deadline(self, ready: object) -> None:
        """psycopg looks up from the socket every tenth of a second: after the first one without
        a packet, or where less than one is left, the monitor keeps the deadline to the
        millisecond."""
        if not self.watched and (not ready or self.deadline_at - time.monotonic() < INTERVAL_S):
            self.watched = True
            self.watch(self.link)

    def _timeout(self) -> e.ConnectionTimeout:
        return e.ConnectionTimeout(f"no connection to {self.endpoint} in time")

    def admit(self, pgconn: pq.abc.PGconn) -> PQGenConn[None]:
        """Ask the server what it is, and judge the answer."""
        self.session = ref(pgconn)
        try:
            self.seen = yield from self.guard(
                with_descriptor(pgconn, answer(pgconn, observe(pgconn)))
            )
        except RoleError as exc:
            if exc.kind not in (FailureKind.ERROR, FailureKind.CROWDED):
                raise e.OperationalError(str(exc)) from exc
            self.seen = Observation(Role.UNKNOWN)
        self.judge(self.seen)
        self.admitted()

    def abandon(self) -> None:
        """Its caller was cancelled: psycopg leaves what has begun to the garbage collector, and
        whoever keeps the traceback keeps a session of the server."""
        if self.gen is not None:
            self.gen.close()
        session = self.session() if self.session is not None else None
        if session is not None:
            session.finish()

    def admitted(self) -> None:
        """There is a connection; what fails from here on is no dial's failure."""
        self.made = True
        self.link.made()


current_dial: ContextVar[Dial | None] = ContextVar("resilient_dial", default=None)


@contextmanager
def dialling(dial: Dial) -> Iterator[Dial]:
    """Everything that connects inside is this dial's."""
    token = current_dial.set(dial)
    try:
        yield dial
    except Exception:
        raise
    except BaseException:  # cancelled, or a Ctrl-C
        dial.abandon()
        raise
    finally:
        current_dial.reset(token)
