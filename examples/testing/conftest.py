"""The fixtures of `resilient.testing`, and how the lab is built here."""

import pytest

from resilient.testing import LabOptions

pytest_plugins = ["resilient.testing.plugin"]


@pytest.fixture(scope="session")
def resilient_lab_options() -> LabOptions:
    """Quicker: without HTTP upstreams, and without waiting for disks."""
    return LabOptions(http=False, fsync=False)
