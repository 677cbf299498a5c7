"""What a new session is told of the one that it replaces."""

from __future__ import annotations

from .entry import Entry
from .statements import setting_of

ROLE = b"role"


class Session:
    """What outlives the transactions of one connection: settings to restore, and what can't
    be restored (`hazard`)."""

    __slots__ = ("hazard", "settings")

    #: more changes of settings than this aren't repeated
    MAX_SETTINGS = 200

    def __init__(self) -> None:
        self.settings: list[Entry] = []
        self.hazard = ""

    def rule_out(self, why: str) -> None:
        """It can't be restored; the first reason counts."""
        self.hazard = self.hazard or why

    def keep(self, entries: list[Entry]) -> None:
        """They were done.  One that sets what an earlier one has set is kept in its place; only a
        role may have been needed for what was set meanwhile."""
        for entry in entries:
            entry.results = entry.digest = None
            name = setting_of(entry.query)
            kept = [
                known
                for known in self.settings
                if (known.query, known.params) != (entry.query, entry.params)
                and not (name and name != ROLE and setting_of(known.query) == name)
            ]
            kept.append(entry)
            names = [setting_of(each.query) for each in kept]
            at_once = [names[n : n + 2] == [ROLE, ROLE] for n in range(len(kept))]
            self.settings = [each for each, over in zip(kept, at_once, strict=True) if not over]
        if len(self.settings) > self.MAX_SETTINGS:
            self.hazard = f"more than {self.MAX_SETTINGS} settings of the session were changed"

    def clear(self) -> None:
        self.settings.clear()
        self.hazard = ""
