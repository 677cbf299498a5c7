"""What the drop-ins keep of the libraries: signatures, proxies, forks, clean ends."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import random
import resource
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import httpx2
import pytest
from http_lab import NAME, Names, Shell, Upstream, facts, open_connections, settle

import resilient.http
import resilient.http.httpx
from resilient import Settings
from resilient.core.upstream_events import EndpointLost, UpstreamEvent
from resilient.http import _directory, _pools

Run = Callable[..., list[Upstream]]

PAIRS = [
    (resilient.http.Client, httpx2.Client),
    (resilient.http.AsyncClient, httpx2.AsyncClient),
    (resilient.http.Transport, httpx2.HTTPTransport),
    (resilient.http.AsyncTransport, httpx2.AsyncHTTPTransport),
    (resilient.http.httpx.Client, httpx.Client),
    (resilient.http.httpx.AsyncClient, httpx.AsyncClient),
    (resilient.http.httpx.Transport, httpx.HTTPTransport),
    (resilient.http.httpx.AsyncTransport, httpx.AsyncHTTPTransport),
]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_constructors_have_the_librarys_signature_plus_settings(ours: Any, theirs: Any) -> None:
    assert issubclass(ours, theirs)
    mine = dict(inspect.signature(ours.__init__).parameters)
    settings = mine.pop("settings")
    assert (settings.kind, settings.default) == (inspect.Parameter.KEYWORD_ONLY, None)
    assert [(p.name, p.kind, _default(p)) for p in mine.values()] == [
        (p.name, p.kind, _default(p))
        for p in inspect.signature(theirs.__init__).parameters.values()
    ]


def _default(parameter: inspect.Parameter) -> Any:
    return parameter.default


@pytest.mark.parametrize(("ours", "theirs"), [pair for pair in PAIRS if "Client" in str(pair[0])])
@pytest.mark.parametrize("method", ["send", "get", "post", "request", "stream"])
def test_methods_have_the_librarys_signature(ours: Any, theirs: Any, method: str) -> None:
    def shape(cls: Any) -> list[Any]:
        parameters = inspect.signature(getattr(cls, method)).parameters.values()
        return [(p.name, p.kind, p.default) for p in parameters]

    assert shape(ours) == shape(theirs)


@pytest.mark.parametrize("transport", [theirs for _, theirs in PAIRS if "Transport" in str(theirs)])
def test_the_private_names_that_are_used_are_there(transport: Any) -> None:
    assert _pools.missing(transport()) == []


def test_proxies_of_the_environment_are_used(
    shell: Shell,
    names: Names,
    run_upstreams: Run,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxy, direct = run_upstreams(2)
    monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address}:{port}")
    monkeypatch.setenv("NO_PROXY", NAME)
    names.answers[NAME] = (direct.address,)
    client = shell.client()
    proxied = shell.get(client, "http://elsewhere.test/x")
    assert facts(proxied)["address"] == proxy.address
    assert "resilient" not in proxied.extensions
    assert names.lookups == []
    assert facts(shell.get(client, f"http://{NAME}:{port}/x"))["address"] == direct.address


def test_mounts_and_transports_of_the_user_are_used(shell: Shell) -> None:
    mock = shell.lib.MockTransport(lambda request: shell.lib.Response(204))
    client = shell.client(transport=mock)
    assert shell.get(client, f"http://{NAME}/").status_code == 204
    mounted = shell.client(mounts={f"all://{NAME}": mock})
    assert shell.get(mounted, f"http://{NAME}/").status_code == 204


def test_the_transport_serves_a_plain_client(
    shell: Shell, names: Names, run_upstreams: Run, subnet: str, port: int
) -> None:
    (one,) = run_upstreams(1)
    names.answers[NAME] = (subnet + "7", one.address)
    kind = shell.ours.Transport if shell.sync else shell.ours.AsyncTransport
    plain = shell.lib.Client if shell.sync else shell.lib.AsyncClient
    client = plain(transport=kind(settings=Settings()))
    for _ in range(3):
        assert facts(shell.get(client, f"http://{NAME}:{port}/x"))["address"] == one.address
    shell.close(client)


def test_a_client_can_be_dropped_without_close(names: Names, run_upstreams: Run, port: int) -> None:
    (one,) = run_upstreams(1)
    names.answers[NAME] = (one.address,)
    client = resilient.http.Client(settings=Settings(), headers={"connection": "close"})
    client.get(f"http://{NAME}:{port}/x")
    assert any("resilient" in thread.name for thread in threading.enumerate())
    del client
    gc.collect()
    assert not any("resilient" in thread.name for thread in threading.enumerate())


def test_a_forked_child_starts_afresh(names: Names, run_upstreams: Run, port: int) -> None:
    (one,) = run_upstreams(1)
    names.answers[NAME] = (one.address,)
    url = f"http://{NAME}:{port}"
    with resilient.http.Client(settings=Settings()) as client:
        client.get(f"{url}/x")
        before = one.stats()["connections"]
        child = os.fork()
        if child == 0:
            code = 1
            try:
                good = facts(client.get(f"{url}/x"))["address"] == one.address
                code = 0 if good else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert facts(client.get(f"{url}/x"))["address"] == one.address
        # one more for the child, one for each question about it; the parent's is shared by none
        assert one.stats()["connections"] == before + 2


async def test_a_cancelled_request_leaves_no_task_and_no_lease(
    names: Names, run_upstreams: Run, port: int
) -> None:
    one, two = run_upstreams(2)
    names.answers[NAME] = (one.address, two.address)
    settings = Settings(probe_interval_s=0.1, probe_timeout_s=0.1)
    async with resilient.http.AsyncClient(settings=settings) as client:
        url = f"http://{NAME}:{port}"
        for wait_s in (0.05, 0.2, 0.4, 0.6):  # in the first attempt, and beside a hedge
            hedged = {"resilient": {"hedge": True}}
            task = asyncio.create_task(client.get(f"{url}/slow?s=3", extensions=hedged))
            await asyncio.sleep(wait_s)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        transport: Any = client._transport
        origin = next(iter(transport._engine._origins.values()))
        assert [slot.in_flight for slot in origin.slots()] == [0, 0]
        assert len(asyncio.all_tasks()) == 1
        assert (await client.get(f"{url}/x")).status_code == 200


@pytest.mark.parametrize("fault", ["kill", "hang"])
async def test_all_that_was_in_flight_at_a_lost_endpoint_moves(
    names: Names, run_upstreams: Run, port: int, fault: str
) -> None:
    one, two = run_upstreams(2)
    names.answers[NAME] = (one.address, two.address)
    settings = Settings(
        probe_interval_s=0.2,
        probe_timeout_s=0.2,
        retry_budget_floor=1.0,
        http_health_path="/health",
    )
    async with resilient.http.AsyncClient(settings=settings) as client:
        url = f"http://{NAME}:{port}"
        await asyncio.gather(*[client.get(f"{url}/x") for _ in range(20)])
        extensions = {"resilient": {"deadline_s": 3.0}}
        tasks = [
            asyncio.create_task(client.get(f"{url}/slow?s=0.2", extensions=extensions))
            for _ in range(80)
        ]
        await asyncio.sleep(0.1)
        getattr(one, fault)()
        responses = await asyncio.gather(*tasks)
        assert {response.status_code for response in responses} == {200}
    if fault == "hang":
        one.go_on()


def test_threads_share_a_client(names: Names, run_upstreams: Run, port: int) -> None:
    one, two = run_upstreams(2)
    names.answers[NAME] = (one.address, two.address)
    failures: list[BaseException] = []
    with resilient.http.Client(settings=Settings()) as client:

        def work() -> None:
            try:
                for _ in range(30):
                    assert client.get(f"http://{NAME}:{port}/x").status_code == 200
            except BaseException as exc:
                failures.append(exc)

        workers = [threading.Thread(target=work) for _ in range(8)]
        for worker in workers:
            worker.start()
        one.kill()
        for worker in workers:
            worker.join()
        transport: Any = client._transport
        origin = next(iter(transport._engine._origins.values()))
        assert {slot.in_flight for slot in origin.slots()} == {0}
    assert failures == []


def test_events_are_told(names: Names, run_upstreams: Run, subnet: str, port: int) -> None:
    (one,) = run_upstreams(1)
    names.answers[NAME] = (subnet + "7", one.address)
    told: list[UpstreamEvent] = []
    unsubscribe = resilient.http.subscribe(told.append)
    try:
        with resilient.http.Client(settings=Settings()) as client:
            for _ in range(8):
                client.get(f"http://{NAME}:{port}/x")
    finally:
        unsubscribe()
    lost = [event for event in told if isinstance(event, EndpointLost)]
    assert [event.endpoint.address for event in lost] == [subnet + "7"]
    assert "refused" in lost[0].reason


def test_an_endpoint_comes_back(names: Names, run_upstreams: Run, port: int) -> None:
    one, two = run_upstreams(2)
    names.answers[NAME] = (one.address, two.address)
    settings = Settings(probe_interval_s=0.1, probe_timeout_s=0.1)
    with resilient.http.Client(settings=settings) as client:
        url = f"http://{NAME}:{port}/x"
        one.kill()
        for _ in range(6):
            client.get(url)
        one.start().wait()
        threading.Event().wait(0.3)
        served = {facts(client.get(url))["address"] for _ in range(20)}
        assert served == {one.address, two.address}


def test_health_checks_find_a_hung_endpoint_before_any_request(
    names: Names, run_upstreams: Run, port: int
) -> None:
    one, two = run_upstreams(2)
    names.answers[NAME] = (one.address, two.address)
    told: list[UpstreamEvent] = []
    unsubscribe = resilient.http.subscribe(told.append)
    settings = Settings(probe_interval_s=0.2, probe_timeout_s=0.1, http_health_path="/x")
    try:
        with resilient.http.Client(settings=settings) as client:
            url = f"http://{NAME}:{port}"
            client.get(f"{url}/x")
            threading.Event().wait(0.3)
            one.hang()
            threading.Event().wait(0.9)
            lost = [event for event in told if isinstance(event, EndpointLost)]
            assert [event.endpoint.address for event in lost] == [one.address]
            for _ in range(6):
                assert facts(client.post(f"{url}/x"))["address"] == two.address
            one.go_on()
            threading.Event().wait(0.5)
            served, end = set(), time.monotonic() + 5  # it gets its share little by little
            while served != {one.address, two.address}:
                assert time.monotonic() < end
                served.add(facts(client.get(f"{url}/x"))["address"])
    finally:
        unsubscribe()


def test_idle_connections_are_bounded_over_all_hosts(
    shell: Shell, names: Names, run_upstreams: Run, port: int
) -> None:
    (one,) = run_upstreams(1)
    limits = shell.lib.Limits(max_keepalive_connections=5)
    client = shell.client(limits=limits)
    for number in range(60):
        names.answers[f"n{number}.test"] = (one.address,)
        shell.get(client, f"http://n{number}.test:{port}/x")
    settle(shell)
    assert open_connections(one.address, port) <= 5


def test_out_of_descriptors_is_no_fault_of_the_endpoints(
    shell: Shell, names: Names, run_upstreams: Run, port: int
) -> None:
    one, two = run_upstreams(2)
    names.answers[NAME] = (one.address, two.address)
    told: list[UpstreamEvent] = []
    unsubscribe = resilient.http.subscribe(told.append)
    client = shell.client()
    url = f"http://{NAME}:{port}/x"
    shell.get(client, url, headers={"connection": "close"})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        with pytest.raises(shell.lib.ConnectError, match=r"Too many open files|All connection"):
            shell.get(client, url)
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        unsubscribe()
    assert not [event for event in told if isinstance(event, EndpointLost)]
    assert shell.get(client, url).status_code == 200


def test_chance_is_our_own(shell: Shell, names: Names, run_upstreams: Run, port: int) -> None:
    """Who seeds or watches the global generator doesn't meet us there."""
    upstreams = run_upstreams(3)
    names.answers[NAME] = tuple(upstream.address for upstream in upstreams)
    client = shell.client(Settings(http_health_path="/x"))
    before = random.getstate()
    for path in ("x", "x", "status?code=503"):
        shell.get(client, f"http://{NAME}:{port}/{path}")
    assert random.getstate() == before


