"""A process that is weighed: it opens a pool, uses it, and tells what it takes.

python -m benchmarks.overhead.weighed SIDE CONNINFO SIZE        (SIDE: bare or resilient)

It imports as little as it can before that.
"""

import json
import os
import sys
import time

#: until the monitor has looked twice and replicas' connections are warm
SETTLE_S = 3.0
BLOCKS = 50


def resident_kb() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))


def sockets() -> int:
    found = 0
    for number in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{number}").startswith("socket:")
        except OSError:  # the listing's own
            continue
    return found


def main(argv: list[str]) -> None:
    side, conninfo, size = argv[1], argv[2], int(argv[3])
    if side == "bare":
        from psycopg_pool import ConnectionPool
    else:
        from resilient.postgres import ConnectionPool
    imported_kb = resident_kb()
    with ConnectionPool(conninfo, min_size=size, max_size=size, open=True) as pool:
        pool.wait()
        for _ in range(BLOCKS):
            with pool.connection() as conn:
                conn.execute("insert into bench values (1)")
                conn.execute("select 1").fetchone()
        time.sleep(SETTLE_S)
        found = {
            "imported_kb": imported_kb,
            "resident_kb": resident_kb(),
            "threads": len(os.listdir("/proc/self/task")),
            "sockets": sockets(),
        }
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv)
