from __future__ import annotations

import argparse
import importlib.util
import sys
from functools import cache
from typing import Any

from resilient.lab import Lab, LabOptions
from resilient.settings import Settings

from . import orms
from .workers import play

#: a Django has its models once; a SQLAlchemy is each thread's own
KINDS: dict[str, Any] = {
    "plain": orms.Plain,
    "sqlalchemy": orms.SqlAlchemy,
    "django": cache(orms.Django),
}


def main() -> int:
    """Prints a row for each ORM; 0 where nothing that was told is untrue."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.orm")
    parser.add_argument("--failovers", type=int, default=10)
    parser.add_argument("--replication", choices=("sync", "async"), default="sync")
    parser.add_argument("--think-ms", type=float, default=50.0)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--orm", choices=list(KINDS), action="append")
    args = parser.parse_args()
    broken = 0
    print("orm          struck  went on   share  duplicates  lost  other ends")
    for name in args.orm or KINDS:
        if name != "plain" and importlib.util.find_spec(name) is None:
            print(f"{name:<12} not installed")
            continue
        with Lab(LabOptions(sync=args.replication == "sync", http=False)) as lab:
            env = lab.env("az1")
            known = {
                key.removeprefix("RESILIENT_").lower(): value
                for key, value in env.items()
                if key != "RESILIENT_DATABASE_URL"
            }
            result = play(
                lab,
                Settings(**known),
                KINDS[name],
                failovers=args.failovers,
                threads=args.threads,
                think_s=args.think_ms / 1000,
            )
        others = {end: count for end, count in result.ends.items() if end}
        print(
            f"{name:<12} {result.struck:>6} {result.ends['']:>8} {result.share:>7.1%}"
            f" {result.duplicates:>11} {result.lost:>5}  {others or '-'}",
            flush=True,
        )
        for text, count in result.texts.most_common(5):
            print(f"    {count} x {text}")
        for text in result.broken[:5]:
            print(f"    {text}")
        broken += len(result.broken) + result.duplicates
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
