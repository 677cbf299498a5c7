"""What is wanted of the ratios, and where they are taken."""

from __future__ import annotations

from typing import Any

__all__ = ["WHERE", "target"]

Row = dict[str, Any]
#: case, side → (column, at most, the same over a network)
TARGETS = {
    ("checkout", "lsn"): ("added_us", 3.0, None),
    ("autocommit", "lsn"): ("ratio", 1.05, 1.05),
    ("transaction", "lsn"): ("ratio", 0.95, 0.85),
    ("transaction", "ledger"): ("ratio", 1.12, 0.90),
    ("http", "resilient"): ("ratio", 1.05, None),
    ("dns", "resilient"): ("us", 1.0, None),
}
IMPORT_TARGET = 1.3
#: to the first row and response: ratio, and MB more
FIRST_TARGET = 1.4, 6.0
WHERE = {
    "apart": "On loopback, client and server on processors of their own",
    "together": "On loopback, client and server on one processor",
    "free": "On loopback, where the scheduler puts them",
}


def target(row: Row) -> tuple[str, bool] | None:
    """What is wanted of this row, and whether it holds."""
    if row["case"] == "import":
        if row["against"] != "below":
            return None
        return f"≤ {IMPORT_TARGET:g}", row["ratio"] <= IMPORT_TARGET
    if row["case"] == "first":
        ratio, more_mb = FIRST_TARGET
        held = row["ratio"] <= ratio and row["added_mb"] <= more_mb
        return f"≤ {ratio:g}, ≤ +{more_mb:g} MB", held
    wanted = TARGETS.get((row["case"], row.get("side", "")))
    if wanted is None or row["workers"] > 1:
        return None
    column, near, far = wanted
    limit = far if row["round_trip_ms"] else near
    if limit is None or (column == "ratio" and row.get("placement") == "together"):
        return None  # together a round trip costs nothing: it says what the instructions cost
    value = row["this"]["us"] if column == "us" else row[column]
    text = {"added_us": f"≤ +{limit:g} µs", "us": f"≤ {limit:g} µs"}
    return text.get(column, f"≤ {limit:g}"), value <= limit
