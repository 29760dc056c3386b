"""WebSocket from clients that others wrote (websockets, wsproto over h2 and aioquic, Chromium) to an origin that others wrote (websockets), over each
version of HTTP."""

import base64
import contextlib
import hashlib
import os
import socket
import ssl
import subprocess
import threading

import h2.connection
import h2.events
import websockets.exceptions
import websockets.sync.client
import websockets.sync.server
import wsproto.events as ws
from browser import Browser
from check_http3 import Site, log_lines
from quic import configuration, conversation, dial
from world import Checks, expect, free_ports, until
from wsproto.connection import Connection, ConnectionType
from wsproto.frame_protocol import CloseReason

check = Checks()

LARGE = 16 << 20


class Origin:
    """Echoes with `websockets`, and closes with what it is told to."""

    def __init__(self):
        self.seen, self.closes = [], []
        self.server = websockets.sync.server.serve(self.serve, "127.0.0.1", 0, max_size=None, subprotocols=["chat"])
        self.port = self.server.socket.getsockname()[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def serve(self, connection):
        self.seen.append(connection.request)
        with contextlib.suppress(websockets.exceptions.ConnectionClosed):
            for message in connection:
                if message == "go":
                    connection.close(4001, "gone")
                    break
                if message == "in pieces":
                    connection.send(["one ", "two ", "three"])
                else:
                    connection.send(message)
        self.closes.append((connection.close_code, connection.close_reason))

    def closed_with(self, code):
        """Waits until a connection has ended so."""
        until(10, lambda: expect(code in [c for c, _ in self.closes], f"the origin saw {self.closes}"))


@contextlib.contextmanager
def scene(world, name):
    """Tidegate before such an origin: at /ws, and at /h2 and /h3 by way of itself."""
    origin = Origin()
    (inner,) = free_ports(1)
    f = world.folder
    tls = f'tls = {{ ca = "{f}/ca.pem", server_name = "localhost" }}'
    more = f"""
[[listener]]
name = "inner"
bind = "127.0.0.1:{inner}"
protocols = ["http1", "http2", "http3"]
tls.certificates = [{{ cert = "{f}/localhost.pem", key = "{f}/localhost.key" }}]

[[route]]
path = "/ws"
upstream = "sockets"

[[route]]
path = "/page"
respond = {{ status = 200, body = "<!doctype html><title>page</title><link rel=icon href=data:,>", content_type = "text/html" }}

[upstream.sockets]
endpoints = ["127.0.0.1:{origin.port}"]
""" + "".join(f"""
[[route]]
path = "/{word}"
replace_path = "/ws"
upstream = "again-{word}"

[upstream.again-{word}]
endpoints = ["127.0.0.1:{inner}"]
protocol = "{protocol}"
{tls}
""" for word, protocol in (("h2", "http2"), ("h3", "http3")))
    try:
        yield Site(world, name, more=more), origin
    finally:
        origin.server.shutdown()


def secured(world, alpn):
    context = ssl.create_default_context(cafile=str(world.folder / "ca.pem"))
    context.set_alpn_protocols(alpn)
    return context


@check
def websockets_talk_over_http_1_1_2_and_3_to_the_origin(world):
    with scene(world, "ws-http1") as (site, origin):
        for path in ("/ws", "/h2", "/h3"):
            context = secured(world, ["http/1.1"])
            with websockets.sync.client.connect(f"wss://localhost:{site.port}{path}", sock=socket.create_connection(("127.0.0.1", site.port)), ssl=context,
                                                subprotocols=["chat"], max_size=None, origin="https://localhost") as connection:
                expect(connection.subprotocol == "chat", f"{path}: subprotocol {connection.subprotocol}")
                expect(connection.ping().wait(10), f"{path}: no pong")
                connection.send("tide")
                expect(connection.recv(10) == "tide", path)
                connection.send(iter([b"a", b"fragmented", b"message"]))
                expect(connection.recv(10) == b"afragmentedmessage", f"{path}: fragments")
                connection.send("in pieces")
                expect(connection.recv(10) == "one two three", f"{path}: fragments of the origin")
                large = os.urandom(1 << 20) * (LARGE >> 20)
                connection.send(large)
                expect(connection.recv(20) == large, f"{path}: a large message came back changed")
                connection.close(4002, "bye")
            origin.closed_with(4002)
            origin.closes.clear()
            with websockets.sync.client.connect(f"wss://localhost:{site.port}{path}", sock=socket.create_connection(("127.0.0.1", site.port)), ssl=context,
                                                subprotocols=["chat"]) as connection:
                connection.send("go")
                with contextlib.suppress(websockets.exceptions.ConnectionClosed):
                    connection.recv(10)
                expect((connection.close_code, connection.close_reason) == (4001, "gone"), f"{path}: closed with {connection.close_code}")
            origin.closes.clear()
        until(10, lambda: expect(site.metric("tidegate_tunnels") == 0, "tunnels are open"))
        expect(site.metric("tidegate_tunnels_started") >= 6, "tunnels were not counted")
    return "to HTTP/1.1, HTTP/2 and HTTP/3; 16 MiB, fragments, pings, close codes both ways"


class Talk:
    """WebSocket as wsproto speaks it, over whatever carries its bytes; `send` takes them, `more` waits for some."""

    def __init__(self, send, more):
        self.connection, self.to, self.more = Connection(ConnectionType.CLIENT), send, more

    def send(self, event):
        self.to(self.connection.send(event))

    async def next(self):
        """The next whole message, or what else came."""
        parts = []
        while True:
            for event in self.connection.events():
                if not isinstance(event, (ws.TextMessage, ws.BytesMessage)):
                    return event
                parts.append(event.data)
                if event.message_finished:
                    return "".join(parts) if isinstance(event, ws.TextMessage) else b"".join(map(bytes, parts))
            self.connection.receive_data(await self.more())

    async def behave(self):
        self.send(ws.Ping(b"are you there"))
        pong = await self.next()
        expect(isinstance(pong, ws.Pong) and pong.payload == b"are you there", f"{pong}")
        for text in ("one ", "two "):
            self.send(ws.TextMessage(text, message_finished=False))
        self.send(ws.TextMessage("three"))
        expect((told := await self.next()) == "one two three", f"{told!r}")
        large = os.urandom(1 << 20) * 4
        self.send(ws.BytesMessage(large))
        expect(await self.next() == large, "a large message came back changed")
        self.send(ws.CloseConnection(CloseReason.NORMAL_CLOSURE, "done"))
        closed = await self.next()
        expect(isinstance(closed, ws.CloseConnection) and closed.code == 1000, f"{closed}")


@check
@conversation
async def wsproto_talks_over_aioquics_extended_connect(world):
    with scene(world, "ws-http3") as (site, origin):
        async with dial(site.port, configuration(world)) as line:
            for path in ("/ws", "/h2", "/h3"):
                answer = line.begin("CONNECT", path, ("sec-websocket-version", "13"), ("sec-websocket-protocol", "chat"), end=False, protocol="websocket")
                await line.until(lambda: answer.heads, "an answer")
                expect(answer.status == 200 and answer.header("sec-websocket-protocol") == "chat" and not answer.header("sec-websocket-accept"), f"{path}: {answer.heads}")
                taken = 0

                async def more():
                    nonlocal taken
                    await line.until(lambda: len(answer.body) > taken or answer.has_ended(), "bytes")
                    expect(len(answer.body) > taken, f"{path}: {answer}")
                    data, taken = bytes(answer.body[taken:]), len(answer.body)
                    return data

                await Talk(lambda data: line.send(answer, data), more).behave()
                line.send(answer, b"", end=True)
                await line.until(answer.has_ended, "the end of the tunnel")
                expect(answer.is_whole, f"{path}: {answer}")
                origin.closed_with(1000)
                origin.closes.clear()
        refused = 0
        async with dial(site.port, configuration(world)) as line:
            for protocol in ("h2c", "other"):
                answer = line.begin("CONNECT", "/ws", end=False, protocol=protocol)
                await line.until(answer.has_ended, "a refusal")
                refused += answer.status == 501
        expect(refused == 2, "other protocols were not refused with 501")
    return "to HTTP/1.1, HTTP/2 and HTTP/3"


class Http2:
    """One connection of hyper-h2 with one tunnel on it."""

    def __init__(self, world, port):
        self.sock = secured(world, ["h2"]).wrap_socket(socket.create_connection(("127.0.0.1", port), 10), server_hostname="localhost")
        expect(self.sock.selected_alpn_protocol() == "h2", "no HTTP/2")
        self.http = h2.connection.H2Connection()
        self.http.initiate_connection()
        self.http.increment_flow_control_window(1 << 24)
        self.data, self.head, self.end, self.waiting = bytearray(), None, None, b""
        while not self.http.remote_settings.enable_connect_protocol:
            self.more()

    def more(self):
        self.flush()
        piece = self.sock.recv(1 << 16)
        expect(piece, f"the connection ended: {self.head}, {len(self.data)} bytes")
        for event in self.http.receive_data(piece):
            if isinstance(event, h2.events.ResponseReceived):
                self.head = dict((n.decode(), v.decode()) for n, v in event.headers)
            elif isinstance(event, h2.events.DataReceived):
                self.data += event.data
                self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
                self.end = event

    def flush(self):
        """As much of what waits as the windows let pass."""
        while self.waiting and (room := min(self.http.local_flow_control_window(1), self.http.max_outbound_frame_size, len(self.waiting))):
            self.http.send_data(1, self.waiting[:room])
            self.waiting = self.waiting[room:]
        self.sock.sendall(self.http.data_to_send())

    def connect(self, path):
        self.http.send_headers(1, [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"), (":authority", "localhost"), (":path", path),
                                   ("sec-websocket-version", "13"), ("sec-websocket-protocol", "chat")])
        while not self.head:
            self.more()
        return self.head[":status"]

    def send(self, data):
        self.waiting += data
        self.flush()

    async def received(self):
        while not self.data:
            expect(not self.end, f"it ended: {self.end}")
            self.more()
        data, self.data = bytes(self.data), bytearray()
        return data


@check
@conversation
async def wsproto_talks_over_hyper_h2s_extended_connect(world):
    with scene(world, "ws-http2") as (site, origin):
        for path in ("/ws", "/h2", "/h3"):
            line = Http2(world, site.port)
            status = line.connect(path)
            expect(status == "200" and "sec-websocket-accept" not in line.head, f"{path}: {line.head}")
            await Talk(line.send, line.received).behave()
            line.http.end_stream(1)
            line.flush()
            while not line.end:
                line.more()
            expect(isinstance(line.end, h2.events.StreamEnded), f"{path}: {line.end}")
            origin.closed_with(1000)
            line.sock.close()
            origin.closes.clear()
    return "to HTTP/1.1, HTTP/2 and HTTP/3"


TALK = """new Promise((done, fail) => {
    const socket = new WebSocket('wss://localhost:%d%s', ['chat']), large = new Uint8Array(4 << 20), told = [];
    for (let at = 0; at < large.length; at += 65536) crypto.getRandomValues(large.subarray(at, at + 65536));
    socket.binaryType = 'arraybuffer';
    socket.onopen = () => { told.push(socket.protocol); socket.send('tide'); socket.send(large); socket.send('in pieces'); socket.send('go'); };
    socket.onmessage = event => told.push(typeof event.data === 'string' ? event.data : event.data.byteLength);
    socket.onclose = event => done([...told, event.code, event.reason]);
    setTimeout(() => fail(new Error(JSON.stringify(told))), 10000);
})"""


def chromium(world, site, words, path):
    """What Chromium was told, and over which version of HTTP its tunnel came."""
    public = subprocess.run(["openssl", "x509", "-in", world.folder / "localhost.pem", "-noout", "-pubkey"], capture_output=True, text=True, check=True).stdout
    pin = base64.b64encode(hashlib.sha256(base64.b64decode("".join(public.strip().split("\n")[1:-1]))).digest()).decode()
    words = ["--host-resolver-rules=MAP localhost 127.0.0.1", f"--ignore-certificate-errors-spki-list={pin}", *words]
    with Browser(*words) as browser:
        page = browser.open(f"https://localhost:{site.port}/page")
        told = page.run(TALK % (site.port, path))
        expect(told == ["chat", "tide", 4 << 20, "one two three", 4001, "gone"], f"Chromium was told {told}")
    lines = until(10, lambda: [line for line in log_lines(site, 1) if line["path"] == path] or expect(False, "no line of the tunnel"))
    expect(lines[0]["outcome"] == "ok" and lines[0]["bytes_in"] > 4 << 20 and lines[0]["bytes_out"] > 4 << 20, f"the access log says {lines}")
    return lines[0]


@check
def chromium_talks_over_http2(world):
    with scene(world, "ws-chromium-h2") as (site, origin):
        line = chromium(world, site, ["--disable-quic"], "/ws")
        expect((line["protocol"], line["status"], line["method"]) == ("HTTP/2.0", 200, "CONNECT"), f"{line}")
        expect("sec-websocket-key" in {n.lower() for n, _ in origin.seen[0].headers.raw_items()}, f"{origin.seen[0].headers}")
    return f"{line['protocol']} {line['method']}, 4 MiB each way"


@check
def chromium_talks_over_http3(world):
    with scene(world, "ws-chromium-h3") as (site, origin):
        # By default it opens WebSockets over HTTP/1.1 and HTTP/2 only.
        words = ["--enable-quic", f"--origin-to-force-quic-on=localhost:{site.port}", "--enable-features=EnableWebsocketsOverHttp3"]
        line = chromium(world, site, words, "/ws")
        expect((line["protocol"], line["status"], line["method"]) == ("HTTP/3.0", 200, "CONNECT"), f"{line}")
        expect("sec-websocket-key" in {n.lower() for n, _ in origin.seen[0].headers.raw_items()}, f"{origin.seen[0].headers}")
    return f"{line['protocol']} {line['method']}, 4 MiB each way"
