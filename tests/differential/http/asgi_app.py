"""What the real servers serve: run by uvicorn or granian in processes of their own.

/who             the address that was asked
/slow?s=0.5      the same after that long
/status?code=503 that status
POST /order?id=1 notes the id in the file `ORDERS`, answers with the body's size and sum
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import Any
from urllib.parse import parse_qsl


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    digest, size, more = hashlib.sha256(), 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body = message.get("body", b"")
        digest.update(body)
        size, more = size + len(body), message.get("more_body", False)
    options = dict(parse_qsl(scope["query_string"].decode()))
    if scope["path"] == "/slow":
        await asyncio.sleep(float(options["s"]))
    text = scope["server"][0]
    if scope["path"] == "/order":
        with open(os.environ["ORDERS"], "a", encoding="ascii") as orders:
            orders.write(options["id"] + "\n")
        text = f"{size} {digest.hexdigest()}"
    status = int(options.get("code", 200))
    await send({"type": "http.response.start", "status": status, "headers": [
        (b"content-type", b"text/plain"), (b"content-length", b"%d" % len(text))]})  # fmt: skip
    await send({"type": "http.response.body", "body": text.encode()})
