"""QUIC as the checks speak it, on aioquic: connections whose raw streams can be used at will, and HTTP/3 on them."""

import asyncio
import contextlib
import functools
import ssl

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.buffer import Buffer, BufferReadError, encode_uint_var
from aioquic.h3.connection import FrameType, H3Connection, StreamType
from aioquic.h3.events import DatagramReceived, DataReceived, HeadersReceived
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from world import Failed, expect

SECONDS = 40


def conversation(function):
    """A check that is a coroutine, under a deadline."""

    @functools.wraps(function)
    def run(world):
        return asyncio.run(asyncio.wait_for(function(world), SECONDS))

    return run


def configuration(world, alpn=("h3",), name="localhost", **more):
    return QuicConfiguration(
        is_client=True, alpn_protocols=list(alpn), server_name=name, cafile=str(world.folder / "ca.pem"), verify_mode=ssl.CERT_REQUIRED,
        max_data=16 << 20, max_stream_data=4 << 20, **more,
    )


class Stream:
    """One raw stream: what arrived, and how either direction ended."""

    def __init__(self, line, number):
        self.line, self.number = line, number
        self.data, self.is_finished, self.reset, self.stopped = bytearray(), False, None, None

    def send(self, data, end=False):
        self.line._quic.send_stream_data(self.number, data, end)
        self.line.transmit()

    def abort(self, code):
        self.line._quic.reset_stream(self.number, code)
        self.line.transmit()

    def stop(self, code):
        self.line._quic.stop_stream(self.number, code)
        self.line.transmit()

    async def read(self, count):
        """The first `count` bytes, once they are there."""
        await self.line.until(lambda: len(self.data) >= count or self.has_ended(), f"{count} bytes on stream {self.number}")
        expect(len(self.data) >= count, f"stream {self.number}: {self}")
        return bytes(self.data[:count])

    async def ended(self):
        await self.line.until(self.has_ended, f"the end of stream {self.number}")
        return self

    def has_ended(self):
        return self.is_finished or self.reset is not None or self.line.ended is not None

    def __str__(self):
        how = f"reset {self.reset:#x}" if self.reset is not None else "FIN" if self.is_finished else "open"
        return f"{len(self.data)} bytes, {how}, connection {self.line.end()}"


class Line(QuicConnectionProtocol):
    """One connection of a client."""

    def __init__(self, quic, stream_handler=None):
        super().__init__(quic, stream_handler)
        self.streams, self.ended, self.handshake, self.datagrams = {}, None, None, []
        self.changed = asyncio.Event()

    def quic_event_received(self, event):
        if isinstance(event, events.StreamDataReceived):
            stream = self.stream(event.stream_id)
            stream.data += event.data
            stream.is_finished |= event.end_stream
        elif isinstance(event, events.StreamReset):
            self.stream(event.stream_id).reset = event.error_code
        elif isinstance(event, events.StopSendingReceived):
            self.stream(event.stream_id).stopped = event.error_code
        elif isinstance(event, events.DatagramFrameReceived):
            self.datagrams.append(event.data)
        elif isinstance(event, events.HandshakeCompleted):
            self.handshake = event
        elif isinstance(event, events.ConnectionTerminated):
            self.ended = event
        self.changed.set()

    def stream(self, number):
        return self.streams.setdefault(number, Stream(self, number))

    def open(self, is_unidirectional=False):
        """A stream of ours; what is sent on it first makes it known to the other side."""
        number = self._quic.get_next_available_stream_id(is_unidirectional=is_unidirectional)
        self._quic.send_stream_data(number, b"")
        return self.stream(number)

    async def until(self, look, what, seconds=20):
        """Waits for something to be so. It is an event that wakes it, so that nothing depends on how long anything takes."""
        try:
            async with asyncio.timeout(seconds):
                while not look():
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            raise Failed(f"after {seconds} s there is not: {what}; connection {self.end()}") from None

    async def closed(self, seconds=20):
        """The code that the other side closed with."""
        await self.until(lambda: self.ended, "the end of the connection", seconds)
        return self.ended.error_code

    def end(self):
        return f"closed with {self.ended.error_code:#x} {self.ended.reason_phrase!r}" if self.ended else "open"

    async def move(self):
        """Goes on from another local port, as after an address change that the client did not notice."""
        before = self._transport
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        before.close()
        self._quic.send_ping(id(self))
        self.transmit()


@contextlib.asynccontextmanager
async def dial(port, configuration, kind=None, wait=True, tickets=None):
    """A connection to a port; without `wait` nothing is sent before the caller asks for something (0-RTT)."""
    line = (kind or Http3)(QuicConnection(configuration=configuration, session_ticket_handler=tickets))
    await asyncio.get_running_loop().create_datagram_endpoint(lambda: line, local_addr=("127.0.0.1", 0))
    try:
        line.connect(("127.0.0.1", port), transmit=wait)
        if wait:
            try:
                await line.wait_connected()
            except ConnectionError:
                raise Failed(f"no connection to {port}: {line.end()}") from None
        yield line
    finally:
        line.close()
        line._transport.close()


