"""WebSocket through the proxy, and what may not be switched to."""

import base64
import hashlib
import os
import struct
import time

from world import Checks, expect, read_to_end

check = Checks()
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class WebSocket:
    """A client with masks, lengths of all three sizes, and nothing else."""

    def __init__(self, world, port, tls):
        self.sock = world.connect(port, tls)
        self.sock.settimeout(10)
        key = base64.b64encode(os.urandom(16))
        self.sock.sendall(
            b"GET /odd/upgrade HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"
        )
        self.buffer = b""
        while b"\r\n\r\n" not in self.buffer:
            self.more()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        accept = base64.b64encode(hashlib.sha1(key + MAGIC).digest())
        expect(head.startswith(b"HTTP/1.1 101") and accept in head, f"{head!r}")

    def more(self):
        piece = self.sock.recv(1 << 16)
        expect(piece, "closed in the middle")
        self.buffer += piece

    def send(self, data, opcode=2):
        if len(data) < 126:
            head = bytes([0x80 | opcode, 0x80 | len(data)])
        elif len(data) < 1 << 16:
            head = bytes([0x80 | opcode, 0x80 | 126]) + struct.pack(">H", len(data))
        else:
            head = bytes([0x80 | opcode, 0x80 | 127]) + struct.pack(">Q", len(data))
        mask = os.urandom(4)
        repeated = (mask * (len(data) // 4 + 1))[: len(data)]
        masked = (int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(data), "big")
        self.sock.sendall(head + mask + masked)

    def take(self, count):
        while len(self.buffer) < count:
            self.more()
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def receive(self):
        _, size = self.take(2)
        if size == 126:
            size = struct.unpack(">H", self.take(2))[0]
        elif size == 127:
            size = struct.unpack(">Q", self.take(8))[0]
        return self.take(size)

    def echo(self, data):
        self.send(data)
        expect(self.receive() == data, f"{len(data)} bytes came back changed")


def websocket_check(listener, tls):
    def run(world):
        socket = WebSocket(world, getattr(world, listener), tls)
        started = time.monotonic()
        for size in (0, 1, 125, 126, 65535, 65536, 300000):
            socket.echo(os.urandom(size))
        for number in range(500):
            socket.echo(b"message %d" % number)
        took = time.monotonic() - started
        socket.send(struct.pack(">H", 1000), opcode=8)
        socket.receive()
        end = read_to_end(socket.sock)
        expect(end.closed, f"after the close frame: {end}")
        return f"507 messages in {took:.2f} s"

    return run


check.add("websocket echo on cleartext", websocket_check("plain", False))
check.add("websocket echo over TLS", websocket_check("secure", True))


@check
def a_websocket_lives_through_a_reload_and_silence(world):
    socket = WebSocket(world, world.strict, False)
    socket.echo(b"before")
    world.gate.reload()
    time.sleep(2.5)  # longer than the listener's idle and stall times, which judge exchanges, not tunnels
    socket.echo(b"after")


@check
def a_protocol_that_is_not_allowed_is_not_switched_to(world):
    asked = b"GET /odd/echo HTTP/1.1\r\nHost: x\r\nConnection: upgrade, close\r\nUpgrade: other/1\r\n\r\n"
    reply = world.raw(world.plain, asked)
    expect(reply.status == 200 and b'"Upgrade"' not in reply.data and b'"upgrade"' not in reply.data, str(reply))


@check
def a_switch_to_another_protocol_than_asked_for_is_502(world):
    asked = (b"GET /odd/wrong-upgrade HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
             b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
    reply = world.raw(world.plain, asked, 3)
    expect(reply.status == 502 and b"raw bytes" not in reply.data, str(reply))
    plain = world.raw(world.plain, b"GET /odd/wrong-upgrade HTTP/1.1\r\nHost: x\r\n\r\n", 3)
    expect(plain.status == 502 and b"raw bytes" not in plain.data, f"unsolicited: {plain}")


@check
def an_upgrade_with_a_body_is_not_tunnelled(world):
    asked = (b"POST /odd/upgrade HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n"
             b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\nhello")
    reply = world.raw(world.plain, asked, 3)
    expect(reply.status != 101, str(reply))
    return str(reply.status)
