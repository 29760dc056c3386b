"""HTTP/3 in front: clients that others wrote (aioquic, qh3, libcurl on ngtcp2, Envoy, Chromium), whole exchanges and what goes wrong with them."""

import asyncio
import base64
import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys

from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import ErrorCode, FrameType, StreamType
from browser import Browser
from check_layer4 import Gate
from quic import SECONDS, Line, configuration, conversation, dial, frame
from world import BIG_BYTES, SMALL, Checks, Failed, expect, free_ports, tool, until, wait_for_port

check = Checks()

FILES = ["h1", "unix", "h1-tls", "h2-tls", "h2c", "nghttpd"]


class Site(Gate):
    """A Tidegate of one check that speaks all three versions of HTTP on one port."""

    def __init__(self, world, name, tls="", listener="", more="", server=""):
        (self.port,) = free_ports(1)
        f = world.folder
        self.text = f"""
{server}
[[listener]]
name = "secure"
bind = "127.0.0.1:{self.port}"
protocols = ["http1", "http2", "http3"]
tls.certificates = [{{ cert = "{f}/localhost.pem", key = "{f}/localhost.key" }}]
{tls}
{listener}
{"".join(world.route(*pair) for pair in world.upstreams().items())}
[[route]]
path = "/small-body/*"
upstream = "odd"
max_body = "1MiB"

[[route]]
path = "/limited/*"
strip_prefix = "/limited"
upstream = "odd"
timeouts = {{ response = "500ms" }}

[[route]]
name = "word"
path = "/word"
respond = {{ status = 200, body = "one\\n" }}
{more}
"""
        super().__init__(world, name, self.text)


def echoed(answer):
    expect(answer.status == 200, str(answer))
    return json.loads(answer.body)


def sent(told, name):
    """What the origin was sent under a name."""
    values = [v for n, v in told["headers"] if n.lower() == name]
    return ", ".join(values) if values else None


@check
@conversation
async def aioquic_gets_whatever_the_origin_speaks(world):
    site = Site(world, "h3-files")
    async with dial(site.port, configuration(world)) as line:
        for up in FILES:
            small = await line.get(f"/{up}/small")
            expect(small.status == 200 and small.body == SMALL, f"{up}: {small}")
            head = await line.ask("HEAD", f"/{up}/big")
            expect(head.status == 200 and head.header("content-length") == str(BIG_BYTES) and not head.body, f"{up}: HEAD: {head}")
            missing = await line.get(f"/{up}/missing")
            expect(missing.status == 404, f"{up}: missing: {missing}")
            if up != "nghttpd":
                part = await line.get(f"/{up}/big", ("range", "bytes=1000000-1999999"))
                expect(part.status == 206 and part.body == world.big[1000000:2000000], f"{up}: range: {part}")
                fresh = await line.get(f"/{up}/small", ("if-none-match", small.header("etag")))
                expect(fresh.status == 304 and not fresh.body, f"{up}: 304: {fresh}")
        big = await line.get("/h1/big", ("range", "bytes=0-7999999"))
        expect(big.body == world.big[:8000000], f"big: {big}")
        chunked = await line.get("/odd/chunked")
        expect(chunked.body == b"hello" * 3 and ("x-sum", "15") in chunked.trailers, f"{chunked}, trailers {chunked.trailers}")
        whole = await line.get("/nghttpd/small")
        expect(("x-check", "whole") in whole.trailers, f"trailers of nghttpd: {whole.trailers}")
        late = await line.get("/odd/close-delimited")
        expect(late.status == 200 and len(late.body) == 300000, f"ended by closing: {late}")
        word = await line.get("/word")
        expect(word.body == b"one\n", str(word))
        asked = len(line.answers)
    told = until(10, lambda: log_lines(site, asked))
    expect({line["protocol"] for line in told} == {"HTTP/3.0"}, f"the access log says {({line['protocol'] for line in told})}")
    expect(site.metric("tidegate_requests") >= asked, "not counted")
    return f"{asked} answers on one connection, one of 8 MB, trailers from HTTP/1.1 and HTTP/2"


def log_lines(site, count):
    told = [json.loads(line) for line in site.lines.read_text().splitlines()]
    expect(len(told) >= count, f"{len(told)} lines are logged of {count}")
    return told


@check
@conversation
async def aioquic_sends_bodies_of_every_kind(world):
    site = Site(world, "h3-uploads")
    data = (world.folder / "upload").read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    async with dial(site.port, configuration(world)) as line:
        for name, fields in (("a length", [("content-length", str(len(data)))]), ("no length", [])):
            told = echoed(await line.ask("POST", "/odd/echo?a=%20b", *fields, body=data))
            expect(told["sha256"] == digest, f"with {name} {told['length']} bytes arrived")
            expect(told["method"] == "POST" and told["target"] == "/echo?a=%20b", f"{told}")
            expect(sent(told, "host") == "localhost" and sent(told, "via"), f"{told['headers']}")
            back = await line.ask("POST", "/nghttpd/echo", *fields, body=data)
            expect(back.status == 200 and back.body == data, f"echoed with {name}: {back}")
        told = echoed(await line.ask("POST", "/odd/echo", body=b"body", trailers=[("x-last", "word")]))
        expect(told["length"] == 4, f"a body with a trailer: {told}")
        told = echoed(await line.get("/odd/echo", ("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers")))
        # RFC 9114 §4.2.1: several cookie lines become one on the way to HTTP/1.1.
        expect(sent(told, "cookie") == "a=1; b=2", f"cookies: {told['headers']}")
        whole = await line.ask("POST", "/small-body/echo", ("content-length", str(len(data))), body=data)
        expect(whole.status == 413, f"too large: {whole}")
        endless = await line.ask("POST", "/small-body/echo", body=data)
        expect(endless.status == 413, f"too large, no length: {endless}")
        after = await line.get("/word")
        expect(after.status == 200, f"after a refusal: {after}")
    return f"{len(data)} bytes each; 413 with a length and without"


