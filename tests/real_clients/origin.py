#!/usr/bin/env python3
"""An HTTP/1.1 origin that tells what it saw, and misbehaves where the path asks it to.

`origin.py PORT` listens on 127.0.0.1. Paths:

    /echo…              200, JSON of the request: method, target, version, headers in order, body's length and SHA-256
    /bytes/N            200, N bytes
    /status/N           N without a body
    /close-delimited    200, no length, ended by closing
    /chunked            200, chunked, with a trailer
    /length-and-chunked 200, both a length and chunked
    /hints              103 twice, then 200
    /slow/N             200, N pieces of 1000 bytes, one every 100 ms
    /die/length         200 with a length, half of it, then a reset;  /die/length-fin: then a plain close
    /die/chunked        200 chunked, two chunks, then a plain close
    /die/head           half a head, then a plain close
    /stall/head         nothing at all
    /stall/body         200 with a length, half of it, then nothing
    /refuse-early       413 as soon as the head is there, the body unread
    /close-after        200, then closes although it said keep-alive
    /upgrade            101 to `websocket`, then echoes WebSocket messages
    /wrong-upgrade      101 to another protocol than asked for
"""

import asyncio
import base64
import hashlib
import json
import socket
import struct
import sys

WEBSOCKET_KEY = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Request:
    def __init__(self, head):
        lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, self.version = lines[0].split(" ")
        self.headers = [tuple(part.strip() for part in line.split(":", 1)) for line in lines[1:] if line]

    def header(self, name):
        values = [v for n, v in self.headers if n.lower() == name]
        return ", ".join(values) if values else None


async def read_body(request, reader):
    """The body's length and SHA-256."""
    digest, length = hashlib.sha256(), 0
    if (request.header("transfer-encoding") or "").lower() == "chunked":
        while True:
            size = int((await reader.readline()).split(b";")[0], 16)
            if size == 0:
                while (await reader.readline()).strip():
                    pass
                break
            digest.update(await reader.readexactly(size))
            length += size
            await reader.readexactly(2)
    else:
        left = int(request.header("content-length") or 0)
        length = left
        while left:
            piece = await reader.read(min(left, 1 << 16))
            if not piece:
                raise asyncio.IncompleteReadError(b"", left)
            digest.update(piece)
            left -= len(piece)
    return length, digest.hexdigest()


def answer(status, body=b"", *fields):
    head = [f"HTTP/1.1 {status} Whatever", *fields]
    if status not in (204, 304):
        head.append(f"content-length: {len(body)}")
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def reset(writer):
    """Closes with a reset in the place of a FIN."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def misbehave(path, writer, reader):
    """Carries out one of the bad paths and ends the connection; False where the path is none of them."""
    length = b"HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n" + b"x" * 100000
    if path == "/die/length" or path == "/die/length-fin":
        writer.write(length)
        await writer.drain()
        await asyncio.sleep(0.2)
        if path == "/die/length":
            reset(writer)
    elif path == "/die/chunked":
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"5\r\nhello\r\n" * 2)
        await writer.drain()
        await asyncio.sleep(0.2)
    elif path == "/die/head":
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-le")
        await writer.drain()
    elif path == "/stall/head":
        await reader.read()
    elif path == "/stall/body":
        writer.write(length)
        await writer.drain()
        await reader.read()
    else:
        return False
    writer.close()
    return True


async def websocket(request, reader, writer):
    """Echoes text and binary messages until a close frame."""
    key = request.header("sec-websocket-key").encode()
    accept = base64.b64encode(hashlib.sha1(key + WEBSOCKET_KEY).digest()).decode()
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        + f"sec-websocket-accept: {accept}\r\n\r\n".encode()
    )
    while True:
        first, second = await reader.readexactly(2)
        size = second & 0x7F
        if size == 126:
            size = struct.unpack(">H", await reader.readexactly(2))[0]
        elif size == 127:
            size = struct.unpack(">Q", await reader.readexactly(8))[0]
        mask = await reader.readexactly(4)
        data = await reader.readexactly(size)
        data = bytes(b ^ mask[i % 4] for i, b in enumerate(data))
        if size < 126:
            head = bytes([first, size])
        elif size < 1 << 16:
            head = bytes([first, 126]) + struct.pack(">H", size)
        else:
            head = bytes([first, 127]) + struct.pack(">Q", size)
        writer.write(head + data)
        await writer.drain()
        if first & 0x0F == 8:
            return


async def respond(request, reader, writer):
    """Answers one request; True if the connection goes on."""
    path = request.target.split("?")[0]
    if path == "/refuse-early":
        writer.write(answer(413, b"too much\n", "connection: close"))
        await writer.drain()
        await asyncio.sleep(0.3)
        return False
    if path == "/upgrade" and (request.header("upgrade") or "").lower() == "websocket":
        await websocket(request, reader, writer)
        return False
    if path == "/wrong-upgrade":
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: other/1\r\n\r\nraw bytes")
        await writer.drain()
        return False
    if (request.header("expect") or "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    length, digest = await read_body(request, reader)
    if await misbehave(path, writer, reader):
        return False
    if path.startswith("/bytes/"):
        writer.write(answer(200, b"y" * int(path[7:])))
    elif path.startswith("/status/"):
        writer.write(answer(int(path[8:])))
    elif path == "/close-delimited":
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + b"z" * 300000)
        await writer.drain()
        return False
    elif path == "/chunked":
        head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n"
        writer.write(head + b"5\r\nhello\r\n" * 3 + b"0\r\nx-sum: 15\r\n\r\n")
    elif path == "/length-and-chunked":
        head = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head + b"2\r\nhi\r\n0\r\n\r\n")
        await writer.drain()
        return False
    elif path == "/hints":
        for name in ("one", "two"):
            writer.write(f"HTTP/1.1 103 Early Hints\r\nlink: </{name}.css>; rel=preload\r\n\r\n".encode())
        writer.write(answer(200, b"hinted\n"))
    elif path.startswith("/slow/"):
        pieces = int(path[6:])
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {pieces * 1000}\r\n\r\n".encode())
        for _ in range(pieces):
            writer.write(b"s" * 1000)
            await writer.drain()
            await asyncio.sleep(0.1)
    elif path == "/close-after":
        writer.write(answer(200, b"last words\n", "connection: keep-alive"))
        await writer.drain()
        return False
    else:
        seen = {
            "method": request.method,
            "target": request.target,
            "version": request.version,
            "headers": request.headers,
            "length": length,
            "sha256": digest,
        }
        body = b"" if request.method == "HEAD" else json.dumps(seen).encode()
        writer.write(answer(200, body, "content-type: application/json"))
    await writer.drain()
    return (request.header("connection") or "").lower() != "close"


async def serve(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if not await respond(Request(head[:-4]), reader, writer):
                break
    except (asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError):
        pass
    finally:
        writer.close()


async def main(port):
    server = await asyncio.start_server(serve, "127.0.0.1", port, limit=1 << 20, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        asyncio.run(main(int(sys.argv[1])))
    except KeyboardInterrupt:
        pass
