"""Orders by SQLAlchemy's ORM, taken while the database fails over.

    RESILIENT_DATABASE_URL=postgresql://… python examples/orders_sqlalchemy.py [SECONDS]

Each order is one transaction.  When the primary dies in the middle, it goes on on the new one.
"""

from __future__ import annotations

import sys
import time
import uuid

from sqlalchemy import func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from resilient.sqlalchemy import CommitOutcomeUnknown, create_engine, run


class Base(DeclarativeBase):
    """The tables."""


class Order(Base):
    """One order.  Its key is ours, so that a second try is the same order."""

    __tablename__ = "orders_sqlalchemy"
    key: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    item: Mapped[str]


def place(session: Session, key: uuid.UUID, item: str) -> None:
    """A transaction."""
    session.merge(Order(key=key, item=item))


def main(seconds: float) -> None:
    """Take orders for so long."""
    engine = create_engine()  # where: RESILIENT_DATABASE_URL
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    print("taking orders", flush=True)
    until, taken = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        key = uuid.uuid4()
        try:
            run(sessions, place, key, "book")
        except CommitOutcomeUnknown:
            run(sessions, place, key, "book")  # the same key: it is there once
        taken += 1
    with Session(engine.execution_options(read_only=True)) as session:
        session.scalar(select(func.count()).select_from(Order))  # from a replica
    engine.dispose()
    print(f"{taken} orders taken", flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0)
