"""Who tells of a loss, and when: once in a process, whatever happens on the way."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import psycopg
import pytest

from resilient.core.model import Endpoint
from resilient.core.outcome import Incarnation, XidStatus, lsn_text
from resilient.lab import Lab
from resilient.postgres.commit import losses
from resilient.postgres.commit.facts import KEPT_MARKS, CommitFacts, _shared, xid_statuses

HERE = Endpoint("writer.test", "10.0.0.2", 5432)
_systems = (f"system-{number}" for number in itertools.count())


class Lost:
    """A session that is gone when it is asked."""

    def send_query_params(self, *_: object) -> None:
        raise psycopg.OperationalError("gone")


class Story:
    """An old primary and its successors, met through the same names."""

    def __init__(self) -> None:
        self.system = next(_systems)
        self.old = self.server(3, 0)
        self.meet(self.old)

    def server(self, timeline: int, recovered_lsn: int) -> CommitFacts:
        incarnation = Incarnation(self.system, timeline, f"start of {timeline}", recovered_lsn)
        return CommitFacts(incarnation, True, True, True, False, _shared(incarnation))

    def acknowledge(self, *positions: int) -> None:
        for position in positions:
            said = str(position).encode(), lsn_text(position).encode()
            self.old.flushed.acknowledged((*said, self.old.incarnation))

    def meet(self, server: CommitFacts, place: str = "writer.test", session: Any = None) -> None:
        assert list(losses.look_back(session, server, place, HERE, {})) == []


@pytest.fixture
def story(caplog: pytest.LogCaptureFixture) -> Story:
    caplog.set_level(logging.INFO, logger="resilient.failover")
    return Story()


def counts(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [r.getMessage().split() for r in caplog.records if r.levelno == logging.ERROR]
    return [word for line in lines for word in line if word.startswith("count=")]


def test_once_for_each_that_was_lost(story: Story, caplog: pytest.LogCaptureFixture) -> None:
    story.acknowledge(101, 102)
    new, newer = story.server(4, 100), story.server(5, 200)
    for server in (new, new, newer):
        story.meet(server)
    assert counts(caplog) == ["count=2"]
    assert f"endpoint={HERE.place} from=0/64 to=0/66 timeline=3 new_timeline=4" in caplog.text


def test_a_session_that_is_lost_on_the_way_leaves_it_to_the_next(
    story: Story, caplog: pytest.LogCaptureFixture
) -> None:
    story.acknowledge(100, 102)
    new = story.server(4, 100)
    with pytest.raises(psycopg.OperationalError, match="gone"):
        story.meet(new, session=Lost())
    assert counts(caplog) == []
    story.old.flushed.marks.popleft()  # so that the next needs no session
    story.acknowledge(103)
    story.meet(new)
    assert counts(caplog) == ["count=2"]


def test_an_acknowledgement_that_comes_late_is_told_by_itself(
    story: Story, caplog: pytest.LogCaptureFixture
) -> None:
    story.acknowledge(101)
    story.meet(story.server(4, 100))
    story.acknowledge(105, 99)
    assert counts(caplog) == ["count=1", "count=1"]


def test_a_copy_of_the_cluster_elsewhere_has_lost_nothing(
    story: Story, caplog: pytest.LogCaptureFixture
) -> None:
    """A clone has the system id of its original, and a timeline of its own."""
    story.acknowledge(101)
    story.meet(story.server(4, 100), place="clone.test")
    assert counts(caplog) == []
    story.meet(story.server(5, 100))
    assert counts(caplog) == ["count=1"]


def test_the_record_is_bounded_and_says_so(story: Story, caplog: pytest.LogCaptureFixture) -> None:
    story.acknowledge(*range(101, 102 + KEPT_MARKS))
    story.meet(story.server(4, 100))
    assert counts(caplog) == [f"count={KEPT_MARKS}"]
    assert "at_least=true" in caplog.text


def test_log_alone_that_is_gone_is_no_error(story: Story, caplog: pytest.LogCaptureFixture) -> None:
    story.old.flushed.latest = b"0/FF"
    story.meet(story.server(4, 100))
    assert counts(caplog) == []
    assert "step=wal-lost" in caplog.text
    assert "to=0/FF" in caplog.text


@pytest.mark.lab
def test_what_a_server_says_of_many_ids(lab: Lab) -> None:
    dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
    with psycopg.connect(dsn) as conn, psycopg.connect(dsn) as running:

        def new_id(of: psycopg.Connection) -> int:
            row = of.execute("select pg_current_xact_id()::text").fetchone()
            assert row is not None
            return int(row[0])

        committed = new_id(conn)
        conn.commit()
        aborted = new_id(conn)
        conn.rollback()
        open_id = new_id(running)
        last = new_id(conn)
        conn.commit()
        ids = [committed, aborted, open_id, last, last + 1000]
        said = conn.wait(xid_statuses(conn.pgconn, ids))
        assert said == {
            committed: XidStatus.COMMITTED,
            aborted: XidStatus.ABORTED,
            open_id: XidStatus.IN_PROGRESS,
            last: XidStatus.COMMITTED,
            last + 1000: XidStatus.FUTURE,
        }
        assert conn.wait(xid_statuses(conn.pgconn, [committed])) == {committed: XidStatus.COMMITTED}
        assert conn.wait(xid_statuses(conn.pgconn, [])) == {}
