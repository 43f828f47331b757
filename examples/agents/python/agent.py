"""An agent of the mux backend on the package h2 (pip install h2): serves a tunnel's clients from a local TCP service.

    python agent.py 127.0.0.1:3000 <<<"$TNL_URI"        (a tunnel URI is a secret: not an argument, which everybody can read)
"""

import asyncio, base64, contextlib, os, random, re, socket, ssl, struct, sys, uuid
from urllib.parse import urlsplit

import h2.config, h2.connection, h2.errors, h2.events, h2.exceptions


class Client:
    """One client: its CONNECT is stream `sid`."""

    def __init__(self, session, sid):
        self.session, self.sid = session, sid
        self.inbox, self.unread = asyncio.Queue(), 0  # what it said; as it may say no more than a window, a bound is there
        self.room = asyncio.Event()  # it may be sent more than before
        self.has_finished = self.is_aborted = self.cut = False
        self.up = self.down = None
        self.task = asyncio.create_task(self.run())

    async def run(self):
        conn, (host, port) = self.session.conn, self.session.target
        self.local = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.local.setblocking(False)
        self.local.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await asyncio.get_running_loop().sock_connect(self.local, (host, port))
            self.session.send(conn.send_headers, self.sid, [(":status", "200")])
            self.up, self.down = asyncio.create_task(self.to_local()), asyncio.create_task(self.to_client())
            await asyncio.wait([self.up, self.down])
        except OSError:
            self.session.send(conn.send_headers, self.sid, [(":status", "502")], end_stream=True)
        finally:
            if self.is_aborted:  # closed with a reset
                self.local.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.local.close()
            if self.unread:  # it counts in the connection's window still
                self.session.send(conn.acknowledge_received_data, self.unread, self.sid)
            self.session.clients.pop(self.sid, None)

    async def to_local(self):
        loop = asyncio.get_running_loop()
        while (said := await self.inbox.get()) is not None:
            data, size = said
            try:
                if not self.cut:
                    await loop.sock_sendall(self.local, data)
            except OSError as error:  # it takes no more; what it said before is still to be read
                self.cut = error
            self.unread -= size
            self.session.send(self.session.conn.acknowledge_received_data, size, self.sid)
        with contextlib.suppress(OSError):
            self.local.shutdown(socket.SHUT_WR)

    async def to_client(self):
        loop, conn = asyncio.get_running_loop(), self.session.conn
        try:
            while data := await loop.sock_recv(self.local, 65536):
                while data:
                    self.room.clear()
                    some = min(conn.local_flow_control_window(self.sid), conn.max_outbound_frame_size, len(data))
                    if some > 0:
                        self.session.send(conn.send_data, self.sid, data[:some])
                        data = data[some:]
                        await self.session.writer.drain()
                    else:
                        await self.room.wait()
            if isinstance(self.cut, ConnectionResetError):  # told once, to the write: this end is none
                raise self.cut
            self.session.send(conn.end_stream, self.sid)
        except OSError:
            self.session.send(conn.reset_stream, self.sid, h2.errors.ErrorCodes.CANCEL)
            self.abort()

    def abort(self):
        """Both ways, now."""
        self.is_aborted = True
        for task in (self.up, self.down) if self.up else (self.task,):
            task.cancel()

    def was_reset(self):
        if self.has_finished and self.up:
            self.down.cancel()  # it wants no more; what it said is still delivered
        else:
            self.abort()


