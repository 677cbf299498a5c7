"""pytest's fixtures: `pytest_plugins = ["resilient.testing.plugin"]` in the topmost conftest.py.

`resilient_lab`: three zones of real servers for the session, healthy at the start of each test.
`resilient_env`: the environment leads there.  `resilient_offline`: no request leaves the machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ..lab import Lab, LabOptions

#: in whose zone a program runs, unless a test says otherwise
ZONE = "az1"


@pytest.fixture(scope="session")
def resilient_lab_options() -> LabOptions:
    """How the lab is built: override it in a conftest.py."""
    from ..lab import LabOptions

    return LabOptions()


@pytest.fixture(scope="session")
def resilient_lab_session(resilient_lab_options: LabOptions) -> Iterator[Lab]:
    """The lab of the session.  Where there is no PostgreSQL the test is skipped."""
    from ..lab.pytest_plugin import running

    with running(resilient_lab_options) as lab:
        yield lab


@pytest.fixture
def resilient_lab(resilient_lab_session: Lab) -> Iterator[Lab]:
    """The session's lab, all of its servers healthy at the start of the test and repaired after it.

    `lab.dsn`, `lab.env(zone)`, `lab.inject(fault, promote_after_s=…)`, `lab.rejoin()`; see
    `resilient.testing.Lab`.
    """
    yield resilient_lab_session
    resilient_lab_session.rejoin()


@pytest.fixture
def resilient_env(resilient_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """The lab's environment (`RESILIENT_DATABASE_URL`, …) for a program in the first zone: it is
    set, and returned for processes of their own."""
    env = resilient_lab.env(ZONE)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return env


@pytest.fixture
def resilient_offline() -> Iterator[None]:
    """The test runs inside `offline()`."""
    from ..http._offline import offline

    with offline():
        yield
