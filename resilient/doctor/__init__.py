"""What a fire drill would find, found without one: `resilient doctor`.

`look` asks names, servers and services what they are (facts), `rules` reads findings off the
facts and does nothing else.
"""

from __future__ import annotations

from .facts import Facts, Finding
from .look import gather
from .rules import examine

__all__ = ["Facts", "Finding", "examine", "gather"]