@check
@conversation
async def informational_answers_reach_the_client(world):
    site = Site(world, "h3-hints")
    async with dial(site.port, configuration(world)) as line:
        hinted = await line.get("/odd/hints")
        expect(hinted.statuses == [103, 103, 200] and hinted.body == b"hinted\n", str(hinted))
        expect([hinted.header("link", n) for n in (0, 1)] == ["</one.css>; rel=preload", "</two.css>; rel=preload"], f"{hinted.heads}")
        waiting = line.begin("POST", "/odd/echo", ("expect", "100-continue"), ("content-length", "5"), end=False)
        await line.until(lambda: waiting.heads or waiting.has_ended(), "100 before the body is sent")
        expect(waiting.statuses == [100], str(waiting))
        line.send(waiting, b"hello", end=True)
        expect(echoed(await waiting.whole())["length"] == 5, str(waiting))
    return "103 twice, 100 before the body"


@check
@conversation
async def many_streams_of_several_connections(world):
    site = Site(world, "h3-streams")

    async def client():
        async with dial(site.port, configuration(world)) as line:
            # More than may be open at once: the client waits for the stream limit to rise.
            waiting = [line.begin("GET", f"/{FILES[n % len(FILES)]}/small") for n in range(400)]
            for answer in waiting:
                await answer.whole()
                expect(answer.status == 200 and answer.body == SMALL, str(answer))
            return len(waiting)

    answered = await asyncio.gather(*(client() for _ in range(4)))
    return f"{sum(answered)} answers on {len(answered)} connections, 400 asked for at once on each"


