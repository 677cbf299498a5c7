"""A small HTTP/1.1 server as a process of its own, so that it can be killed and stopped.

    python upstream.py ADDRESS PORT [CERTIFICATE KEY]

It says `up` on stdout once it listens.  Every response names the address that served it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import sys
import time
from urllib.parse import parse_qsl, urlsplit

seen: dict[str, int] = {}
connections = 0


def response(status: int, body: bytes, *more: str) -> bytes:
    head = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", *more]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


async def read_request(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ", 2)
    headers = {}
    for line in head[1:]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
        return method, target, headers, body
    return method, target, headers, await reader.readexactly(int(headers.get("content-length", 0)))


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    global connections
    connections += 1
    address = writer.get_extra_info("sockname")[0]
    tls = writer.get_extra_info("ssl_object")
    try:
        while True:
            method, target, headers, body = await read_request(reader)
            parts = urlsplit(target)
            options = dict(parse_qsl(parts.query))
            key = f"{method} {parts.path}"
            seen[key] = seen.get(key, 0) + 1
            if parts.path == "/reset":
                seen.clear()
                connections = 1
                writer.write(response(200, b""))
            elif parts.path == "/stats":
                out = json.dumps({"seen": seen, "connections": connections}).encode()
                writer.write(response(200, out))
            elif parts.path == "/slow":
                await asyncio.sleep(float(options["s"]))
                writer.write(response(200, address.encode()))
            elif parts.path == "/alone":  # as a server with one worker: nobody else is served
                time.sleep(float(options["s"]))
                writer.write(response(200, address.encode()))
            elif parts.path == "/status":
                more = [f"retry-after: {options['after']}"] if "after" in options else []
                good = address in options.get("except", "").split(",")
                limit = int(options.get("times", 10**9))
                bad = not good and seen[key] <= limit
                writer.write(
                    response(int(options["code"]) if bad else 200, address.encode(), *more)
                )
            elif parts.path == "/drop" and address not in options.get("except", "").split(","):
                break
            elif parts.path == "/cut" and address not in options.get("except", "").split(","):
                writer.write(response(200, b"x" * 10_000)[:-5000])
                await writer.drain()
                await asyncio.sleep(0.05)
                linger = struct.pack("ii", 1, 0)
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
                return
            elif parts.path == "/drip":
                count, pause_s = int(options["n"]), float(options["s"])
                writer.write(f"HTTP/1.1 200 X\r\ncontent-length: {count}\r\n\r\n".encode())
                for _ in range(count):
                    await writer.drain()
                    await asyncio.sleep(pause_s)
                    writer.write(b"d")
            elif parts.path == "/redirect":
                writer.write(response(302, b"", f"location: {options['to']}"))
            else:
                facts = {
                    "address": address,
                    "host": headers.get("host"),
                    "body": len(body),
                    "sni": getattr(tls, "sni", None),
                }
                writer.write(response(200, json.dumps(facts).encode()))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
        pass
    finally:
        writer.close()


async def main(address: str, port: str, *pair: str) -> None:
    context = None
    if pair:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pair)

        def remember(tls: ssl.SSLObject, name: str, _: object) -> None:
            tls.sni = name  # type: ignore[attr-defined]

        context.sni_callback = remember  # type: ignore[assignment]
    server = await asyncio.start_server(serve, address, int(port), ssl=context)
    print("up", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
