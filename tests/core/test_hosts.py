"""What a URL's host can be."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.core.hosts import can_be_name, literal_address


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("2130706433", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("10.1.300", "10.1.1.44"),
        ("1.2.3.256", None),
        ("256.1", None),
        ("1.2.3.4.5", None),
        ("4294967296", None),
        ("08.1", None),
        ("1..2", None),
        ("10.example", None),
        ("example", None),
        ("9" * 5000, None),
    ],
)
def test_addresses(host: str, address: str | None) -> None:
    assert literal_address(host) == address


@given(st.from_regex(r"(0x)?[0-9a-f]{1,11}(\.(0x)?[0-9]{1,5}){0,3}", fullmatch=True))
def test_spellings_of_ipv4_are_those_of_inet_aton(host: str) -> None:
    try:
        expected = socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        assert literal_address(host) is None
    else:
        assert literal_address(host) == expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("a.b", True),
        ("a.b.", True),
        ("a_b.test", True),
        ("xn--strae-oqa.test", True),
        ("x" * 63 + ".test", True),
        ("x" * 64 + ".test", False),
        ("a..b", False),
        (".a", False),
        (".", False),
        ("", False),
        (".".join(["y" * 60] * 5), False),
        ("straße.test", False),
    ],
)
def test_names(host: str, expected: bool) -> None:
    assert can_be_name(host) is expected
