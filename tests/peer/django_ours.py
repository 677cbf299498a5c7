"""Django's own suite with `resilient.django`."""

from __future__ import annotations

from django_stock import *  # noqa: F403
from django_stock import DATABASES

for _database in DATABASES.values():
    _database["ENGINE"] = "resilient.django"
