"""Servers that speak another language than English (`lc_messages`, manual 20.11.2).

A failure to connect has no SQLSTATE in libpq, only the server's words: what isn't understood of
them must not be taken for a refusal that stays.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import psycopg
import pytest

from resilient.lab import Lab
from resilient.postgres.classify import credentials_refused, server_refused, stays

from .conftest import Face, settings_of

pytestmark = pytest.mark.lab

LANGUAGES = ("de_DE.UTF-8", "fr_FR.UTF-8", "es_ES.UTF-8", "ja_JP.UTF-8", "ru_RU.UTF-8")
#: long enough to be met in the middle
QUERY = "select count(*) from pg_class, pg_sleep(0.8)"


def at(lab: Lab) -> str:
    return f"host={lab.primary.address} port={lab.port} user=app dbname=app"


@pytest.fixture
def foreign(lab: Lab) -> Iterator[str]:
    """The language that the primary speaks."""
    server = lab.primary
    for language in LANGUAGES:
        try:
            server.execute(f"alter system set lc_messages = '{language}'")
        except psycopg.Error:
            continue
        server.execute("select pg_reload_conf()")
        with pytest.raises(psycopg.OperationalError) as caught:
            psycopg.connect(at(lab) + " dbname=nowhere")
        if "does not exist" in str(caught.value):
            continue  # the locale is there, its translation isn't
        yield language
        server.execute("alter system reset lc_messages")
        server.execute("select pg_reload_conf()")
        return
    server.execute("alter system reset lc_messages")
    pytest.skip(f"no locale of {', '.join(LANGUAGES)} here that PostgreSQL is translated to")


async def under_way(lab: Lab, face: Face) -> asyncio.Task[object]:
    call = asyncio.create_task(face.query(QUERY))
    await asyncio.sleep(0.3)
    return call


def backend(lab: Lab) -> int:
    (pid,) = lab.primary.execute(f"select pid from pg_stat_activity where query = '{QUERY}'")[0]
    return int(pid)


async def test_a_call_outlives_crash_recovery(lab: Lab, face: Face, foreign: str) -> None:
    """Whoever connects meanwhile is told that the system recovers, in that language."""
    ours = await face.open(at(lab), settings_of(lab))
    try:
        await ours.wait()
        call = await under_way(lab, ours)
        os.kill(backend(lab), signal.SIGKILL)
        assert (await call)[0] > 0
    finally:
        await ours.close()


async def test_a_call_outlives_a_restart(lab: Lab, face: Face, foreign: str) -> None:
    """57P01 of a server that goes down: its refusals afterwards aren't meant for this client."""
    ours = await face.open(at(lab), settings_of(lab))
    try:
        await ours.wait()
        call = await under_way(lab, ours)
        await asyncio.to_thread(lab.primary.stop)
        await asyncio.to_thread(lab.primary.start)
        assert (await call)[0] > 0
    finally:
        await ours.close()


ADDRESS = 'connection to server at "10.0.0.1", port 5432 failed: '


@pytest.mark.parametrize(
    ("text", "settled", "credentials"),
    [
        ('FATAL:  role "me" is not permitted to log in', True, True),
        ('FATAL:  role "me" does not exist', True, True),
        ('FATAL:  database "app" is not currently accepting connections', True, False),
        ('FATAL:  permission denied for database "app"', True, False),
        ('FATAL:  password authentication failed for user "me"', True, True),
        ("FATAL:  the database system is starting up", False, False),
        ("FATAL:  Rolle »me« darf sich nicht einloggen", True, True),
        ("FATAL:  Passwort-Authentifizierung für Benutzer »me« fehlgeschlagen", True, True),
        ("FATAL:  Datenbank »app« akzeptiert gegenwärtig keine Verbindungen", True, False),
        ("FATAL:  la base de données « app » n'existe pas", True, False),
        ("FATAL:  das Datenbanksystem startet", False, False),
        ("FATAL:  le système de bases de données s'arrête", False, False),
        ("FATAL:  tut mir leid, schon zu viele Verbindungen", False, False),
        ("ВАЖНО:  система баз данных запускается", False, False),
    ],
)
def test_only_what_is_understood_stays(text: str, settled: bool, credentials: bool) -> None:
    """Another language is understood as far as the user or the database is named in it."""
    said = None, ADDRESS + text, ("me", "app")
    assert stays(*said) is settled
    assert server_refused(*said) is settled
    assert credentials_refused(*said) is credentials


def test_a_name_that_both_have_says_nothing_of_the_credentials() -> None:
    said = None, ADDRESS + "FATAL:  Datenbank »app« existiert nicht", ("app", "app")
    assert stays(*said)
    assert not credentials_refused(*said)
