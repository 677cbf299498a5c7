"""For the tests of programs that use this library.

    with offline():                   # mocks of HTTP are asked, and nothing leaves the machine
        ...

    def test_orders(resilient_lab):   # three zones of real servers, and faults by name
        resilient_lab.inject("crash", promote_after_s=0.2).wait_done()

The fixtures come with `pytest_plugins = ["resilient.testing.plugin"]` in the topmost conftest.py.
(Not by themselves: pytest would then rewrite the asserts of each of this library's modules, in
everybody's tests.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..http._offline import offline
    from ..lab import Lab, LabOptions

__all__ = ["Lab", "LabOptions", "offline"]


def __getattr__(name: str) -> object:
    # on demand: neither needs the other
    if name == "offline":
        from ..http._offline import offline

        return offline
    if name in __all__:
        from .. import lab

        return getattr(lab, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
