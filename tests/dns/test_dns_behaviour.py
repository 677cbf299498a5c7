"""What callers rely on beyond the scenarios: one flight, refresh ahead, bypass, close."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from typing import Any

import pytest
from dns_lab import FakeClock, Lab, a, until_async

from resilient.dns import AsyncResolver, Resolver
from resilient.errors import NameNotFound, NameServersFailed, NameTimeout, ResolutionError
from tests.seen import Seen

# -- one flight


async def test_fifty_callers_ask_once(kind: Any, clock: FakeClock) -> None:
    with Lab([a("a.test", "192.0.2.1", "192.0.2.2", delay_s=0.1)]) as lab:
        resolver = kind(lab.settings(), clock)
        answers = await asyncio.gather(*(resolver.resolve("a.test") for _ in range(50)))
        assert lab.count == 1
        firsts = [answer.addresses[0] for answer in answers]
        assert sorted(set(firsts)) == ["192.0.2.1", "192.0.2.2"]
        await resolver.close()


async def test_fifty_callers_without_a_cache_ask_once(kind: Any) -> None:
    with Lab([a("a.test", "192.0.2.1", delay_s=0.3)]) as lab:
        resolver = kind(lab.settings(dns_cache_size=0))
        await asyncio.gather(*(resolver.resolve("a.test") for _ in range(20)))
        assert lab.count == 1
        await resolver.close()


async def test_callers_get_errors_of_their_own(kind: Any) -> None:
    rule = {"q": "*", "rcode": "SERVFAIL", "delay_s": 0.1}
    with Lab([rule]) as lab:
        resolver = kind(lab.settings(dns_tries=1))
        calls = (resolver.resolve("a.test") for _ in range(5))
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in errors} == {NameServersFailed}
        assert len({id(error) for error in errors}) == 5
        assert all(isinstance(error, socket.gaierror) for error in errors)
        assert "SERVFAIL" in str(errors[0])
        await resolver.close()


async def test_cancelling_every_caller_keeps_the_answer() -> None:
    with Lab([a("a.test", "192.0.2.1", delay_s=0.2)]) as lab:
        resolver = AsyncResolver(lab.settings())
        calls = [asyncio.create_task(resolver.resolve("a.test")) for _ in range(3)]
        await asyncio.sleep(0.05)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert (await resolver.resolve("a.test")).addresses == ("192.0.2.1",)
        assert lab.count == 1
        await resolver.close()


def test_interrupted_leader_leaves_the_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    with Lab([a("a.test", "192.0.2.1", delay_s=0.1)]) as lab, Resolver(lab.settings()) as resolver:
        first = threading.Event()

        def interrupted(*args: Any) -> Any:
            monkeypatch.undo()
            first.set()
            time.sleep(0.1)
            raise KeyboardInterrupt

        monkeypatch.setattr("resilient.dns._sync.drive", interrupted)
        caught: list[BaseException] = []

        def lead() -> None:
            try:
                resolver.resolve("a.test")
            except KeyboardInterrupt as exc:
                caught.append(exc)

        leader = threading.Thread(target=lead)
        leader.start()
        first.wait()
        assert resolver.resolve("a.test").addresses == ("192.0.2.1",)
        leader.join()
        assert caught


# -- refresh ahead of expiry


async def test_refresh_ahead_is_off_the_request_path(kind: Any, clock: FakeClock) -> None:
    rules = [
        a("a.test", "192.0.2.1", ttl=100, nth=1),
        a("a.test", "192.0.2.2", ttl=100, delay_s=0.2),
    ]
    with Lab(rules) as lab:
        resolver = kind(lab.settings(dns_refresh_ahead=0.8), clock)
        await resolver.resolve("a.test")
        clock.now += 74
        await resolver.resolve("a.test")
        await asyncio.sleep(0.05)
        assert lab.count == 1  # not due: 80 % ± 5 % of the TTL
        clock.now += 12
        begun = time.monotonic()
        assert (await resolver.resolve("a.test")).addresses == ("192.0.2.1",)
        assert time.monotonic() - begun < 0.15
        assert await until_async(lambda: lab.count == 2)
        assert await until_async(
            lambda: resolver._cache.hit("a.test", 4, clock()).addresses[0][-1] == "2"
        )
        clock.now += 50  # past the first answer's life: still no waiting
        assert (await resolver.resolve("a.test")).addresses == ("192.0.2.2",)
        assert lab.count == 2
        await resolver.close()


async def test_only_names_in_use_are_refreshed(kind: Any) -> None:
    with Lab([a("*", "192.0.2.1", ttl=1) | {"answers": [["*", "A", 1, "192.0.2.1"]]}]) as lab:
        resolver = kind(lab.settings(dns_refresh_ahead=0.3))
        for name in ("used.test", "unused.test", "used.test"):
            await resolver.resolve(name)
        await asyncio.sleep(1.2)
        names = [name for name, _, _ in lab.servers[0].queries]
        assert names.count("used.test") == 2
        assert names.count("unused.test") == 1
        await resolver.close()


async def test_failed_refresh_keeps_the_answer_and_tries_again(kind: Any, clock: FakeClock) -> None:
    rules = [
        a("a.test", "192.0.2.1", ttl=100, nth=1),
        {"q": "a.test", "nth": 2, "rcode": "SERVFAIL"},
        a("a.test", "192.0.2.2", ttl=100),
    ]
    with Lab(rules) as lab:
        settings = lab.settings(dns_refresh_ahead=0.8, dns_tries=1, dns_stale_s=100)
        resolver = kind(settings, clock)
        await resolver.resolve("a.test")
        clock.now += 90
        await resolver.resolve("a.test")
        assert await until_async(lambda: lab.count == 2)
        await asyncio.sleep(0.05)
        assert (await resolver.resolve("a.test")).addresses == ("192.0.2.1",)
        clock.now += 2
        await resolver.resolve("a.test")
        assert await until_async(lambda: lab.count == 3)
        await asyncio.sleep(0.05)
        assert (await resolver.resolve("a.test")).addresses == ("192.0.2.2",)
        await resolver.close()


async def test_nobody_waits_while_servers_are_silent_and_an_old_answer_serves(kind: Any) -> None:
    rules = [a("a.test", "192.0.2.1", ttl=1, nth=1), {"q": "*", "drop": True}]
    with Lab(rules) as lab:
        settings = lab.settings(
            dns_refresh_ahead=0.3, dns_tries=1, dns_timeout_s=0.3, dns_stale_s=100
        )
        resolver = kind(settings)
        longest = 0.0
        end = time.monotonic() + 1.8
        while time.monotonic() < end:
            begun = time.monotonic()
            answer = await resolver.resolve("a.test")
            longest = max(longest, time.monotonic() - begun)
            assert answer.addresses == ("192.0.2.1",)
            await asyncio.sleep(0.02)
        assert answer.stale
        assert longest < 0.15
        assert lab.count <= 5
        await resolver.close()


# -- around the cache


async def test_bypass_is_limited_over_all_callers(kind: Any, clock: FakeClock) -> None:
    with Lab([a("a.test", "192.0.2.1")]) as lab:
        resolver = kind(lab.settings(), clock)
        await resolver.resolve("a.test")
        await asyncio.sleep(0.26)
        begun = time.monotonic()
        while time.monotonic() - begun < 0.6:
            await asyncio.gather(*(resolver.resolve("a.test", fresh=True) for _ in range(10)))
            await asyncio.sleep(0.01)
        assert 3 <= lab.count <= 4
        await resolver.close()


async def test_bypass_sees_the_new_address(kind: Any, clock: FakeClock) -> None:
    with Lab([a("a.test", "192.0.2.1", nth=1), a("a.test", "192.0.2.2")]) as lab:
        resolver = kind(lab.settings(), clock)
        await resolver.resolve("a.test")
        await asyncio.sleep(0.26)
        assert (await resolver.refresh("a.test")).addresses == ("192.0.2.2",)
        assert (await resolver.resolve("a.test")).addresses == ("192.0.2.2",)
        await resolver.close()


async def test_bypass_without_a_cache_waits_its_turn(kind: Any) -> None:
    with Lab([a("a.test", "192.0.2.1")]) as lab:
        resolver = kind(lab.settings(dns_cache_size=0))
        begun = time.monotonic()
        for _ in range(3):
            await resolver.refresh("a.test")
        assert time.monotonic() - begun > 0.49
        assert lab.count == 3
        await resolver.close()


async def test_failing_bypass_gives_what_still_lives(kind: Any) -> None:
    with Lab([a("a.test", "192.0.2.1", nth=1), {"q": "*", "rcode": "SERVFAIL"}]) as lab:
        resolver = kind(lab.settings(dns_tries=1))
        await resolver.resolve("a.test")
        await asyncio.sleep(0.26)
        answer = await resolver.refresh("a.test")
        assert answer.addresses == ("192.0.2.1",)
        assert not answer.stale
        await resolver.close()


async def test_dead_address_comes_last(kind: Any, clock: FakeClock) -> None:
    with Lab([a("a.test", "192.0.2.1", "192.0.2.2", "192.0.2.3"), a("b.test", "192.0.2.2")]) as lab:
        resolver = kind(lab.settings(), clock)
        await resolver.resolve("a.test")
        resolver.report_dead("192.0.2.2")
        for _ in range(6):
            assert (await resolver.resolve("a.test")).addresses[-1] == "192.0.2.2"
        assert (await resolver.resolve("b.test")).addresses == ("192.0.2.2",)
        resolver.invalidate("a.test")
        assert (await resolver.resolve("a.test")).addresses[-1] == "192.0.2.2"
        clock.now += 31
        resolver.invalidate("a.test")
        firsts = {(await resolver.resolve("a.test")).addresses[0] for _ in range(6)}
        assert firsts == {"192.0.2.1", "192.0.2.2", "192.0.2.3"}
        await resolver.close()


# -- clocks and ends


async def test_wall_clock_is_never_read(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with Lab([a("a.test", "192.0.2.1")]) as lab:
        resolver = kind(lab.settings())
        await resolver.resolve("a.test")
        for jump in (3600.0, -3600.0):
            now = time.time() + jump
            monkeypatch.setattr(time, "time", lambda now=now: now)
            await resolver.resolve("a.test")
        assert lab.count == 1
        await resolver.close()


async def test_close_is_idempotent_and_ends_waiting(kind: Any) -> None:
    with Lab([{"q": "*", "drop": True}]) as lab:
        resolver = kind(lab.settings(dns_tries=1, dns_timeout_s=0.3))
        call = asyncio.create_task(resolver.resolve("a.test"))
        assert await until_async(lambda: lab.count == 1)
        await resolver.close()
        await resolver.close()
        with pytest.raises(ResolutionError):
            await call
        assert asyncio.all_tasks() == {asyncio.current_task()}
        with pytest.raises(RuntimeError, match="closed"):
            await resolver.resolve("b.test")


async def test_close_ends_a_refresh_under_way(kind: Any) -> None:
    with Lab([{"q": "*", "drop": True}]) as lab:
        resolver = kind(lab.settings(dns_timeout_s=4))
        resolver.watch("a.test", lambda change: None)
        assert await until_async(lambda: lab.count == 1)
        begun = time.monotonic()
        await resolver.close()
        assert time.monotonic() - begun < 1


def test_no_thread_without_need() -> None:
    with Lab([a("a.test", "192.0.2.1")]) as lab, Resolver(lab.settings()) as resolver:
        before = threading.active_count()
        for _ in range(3):
            resolver.resolve("a.test")
        assert threading.active_count() == before


def test_async_resolver_serves_one_loop_after_another() -> None:
    with Lab([a("a.test", "192.0.2.1", delay_s=0.05)]) as lab:
        resolver = AsyncResolver(lab.settings(dns_refresh_ahead=0.5))

        async def interrupted() -> None:
            task = asyncio.create_task(resolver.resolve("a.test"))
            await asyncio.sleep(0)
            task.cancel()

        asyncio.run(interrupted())
        assert asyncio.run(resolver.resolve("a.test")).addresses == ("192.0.2.1",)
        assert asyncio.run(resolver.resolve("a.test")).addresses == ("192.0.2.1",)
        asyncio.run(resolver.close())


def test_forked_child_resolves() -> None:
    with Lab([a("*", "192.0.2.1") | {"answers": [["*", "A", 1, "192.0.2.1"]]}]) as lab:
        resolver = Resolver(lab.settings(dns_refresh_ahead=0.5))
        resolver.resolve("a.test")
        resolver.resolve("a.test")  # starts the helper
        resolver._lock.acquire()  # as another thread may at the moment of the fork
        child = os.fork()
        if child == 0:
            try:
                ok = resolver.resolve("b.test").addresses == ("192.0.2.1",)
                os._exit(0 if ok else 1)
            finally:
                os._exit(2)
        resolver._lock.release()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        resolver.close()


async def test_timeout_is_a_timeout_error_of_the_resolver(kind: Any) -> None:
    with Lab([{"q": "*", "drop": True}]) as lab:
        resolver = kind(lab.settings(dns_tries=1, dns_timeout_s=0.1))
        with pytest.raises(NameTimeout) as caught:
            await resolver.resolve("a.test")
        assert caught.value.name == "a.test"
        with pytest.raises(ValueError, match="family"):
            await resolver.resolve("a.test", 5)
        await resolver.close()


async def test_one_familys_life_bounds_both(kind: Any, clock: FakeClock) -> None:
    rules = [a("a.test", "192.0.2.1", ttl=10), a("a.test", "2001:db8::1", ttl=100)]
    with Lab(rules) as lab:
        resolver = kind(lab.settings(dns_ttl_floor_s=5), clock)
        await resolver.resolve("a.test")
        clock.now += 4
        answer = await resolver.resolve("a.test", "any")
        assert lab.count == 2  # A was known
        assert answer.expires_at == clock.now + 6
        await resolver.close()


async def test_lookups_that_asked_are_measured(kind: Any, seen: Seen) -> None:
    with Lab([a("a.test", "192.0.2.1")]) as lab:
        resolver = kind(lab.settings())
        for _ in range(5):
            await resolver.resolve("a.test")
        with pytest.raises(NameNotFound):
            await resolver.resolve("b.test")
        await resolver.close()
    points = seen.points()["dns.lookup.duration"]
    assert {tuple(sorted(said.items())): point.count for said, point in points} == {
        (("dns.question.name", "a.test"),): 1,
        (("dns.question.name", "b.test"), ("error.type", "NameNotFound")): 1,
    }


def test_out_of_descriptors_is_a_local_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*args: Any, **kwargs: Any) -> Any:
        raise OSError(24, "Too many open files")

    with Lab([a("*", "192.0.2.1") | {"answers": [["*", "A", 9, "192.0.2.1"]]}]) as lab:
        resolver = Resolver(lab.settings(dns_refresh_ahead=0.8))
        resolver.resolve("a.test")
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socketpair", none_left)
            assert resolver.resolve("a.test").addresses == ("192.0.2.1",)
            patch.setattr(socket, "socket", none_left)
            with pytest.raises(NameServersFailed, match="Too many open files"):
                resolver.resolve("b.test")
        assert resolver._engine.health.order([str(lab.servers[0]), "x"], 0, False) == (0, 1)
        resolver.close()
