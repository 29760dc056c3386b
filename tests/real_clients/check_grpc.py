"""gRPC between grpcio on both sides, node's http2, raw frames and aioquic; gRPC-Web from curl and from Chromium."""

import asyncio
import base64
import concurrent.futures
import json
import queue
import shutil
import socket
import struct
import subprocess
import threading

import grpc
import h2.config
import h2.connection
import h2.events

from browser import Browser
from check_layer4 import Gate
from quic import configuration, conversation, dial
from world import HERE, Checks, expect, free_ports, until, wait_for_port

check = Checks()

LARGE = 4 * 1024 * 1024
# Trailers and heads as large as the limits of both sides allow.
OPTIONS = [("grpc.max_metadata_size", 24 * 1024), ("grpc.absolute_max_metadata_size", 30 * 1024), ("grpc.max_receive_message_length", 8 << 20),
           ("grpc.enable_retries", 0), ("grpc.so_reuseport", 0)]
METADATA = (("x-large", "v" * 15_000), ("x-bytes-bin", bytes(range(256))))


class Service(grpc.GenericRpcHandler):
    """Every kind of call, over bytes."""

    def __init__(self):
        self.left = threading.Event()

    def service(self, call):
        kinds = {
            "/t.T/Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "/t.T/Collect": grpc.stream_unary_rpc_method_handler(lambda asked, _: b"+".join(asked)),
            "/t.T/Count": grpc.unary_stream_rpc_method_handler(lambda asked, _: (b"%d" % n for n in range(int(asked)))),
            "/t.T/Talk": grpc.stream_stream_rpc_method_handler(lambda asked, _: (b"<" + piece + b">" for piece in asked)),
            "/t.T/Refuse": grpc.unary_unary_rpc_method_handler(lambda _, context: context.abort(grpc.StatusCode.NOT_FOUND, "not h\u00e9re")),
            "/t.T/Wait": grpc.unary_stream_rpc_method_handler(self.wait),
            "/t.T/Drop": grpc.unary_stream_rpc_method_handler(self.drop),
        }
        return kinds.get(call.method)

    def unary(self, asked, context):
        seen = dict(context.invocation_metadata())
        context.send_initial_metadata(tuple((name, seen[name]) for name, _ in METADATA if name in seen))
        context.set_trailing_metadata((("x-trailing", "t" * 5000),) if "x-large" in seen else ())
        return asked

    def wait(self, asked, context):
        """Says something once, and then nothing until the client has left."""
        self.left.clear()
        context.add_callback(self.left.set)
        yield b"begun"
        self.left.wait(20)

    def drop(self, asked, context):
        yield b"begun"
        context.cancel()


class Site(Gate):
    """grpcio behind a Tidegate, in cleartext and over TLS, and a route for browsers."""

    def __init__(self, world, name, endpoint, route="", upstream="", secure=""):
        self.plain, self.secure = free_ports(2)
        f = world.folder
        super().__init__(world, name, f"""
[[listener]]
name = "plain"
bind = "127.0.0.1:{self.plain}"

[[listener]]
name = "secure"
bind = "127.0.0.1:{self.secure}"
tls.certificates = [{{ cert = "{f}/localhost.pem", key = "{f}/localhost.key" }}]
{secure}

[[route]]
upstream = "calls"
grpc_web = true
{route}

[[route]]
path = "/page"
respond = {{ body = "<!doctype html><title>calls</title>", content_type = "text/html" }}

[upstream.calls]
endpoints = ["127.0.0.1:{endpoint}"]
protocol = "http2"
{upstream}
""")
        self.root = (f / "ca.pem").read_bytes()

    def channel(self, secure):
        if secure:
            return grpc.secure_channel(f"localhost:{self.secure}", grpc.ssl_channel_credentials(self.root), OPTIONS)
        return grpc.insecure_channel(f"127.0.0.1:{self.plain}", OPTIONS)


class Origin:
    """grpcio as a server."""

    def __enter__(self):
        self.service = Service()
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(8), [self.service], options=OPTIONS)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        return self

    def __exit__(self, *_):
        self.server.stop(0).wait(5)


def refused(call, code, seconds=10):
    """The error that a call ends with, which has this code."""
    try:
        call()
    except grpc.RpcError as error:
        expect(error.code() == code, f"{error.code()} and not {code}: {error.details()}")
        return error
    expect(False, f"no error, and not {code}")