@pytest.mark.parametrize("library", ["httpx2", "httpx"])
def test_the_socket_is_as_the_library_hands_it_out(
    names: Names, run_upstreams: Run, port: int, library: str
) -> None:
    (one,) = run_upstreams(1)
    names.answers[NAME] = (one.address,)
    shell = Shell("sync", library)
    client = shell.client()
    ours = set()
    for _ in range(3):
        with client.stream("GET", f"http://{NAME}:{port}/slow?s=0.1") as response:
            network = response.extensions["network_stream"]
            assert network.get_extra_info("server_addr") == (one.address, port)
            assert network.get_extra_info("socket").getblocking()
            assert response.read().decode() == one.address
            ours.add(network.get_extra_info("client_addr"))
    assert len(ours) == 1  # and it can be used again
    shell.finish()


@pytest.mark.parametrize("how", ["own", "transport", "mounts"])
def test_whose_body_it_is(
    shell: Shell, names: Names, run_upstreams: Run, port: int, how: str
) -> None:
    """A body that the client reads at once belongs to the attempt; a streamed one doesn't."""
    one, two = run_upstreams(2)
    names.answers[NAME] = (one.address, two.address)
    settings = Settings()
    kind = shell.ours.Transport if shell.sync else shell.ours.AsyncTransport
    given: dict[str, Any] = {}
    if how != "own":
        transport = kind(settings=settings)
        given = (
            {"transport": transport} if how == "transport" else {"mounts": {"all://": transport}}
        )
    client = shell.client(settings, **given)
    for _ in range(5):
        response = shell.get(client, f"http://{NAME}:{port}/cut?except={two.address}")
        assert facts(response)["address"] == two.address
    began = time.monotonic()
    first = shell.run(lambda: _first_byte(client, f"http://{NAME}:{port}/drip?n=6&s=0.1"))
    assert first == b"d"
    assert time.monotonic() - began < 0.5  # of 0.6


