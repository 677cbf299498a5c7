"""TLS: dialled by address, verified by the URL's name."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from http_lab import NAME, Names, Shell, Upstream, facts

from resilient import Settings

Run = Callable[..., list[Upstream]]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trust(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def pair(authority: trustme.CA, folder: Path, name: str) -> tuple[str, str]:
    """Files with a certificate for `name`, and its key."""
    issued = authority.issue_cert(name)
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    issued.private_key_pem.write_to_path(key)
    for index, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(certificate, append=index > 0)
    return str(certificate), str(key)


def test_sni_host_and_certificate_stay_with_the_url(
    shell: Shell,
    names: Names,
    run_upstreams: Run,
    port: int,
    authority: trustme.CA,
    trust: ssl.SSLContext,
    tmp_path: Path,
) -> None:
    one, two = run_upstreams(2, *pair(authority, tmp_path, NAME))
    names.answers[NAME] = (one.address, two.address)
    client = shell.client(verify=trust)
    for _ in range(4):
        said = facts(shell.get(client, f"https://{NAME}:{port}/x"))
        assert said["sni"] == NAME
        assert said["host"] == f"{NAME}:{port}"


def test_a_certificate_for_another_name_fails_closed(
    shell: Shell,
    names: Names,
    run_upstreams: Run,
    port: int,
    authority: trustme.CA,
    trust: ssl.SSLContext,
    tmp_path: Path,
) -> None:
    (wrong,) = run_upstreams(1, *pair(authority, tmp_path, "other.test"))
    names.answers[NAME] = (wrong.address,)
    client = shell.client(verify=trust)
    with pytest.raises(shell.lib.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        shell.get(client, f"https://{NAME}:{port}/x")


def test_an_endpoint_with_a_wrong_certificate_is_passed_over(
    shell: Shell,
    names: Names,
    run_upstreams: Run,
    port: int,
    authority: trustme.CA,
    trust: ssl.SSLContext,
    tmp_path: Path,
) -> None:
    (wrong,) = run_upstreams(1, *pair(authority, tmp_path, "other.test"))
    (right,) = run_upstreams(1, *pair(authority, tmp_path, NAME))
    names.answers[NAME] = (wrong.address, right.address)
    client = shell.client(verify=trust)
    for _ in range(6):
        response = shell.post(client, f"https://{NAME}:{port}/x", content=b"abc")
        assert facts(response)["address"] == right.address


def test_a_name_map_gives_the_name_to_verify(
    shell: Shell,
    names: Names,
    run_upstreams: Run,
    port: int,
    authority: trustme.CA,
    trust: ssl.SSLContext,
    tmp_path: Path,
) -> None:
    (one,) = run_upstreams(1, *pair(authority, tmp_path, "real.test"))
    names.answers[NAME] = (one.address,)
    client = shell.client(Settings(tls_names=f"{NAME}=real.test"), verify=trust)
    assert facts(shell.get(client, f"https://{NAME}:{port}/x"))["sni"] == "real.test"


@pytest.mark.parametrize("named", [NAME, "third.test", "mapped.test"])
def test_the_callers_own_sni_hostname_wins_over_the_name_map(
    shell: Shell,
    names: Names,
    run_upstreams: Run,
    port: int,
    authority: trustme.CA,
    trust: ssl.SSLContext,
    tmp_path: Path,
    named: str,
) -> None:
    (one,) = run_upstreams(1, *pair(authority, tmp_path, named))
    names.answers[NAME] = (one.address,)
    tls_names = f"{NAME}=real.test,mapped.test=real.test"
    client = shell.client(Settings(tls_names=tls_names), verify=trust)
    url = f"https://{NAME}:{port}/x"
    said = facts(shell.get(client, url, extensions={"sni_hostname": named}))
    assert said["sni"] == named
    assert said["host"] == f"{NAME}:{port}"
    with pytest.raises(shell.lib.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        shell.get(shell.client(Settings(tls_names=tls_names), verify=trust), url)


def test_a_hung_tls_endpoint_is_left(
    shell: Shell,
    names: Names,
    run_upstreams: Run,
    port: int,
    authority: trustme.CA,
    trust: ssl.SSLContext,
    tmp_path: Path,
) -> None:
    one, two = run_upstreams(2, *pair(authority, tmp_path, NAME))
    names.answers[NAME] = (one.address, two.address)
    settings = Settings(probe_interval_s=0.1, probe_timeout_s=0.1, http_health_path="/health")
    client = shell.client(settings, verify=trust)
    for _ in range(6):
        shell.get(client, f"https://{NAME}:{port}/x")
    one.hang()
    for number in range(6):
        # Idle connections hang in the request, new ones in the handshake.
        headers = {"connection": "close"} if number % 2 else {}
        response = shell.get(client, f"https://{NAME}:{port}/x", headers=headers)
        assert facts(response)["address"] == two.address
    one.go_on()