@check
def grpcio_calls_of_every_kind_pass(world):
    with Origin() as origin:
        site = Site(world, "grpc-kinds", origin.port)
        for secure in (False, True):
            with site.channel(secure) as channel:
                unary = channel.unary_unary("/t.T/Unary")
                expect(unary(b"hello", timeout=10) == b"hello", "not what was said")
                large = bytes(LARGE)
                expect(unary(large, timeout=20) == large, "a message of 4 MiB did not come back")
                answer, call = unary.with_call(b"", metadata=METADATA, timeout=10)
                told, after = dict(call.initial_metadata()), dict(call.trailing_metadata())
                expect(all(told[name] == value for name, value in METADATA), f"{[(k, len(v)) for k, v in told.items()]}")
                expect(len(after["x-trailing"]) == 5000, f"{after}")
                expect(channel.stream_unary("/t.T/Collect")(iter([b"a", b"b", b"c"]), timeout=10) == b"a+b+c", "not collected")
                expect(list(channel.unary_stream("/t.T/Count")(b"100", timeout=10)) == [b"%d" % n for n in range(100)], "not counted")
                talk, heard = queue.Queue(), []
                answers = channel.stream_stream("/t.T/Talk")(iter(talk.get, None), timeout=10)
                for word in (b"one", b"two", b"three"):
                    talk.put(word)
                    heard.append(next(answers))
                talk.put(None)
                expect(heard == [b"<one>", b"<two>", b"<three>"] and not list(answers), f"{heard}")
                error = refused(lambda: channel.unary_unary("/t.T/Refuse")(b"", timeout=10), grpc.StatusCode.NOT_FOUND)
                expect(error.details() == "not h\u00e9re", error.details())
    return "unary, both streams, both ways, 15 kB of metadata, 4 MiB, trailers alone; h2c and TLS"


@check
def grpcio_deadlines_and_cancellations_pass(world):
    with Origin() as origin:
        site = Site(world, "grpc-ends", origin.port)
        with site.channel(False) as channel:
            wait = channel.unary_stream("/t.T/Wait")
            call = wait(b"", timeout=20)
            expect(next(call) == b"begun", "it does not begin")
            call.cancel()
            expect(origin.service.left.wait(10), "the endpoint was not told that the client left")
            until(10, lambda: expect(site.metric("tidegate_requests_in_flight") == 0, "it is still under way"))
            until(10, lambda: expect("client_gone" in site.lines.read_text(), site.lines.read_text()))
            origin.service.left.clear()
            error = refused(lambda: list(wait(b"", timeout=0.5)), grpc.StatusCode.DEADLINE_EXCEEDED)
            expect(origin.service.left.wait(10), f"the endpoint was not told that time was up: {error.details()}")
            refused(lambda: list(channel.unary_stream("/t.T/Drop")(b"", timeout=10)), grpc.StatusCode.CANCELLED)
    return "the client leaves, its time is up, the endpoint cancels: the other side hears of it"


@check
def grpcio_learns_what_went_wrong(world):
    with Origin() as origin:
        site = Site(world, "grpc-faults", origin.port, route='max_body = "64KiB"\ntimeouts.response = "500ms"\ntimeouts.total = "700ms"')
        with site.channel(False) as channel:
            unary = channel.unary_unary("/t.T/Unary")
            expect(unary(b"x", timeout=10) == b"x", "no answer")
            refused(lambda: unary(bytes(100_000), timeout=10), grpc.StatusCode.RESOURCE_EXHAUSTED)
            # Its head has come: the status stands in the trailers.
            error = refused(lambda: list(channel.unary_stream("/t.T/Wait")(b"", timeout=10)), grpc.StatusCode.DEADLINE_EXCEEDED)
            expect("longer than its route allows" in error.details(), error.details())
    with site.channel(False) as channel:
        error = refused(lambda: channel.unary_unary("/t.T/Unary")(b"x", timeout=10), grpc.StatusCode.UNAVAILABLE)
        fields = dict(error.trailing_metadata() or ()) | dict(error.initial_metadata() or ())
        expect(fields.get("proxy-status", "").startswith("tidegate; error=connection_refused"), f"{fields}")
    return "RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED inside an answer, UNAVAILABLE with Proxy-Status"


