"""What a client does with a site: a page of many objects, or one download, over one version of HTTP; libcurl does the asking (nghttp2,
ngtcp2). Or the round trips of a handshake. Each order is a line of JSON on standard input, each result one on standard output."""

import asyncio
import json
import sys
import time

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from curl_cffi import Curl, CurlHttpVersion, CurlInfo, CurlMOpt, CurlOpt
from curl_cffi.requests import AsyncSession

VERSIONS = {"h1": CurlHttpVersion.V1_1, "h2": CurlHttpVersion.V2TLS, "h3": CurlHttpVersion.V3ONLY, "tunnel": CurlHttpVersion.V1_1}
# As browsers have it with HTTP/1.1.
CONNECTIONS = 6


def session(order):
    options = {CurlOpt.PIPEWAIT: 1, CurlOpt.RESOLVE: [order["resolve"]], CurlOpt.CAINFO: order["ca"].encode()}
    return AsyncSession(max_clients=200, http_version=VERSIONS[order["over"]], curl_options=options)


async def page(order):
    """Seconds until the last of `count` objects was there, the handshake counted in."""
    async with session(order) as asking:
        asking.acurl.setopt(CurlMOpt.MAX_HOST_CONNECTIONS, CONNECTIONS if order["over"] in ("h1", "tunnel") else 1)
        began = time.monotonic()
        answers = await asyncio.gather(*(asking.get(f"{order['base']}/object?{n}", timeout=order["seconds"]) for n in range(order["count"])))
        took = time.monotonic() - began
    assert all(a.status_code == 200 and len(a.content) == order["size"] for a in answers), [a.status_code for a in answers]
    return {"seconds": took}


async def download(order):
    """Bytes and seconds of one download, until it is whole or time is up; the handshake counted in."""
    count = 0
    began = time.monotonic()
    async with session(order) as asking:
        asking.acurl.setopt(CurlMOpt.MAX_HOST_CONNECTIONS, 1)

        def take(data):
            nonlocal count
            count += len(data)

        try:
            await asking.get(f"{order['base']}/download", content_callback=take, timeout=order["seconds"])
        except Exception as ended:
            if time.monotonic() - began < order["seconds"]:
                raise ended
    return {"bytes": count, "seconds": time.monotonic() - began}


def first_byte(order):
    """Seconds from nothing to the first byte of an answer, over TCP by libcurl."""
    curl = Curl()
    curl.setopt(CurlOpt.URL, f"{order['base']}/small".encode())
    curl.setopt(CurlOpt.CAINFO, order["ca"].encode())
    curl.setopt(CurlOpt.RESOLVE, [order["resolve"]])
    curl.setopt(CurlOpt.HTTP_VERSION, VERSIONS[order["over"]])
    curl.setopt(CurlOpt.WRITEFUNCTION, len)
    curl.perform()
    took = curl.getinfo(CurlInfo.STARTTRANSFER_TIME)
    curl.close()
    return {"seconds": took}


class Asking(QuicConnectionProtocol):
    def __init__(self, *words, **more):
        super().__init__(*words, **more)
        self.http, self.first = H3Connection(self._quic), self._loop.create_future()

    def quic_event_received(self, event):
        for told in self.http.handle_event(event):
            if isinstance(told, HeadersReceived | DataReceived) and not self.first.done():
                self.first.set_result(time.monotonic())


async def first_byte_of_quic(order):
    """The same over QUIC, first in full and then resumed with early data, by aioquic."""
    tickets, took = [], []
    for turn in ("full", "resumed"):
        configuration = QuicConfiguration(alpn_protocols=["h3"], cafile=order["ca"], server_name=order["name"])
        if tickets:
            configuration.session_ticket = tickets[-1]
        began = time.monotonic()
        async with connect(order["host"], order["port"], configuration=configuration, create_protocol=Asking,
                           session_ticket_handler=tickets.append, wait_connected=turn == "full") as asking:
            stream = asking._quic.get_next_available_stream_id()
            head = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", order["name"].encode()), (b":path", b"/small")]
            asking.http.send_headers(stream, head, True)
            asking.transmit()
            took.append(await asyncio.wait_for(asking.first, 10) - began)
            while not tickets:
                await asyncio.sleep(0.01)
    return {"full": took[0], "resumed": took[1]}


ORDERS = {"page": lambda o: asyncio.run(page(o)), "download": lambda o: asyncio.run(download(o)), "first": first_byte,
          "first-quic": lambda o: asyncio.run(first_byte_of_quic(o))}

for line in sys.stdin:
    order = json.loads(line)
    try:
        result = ORDERS[order["do"]](order)
    except Exception as failed:
        result = {"failed": f"{type(failed).__name__}: {failed}"}
    print(json.dumps(result), flush=True)
