"""Who decides about the database: a small high-availability manager outside both zones.

It asks each server `SELECT 1` every interval; after so many misses in a row the server counts as
lost.  Then

    the primary's zone is lost   the standby is promoted, the writer's name moves, and, since no
                                 standby is left, synchronous_standby_names is turned off there
    the standby's zone is lost   synchronous_standby_names is turned off on the primary: until
                                 then every COMMIT waits for a standby that isn't there

It is turned on again once the other server streams.  The lost primary can't acknowledge anything
meanwhile: it still waits for its standby.  That is what makes two zones safe here, with one
keeper: only somebody who sees *both* zones may turn it off.  In production use Patroni (its
`synchronous_mode`) or your provider; this is for seeing what they do and what it costs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import psycopg

from resilient.lab import Lab, LabError, Member

OFF = "ALTER SYSTEM SET synchronous_standby_names = ''"
ON = "ALTER SYSTEM RESET synchronous_standby_names"  # what the server's own file says
RELOAD = "SELECT pg_reload_conf()"
STREAMS = "SELECT 1 FROM pg_stat_replication WHERE state = 'streaming' AND application_name = '{}'"
COUNTS = STREAMS + " AND sync_state IN ('sync', 'quorum')"
PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Checks:
    """Of everything that is checked; seconds.  The lesson's exercise: 5 s, twice.

    `promotion_s`: what the promotion takes beyond PostgreSQL's own, as a managed database's does.
    """

    interval_s: float = 5.0
    threshold: int = 2
    timeout_s: float = 0.5
    promotion_s: float = 0.0


class Keeper:
    """Watches from `with` to its end.  `events`: (monotonic moment, what, in a word)."""

    def __init__(self, lab: Lab, checks: Checks, say: Callable[[str], None]) -> None:
        self._lab, self._checks, self._say = lab, checks, say
        self._over = threading.Event()
        self._deciding = threading.Lock()
        self._lost: set[str] = set()
        #: those that may have written what nobody else has
        self._diverged: set[str] = set()
        self.events: list[tuple[float, str]] = []
        self.error: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._watch, args=(member,), name=f"keeper-{member.zone}")
            for member in lab.members
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def at(self, event: str, since: float) -> float | None:
        """When it came, the first time after `since`."""
        return next((at for at, name in self.events if name == event and at >= since), None)

    def _note(self, event: str, text: str) -> None:
        self.events.append((time.monotonic(), event))
        self._say(f"keeper: {text}")

    # -- looking

    def _watch(self, member: Member) -> None:
        misses = 0
        due_at = time.monotonic()
        while not self._over.wait(max(0.0, due_at - time.monotonic())):
            due_at = time.monotonic() + self._checks.interval_s
            misses = 0 if self._answers(member) else misses + 1
            if misses == self._checks.threshold and member.zone not in self._lost:
                try:
                    with self._deciding:
                        self._decide(member)
                except (LabError, psycopg.Error) as error:
                    self.error = error
                    self._say(f"keeper: {error}")

    def _answers(self, member: Member) -> bool:
        """Within the time, whatever the server and the network do meanwhile: no time limit of
        libpq's or the server's ends a statement whose network is gone."""
        said: list[bool] = []
        ask = threading.Thread(target=self._ask, args=(member, said), daemon=True)
        ask.start()
        ask.join(self._checks.timeout_s)
        return bool(said)

    def _ask(self, member: Member, said: list[bool]) -> None:
        """Over the network, as a client would."""
        with suppress(psycopg.Error):
            with psycopg.connect(
                host=member.address,
                port=self._lab.port,
                user="postgres",
                dbname="postgres",
                connect_timeout=2,
                tcp_user_timeout=2000,
            ) as conn:
                conn.execute("SELECT 1")
            said.append(True)

    # -- deciding

    def _decide(self, lost: Member) -> None:
        self._lost.add(lost.zone)
        if lost is self._lab.primary:
            self._note("primary lost", f"{lost.zone}, the primary, is lost")
            self._promote(lost)
        else:
            self._note("standby lost", f"{lost.zone}, the standby, is lost")
        self._synchronous(False)
        self._note("sync off", "synchronous_standby_names is off: there is no standby")

    def _promote(self, lost: Member) -> None:
        cluster = self._lab.cluster
        self._over.wait(self._checks.promotion_s)
        promotion = cluster.begin_promotion(lost)
        try:
            promotion.observer.wait_writable(PATIENCE_S)
        finally:
            promotion.observer.close()
        cluster.finish_promotion(promotion)
        self._diverged.add(lost.zone)
        self._note("promoted", f"{promotion.member.zone} is promoted")
        self._lab.flip_writer(avoid=lost.zone)

    def _synchronous(self, on: bool) -> None:
        for query in (ON if on else OFF, RELOAD):
            self._lab.admin(None, query)

    # -- taking back

    def take_back(self, zone: str) -> None:
        """Make the zone's server a synchronous standby again."""
        with self._deciding:
            primary, member = self._lab.primary, self._lab.cluster.member(zone)
            if zone in self._diverged:
                try:
                    member.rewind(primary)
                except LabError:
                    member.base_backup(primary)
                self._diverged.discard(zone)
            member.follow(primary)
            member.start()
            self._until(STREAMS.format(zone))
            # the files of the primary, in which it is off, may have come along
            member.execute(ON)
            self._synchronous(True)
            self._until(COUNTS.format(zone))
            self._note("sync on", f"{zone} streams, and synchronous_standby_names is on")
            self._lost.discard(zone)

    def _until(self, query: str) -> None:
        give_up_at = time.monotonic() + PATIENCE_S
        while not self._lab.admin(None, query):
            if time.monotonic() > give_up_at:
                raise LabError(f"no answer to: {query}")
            time.sleep(0.02)