@check
@conversation
async def a_download_survives_a_hundred_address_changes(world):
    site = Site(world, "h3-migration")
    moves, size = 100, 8_000_000
    async with dial(site.port, configuration(world)) as line:
        answer = line.begin("GET", "/h1/big", ("range", f"bytes=0-{size - 1}"))
        ports = set()
        for number in range(moves):
            await line.until(lambda: len(answer.body) >= number * size // (moves + 1) or answer.has_ended(), f"the bytes up to {number}")
            await line.move()
            ports.add(line._transport.get_extra_info("sockname")[1])
        await answer.whole()
        expect(answer.body == world.big[:size], str(answer))
        after = await line.get("/word")
        expect(after.status == 200, str(after))
    accepted = site.metric("tidegate_connections_accepted")
    expect(accepted == 1, f"{accepted} connections were accepted")
    await asyncio.to_thread(until, 10, lambda: expect(site.metric("tidegate_quic_moved") == 1, "the move is not counted"))
    return f"{size} bytes over {moves} changes of the client's port, {len(ports)} ports, one connection"


@check
@conversation
async def sessions_resume_and_safe_requests_go_early_where_allowed(world):
    tickets = []
    early, late = Site(world, "h3-early", tls="tls.early_data = true"), Site(world, "h3-late")
    for site, allowed in ((early, True), (late, False)):
        tickets.clear()
        async with dial(site.port, configuration(world), tickets=tickets.append) as line:
            await line.get("/word")
            await line.until(lambda: tickets, "a session ticket")
            expect(not line.handshake.session_resumed, "a first handshake was resumed")
            told = echoed(await line.get("/odd/echo"))
            expect(sent(told, "early-data") is None, f"{told['headers']}")
        async with dial(site.port, configuration(world, session_ticket=tickets.pop()), wait=False) as line:
            got = line.begin("GET", "/odd/echo")
            posted = line.begin("POST", "/odd/echo", end=False)
            line.send(posted, b"body", end=True)
            got, posted = echoed(await got.whole()), echoed(await posted.whole())
            expect(line.handshake.session_resumed, "not resumed")
            expect(line.handshake.early_data_accepted == allowed, f"early data accepted: {line.handshake.early_data_accepted}")
            # RFC 8470 §5.1: only what was sent before the handshake was over is marked, and only what may be repeated goes on at once.
            expect(sent(got, "early-data") == ("1" if allowed else None), f"GET was sent on with {got['headers']}")
            expect(sent(posted, "early-data") is None and posted["length"] == 4, f"POST was sent on with {posted['headers']}")
            later = echoed(await line.get("/odd/echo"))
            expect(sent(later, "early-data") is None, f"a later GET was sent on with {later['headers']}")
    return "early where `tls.early_data` stands, with Early-Data: 1 for GET; a POST waits; resumed without it elsewhere"


@check
@conversation
async def retry_and_version_negotiation(world):
    site = Site(world, "h3-retry", listener='quic.retry = "always"')
    async with dial(site.port, configuration(world)) as line:
        expect(line._quic._retry_source_connection_id is not None, "no Retry was sent")
        expect((await line.get("/word")).status == 200, "no answer after Retry")
    retried = site.metric("tidegate_quic_retries_sent")
    expect(retried >= 1, f"{retried} are counted")
    reserved = 0x1A2A3A4A
    async with dial(site.port, configuration(world, original_version=reserved, supported_versions=[reserved, 1])) as line:
        expect(line._quic._version == 1, f"version {line._quic._version:#x}")
        expect((await line.get("/word")).status == 200, "no answer after version negotiation")
    # A packet that is too small to be answered, and bytes that are no QUIC at all: nothing comes back, nothing breaks.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for packet in (b"\xc0" + reserved.to_bytes(4, "big") + b"\x08" + bytes(8) + b"\x00" + bytes(40), b"GET / HTTP/1.1\r\n\r\n", b"", bytes(1200)):
            sock.sendto(packet, ("127.0.0.1", site.port))
    async with dial(site.port, configuration(world)) as line:
        expect((await line.get("/word")).status == 200, "no answer after garbage")
    return f"{retried} Retry packets; a reserved version is answered with those that are spoken"


@check
@conversation
async def a_stop_says_goaway_and_finishes_what_is_open(world):
    site = Site(world, "h3-drain", server='drain_timeout = "20s"')
    async with dial(site.port, configuration(world)) as line:
        expect((await line.get("/word")).status == 200, "not served")
        slow = line.begin("GET", "/odd/slow/8")
        await line.until(lambda: slow.body, "the first bytes")
        site.signal(signal.SIGTERM)
        await line.until(lambda: line.goaways or line.ended, "GOAWAY")
        expect(line.goaways, f"{line.end()} without GOAWAY")
        await slow.whole()
        expect(len(slow.body) == 8000, str(slow))
        code = await line.closed()
        expect(code == ErrorCode.H3_NO_ERROR, line.end())
        seen = list(line.goaways)
    status = await asyncio.to_thread(site.wait, 20)
    expect(status == 0, f"left with {status}")
    # RFC 9114 §5.2: the number may only fall.
    expect(seen == sorted(seen, reverse=True) and all(n % 4 == 0 for n in seen), f"{seen}")
    return f"GOAWAY {seen}, {len(slow.body)} bytes to the end, closed with H3_NO_ERROR"


@check
@conversation
async def reloads_lose_no_request_and_no_connection(world):
    site = Site(world, "h3-reload")
    over, answered, connections = asyncio.Event(), [], []

    async def keeper():
        async with dial(site.port, configuration(world)) as line:
            while not over.is_set():
                answers = [line.begin("GET", f"/{up}/small") for up in FILES]
                for answer in answers:
                    await answer.whole()
                    expect(answer.status == 200 and answer.body == SMALL, str(answer))
                    answered.append(1)
            expect(not line.ended and not line.goaways, f"a connection was told to end: {line.end()} {line.goaways}")

    async def newcomer():
        while not over.is_set():
            async with dial(site.port, configuration(world)) as line:
                answer = await line.get("/h1/small")
                expect(answer.status == 200 and answer.body == SMALL, str(answer))
                answered.append(1)
                connections.append(1)

    clients = [asyncio.create_task(kind()) for kind in (keeper, keeper, newcomer)]
    try:
        for turn in range(12):
            change = f'[[route]]\nname = "turn"\npath = "/turn"\nrespond = {{ status = 200, body = "{turn}" }}\n'
            # The certificate list, and so all of TLS, is made anew as well.
            text = site.text.replace("[[listener]]", f"[[listener]]\nlimits.max_headers = {100 + turn}", 1)
            await asyncio.to_thread(site.put, text + change)
            async with dial(site.port, configuration(world)) as line:
                told = await line.get("/turn")
                expect(told.body == str(turn).encode(), f"turn {turn}: {told}")
    finally:
        over.set()
    await asyncio.gather(*clients)
    return f"12 reloads; {len(answered)} answers, {len(connections)} connections made meanwhile; none failed, none closed"


# --- wrong ones


def settings(*pairs):
    return frame(FrameType.SETTINGS, b"".join(encode_uint_var(n) + encode_uint_var(v) for n, v in pairs))


def literal(name, value):
    """A field line with a literal name (RFC 9204 §4.5.6), no table needed."""
    length = bytes([0x20 | len(name)]) if len(name) < 7 else bytes([0x27, len(name) - 7])
    return length + name + (bytes([len(value)]) if len(value) < 127 else bytes([0x7F]) + prefix_rest(len(value) - 127)) + value


def prefix_rest(number):
    told = b""
    while number >= 128:
        told += bytes([number % 128 + 128])
        number //= 128
    return told + bytes([number])


def headers(*fields):
    return frame(FrameType.HEADERS, b"\x00\x00" + b"".join(literal(n, v) for n, v in fields))


METHOD, SCHEME, AUTHORITY, PATH = (b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"localhost"), (b":path", b"/word")
GOOD = (METHOD, SCHEME, AUTHORITY, PATH)

# What is sent on a request stream, and the code the stream is reset with (RFC 9114 §4.1.2) or, where it is answered, the status.
MALFORMED = {
    "no method": headers(SCHEME, AUTHORITY, PATH),
    "no scheme": headers(METHOD, AUTHORITY, PATH),
    "no path": headers(METHOD, SCHEME, AUTHORITY),
    "an empty path": headers(METHOD, SCHEME, AUTHORITY, (b":path", b"")),
    "two methods": headers(METHOD, *GOOD),
    "two authorities": headers(*GOOD, AUTHORITY),
    "a pseudo-field of answers": headers(*GOOD, (b":status", b"200")),
    "an unknown pseudo-field": headers(*GOOD, (b":colour", b"blue")),
    "a pseudo-field after a field": headers(METHOD, SCHEME, AUTHORITY, (b"x", b"y"), PATH),
    "a name in capitals": headers(*GOOD, (b"X-Big", b"y")),
    "a name with a space": headers(*GOOD, (b"x y", b"z")),
    "a value with a line feed": headers(*GOOD, (b"x", b"a\nb")),
    "a value with a zero byte": headers(*GOOD, (b"x", b"a\0b")),
    "connection": headers(*GOOD, (b"connection", b"close")),
    "transfer-encoding": headers(*GOOD, (b"transfer-encoding", b"chunked")),
    "upgrade": headers(*GOOD, (b"upgrade", b"websocket")),
    "te that is not trailers": headers(*GOOD, (b"te", b"gzip")),
    "host unlike authority": headers(*GOOD, (b"host", b"elsewhere.test")),
    "more than content-length": headers((b":method", b"POST"), *GOOD[1:3], (b":path", b"/odd/echo"), (b"content-length", b"3")) + frame(0, b"four"),
    "less than content-length": headers((b":method", b"POST"), *GOOD[1:3], (b":path", b"/odd/echo"), (b"content-length", b"9")) + frame(0, b"four"),
    "two lengths": headers((b":method", b"POST"), *GOOD[1:], (b"content-length", b"4"), (b"content-length", b"5")) + frame(0, b"four"),
    "a pseudo-field in trailers": headers((b":method", b"POST"), *GOOD[1:3], (b":path", b"/odd/echo")) + frame(0, b"x") + headers((b":path", b"/")),
}

E = ErrorCode

# What is sent on which kind of stream, whether it then ends, and the code that the connection is closed with.
FATAL = {
    "DATA before HEADERS": ("request", frame(0, b"x"), False, E.H3_FRAME_UNEXPECTED),
    "SETTINGS on a request": ("request", settings(), False, E.H3_FRAME_UNEXPECTED),
    "GOAWAY on a request": ("request", frame(FrameType.GOAWAY, b"\0"), False, E.H3_FRAME_UNEXPECTED),
    "CANCEL_PUSH on a request": ("request", frame(FrameType.CANCEL_PUSH, b"\0"), False, E.H3_FRAME_UNEXPECTED),
    "PUSH_PROMISE of a client": ("request", frame(FrameType.PUSH_PROMISE, b"\0\0\0"), False, E.H3_FRAME_UNEXPECTED),
    "PRIORITY of HTTP/2": ("request", frame(2, bytes(5)), False, E.H3_FRAME_UNEXPECTED),
    "a frame that is cut": ("request", headers(*GOOD)[:-3], True, E.H3_FRAME_ERROR),
    "an index beyond the static table": ("request", frame(FrameType.HEADERS, b"\0\0\xff\x40"), False, E.QPACK_DECOMPRESSION_FAILED),
    "an index of an empty dynamic table": ("request", frame(FrameType.HEADERS, b"\0\0\x80"), False, E.QPACK_DECOMPRESSION_FAILED),
    "control without SETTINGS": ("control", frame(FrameType.GOAWAY, b"\0"), False, E.H3_MISSING_SETTINGS),
    "SETTINGS twice": ("control", settings() * 2, False, E.H3_FRAME_UNEXPECTED),
    "a setting twice": ("control", settings((6, 1000), (6, 1000)), False, E.H3_SETTINGS_ERROR),
    "a setting of HTTP/2": ("control", settings((2, 0)), False, E.H3_SETTINGS_ERROR),
    "SETTINGS that are cut": ("control", frame(FrameType.SETTINGS, b"\x06"), False, E.H3_FRAME_ERROR),
    "DATA on control": ("control", settings() + frame(0, b"x"), False, E.H3_FRAME_UNEXPECTED),
    "HEADERS on control": ("control", settings() + headers(*GOOD), False, E.H3_FRAME_UNEXPECTED),
    "a reserved frame on control": ("control", settings() + frame(6, bytes(8)), False, E.H3_FRAME_UNEXPECTED),
    "MAX_PUSH_ID that falls": ("control", settings() + frame(0xD, b"\x05") + frame(0xD, b"\x04"), False, E.H3_ID_ERROR),
    "control that ends": ("control", settings(), True, E.H3_CLOSED_CRITICAL_STREAM),
    "a second control": ("second control", settings(), False, E.H3_STREAM_CREATION_ERROR),
    "a push stream of a client": ("push", b"\0", False, E.H3_STREAM_CREATION_ERROR),
    "an encoder stream that ends": ("encoder", b"", True, E.H3_CLOSED_CRITICAL_STREAM),
    "a capacity above the setting": ("encoder", b"\x3f" + prefix_rest((1 << 30) - 31), False, E.QPACK_ENCODER_STREAM_ERROR),
    "an acknowledgement of nothing": ("decoder", b"\x84", False, E.QPACK_DECODER_STREAM_ERROR),
    "an increment of nothing": ("decoder", b"\x05", False, E.QPACK_DECODER_STREAM_ERROR),
}

UNIDIRECTIONAL = {"control": StreamType.CONTROL, "second control": StreamType.CONTROL, "push": StreamType.PUSH,
                  "encoder": StreamType.QPACK_ENCODER, "decoder": StreamType.QPACK_DECODER}


@check
@conversation
async def malformed_requests_end_their_stream_only(world):
    site = Site(world, "h3-malformed")
    wrong = []
    async with dial(site.port, configuration(world)) as line:
        for name, data in MALFORMED.items():
            stream = line.open()
            stream.send(data, end=True)
            await stream.ended()
            if line.ended:
                raise Failed(f"{name}: {line.end()}")
            if stream.reset != E.H3_MESSAGE_ERROR and not answered_with(stream, 400):
                wrong.append(f"{name}: {stream}")
        # What must be taken: frames and settings nobody knows, RFC 9114 §9, and field lines of several kinds.
        good = line.open()
        good.send(frame(0x21, b"grease") + headers(*GOOD) + frame(0x40, b"more") + frame(0, b""), end=True)
        await good.ended()
        expect(answered_with(good, 200), f"frames of unknown types: {good}")
        greased = line.open(is_unidirectional=True)
        greased.send(encode_uint_var(0x21) + b"whatever")
        expect((await line.get("/word")).status == 200, "an unknown kind of stream")
    expect(not wrong, f"{len(wrong)} of {len(MALFORMED)}: {'; '.join(wrong)}")
    return f"{len(MALFORMED)} kinds, each H3_MESSAGE_ERROR or 400; the connection went on"


def answered_with(stream, status):
    """Whether the raw bytes of a stream that ended well begin with a head of that status; the static table has 200 and 400."""
    index = {200: 25, 400: 67}[status]
    block = bytes([0xC0 | index]) if index < 63 else bytes([0xFF, index - 63])
    return stream.is_finished and stream.reset is None and (block in stream.data[:24] or str(status).encode() in stream.data[:24])


class Bare(Line):
    """QUIC with the ALPN of HTTP/3 and nothing on it that we did not write."""


@check
@conversation
async def broken_framing_ends_the_connection_with_its_code(world):
    site = Site(world, "h3-framing")

    async def case(name):
        kind, data, ends, code = FATAL[name]
        async with dial(site.port, configuration(world), kind=Bare) as line:
            if kind != "control":
                line.open(is_unidirectional=True).send(encode_uint_var(StreamType.CONTROL) + settings())
            stream = line.open(is_unidirectional=kind != "request")
            stream.send((encode_uint_var(UNIDIRECTIONAL[kind]) if kind in UNIDIRECTIONAL else b"") + data, ends)
            try:
                told = await line.closed(10)
            except Failed:
                return f"{name}: nothing, stream {stream}"
            return told != code and f"{name}: {line.end()} in the place of {code.name}"

    wrong = [told for told in await asyncio.gather(*map(case, FATAL)) if told]
    async with dial(site.port, configuration(world)) as line:
        expect((await line.get("/word")).status == 200, "no longer serves")
    expect(not wrong, f"{len(wrong)} of {len(FATAL)}: {'; '.join(wrong)}")
    return f"{len(FATAL)} kinds, each with its code"


@check
@conversation
async def limits_are_those_of_the_other_protocols(world):
    site = Site(world, "h3-limits", listener='limits = { max_headers = 20, max_header_size = "8KiB" }')
    async with dial(site.port, configuration(world)) as line:
        many = await line.get("/word", *((f"x-{n}", "y") for n in range(40)))
        expect(many.status == 431, f"40 fields where 20 are allowed: {many}")
        large = await line.get("/word", ("x-large", "y" * 20000))
        expect(large.status == 431, f"20 kB of fields where 8 KiB are allowed: {large}")
        elsewhere = await line.ask("GET", "/word", authority="elsewhere.test")
        expect(elsewhere.status in (200, 404, 421), str(elsewhere))
        slow = await line.get("/limited/stall/head")
        expect(slow.status == 504, f"an origin that says nothing: {slow}")
        cut = line.begin("GET", "/odd/die/length")
        await line.until(cut.has_ended, "the end of a cut answer")
        expect(not cut.is_whole and cut.stream.reset is not None, f"an answer that was cut ends well: {cut}")
        gone = line.begin("GET", "/odd/slow/50")
        await line.until(lambda: gone.body, "the first bytes")
        gone.stream.stop(E.H3_REQUEST_CANCELLED)
        expect((await line.get("/word")).status == 200, "after a request was cancelled")
    return f"431 twice, {elsewhere.status} for a name without a certificate, 504; a cut answer is reset with {cut.stream.reset:#x}"


# --- other clients


CURL = """
import io, sys
from curl_cffi import Curl, CurlInfo, CurlOpt
from curl_cffi.const import CurlHttpVersion
folder, version, *urls = sys.argv[1:]
curl = Curl()
for url in urls:
    curl.reset()
    words = dict(word.split("=", 1) for word in version.split(","))
    head, body = io.BytesIO(), io.BytesIO()
    curl.setopt(CurlOpt.URL, url.encode())
    curl.setopt(CurlOpt.CAINFO, f"{folder}/ca.pem".encode())
    curl.setopt(CurlOpt.HTTP_VERSION, getattr(CurlHttpVersion, words["version"]))
    curl.setopt(CurlOpt.TIMEOUT_MS, 30000)
    curl.setopt(CurlOpt.HEADERFUNCTION, head.write)
    curl.setopt(CurlOpt.WRITEFUNCTION, body.write)
    if "altsvc" in words:
        curl.setopt(CurlOpt.ALTSVC_CTRL, 1 << 3 | 1 << 4 | 1 << 5)
        curl.setopt(CurlOpt.ALTSVC, words["altsvc"].encode())
    if "cert" in words:
        curl.setopt(CurlOpt.SSLCERT, words["cert"].encode())
        curl.setopt(CurlOpt.SSLKEY, words["cert"].replace(".pem", ".key").encode())
    if "upload" in words:
        data = open(words["upload"], "rb").read()
        curl.setopt(CurlOpt.POSTFIELDSIZE_LARGE, len(data))
        curl.setopt(CurlOpt.POSTFIELDS, data)
    curl.perform()
    import hashlib
    used = {10: "1.0", 2: "1.1", 3: "2", 30: "3"}.get(curl.getinfo(CurlInfo.HTTP_VERSION), "?")
    alt = [line for line in head.getvalue().decode().splitlines() if line.lower().startswith("alt-svc")]
    print(used, curl.getinfo(CurlInfo.RESPONSE_CODE), len(body.getvalue()), hashlib.sha256(body.getvalue()).hexdigest(), *alt)
"""


def ngtcp2(world, version, *urls, fails=False):
    """libcurl on ngtcp2 and nghttp3, by way of curl_cffi, in a process of its own; one line for each URL."""
    command = [sys.executable, "-c", CURL, str(world.folder), version, *urls]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    if fails:
        return done.returncode
    expect(done.returncode == 0, f"libcurl: {done.stdout}{done.stderr[-600:]}")
    return [line.split(" ", 4) for line in done.stdout.splitlines()]


@check
def libcurl_on_ngtcp2_gets_and_posts(world):
    site = Site(world, "h3-curl")
    base = f"https://localhost:{site.port}"
    told = ngtcp2(world, "version=V3ONLY", *(f"{base}/{up}/small" for up in FILES), f"{base}/h1/big", f"{base}/nghttpd/big")
    for line in told[:-2]:
        expect(line[:4] == ["3", "200", str(len(SMALL)), hashlib.sha256(SMALL).hexdigest()], f"{line}")
    digest = hashlib.sha256(world.big).hexdigest()
    for line in told[-2:]:
        expect(line[:4] == ["3", "200", str(BIG_BYTES), digest], f"{line}")
    upload = world.folder / "upload"
    (posted,) = ngtcp2(world, f"version=V3ONLY,upload={upload}", f"{base}/nghttpd/echo")
    expect(posted[3] == hashlib.sha256(upload.read_bytes()).hexdigest(), f"{posted}")
    return f"{len(told)} answers on one connection, two of {BIG_BYTES >> 20} MiB, and an upload of {upload.stat().st_size} bytes"


@check
def libcurl_follows_alt_svc_to_http3(world):
    site = Site(world, "h3-alt-svc")
    base = f"https://localhost:{site.port}"
    kept = world.folder / "alt-svc.txt"
    first, second = ngtcp2(world, f"version=V2TLS,altsvc={kept}", f"{base}/word", f"{base}/word")
    expect(first[0] == "2" and len(first) == 5 and f'h3=":{site.port}"' in first[4], f"first: {first}")
    (third,) = ngtcp2(world, f"version=V3,altsvc={kept}", f"{base}/h1/small")
    expect(third[0] == "3" and third[1] == "200", f"with what it learned: {third}; {kept.read_text()}")
    one = world.curl(f"{base}/word", "--http1.1")
    expect(f'h3=":{site.port}"' in (one.header("alt-svc") or ""), f"HTTP/1.1: {one.fields}")
    off = Site(world, "h3-alt-svc-off", listener='alt_svc = "off"')
    quiet = world.curl(f"https://localhost:{off.port}/word")
    expect(quiet.header("alt-svc") is None, f"told although it is off: {quiet.fields}")
    return f"{one.header('alt-svc')}; HTTP/{first[0]}, then HTTP/{third[0]}"


@check
def client_certificates_are_asked_for_on_http3_as_on_tcp(world):
    f = world.folder
    seen = {}
    for mode in ("optional", "require"):
        site = Site(world, f"h3-members-{mode}", tls=f'tls.client_auth = {{ ca = "{f}/ca.pem", mode = "{mode}" }}')
        for name in (None, "client", "stranger"):
            cert = f",cert={f}/{name}.pem" if name else ""
            seen[mode, name] = ngtcp2(world, f"version=V3ONLY{cert}", f"https://localhost:{site.port}/word", fails=True) == 0
    wanted = {("optional", None): True, ("optional", "client"): True, ("optional", "stranger"): False,
              ("require", None): False, ("require", "client"): True, ("require", "stranger"): False}
    expect(seen == wanted, f"{seen}")
    return "libcurl with and without a certificate, and with one of a stranger"


QH3 = """
import asyncio, hashlib, sys
from qh3.asyncio.client import connect
from qh3.asyncio.protocol import QuicConnectionProtocol
from qh3.h3.connection import H3Connection
from qh3.h3.events import DataReceived, HeadersReceived
from qh3.quic.configuration import QuicConfiguration

class Client(QuicConnectionProtocol):
    def __init__(self, *words, **more):
        super().__init__(*words, **more)
        self.http, self.told = H3Connection(self._quic), {}
    def quic_event_received(self, event):
        for told in self.http.handle_event(event):
            body, over, head = self.told[told.stream_id]
            if isinstance(told, DataReceived):
                body += told.data
            elif isinstance(told, HeadersReceived) and not head:
                head.extend(told.headers)
            if told.stream_ended:
                over.set_result(None)
    async def get(self, authority, path):
        stream = self._quic.get_next_available_stream_id()
        self.told[stream] = (bytearray(), self._loop.create_future(), [])
        head = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", authority.encode()), (b":path", path.encode())]
        self.http.send_headers(stream, head, True)
        self.transmit()
        body, over, head = self.told[stream]
        await over
        return dict(head)[b":status"].decode(), hashlib.sha256(body).hexdigest()

async def main(folder, port, *paths):
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["h3"], server_name="localhost", cafile=f"{folder}/ca.pem")
    async with connect("localhost", int(port), configuration=configuration, create_protocol=Client) as client:
        for told in await asyncio.gather(*(client.get(f"localhost:{port}", path) for path in paths)):
            print(*told)

asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), 30))
"""


@check
def qh3_gets_all_at_once(world):
    site = Site(world, "h3-qh3")
    paths = [f"/{up}/small" for up in FILES] * 8
    command = [sys.executable, "-c", QH3, str(world.folder), str(site.port), *paths, "/h1/big"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    expect(done.returncode == 0, f"{done.stdout[-200:]}{done.stderr[-800:]}")
    told = [line.split() for line in done.stdout.splitlines()]
    expect(told[:-1] == [["200", hashlib.sha256(SMALL).hexdigest()]] * len(paths), f"{told[:2]}")
    expect(told[-1] == ["200", hashlib.sha256(world.big).hexdigest()], f"{told[-1]}")
    return f"{len(told)} answers, one of {BIG_BYTES >> 20} MiB"


# --- Envoy in front


def envoy(world, name, config):
    """Envoy with a configuration, once it is ready."""
    (admin,) = free_ports(1)
    config["admin"] = {"address": socket_address(admin)}
    path = world.folder / f"{name}.json"
    path.write_text(json.dumps(config))
    process = world.spawn(name, tool("envoy"), "-c", str(path), "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning",
                          "--base-id", str(os.getpid() % 30000 + admin % 1000))
    wait_for_port(admin, 20, process)

    def ready():
        connection = http.client.HTTPConnection("127.0.0.1", admin, timeout=5)
        connection.request("GET", "/ready")
        expect(b"LIVE" in connection.getresponse().read(), "Envoy is not ready")
        connection.close()

    until(20, ready)
    return process


def socket_address(port, protocol="TCP"):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port, "protocol": protocol}}


