"""A process that starts: imports, a pool, its first row, and a first response.

python -m benchmarks.overhead.first SIDE CONNINFO URL        (SIDE: bare or resilient)

It prints seconds of wall clock and of processor since its first line, and the most memory that it
had.  What it imports before that is what the interpreter has imported itself.
"""

import sys
import time

BEGAN = time.perf_counter(), time.process_time()


def main(argv: list[str]) -> None:
    side, conninfo, url = argv[1:4]
    if side == "bare":
        from httpx2 import Client
        from psycopg_pool import ConnectionPool
    else:
        from resilient.http import Client
        from resilient.postgres import ConnectionPool
    with ConnectionPool(conninfo, min_size=1, open=True) as pool:
        with pool.connection() as conn:
            conn.execute("select 1").fetchone()
        with Client() as client:
            client.get(url).raise_for_status()
            spent = time.perf_counter() - BEGAN[0], time.process_time() - BEGAN[1]
    import json

    with open("/proc/self/status") as file:  # getrusage tells the parent's peak, too
        peak_kb = next(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))
    print(json.dumps({"s": spent[0], "cpu_s": spent[1], "peak_kb": peak_kb}), flush=True)


if __name__ == "__main__":
    main(sys.argv)
