"""The database client under test, in a process of its own.

python -m benchmarks.failover.subject JOB             (JOB: the fields of `Job` as JSON)
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from ..subject.child import serve
from .clients import CLIENTS
from .sessions import Sizes, perform, perform_async, sessions
from .target import Target

__all__ = ["Job"]


@dataclass(frozen=True, slots=True)
class Job:
    """Which client, what it is told, and how it is used.

    `listen`: the logger whose lines are wanted, instead of the client's own.
    """

    client: str
    way: str
    hosts: tuple[str, ...]
    port: int
    sizes: Sizes = field(default_factory=Sizes)
    listen: str = ""

    def to_json(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The inverse of `to_json`."""
        given = json.loads(text)
        sizes, hosts = Sizes(**given.pop("sizes")), tuple(given.pop("hosts"))
        return cls(**given, hosts=hosts, sizes=sizes)


def main(argv: list[str]) -> None:
    """See the module."""
    job = Job.from_json(argv[1])

    def make() -> tuple[Any, Callable[[Any], Any]]:
        client = CLIENTS[job.client].make(Target(job.hosts, job.port, job.sizes.sessions))
        if job.listen:
            client.log = (job.listen, logging.INFO)
        return client, (perform_async if client.asynchronous else perform)(client, job.way)

    serve(job.way, make, sessions(job.sizes))


if __name__ == "__main__":
    main(sys.argv)