def _first_byte(client: Any, url: str) -> Any:
    if hasattr(client, "aclose"):
        return _first_byte_async(client, url)
    with client.stream("GET", url) as response:
        return next(response.iter_raw())


async def _first_byte_async(client: Any, url: str) -> bytes:
    async with client.stream("GET", url) as response:
        part: bytes
        async for part in response.aiter_raw():
            return part
    return b""


def test_a_librarys_client_streams_through_our_transport(
    names: Names, run_upstreams: Run, port: int
) -> None:
    (one,) = run_upstreams(1)
    names.answers[NAME] = (one.address,)
    transport = resilient.http.Transport(settings=Settings())
    with httpx2.Client(transport=transport) as client:
        began = time.monotonic()
        assert _first_byte(client, f"http://{NAME}:{port}/drip?n=6&s=0.1") == b"d"
        assert time.monotonic() - began < 0.5


def test_a_name_that_was_used_once_is_not_asked_for_again(
    names: Names, run_upstreams: Run, port: int
) -> None:
    (one,) = run_upstreams(1)
    names.answers[NAME], names.ttl_s = (one.address,), 0.2
    with resilient.http.Client(settings=Settings()) as client:
        client.get(f"http://{NAME}:{port}/x")
        time.sleep(1.4)
        asked = len(names.lookups)
        time.sleep(0.5)
        assert len(names.lookups) == asked
        assert client.get(f"http://{NAME}:{port}/x").status_code == 200
        assert len(names.lookups) > asked
        time.sleep(0.5)  # in use for longer by now: kept up to date
        assert len(names.lookups) > asked + 1


