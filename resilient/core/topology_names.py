"""What names mean for the endpoints of a cluster.

An address that left its name is retired: it goes when it is no longer needed.  A rotating name
(subset answers) lets go of an address when it is dead, or absent several times in a row.  An
endpoint that only readers' names lead to is marked so: it never writes.
"""

from __future__ import annotations

from dataclasses import replace

from .model import EndpointView, Health
from .topology_events import Resolved
from .topology_state import Key, Known, NameRecord, State, key_of

#: refreshes in a row that an address of a rotating name may be absent from
ROTATING_ABSENCES = 3


def resolved(state: State, event: Resolved) -> State:
    """The state with a name's answer taken in."""
    known = dict(state.known)
    record = dict(state.names).get(event.name, NameRecord())
    zones = event.zones or (None,) * len(event.endpoints)
    now_keys = []
    for endpoint, zone in zip(event.endpoints, zones, strict=True):
        key = key_of(endpoint)
        now_keys.append(key)
        if key in known:
            known[key] = replace(known[key], view=replace(known[key].view, retired=False))
        else:
            order = (_place(event.name, state), len(now_keys))
            while any(item.order == order for item in known.values()):
                order = (order[0], order[1] + 1)
            known[key] = Known(EndpointView(endpoint, zone), order=order)
    names = dict(state.names)
    names[event.name] = _record(record, event, now_keys, known)
    _mark(known, names)
    return replace(state, known=tuple(known.items()), names=tuple(names.items()))


def _place(name: str, state: State) -> int:
    """Which of the configured names it is: who is listed first comes first."""
    names = [known for known, _ in state.names]
    return names.index(name) if name in names else len(names)


def _record(
    record: NameRecord, event: Resolved, now_keys: list[Key], known: dict[Key, Known]
) -> NameRecord:
    absences = dict(record.absences) if event.rotating else {}
    kept = list(now_keys)
    for key in record.keys:
        if key in now_keys or key not in known:
            continue
        absences[key] = absences.get(key, 0) + 1
        alive = known[key].view.health is not Health.DEAD
        if event.rotating and alive and absences[key] < ROTATING_ABSENCES:
            kept.append(key)
    left = tuple((key, n) for key, n in absences.items() if key in kept and key not in now_keys)
    return NameRecord(tuple(kept), left, event.rotating, event.reader)


def _mark(known: dict[Key, Known], names: dict[str, NameRecord]) -> None:
    """Who is retired, and whom only readers' names lead to."""
    wanted = {key for item in names.values() for key in item.keys}
    writers = {key for item in names.values() if not item.reader for key in item.keys}
    for key, item in known.items():
        if key not in wanted:  # what it was for, it stays for while it is needed
            known[key] = replace(item, view=replace(item.view, retired=True))
        elif item.reader != (key not in writers):
            known[key] = replace(item, reader=key not in writers)
