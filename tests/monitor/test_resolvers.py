"""One resolver for equal DNS settings: counted, closed with its last user, anew after a fork."""

from __future__ import annotations

import asyncio
import os

from resilient import Settings
from resilient.core.dns import Change
from resilient.dns._watchers import Key, notify
from resilient.monitor import resolvers

ONE = Settings(dns_nameservers="127.0.0.1:1", dns_mode="a.test=strict", zone="az1")
SAME = ONE.replace(zone="az2", deadline_s=7.0)
OTHER = ONE.replace(dns_timeout_s=0.5)


async def test_equal_dns_settings_share_one() -> None:
    first, second, other = (resolvers.hold(settings) for settings in (ONE, SAME, OTHER))
    assert first._resolver is second._resolver is not other._resolver
    await other.close()
    await first.close()
    await first.close()  # once more does no harm
    third = resolvers.hold(ONE)
    assert third._resolver is second._resolver
    for user in (second, third):
        await user.close()
    assert not resolvers._shared


async def test_a_watch_ends_with_its_user() -> None:
    first, second = resolvers.hold(ONE), resolvers.hold(ONE)
    told: list[str] = []
    first.watch("localhost", lambda _: told.append("first"), "any")
    end = second.watch("localhost", lambda _: told.append("second"), "any")
    key: Key = ("localhost", "any")
    moved = await first.resolve(*key)
    change = Change("localhost", None, moved, "strict", frozenset(), frozenset())
    watched = first._resolver._engine.watched
    notify(watched.calls([(key, change)]))
    assert told == ["first", "second"]
    await first.close()
    notify(watched.calls([(key, change)]))
    assert told == ["first", "second", "second"]
    end()
    end()
    assert key not in watched
    await second.close()


def test_another_loop_has_another_resolver() -> None:
    async def held() -> resolvers.SharedResolver:
        return resolvers.hold(ONE)

    left_open = asyncio.run(held())

    async def elsewhere() -> None:
        mine = resolvers.hold(ONE)
        assert mine._resolver is not left_open._resolver
        await left_open.close()  # late, and not ours
        assert resolvers._shared[mine._common.key] is mine._common
        await mine.close()

    asyncio.run(elsewhere())
    assert not resolvers._shared


async def test_a_forked_child_begins_with_none() -> None:
    user = resolvers.hold(ONE)
    child = os.fork()
    if child == 0:
        os._exit(len(resolvers._shared))
    assert os.waitpid(child, 0)[1] == 0
    assert resolvers._shared
    await user.close()