def test_many_names_one_after_the_other_are_forgotten(
    names: Names, run_upstreams: Run, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = run_upstreams(1)
    monkeypatch.setattr(_directory, "AT_LEAST_S", 0.0)
    monkeypatch.setattr(_directory, "MANY", 16)
    names.ttl_s = 0.05
    with resilient.http.Client(settings=Settings()) as client:
        for number in range(200):
            names.answers[f"n{number}.test"] = (one.address,)
            client.get(f"http://n{number}.test:{port}/x")
        transport: Any = client._transport
        engine = transport._engine
        assert len(engine._directory._records) < 64
        assert len(engine._origins) <= 130
        assert len(asyncio.all_tasks(engine._directory._monitor.loop)) < 64


@pytest.mark.parametrize("library", [httpx2, httpx])
def test_ours_in_the_librarys_place(
    monkeypatch: pytest.MonkeyPatch, run_upstreams: Run, library: Any
) -> None:
    """The shortest way to adopt it: everything that is made from here on is ours."""
    ours = resilient.http if library is httpx2 else resilient.http.httpx
    names = {"HTTPTransport": "Transport", "AsyncHTTPTransport": "AsyncTransport"}
    for name in ("Client", "AsyncClient", *names):
        monkeypatch.setattr(library, name, getattr(ours, names.get(name, name)))
    (upstream,) = run_upstreams(1)
    url = f"http://{upstream.address}:{upstream.port}/"
    with library.Client() as client:
        assert client.get(url).status_code == 200
    with library.Client(transport=library.HTTPTransport()) as client:
        assert client.get(url).status_code == 200

    async def main() -> None:
        async with library.AsyncClient() as client:
            assert (await client.get(url)).status_code == 200
        async with library.AsyncClient(transport=library.AsyncHTTPTransport()) as client:
            assert (await client.get(url)).status_code == 200

    asyncio.run(main())
