"""Facts in, findings out.  A rule is a function of the facts; nothing is asked here."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from . import rules_names, rules_servers
from .facts import Facts, Finding

__all__ = ["examine"]

Rule = Callable[[Facts], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    rules_names.unknown_names,
    rules_names.pinned_addresses,
    rules_names.service_files,
    rules_names.bypassed_aliases,
    rules_names.long_ttls,
    rules_servers.unreachable_servers,
    rules_servers.two_primaries,
    rules_servers.lone_servers,
    rules_servers.lagging_replicas,
    rules_names.services,
    rules_servers.deadlines,
    rules_servers.poolers,
    rules_servers.balancers,
    rules_servers.late_timelines,
    rules_servers.encryption,
    rules_names.zones,
    rules_servers.commits,
    rules_names.name_servers,
)


def examine(facts: Facts) -> list[Finding]:
    """All findings, the grave ones first."""
    found = [finding for rule in RULES for finding in rule(facts)]
    return sorted(found, key=lambda finding: not finding.grave)