def framed(data, flags=0):
    return bytes([flags]) + struct.pack(">I", len(data)) + data


@check
def grpc_web_of_curl_and_chromium_is_translated(world):
    with Origin() as origin:
        cors = 'response_headers.set = { access-control-allow-origin = "*", access-control-expose-headers = "*" }'
        site = Site(world, "grpc-web", origin.port, route=cors)
        for version in ("--http1.1", "--http2-prior-knowledge"):
            ask = lambda kind, body: world.curl(f"http://127.0.0.1:{site.plain}/t.T/Unary", version, "-X", "POST", "--data-binary", "@-",
                                                "-H", f"content-type: application/{kind}", stdin=body)
            answer = ask("grpc-web+proto", framed(b"hello"))
            expect(answer.body.startswith(framed(b"hello")) and b"grpc-status: 0\r\n" in answer.body[10:], f"{answer}: {answer.body!r}")
            answer = ask("grpc-web-text", base64.b64encode(framed(b"hello")))
            groups = [base64.b64decode(answer.body[at:at + 4]) for at in range(0, len(answer.body), 4)]
            expect(b"".join(groups).startswith(framed(b"hello")), f"{answer}: {answer.body!r}")
        with Browser("--ignore-certificate-errors") as browser:
            page = browser.open(f"https://localhost:{site.secure}/page")
            told = page.run("""(async () => {
                const answer = await fetch("/t.T/Count", { method: "POST", headers: { "content-type": "application/grpc-web+proto" },
                    body: new Uint8Array([0, 0, 0, 0, 1, 51]) });
                const bytes = new Uint8Array(await answer.arrayBuffer());
                return [answer.status, answer.headers.get("content-type"), Array.from(bytes)];
            })()""")
            expect(told[0] == 200 and told[1].startswith("application/grpc-web"), f"{told}")
            expect(bytes(told[2]).startswith(framed(b"0") + framed(b"1") + framed(b"2") + b"\x80"), f"{told}")
            expect(not page.complaints, f"{page.complaints}")
    return "binary and base64 over HTTP/1.1 and h2c; a stream in a page over HTTP/2"


@check
def node_calls_and_answers_over_http2(world):
    node = shutil.which("node")
    expect(node, "node is not installed (`.ci/run packages` installs it)")
    (port,) = free_ports(1)
    origin = world.spawn("node-origin", node, str(HERE / "node_http2.js"), "serve", str(port))
    wait_for_port(port, process=origin)
    site = Site(world, "grpc-node", port)
    for url in (f"http://127.0.0.1:{site.plain}", f"https://localhost:{site.secure}"):
        done = subprocess.run([node, str(HERE / "node_http2.js"), "call", url, str(world.folder / "ca.pem")], capture_output=True, timeout=20)
        expect(done.returncode == 0, f"{url}: {done.stdout.decode()} {done.stderr.decode()}")
        told = json.loads(done.stdout)
        expect(told["status"] == 200 and told["te"] == "trailers", f"{told}")
        expect(told["body"] == "echo:hello" and told["trailers"]["grpc-status"] == "0", f"{told}")
        expect(told["events"] == ["0", "1", "2"], f"{told}")
    return "a call with trailers and events one by one, node on both sides"


@check
def raw_frames_cancel_the_endpoint(world):
    """A client of frames alone: it resets its stream, and the endpoint hears of it while the connection goes on."""
    with Origin() as origin:
        site = Site(world, "grpc-frames", origin.port)
        with socket.create_connection(("127.0.0.1", site.plain), 10) as sock:
            wire = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
            wire.initiate_connection()

            def call(stream, path):
                head = [(":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", path),
                        ("content-type", "application/grpc"), ("te", "trailers")]
                wire.send_headers(stream, head)
                wire.send_data(stream, framed(b"x"), end_stream=True)
                sock.sendall(wire.data_to_send())

            def events(until_kind):
                seen = []
                while not any(isinstance(event, until_kind) for event in seen):
                    data = sock.recv(65536)
                    expect(data, f"the connection ended: {seen}")
                    seen += wire.receive_data(data)
                    sock.sendall(wire.data_to_send())
                return seen

            call(1, "/t.T/Wait")
            events(h2.events.DataReceived)
            wire.reset_stream(1, 8)
            sock.sendall(wire.data_to_send())
            expect(origin.service.left.wait(10), "the endpoint was not told")
            call(3, "/t.T/Unary")
            seen = events(h2.events.StreamEnded)
            trailers = [dict(event.headers) for event in seen if isinstance(event, h2.events.TrailersReceived)]
            expect(trailers and trailers[0][b"grpc-status"] == b"0", f"{seen}")
    return "CANCEL reaches grpcio; the next stream is answered"


