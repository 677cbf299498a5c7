"""The faults: those of the lab, and three that are made here of its parts.

double     crash, promotion; 2 s after the new primary takes writes it crashes too
flap       the primary is killed and started again in place, three times, 1 s apart
brownout   the primary is stopped for 0.25 s and runs for 0.03 s, in turn, for 3 s
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from resilient.lab import FaultRun, Lab, Member

__all__ = ["PROMOTING", "Play", "Story"]

#: after these another server is the primary
PROMOTING = ("switchover", "crash", "hang", "blackhole", "zombie", "double")
DNS_AFTER_S = 0.5
#: double: how long the second primary lives, and how long until the third begins
SECOND_LIFE_S, SECOND_PROMOTE_S = 2.0, 0.5
FLAPS, FLAP_DOWN_S, FLAP_UP_S = 3, 0.3, 1.0
BROWNOUT_S, STOPPED_S, RUNNING_S = 3.0, 0.25, 0.03


@dataclass(slots=True)
class Story:
    """What happened when; monotonic, None until it has.  Servers by address.

    `writable_at`: the (last) new primary took an outside observer's write; after `flap` the old one
    accepts connections again.  `new_since`: acknowledgements of `new_primary` count from here.
    """

    fault_at: float | None = None
    old_primary: str = ""
    new_primary: str = ""
    new_since: float | None = None
    writable_at: float | None = None
    dns_changed_at: float | None = None
    done_at: float | None = None


class Play:
    """A fault under way, on a thread of its own.  The lab is its until `story.done_at`."""

    def __init__(self, lab: Lab, fault: str, promote_after_s: float) -> None:
        self.story = Story(old_primary=lab.primary.address)
        self.error: BaseException | None = None
        self._lab = lab
        self._fault = fault
        self._promote_after_s = promote_after_s
        self._struck = threading.Event()
        self._thread = threading.Thread(target=self._main, name=f"play-{fault}", daemon=True)

    def start(self) -> Story:
        """Begin; returns when `fault_at` is known."""
        self._thread.start()
        self._struck.wait(30)
        return self.story

    @property
    def done(self) -> bool:
        """Whether nothing more will happen; raises what went wrong."""
        if self.error is not None:
            raise self.error
        return self.story.done_at is not None

    def join(self, timeout_s: float = 90.0) -> None:
        """Wait for the end."""
        self._thread.join(timeout_s)

    def _main(self) -> None:
        try:
            if self._fault == "double":
                self._promoted("crash", self._promote_after_s)
                assert self.story.writable_at is not None
                _sleep_until(self.story.writable_at + SECOND_LIFE_S)
                self._promoted("crash", SECOND_PROMOTE_S)
            elif self._fault in PROMOTING:
                self._promoted(self._fault, self._promote_after_s)
            else:
                {"flap": self._flap, "brownout": self._brownout}[self._fault](self._lab.primary)
        except BaseException as error:  # the runner raises it
            self.error = error
        finally:
            self.story.done_at = time.monotonic()
            self._struck.set()

    def _begin(self) -> float:
        at = time.monotonic()
        self.story.fault_at = self.story.fault_at or at
        self._struck.set()
        return at

    def _promoted(self, fault: str, promote_after_s: float) -> None:
        story, lab = self.story, self._lab
        run: FaultRun = lab.inject(fault, promote_after_s=promote_after_s, dns_after_s=DNS_AFTER_S)
        while run.fault_at is None and not run.done:
            time.sleep(0.0005)
        story.fault_at = story.fault_at or run.fault_at
        self._struck.set()
        writable_at = run.wait_writable(promote_after_s + 30)
        assert run.new_primary is not None
        # in this order: whoever sees the primary sees the moments too
        story.new_since, story.writable_at = run.fault_at, writable_at
        story.new_primary = lab.cluster.member(run.new_primary).address
        run.wait_done(60)
        story.dns_changed_at = run.dns_changed_at

    def _flap(self, old: Member) -> None:
        for n in range(FLAPS):
            self._begin()
            old.kill()
            time.sleep(FLAP_DOWN_S)
            starting_at = time.monotonic()
            old.start()
            if n == FLAPS - 1:
                self.story.new_since, self.story.writable_at = starting_at, time.monotonic()
                self.story.new_primary = old.address
            else:
                time.sleep(FLAP_UP_S)

    def _brownout(self, old: Member) -> None:
        until = self._begin() + BROWNOUT_S
        while time.monotonic() < until:
            old.pause()
            time.sleep(STOPPED_S)
            old.resume()
            time.sleep(RUNNING_S)


def _sleep_until(at: float) -> None:
    time.sleep(max(0.0, at - time.monotonic()))
