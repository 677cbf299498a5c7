"""The constraints of `make lowest`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from tools.lowest import lowest

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(PROJECT.read_text())["project"]
    return found


def test_every_dependency_of_users_has_a_lowest_version() -> None:
    found = lowest(project())
    assert {"psycopg", "psycopg-binary", "psycopg-pool", "httpx2", "httpx", "dnspython"} <= set(
        found
    )
    assert found["psycopg-binary"] == found["psycopg"]
    assert all(version[0].isdigit() for version in found.values())


def test_one_without_a_lower_bound_is_refused() -> None:
    given = project()
    given["dependencies"].append("something<3")
    with pytest.raises(ValueError, match="something<3"):
        lowest(given)