def any_of(kind, **fields):
    return {"@type": f"type.googleapis.com/{kind}", **fields}


def envoy_cluster(name, port, **more):
    endpoint = {"endpoint": {"address": socket_address(port)}}
    return {"name": name, "type": "STATIC", "connect_timeout": "5s",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}, **more}


def envoy_router(cluster, **more):
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}]
    kind = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    router = any_of("envoy.extensions.filters.http.router.v3.Router")
    return {"name": "http", "typed_config": any_of(
        kind, stat_prefix="http", route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        http_filters=[{"name": "envoy.filters.http.router", "typed_config": router}], **more)}


@check
def envoy_in_front_speaks_http3_to_us(world):
    site = Site(world, "h3-envoy")
    (port,) = free_ports(1)
    validation = {"trusted_ca": {"filename": str(world.folder / "ca.pem")}}
    secure = any_of("envoy.extensions.transport_sockets.quic.v3.QuicUpstreamTransport",
                    upstream_tls_context={"sni": "localhost", "common_tls_context": {"validation_context": validation}})
    options = any_of("envoy.extensions.upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http3_protocol_options": {}})
    cluster = envoy_cluster(
        "tidegate", site.port, transport_socket={"name": "envoy.transport_sockets.quic", "typed_config": secure},
        typed_extension_protocol_options={"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options})
    listener = {"name": "in", "address": socket_address(port), "filter_chains": [{"filters": [envoy_router("tidegate")]}]}
    envoy(world, "envoy-front", {"static_resources": {"listeners": [listener], "clusters": [cluster]}})
    base, host = f"http://127.0.0.1:{port}", ["-H", "Host: localhost"]
    small = world.curl(f"{base}/h1/small", *host)
    expect(small.status == 200 and small.body == SMALL, f"{small} {small.body[:200]}")
    big = world.curl(f"{base}/h2-tls/big", *host)
    expect(big.body == world.big, f"big: {big}")
    posted = world.curl(f"{base}/odd/echo", *host, "-H", "Expect:", "--data-binary", f"@{world.folder}/upload")
    data = (world.folder / "upload").read_bytes()
    expect(posted.status == 200 and json.loads(posted.body)["sha256"] == hashlib.sha256(data).hexdigest(), str(posted))
    cut = world.curl(f"{base}/odd/die/length", *host)
    expect(cut.exit != 0, f"an answer that was cut ends well: {cut}")
    expect({line["protocol"] for line in until(10, lambda: log_lines(site, 4))} == {"HTTP/3.0"}, "not over HTTP/3")
    return f"{BIG_BYTES >> 20} MiB down, {len(data)} bytes up, and a cut answer"


# --- a browser


PAGE = """<!doctype html><title>h3</title><link rel=icon href=data:,><img id=picture src=/page/picture.svg><script src=/page/script.js></script>"""


# A hundred pictures more: whether each came, and how.
PICTURES = """Promise.all([...Array(100).keys()].map(n => new Promise((done, fail) => {
    const picture = document.createElement('img');
    [picture.onload, picture.onerror, picture.src] = [() => done(picture.naturalHeight), () => fail(new Error(`no ${n}`)), `/page/pictures/${n}`];
    document.body.append(picture);
}))).then(heights => [heights.filter(height => height === 4).length, [...new Set(performance.getEntriesByType('resource').map(e => e.nextHopProtocol))]])"""


@check
def chromium_loads_a_page_over_http3(world):
    picture = '<svg xmlns="http://www.w3.org/2000/svg" width="3" height="4"/>'
    more = "".join(f"""
[[route]]
path = "/page/{name}"
respond = {{ status = 200, body = '''{body}''' }}
response_headers.set = {{ content-type = "{kind}" }}
""" for name, kind, body in (("", "text/html", PAGE), ("picture.svg", "image/svg+xml", picture), ("pictures/*", "image/svg+xml", picture),
                         ("script.js", "text/javascript", "var loaded = true"))) + """
[[route]]
path = "/page/moved"
redirect = { to = "/page/script.js", status = 307 }
"""
    site = Site(world, "h3-chromium", more=more)
    public = subprocess.run(["openssl", "x509", "-in", world.folder / "localhost.pem", "-noout", "-pubkey"], capture_output=True, text=True, check=True).stdout
    pin = base64.b64encode(hashlib.sha256(base64.b64decode("".join(public.strip().split("\n")[1:-1]))).digest()).decode()
    # QUIC does not go on to 127.0.0.1 where nobody is at ::1.
    words = ["--host-resolver-rules=MAP localhost 127.0.0.1", "--enable-quic", f"--origin-to-force-quic-on=localhost:{site.port}", f"--ignore-certificate-errors-spki-list={pin}"]
    with Browser(*words) as browser:
        page = browser.open(f"https://localhost:{site.port}/page/")
        page.wait("document.getElementById('picture').naturalWidth === 3 && loaded", what="picture and script are there")
        seen = page.run("""performance.getEntries().filter(e => e.nextHopProtocol !== undefined).map(e => [new URL(e.name).pathname, e.nextHopProtocol])""")
        expect(len(seen) >= 3 and {protocol for _, protocol in seen} == {"h3"}, f"{seen}")
        pictures = page.run(PICTURES)
        expect(pictures == [100, ["h3"]], f"of a hundred pictures: {pictures}")
        moved = page.run("fetch('/page/moved', {method: 'POST', body: 'x'}).then(async a => [a.redirected, new URL(a.url).pathname, await a.text()])")
        expect(moved == [True, "/page/script.js", "var loaded = true"], f"redirected: {moved}")
        length = page.run("fetch('/h1/big').then(a => a.arrayBuffer()).then(b => b.byteLength)")
        expect(length == BIG_BYTES, f"{length} bytes by fetch")
        digest = page.run("""fetch('/odd/echo', {method: 'POST', body: new Uint8Array(300000)}).then(a => a.json()).then(told => told.length)""")
        expect(digest == 300000, f"{digest} bytes posted")
        echo = page.run(f"""new Promise((done, fail) => {{
            const socket = new WebSocket('wss://localhost:{site.port}/odd/upgrade');
            socket.onopen = () => socket.send('tide');
            socket.onmessage = event => {{ done(event.data); socket.close(); }};
            socket.onerror = () => fail(new Error('refused'));
        }})""")
        expect(echo == "tide", f"WebSocket: {echo}")
        expect(not page.complaints, f"{page.complaints}")
    return f"{', '.join(f'{path} {protocol}' for path, protocol in seen)}; {BIG_BYTES >> 20} MiB by fetch; 100 pictures, a redirect, a WebSocket"
