"""What a check says, how long it is waited for, and that none runs twice at a time."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import psycopg_pool
import pytest

from resilient import health
from resilient.dns import AsyncResolver
from resilient.errors import ConfigError, DeadlineExceeded, NameNotFound, NameTimeout
from resilient.health import Check, Readiness, _readiness
from resilient.health._checks import as_check

Ask = Callable[[Readiness], dict[str, str | int]]


@pytest.fixture(params=["threads", "asyncio"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Run the checks, by either shell; the report without its duration."""

    def asked(readiness: Readiness) -> dict[str, str | int]:
        if request.param == "threads":
            report = readiness.check()
        else:
            report = asyncio.run(readiness.check_async())
        return {name: value for name, value in report.as_dict().items() if name != "latency_ms"}

    return asked


class Gate:
    """A dependency that hangs until it is opened."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1
        assert self.opened.wait(20)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.opened.set()


def raising(error: Exception) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


@pytest.mark.parametrize(
    ("call", "result"),
    [
        (lambda: None, "ok"),
        (lambda: False, "ok"),  # only an exception is a failure
        (raising(RuntimeError("broken")), "error"),
        (raising(TimeoutError()), "timeout"),
        (raising(psycopg_pool.PoolTimeout("full")), "timeout"),
        (raising(httpx2.ReadTimeout("late")), "timeout"),
        (raising(NameTimeout("no name server answers")), "timeout"),
        (raising(NameNotFound("no such name")), "error"),
        (raising(DeadlineExceeded("late")), "timeout"),
    ],
)
def test_what_a_check_says(ask: Ask, call: Callable[[], None], result: str) -> None:
    assert ask(Readiness(db=call, cache=lambda: None)) == {"db": result, "cache": "ok"}


def test_a_report() -> None:
    report = health.ready(db=lambda: None, cache=raising(KeyError("no")))
    assert (report.ok, report.status) == (False, 503)
    assert list(report.as_dict()) == ["db", "cache", "latency_ms"]
    assert report.body().startswith(b'{"db":"ok","cache":"error","latency_ms":')
    assert (health.live().ok, health.live().status) == (True, 200)


async def test_coroutine_functions_run_on_the_loop() -> None:
    loop = asyncio.get_running_loop()

    async def ping() -> None:
        assert asyncio.get_running_loop() is loop

    async def broken() -> None:
        raise ConnectionError

    report = await health.ready_async(cache=ping, other=broken)
    assert dict(report.results) == {"cache": "ok", "other": "error"}


def test_threads_have_no_coroutines() -> None:
    async def ping() -> None:
        raise AssertionError

    with pytest.raises(ConfigError, match=r"'cache'.*asgi_app"):
        health.ready(cache=ping)


def test_a_function_that_returns_a_coroutine_is_no_success(ask: Ask) -> None:
    coroutines = []

    async def ping() -> None:
        raise AssertionError

    def call() -> Any:
        coroutines.append(ping())
        return coroutines[-1]

    assert ask(Readiness(cache=call)) == {"cache": "error"}
    for coroutine in coroutines:
        coroutine.close()


def test_one_that_hangs_is_a_timeout_and_keeps_one_thread(ask: Ask, gate: Gate) -> None:
    readiness = Readiness(db=Check(gate, timeout_s=0.05), cache=lambda: None)
    for _ in range(5):
        assert ask(readiness) == {"db": "timeout", "cache": "ok"}
    assert gate.calls == 1
    assert [t.name for t in threading.enumerate()].count("resilient-health-db") == 1
    gate.opened.set()
    until(lambda: readiness._runs["db"].ends.done())
    assert ask(readiness) == {"db": "ok", "cache": "ok"}
    assert gate.calls == 2


def until(reached: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 10
    while not reached():
        assert time.monotonic() < give_up_at
        time.sleep(0.005)


async def test_a_task_that_hangs_is_ended() -> None:
    ended = []

    async def hang() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    readiness = Readiness(cache=Check(hang, timeout_s=0.02))
    assert (await readiness.check_async()).results == {"cache": "timeout"}
    await asyncio.sleep(0)
    assert ended == [True]
    assert (await readiness.check_async()).results == {"cache": "timeout"}
    await asyncio.sleep(0)
    assert ended == [True, True]


async def test_who_asks_at_the_same_time_shares_a_check(gate: Gate) -> None:
    readiness = Readiness(db=Check(gate, timeout_s=10))
    asking = [asyncio.create_task(readiness.check_async()) for _ in range(4)]
    asking.append(asyncio.create_task(asyncio.to_thread(readiness.check)))
    while not gate.calls:
        await asyncio.sleep(0.005)
    asking[0].cancel()  # whoever leaves takes nothing from the others
    gate.opened.set()
    reports = await asyncio.gather(*asking[1:])
    assert [report.ok for report in reports] == [True] * 4
    assert gate.calls == 1


async def test_one_whose_thread_is_slow_to_run_is_not_ended_by_its_time(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine: it isn't begun a second time, and its thread ends well."""
    called, may_run = _readiness._call, threading.Event()

    def late(*args: Any) -> None:
        assert may_run.wait(10)
        called(*args)

    monkeypatch.setattr(_readiness, "_call", late)
    gate.opened.set()
    readiness = Readiness(db=Check(gate, timeout_s=0.02))
    for _ in range(3):
        assert (await readiness.check_async()).results == {"db": "timeout"}
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("resilient-health-db") == 1
    may_run.set()
    until(lambda: readiness._runs["db"].ends.done())
    assert gate.calls == 1