class Lenient(H3Connection):
    """Leaves to `Answer` what aioquic takes amiss: a length without a body, of HEAD and of 304."""

    def _check_content_length(self, stream):
        if stream.content_length:
            super()._check_content_length(stream)


class Answer:
    """What came back on a request stream."""

    def __init__(self, stream, method):
        self.stream, self.method = stream, method
        self.heads, self.body, self.trailers, self.is_whole, self.datagrams = [], bytearray(), [], False, []

    @property
    def status(self):
        return int(dict(self.heads[-1])[":status"]) if self.heads else 0

    @property
    def statuses(self):
        return [int(dict(head)[":status"]) for head in self.heads]

    def header(self, name, which=-1):
        values = [v for n, v in self.heads[which] if n == name]
        return ", ".join(values) if values else None

    def take(self, event):
        if isinstance(event, HeadersReceived):
            fields = [(n.decode(), v.decode("latin-1")) for n, v in event.headers]
            is_head = any(n == ":status" for n, _ in fields)
            if is_head:
                self.heads.append(fields)
            else:
                self.trailers = fields
        elif isinstance(event, DataReceived):
            self.body += event.data
        elif isinstance(event, DatagramReceived):
            self.datagrams.append(event.data)
        self.is_whole |= getattr(event, "stream_ended", False)

    def has_ended(self):
        return self.is_whole or self.stream.reset is not None or self.stream.line.ended is not None

    async def whole(self):
        await self.stream.line.until(self.has_ended, f"an answer on stream {self.stream.number}", SECONDS - 10)
        expect(self.is_whole, f"the answer is not whole: {self}")
        length = self.header("content-length")
        if length is not None and self.method != "HEAD" and self.status != 304:
            expect(len(self.body) == int(length), f"a length of {length}: {self}")
        return self

    def __str__(self):
        reset = f", reset {self.stream.reset:#x}" if self.stream.reset is not None else ""
        return f"{self.statuses}, {len(self.body)} bytes, {'whole' if self.is_whole else 'not whole'}{reset}, connection {self.stream.line.end()}"


class Http3(Line):
    """HTTP/3 on one connection of a client."""

    # It is with WebTransport that aioquic sends SETTINGS_H3_DATAGRAM (RFC 9297).
    takes_datagrams = False

    def __init__(self, quic, stream_handler=None):
        super().__init__(quic, stream_handler)
        self.http = Lenient(quic, enable_webtransport=self.takes_datagrams)
        self.answers = {}

    def quic_event_received(self, event):
        for told in self.http.handle_event(event):
            if told.stream_id in self.answers:
                self.answers[told.stream_id].take(told)
        super().quic_event_received(event)

    @property
    def goaways(self):
        """The numbers of each GOAWAY that came, of which aioquic does not tell."""
        found = []
        for number, stream in self.streams.items():
            if number % 4 == 3 and stream.data[:1] == bytes([StreamType.CONTROL]):
                buffer = Buffer(data=bytes(stream.data[1:]))
                with contextlib.suppress(BufferReadError):
                    while not buffer.eof():
                        kind, payload = buffer.pull_uint_var(), buffer.pull_bytes(buffer.pull_uint_var())
                        if kind == FrameType.GOAWAY:
                            found.append(Buffer(data=payload).pull_uint_var())
        return found

    def begin(self, method, path, *fields, end=True, protocol=None, authority="localhost"):
        """Sends a head and returns where its answer will be."""
        number = self._quic.get_next_available_stream_id()
        answer = self.answers[number] = Answer(self.stream(number), method)
        head = [(":method", method), (":scheme", "https"), (":authority", authority), (":path", path)]
        head += [(":protocol", protocol)] if protocol else []
        self.http.send_headers(number, [(n.encode(), v.encode()) for n, v in [*head, *fields]], end)
        self.transmit()
        return answer

    def send(self, answer, data, end=False):
        self.http.send_data(answer.stream.number, data, end)
        self.transmit()

    def finish(self, answer, trailers):
        self.http.send_headers(answer.stream.number, [(n.encode(), v.encode()) for n, v in trailers], True)
        self.transmit()

    async def ask(self, method, path, *fields, body=None, trailers=None, authority="localhost"):
        answer = self.begin(method, path, *fields, end=body is None and not trailers, authority=authority)
        if body is not None:
            self.send(answer, body, end=not trailers)
        if trailers:
            self.finish(answer, trailers)
        return await answer.whole()

    async def get(self, path, *fields):
        return await self.ask("GET", path, *fields)


def frame(kind, payload=b""):
    return encode_uint_var(kind) + encode_uint_var(len(payload)) + payload
