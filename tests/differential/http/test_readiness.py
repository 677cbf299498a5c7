"""A server that says itself that it isn't ready gets no new requests, and none fails for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from side_by_side import Asked, Pair, Reply, Server

from resilient import Settings

Serve = Callable[..., list[Server]]
CHECKED = Settings(http_health_path="/ready", probe_interval_s=0.1, probe_timeout_s=0.2)


def by_readiness(unready: set[str]) -> Callable[[Asked], Reply]:
    """/ready is 503 at the servers in `unready`; all else is served, by everybody."""

    def handle(one: Asked) -> Reply:
        mine: str = one.sock.getsockname()[0]
        status = 503 if one.path == "/ready" and mine in unready else 200
        return status, {}, mine.encode()

    return handle


def served_by(client: Any, url: str, count: int) -> set[str]:
    texts = set()
    for _ in range(count):
        response = client.get(url)
        assert response.status_code == 200
        texts.add(response.text)
    return texts


def until(seen: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not seen():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_unready_ones_are_left_without_a_failed_request_and_come_back(
    serve: Serve, url: str
) -> None:
    unready: set[str] = set()
    one, two = serve(2, by_readiness(unready))
    with Pair(True, CHECKED).client(True) as client:
        until(lambda: served_by(client, url, 20) == {one.address, two.address})
        unready.add(one.address)
        until(lambda: served_by(client, url, 20) == {two.address})
        unready.clear()
        until(lambda: one.address in served_by(client, url, 5))


def test_when_nobody_is_ready_somebody_is_asked(serve: Serve, url: str) -> None:
    unready: set[str] = set()
    one, two = serve(2, by_readiness(unready))
    with Pair(True, CHECKED).client(True) as client:
        until(lambda: served_by(client, url, 20) == {one.address, two.address})
        unready.update((one.address, two.address))
        until(lambda: sum(asked.path == "/ready" for asked in one.asked[-20:]) > 5)
        served_by(client, url, 20)


def test_an_unready_one_finishes_what_it_has_begun(serve: Serve, url: str) -> None:
    unready: set[str] = set()
    begun, go_on = threading.Event(), threading.Event()
    plain = by_readiness(unready)

    def handle(one: Asked) -> Reply:
        if one.path == "/long":
            unready.add(one.sock.getsockname()[0])
            begun.set()
            go_on.wait(5)
        return plain(one)

    one, two = serve(2, handle)
    with Pair(True, CHECKED).client(True) as client:
        got: list[Any] = []
        thread = threading.Thread(target=lambda: got.append(client.get(f"{url}/long")))
        thread.start()
        assert begun.wait(5)
        (busy,) = unready
        until(lambda: served_by(client, url, 20) == {one.address, two.address} - {busy})
        go_on.set()
        thread.join()
        assert (got[0].status_code, got[0].text) == (200, busy)
        assert sum(asked.path == "/long" for asked in (*one.asked, *two.asked)) == 1
