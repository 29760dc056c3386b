#!/usr/bin/env python3
"""An HTTP/3 origin, on aioquic, that tells what it saw and misbehaves where the path asks it to.

`quic_origin.py PORT CERTIFICATE KEY [--retry]` listens on 127.0.0.1. ALPN `h3`:

    /echo…          200, JSON of the request: method, path, authority, headers, trailers, body's length and SHA-256, and which connection it
                    came on, whether before the end of its handshake, and whether that was a resumed one
    /bytes/N        200, N bytes
    /status/N       N without a body
    /trailers       200, `hello`, and a trailer
    /hints          103 twice, then 200
    /reset          200 with a length, half of it, then RESET_STREAM(H3_INTERNAL_ERROR)
    /short          200 with a length, half of it, then the end of the stream
    /rejected       RESET_STREAM(H3_REQUEST_REJECTED) the first time a connection is asked, then 200
    /goaway         GOAWAY after this request, then 200
    /vanish         the connection is closed with H3_INTERNAL_ERROR
    /two-heads      a head that is malformed: a field name in capitals

ALPN `echo`: bytes of bidirectional streams come back, a FIN after a FIN; unidirectional streams come back on one of our own; datagrams come back.
"""

import asyncio
import hashlib
import json
import sys

from aioquic.asyncio import serve
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import ErrorCode, FrameType, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration


class Request:
    def __init__(self):
        self.head, self.trailers, self.length, self.digest, self.is_over = None, [], 0, hashlib.sha256(), False


class Origin(QuicConnectionProtocol):
    connections = 0

    def __init__(self, *words, **more):
        super().__init__(*words, **more)
        Origin.connections += 1
        self.number, self.http, self.handshake, self.requests, self.rejected = Origin.connections, None, None, {}, False

    def quic_event_received(self, event):
        if isinstance(event, events.ProtocolNegotiated) and event.alpn_protocol == "h3":
            self.http = H3Connection(self._quic)
        elif isinstance(event, events.HandshakeCompleted):
            self.handshake = event
        if self.http:
            for told in self.http.handle_event(event):
                self.http_event_received(told)
        else:
            self.echo(event)

    def echo(self, event):
        quic = self._quic
        if isinstance(event, events.StreamDataReceived):
            if event.stream_id & 2:
                # RFC 9000 §2.1: theirs are 2 modulo 4; what comes on one goes back on ours with the same rank.
                target = event.stream_id + 1
            else:
                target = event.stream_id
            quic.send_stream_data(target, event.data, event.end_stream)
        elif isinstance(event, events.StreamReset) and not event.stream_id & 2:
            quic.reset_stream(event.stream_id, event.error_code)
        elif isinstance(event, events.StopSendingReceived):
            quic.reset_stream(event.stream_id, event.error_code)
        elif isinstance(event, events.DatagramFrameReceived):
            quic.send_datagram_frame(event.data)
        self.transmit()

    def http_event_received(self, event):
        request = self.requests.setdefault(event.stream_id, Request())
        if isinstance(event, HeadersReceived):
            fields = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in event.headers]
            if request.head is None:
                request.head = fields
            else:
                request.trailers = fields
        elif isinstance(event, DataReceived):
            request.length += len(event.data)
            request.digest.update(event.data)
        if getattr(event, "stream_ended", False):
            self.answer(event.stream_id, request)
            del self.requests[event.stream_id]
            self.transmit()

    def answer(self, stream, request):
        pseudo = {n: v for n, v in request.head if n.startswith(":")}
        path = pseudo.get(":path", "").split("?")[0]

        def head(status, *fields, end=False):
            told = [(b":status", str(status).encode()), *((n.encode(), v.encode()) for n, v in fields)]
            self.http.send_headers(stream, told, end)

        def whole(body, *fields):
            head(200, ("content-length", str(len(body))), *fields)
            self.http.send_data(stream, body if pseudo[":method"] != "HEAD" else b"", True)

        if path.startswith("/bytes/"):
            whole(b"q" * int(path[7:]))
        elif path.startswith("/status/"):
            head(int(path[8:]), end=True)
        elif path == "/trailers":
            # RFC 9110 §6.6.2: whoever turns them into HTTP/1.1 wants to know before.
            head(200, ("trailer", "x-sum"))
            self.http.send_data(stream, b"hello", False)
            self.http.send_headers(stream, [(b"x-sum", b"5")], True)
        elif path == "/hints":
            head(103, ("link", "</one.css>; rel=preload"))
            head(103, ("link", "</two.css>; rel=preload"))
            whole(b"hinted\n")
        elif path in ("/reset", "/short"):
            head(200, ("content-length", "200000"))
            self.http.send_data(stream, b"x" * 100000, path == "/short")
            if path == "/reset":
                # After what was written has left.
                self._loop.call_later(0.2, self.reset, stream)
        elif path == "/rejected" and not self.rejected:
            self.rejected = True
            self._quic.reset_stream(stream, ErrorCode.H3_REQUEST_REJECTED)
        elif path == "/goaway":
            payload = encode_uint_var(stream + 4)
            frame = encode_uint_var(FrameType.GOAWAY) + encode_uint_var(len(payload)) + payload
            self._quic.send_stream_data(self.http._local_control_stream_id, frame)
            whole(str(self.number).encode())
        elif path == "/vanish":
            self.close(error_code=ErrorCode.H3_INTERNAL_ERROR, reason_phrase="as asked")
        elif path == "/two-heads":
            block = self.http._encode_headers(stream, [(b":status", b"200"), (b"X-Capital", b"1")])
            frame = encode_uint_var(FrameType.HEADERS) + encode_uint_var(len(block)) + block
            self._quic.send_stream_data(stream, frame, True)
        else:
            body = json.dumps({
                "method": pseudo[":method"], "path": pseudo.get(":path"), "authority": pseudo.get(":authority"), "scheme": pseudo.get(":scheme"),
                "headers": [pair for pair in request.head if not pair[0].startswith(":")], "trailers": request.trailers,
                "length": request.length, "sha256": request.digest.hexdigest(), "connection": self.number,
                "is_early": self.handshake is None, "resumed": bool(self.handshake and self.handshake.session_resumed),
            }).encode()
            whole(body, ("content-type", "application/json"))

    def reset(self, stream):
        self._quic.reset_stream(stream, ErrorCode.H3_INTERNAL_ERROR)
        self.transmit()


async def main(port, certificate, key, *words):
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["h3", "echo"], max_datagram_frame_size=65536)
    configuration.max_data = configuration.max_stream_data = 4 << 20
    configuration.load_cert_chain(certificate, key)
    tickets = {}
    await serve("127.0.0.1", int(port), configuration=configuration, create_protocol=Origin, retry="--retry" in words,
                session_ticket_handler=lambda ticket: tickets.__setitem__(ticket.ticket, ticket),
                session_ticket_fetcher=lambda label: tickets.pop(label, None))
    await asyncio.Event().wait()


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        pass