class Call:
    """One call over HTTP/3, in frames of our own: grpcio speaks HTTP/2 alone."""

    def __init__(self, line, name, *fields, kind="application/grpc"):
        self.line = line
        self.answer = line.begin("POST", f"/t.T/{name}", ("content-type", kind), ("te", "trailers"), *fields, end=False)

    def say(self, *messages, end=True):
        self.line.send(self.answer, b"".join(map(framed, messages)), end)
        return self

    def heard(self):
        """The messages that came so far."""
        found, rest = [], bytes(self.answer.body)
        while len(rest) >= 5 and len(rest) >= 5 + struct.unpack(">I", rest[1:5])[0]:
            length = struct.unpack(">I", rest[1:5])[0]
            found.append(rest[5:5 + length])
            rest = rest[5 + length:]
        return found

    async def hears(self, *messages):
        await self.line.until(lambda: len(self.heard()) >= len(messages) or self.answer.has_ended(), f"{messages}")
        expect(self.heard() == list(messages), f"{self.heard()}: {self.answer}")

    async def ended(self):
        """The status that it ends with, in trailers or in a head alone."""
        answer = await self.answer.whole()
        told = dict(answer.trailers or answer.heads[-1])
        return int(told["grpc-status"]), told.get("grpc-message", "")


@check
@conversation
async def calls_over_http3_reach_grpcio(world):
    with Origin() as origin:
        site = Site(world, "grpc-http3", origin.port, secure='protocols = ["http3"]')
        async with dial(site.secure, configuration(world)) as line:
            large = bytes(range(256)) * 4096
            for message in (b"hello", large):
                call = Call(line, "Unary").say(message)
                expect(await call.ended() == (0, ""), f"{call.answer}")
                expect(call.heard() == [message], f"{call.answer}")
            call = Call(line, "Collect").say(b"a", b"b", end=False).say(b"c")
            expect(await call.ended() == (0, "") and call.heard() == [b"a+b+c"], f"{call.answer}")
            call = Call(line, "Count").say(b"50")
            expect(await call.ended() == (0, "") and call.heard() == [b"%d" % n for n in range(50)], f"{call.answer}")
            talk = Call(line, "Talk")
            heard = []
            for word in (b"one", b"two", b"three"):
                talk.say(word, end=False)
                heard.append(b"<" + word + b">")
                await talk.hears(*heard)
            talk.say()
            expect(await talk.ended() == (0, ""), f"{talk.answer}")
            expect(await Call(line, "Refuse").say(b"").ended() == (5, "not h%C3%A9re"), "not refused")
            # Whoever leaves: the endpoint hears of it, and the connection goes on.
            wait = Call(line, "Wait").say(b"")
            await wait.hears(b"begun")
            wait.answer.stream.stop(0x10C)
            wait.answer.stream.abort(0x10C)
            expect(await asyncio.to_thread(origin.service.left.wait, 10), "the endpoint was not told that the client left")
            origin.service.left.clear()
            late = Call(line, "Wait", ("grpc-timeout", "1S")).say(b"")
            expect((await late.ended())[0] == 4, f"{late.answer}: {late.answer.trailers}")
            expect(await asyncio.to_thread(origin.service.left.wait, 10), "the endpoint was not told that time was up")
            web = Call(line, "Unary", kind="application/grpc-web+proto").say(b"hello")
            await web.answer.whole()
            expect(bytes(web.answer.body).startswith(framed(b"hello") + b"\x80"), f"{bytes(web.answer.body)}")
            expect(b"grpc-status: 0\r\n" in web.answer.body, f"{bytes(web.answer.body)}")
    return "unary, both streams, both ways, 1 MiB, trailers alone, a client that leaves, a deadline, gRPC-Web; aioquic to grpcio"