def test_checks_run_at_once(ask: Ask) -> None:
    """Each waits until all have begun."""
    everybody = threading.Barrier(3, timeout=10)
    checks = {name: Check(everybody.wait, timeout_s=10) for name in "abc"}
    assert ask(Readiness(checks)) == dict.fromkeys("abc", "ok")


def test_the_log_has_why_once(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "resilient.health")
    failing = [True]

    def call() -> None:
        if failing[0]:
            raise RuntimeError("no room\nfor you")

    readiness = Readiness(db=call)
    for _ in range(3):
        assert ask(readiness) == {"db": "error"}
    failing[0] = False
    for _ in range(3):
        assert ask(readiness) == {"db": "ok"}
    assert caplog.messages == [
        'event=health.failed check=db result=error error="no room for you"',
        "event=health.back check=db",
    ]


@pytest.mark.parametrize("given", [5, None, object()])
def test_what_cant_be_checked(given: object) -> None:
    with pytest.raises(ConfigError, match=r"'db'.*accepted: a pool"):
        Readiness(db=given)


def test_readiness_without_a_check() -> None:
    for make in (Readiness, health.asgi_app, health.wsgi_app):
        with pytest.raises(ConfigError, match="needs a check"):
            make()


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan")])
def test_a_timeout_that_is_none(timeout_s: float) -> None:
    with pytest.raises(ConfigError, match="seconds > 0"):
        Check(print, timeout_s=timeout_s)
    with pytest.raises(ConfigError, match="something to call"):
        Check("db")  # type: ignore[arg-type]


def test_texts_are_urls_or_names() -> None:
    assert as_check("a", "https://pay.example/health/live").call.__qualname__.startswith("http")
    assert as_check("b", "db.example").call.__qualname__.startswith("dns")


async def test_clients_and_resolvers_of_the_callers() -> None:
    answers = {"/up": 204, "/down": 503}
    transport = httpx2.MockTransport(lambda request: httpx2.Response(answers[request.url.path]))
    async with httpx2.AsyncClient(transport=transport) as client, AsyncResolver() as resolver:
        report = await health.ready_async(
            up=health.http("http://svc.test/up", client=client),
            down=health.http("http://svc.test/down", client=client),
            literal=health.dns("127.0.0.1", resolver=resolver),
        )
    assert dict(report.results) == {"up": "ok", "down": "error", "literal": "ok"}
