"""One server for the rows that need no standby."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from resilient.lab.binaries import find_binaries
from resilient.lab.options import LabError
from tests.differential.pg import Server, serve


@pytest.fixture(scope="session")
def lone() -> Iterator[Server]:
    """A server without standbys, with a table `orders` and a function that fails as it is told."""
    try:
        find_binaries()
    except LabError as error:
        pytest.skip(str(error))
    with serve(contrib=False) as running:
        running.admin(
            """set role app; create table orders (id int); create sequence executions;
            create function fail(code text) returns int language plpgsql as $$ begin
            perform nextval('executions'); raise exception 'no' using errcode = code; end $$;
            reset role"""
        )
        yield running
