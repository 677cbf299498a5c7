"""FastAPI over a resilient pool.

    db = Database()                                # where: RESILIENT_DATABASE_URL
    app = FastAPI()
    db.install(app)                                # lifespan, health routes, graceful stop

    @app.post("/orders")
    async def order(item: str, conn: Annotated[AsyncConnection, db.connection]) -> int: ...

The connection is committed before the answer is sent.
"""

from __future__ import annotations

from .database import Database

__all__ = ["Database"]