class Session:
    def __init__(self, reader, writer, target):
        self.reader, self.writer, self.target, self.clients = reader, writer, target, {}
        self.conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self.send(self.conn.initiate_connection)
        # The streams' windows bound what is on its way. Were the connection's no larger than one of them, as it is by default,
        # a single client whose service has stopped reading would stop all others.
        self.send(self.conn.increment_flow_control_window, 2**31 - 1 - 65535)

    def send(self, call, *args, **kwargs):
        with contextlib.suppress(h2.exceptions.StreamClosedError):  # reset meanwhile
            call(*args, **kwargs)
        self.writer.write(self.conn.data_to_send())

    async def run(self):
        silent = 0
        try:
            while silent < 3:
                try:
                    data = await asyncio.wait_for(self.reader.read(65536), 5)
                except TimeoutError:
                    silent += 1
                    self.send(self.conn.ping, bytes(8))
                    continue
                if not data:
                    break
                silent = 0
                for event in self.conn.receive_data(data):
                    self.take(event)
                self.writer.write(self.conn.data_to_send())
        finally:
            for client in list(self.clients.values()):
                client.abort()
            self.writer.transport.abort()

    def take(self, event):
        client = self.clients.get(getattr(event, "stream_id", None))
        match event:
            case h2.events.RequestReceived():
                self.clients[event.stream_id] = Client(self, event.stream_id)
            case h2.events.DataReceived() if client:
                client.unread += event.flow_controlled_length
                client.inbox.put_nowait((event.data, event.flow_controlled_length))
            case h2.events.DataReceived():
                self.send(self.conn.acknowledge_received_data, event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded() if client:
                client.has_finished = True
                client.inbox.put_nowait(None)
            case h2.events.StreamReset() if client:
                client.was_reset()
            case h2.events.WindowUpdated() | h2.events.RemoteSettingsChanged():
                for one in [client] if client else self.clients.values():
                    one.room.set()


async def dial(uri, target, name):
    tls = ssl.create_default_context() if uri.scheme == "ptths" else None
    reader, writer = await asyncio.open_connection(uri.hostname, uri.port, ssl=tls)
    credentials = base64.b64encode(f"{uri.username}:{uri.password}".encode()).decode()
    # `h2` bears any number of resets. Unless told, the server would ration them, and each holds one of the 100 places meanwhile.
    writer.write(
        f"GET {uri.path}?agent={name}&resets=2000 HTTP/1.1\r\nHost: {uri.hostname}:{uri.port}\r\n"
        f"Connection: upgrade\r\nUpgrade: ptth\r\nALPN: h2\r\nAuthorization: Basic {credentials}\r\n\r\n".encode()
    )
    head = (await reader.readuntil(b"\r\n\r\n")).decode()  # HTTP/2 may have begun right behind it, and stays in `reader`
    status = head.split()[1]
    if status != "101":
        writer.close()
        after = re.search(r"(?im)^retry-after: *(\d+)", head)
        raise Refused(status, int(after[1]) if after else 0)
    return Session(reader, writer, target)


class Refused(Exception):
    pass


async def main():
    host, _, port = sys.argv[1].rpartition(":") if len(sys.argv) == 2 else sys.exit("which local service? HOST:PORT")
    found = re.search(r"ptths?:[^\"\s]+", os.environ.get("TNL_URI") or sys.stdin.read())
    uri = urlsplit(found[0] if found else sys.exit("a ptth:// or ptths:// tunnel URI is wanted in TNL_URI or on stdin"))
    # The name lets the next session replace one that was lost before the server has noticed.
    name, wait = uuid.uuid4().hex, 0.5
    while True:
        after = 0
        try:
            session = await asyncio.wait_for(dial(uri, (host.strip("[]"), int(port)), name), 10)
            print("serving", file=sys.stderr)
            wait = 0.5
            await session.run()
            print("the session ended", file=sys.stderr)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, h2.exceptions.ProtocolError) as error:
            print(f"the session failed: {error!r}", file=sys.stderr)
        except Refused as refused:
            status, after = refused.args
            if status == "401":
                return "the tunnel is closed or its URI is wrong; open it again"
            print(f"the server answers {status}", file=sys.stderr)
        await asyncio.sleep(after + random.uniform(0, wait))
        wait = min(2 * wait, 30)


with contextlib.suppress(KeyboardInterrupt):
    sys.exit(asyncio.run(main()))
