"""Orders by Django's ORM, taken while the database fails over.

    RESILIENT_DATABASE_URL=postgresql://… python examples/orders_django.py [SECONDS]

Each order is one `atomic` block.  When the primary dies in the middle, it goes on on the new one.
"""

from __future__ import annotations

import sys
import time
import uuid

import django
from django.conf import settings
from django.db import OperationalError, connection, connections, models, transaction

from resilient.django import run

settings.configure(
    DATABASES={
        "default": {"ENGINE": "resilient.django", "TIME_ZONE": None},  # RESILIENT_DATABASE_URL
        "replica": {
            "ENGINE": "resilient.django",
            "OPTIONS": {"resilient": {"reader_of": "default"}},
        },
    },
    DATABASE_ROUTERS=["resilient.django.Router"],
)
django.setup()


class Order(models.Model):
    """One order.  Its key is ours, so that a second try is the same order."""

    key = models.UUIDField(primary_key=True)
    item = models.TextField()

    class Meta:
        """Where it is kept."""

        app_label = "shop"
        db_table = "orders_django"


def place(key: uuid.UUID, item: str) -> None:
    """A transaction."""
    Order.objects.update_or_create(key=key, defaults={"item": item})


def main(seconds: float) -> None:
    """Take orders for so long."""
    with connection.schema_editor() as editor:
        editor.create_model(Order)
    print("taking orders", flush=True)
    until, taken = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        key = uuid.uuid4()
        try:
            run(place, key, "book")
        except OperationalError:  # nobody knows: the same key makes a second try safe
            run(place, key, "book")
        taken += 1
    with transaction.atomic():
        assert Order.objects.count() == taken
    for alias in connections:
        connections[alias].close()
        connections[alias].close_pool()
    print(f"{taken} orders taken", flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0)
