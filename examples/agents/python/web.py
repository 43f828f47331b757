"""A web service behind NAT in Python: an ASGI app, served by Hypercorn (pip install hypercorn) at the end of a tunnel.

    python web.py <tunnel.json       (what OpenTunnel answered for the address http://, or the URI alone)

Hypercorn has no public way to serve a connection that was not accepted, so this uses its inner class, as of 0.18.
"""

import asyncio, base64, re, sys
from urllib.parse import urlsplit

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config


async def app(scope, receive, send):
    """Any ASGI app: FastAPI's, Starlette's, Django's. This one says what it hears, or hello."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while scope["method"] == "POST":
        event = await receive()
        await send({"type": "http.response.body", "body": event.get("body", b""), "more_body": True})
        if not event.get("more_body"):
            break
    hello = b"Hello from Python. You are %s\n" % dict(scope["headers"]).get(b"forwarded", b"")
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "POST" else hello})


async def main():
    uri = urlsplit(re.search(r'ptth:[^"\s]+', sys.stdin.read())[0])
    reader, writer = await asyncio.open_connection(uri.hostname, uri.port)
    credentials = base64.b64encode(f"{uri.username}:{uri.password}".encode()).decode()
    writer.write(
        f"GET {uri.path} HTTP/1.1\r\nHost: {uri.hostname}:{uri.port}\r\nAuthorization: Basic {credentials}\r\n"
        "Connection: upgrade\r\nUpgrade: ptth\r\nALPN: h2\r\n\r\n".encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 101 " not in head:
        sys.exit(f"the server answers {head!r}")
    print("serving", file=sys.stderr, flush=True)
    config = Config()
    config.keep_alive_timeout = 10**9  # it is for clients that were forgotten; this one comes back
    await TCPServer(ASGIWrapper(app), asyncio.get_running_loop(), config, WorkerContext(None), {}, reader, writer)


asyncio.run(main())
