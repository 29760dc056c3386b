"""Raw QUIC streams: aioquic in front of TCP servers and in front of a QUIC server, and two Tidegates as a tunnel for Redis, PostgreSQL and HTTP."""

import asyncio
import contextlib
import hashlib
import os
import re
import socket
import struct
import threading

from check_http3_upstream import aioquic_origin
from check_layer4 import Gate, postgres_server, psql, redis_server, run
from quic import Line, configuration, conversation, dial
from world import SMALL, Checks, expect, free_ports, until

check = Checks()


class Peer:
    """A TCP server that does what the first line of a connection says: `echo`, `count`, `reset`, `say N` or `hold`."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        self.ends = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock):
        with contextlib.suppress(OSError), sock:
            word, data = b"", b""
            while not word.endswith(b"\n"):
                piece = sock.recv(1)
                if not piece:
                    return
                word += piece
            command = word.split()
            if command[0] == b"reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            if command[0] == b"say":
                sock.sendall(b"s" * int(command[1]))
            digest, length = hashlib.sha256(), 0
            try:
                while data := sock.recv(65536):
                    digest.update(data)
                    length += len(data)
                    if command[0] == b"echo":
                        sock.sendall(data)
            except ConnectionResetError:
                self.ends.append("reset")
                return
            self.ends.append("end")
            if command[0] == b"count":
                # After the client's half was closed.
                sock.sendall(f"{length} {digest.hexdigest()}".encode())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()


def streams(world, port, alpn, upstreams, tls="", more=""):
    f = world.folder
    return f"""
[[listener]]
name = "streams"
bind = "127.0.0.1:{port}"
mode = "quic"
alpn = {{ {alpn} }}
tls.certificates = [{{ cert = "{f}/localhost.pem", key = "{f}/localhost.key" }}]
{tls}
{more}
{upstreams}
"""


def to_tcp(name, port, more=""):
    return f'[upstream.{name}]\nendpoints = ["127.0.0.1:{port}"]\n{more}\n'


def to_quic(world, name, port, alpn, more=""):
    tls = f'{{ ca = "{world.folder}/ca.pem", server_name = "localhost"{more} }}'
    return f'[upstream.{name}]\nendpoints = ["127.0.0.1:{port}"]\nprotocol = "quic"\nalpn = "{alpn}"\ntls = {tls}\n'


@check
@conversation
async def streams_become_connections_of_a_tcp_server(world):
    (port,) = free_ports(1)
    with Peer() as peer:
        gate = Gate(world, "quic-tcp", streams(world, port, '"echo" = "echo"', to_tcp("echo", peer.port)))
        async with dial(port, configuration(world, ["echo"]), kind=Line) as line:
            data = os.urandom(1 << 20)
            echoes = [line.open() for _ in range(60)]
            for stream in echoes:
                stream.send(b"echo\n" + data[: 1000 * stream.number], end=True)
            for stream in echoes:
                await stream.ended()
                expect(stream.is_finished and stream.data == data[: 1000 * stream.number], f"echo: {stream}")
            # A half that is closed leaves the other open.
            counted = line.open()
            counted.send(b"count\n" + data)
            counted.send(data, end=True)
            await counted.ended()
            expect(counted.data.decode() == f"{2 << 20} {hashlib.sha256(data * 2).hexdigest()}", f"{counted}: {counted.data[:80]}")
            # What a client does not take holds the server back and nobody else.
            said = line.open()
            said.send(b"say 20000000\n", end=True)
            small = line.open()
            small.send(b"echo\nbeside", end=True)
            await small.ended()
            expect(small.data == b"beside", str(small))
            await said.ended()
            expect(len(said.data) == 20000000 and said.is_finished, str(said))
        told = gate.sessions(len(echoes) + 3)
    return f"{len(echoes)} streams echoed, a half-closed one counted {2 << 20} bytes, 20 MB down; {len(told)} lines logged"


@check
@conversation
async def aborts_pass_in_either_direction(world):
    (port,) = free_ports(1)
    with Peer() as peer:
        dead = free_ports(1)[0]
        config = streams(world, port, '"echo" = "echo", "dead" = "dead"', to_tcp("echo", peer.port) + to_tcp("dead", dead, 'timeouts.connect = "1s"'))
        Gate(world, "quic-aborts", config)
        async with dial(port, configuration(world, ["echo"]), kind=Line) as line:
            reset = line.open()
            reset.send(b"reset\n")
            await reset.ended()
            expect(reset.reset is not None and not line.ended, f"a server that resets: {reset}")
            held = line.open()
            held.send(b"echo\nx")
            await held.read(1)
            held.abort(77)
            held.stop(78)
            await asyncio.to_thread(until, 10, lambda: expect("reset" in peer.ends, f"the server saw {peer.ends}"))
            after = line.open()
            after.send(b"echo\nstill here", end=True)
            await after.ended()
            expect(after.data == b"still here", str(after))
        async with dial(port, configuration(world, ["dead"]), kind=Line) as line:
            refused = line.open()
            refused.send(b"echo\n")
            await refused.ended()
            expect(refused.reset is not None and not line.ended, f"a server that is not there: {refused}")
        # No protocol in common: RFC 9001 §8.1, CRYPTO_ERROR with no_application_protocol.
        line = None
        with contextlib.suppress(Exception):
            async with dial(port, configuration(world, ["unknown"]), kind=Line) as line:
                pass
        expect(line is None, "a protocol that is not configured was agreed on")
    return f"a reset of the server is RESET_STREAM({reset.reset:#x}), a client's is a reset; a dead server {refused.reset:#x}"


@check
@conversation
async def streams_of_all_kinds_pass_to_a_quic_server(world):
    (port,) = free_ports(1)
    origin, _ = await asyncio.to_thread(aioquic_origin, world)
    Gate(world, "quic-quic", streams(world, port, '"outer" = "inner"', to_quic(world, "inner", origin, "echo")))
    async with dial(port, configuration(world, ["outer"], max_datagram_frame_size=65536), kind=Line) as line:
        data = os.urandom(1 << 20)
        both = [line.open() for _ in range(20)]
        for stream in both:
            stream.send(data[:100000], end=True)
        for stream in both:
            await stream.ended()
            expect(stream.data == data[:100000], str(stream))
        aborted = line.open()
        aborted.send(b"x")
        await aborted.read(1)
        aborted.abort(0x1234)
        await aborted.ended()
        expect(aborted.reset == 0x1234, f"a code that was sent on and came back: {aborted}")
        one_way = line.open(is_unidirectional=True)
        one_way.send(b"one way", end=True)
        await line.until(lambda: any(n & 3 == 3 and s.has_ended() for n, s in line.streams.items()), "a stream of the server's own")
        back = next(s for n, s in line.streams.items() if n & 3 == 3)
        expect(bytes(back.data) == b"one way", str(back))
        # A datagram may be lost; one of many is not.
        for number in range(50):
            line._quic.send_datagram_frame(b"datagram %d" % number)
            line.transmit()
            if number % 10 == 9:
                await asyncio.sleep(0.02)
        await line.until(lambda: line.datagrams, "a datagram that came back")
        expect(all(re.fullmatch(rb"datagram \d+", d) for d in line.datagrams), f"{line.datagrams[:3]}")
        seen = len(line.datagrams)
    return f"{len(both)} streams both ways, code 0x1234 passed on twice, a unidirectional one each way, {seen} datagrams of 50"


@check
@conversation
async def a_stream_goes_on_while_the_client_moves(world):
    (port,) = free_ports(1)
    with Peer() as peer:
        gate = Gate(world, "quic-moves", streams(world, port, '"echo" = "echo"', to_tcp("echo", peer.port)))
        async with dial(port, configuration(world, ["echo"]), kind=Line) as line:
            stream = line.open()
            stream.send(b"echo\n")
            data = b""
            for number in range(40):
                piece = os.urandom(30000)
                stream.send(piece)
                data += piece
                await stream.read(len(data) - 15000)
                await line.move()
            stream.send(b"", end=True)
            await stream.ended()
            expect(stream.data == data, str(stream))
        expect(len(peer.ends) <= 1, f"{peer.ends}")
        sessions = gate.sessions(1)
    return f"{len(data)} bytes echoed over 40 changes of the client's port, {len(sessions)} lines logged"


def tunnel(world, name, services):
    """Two Tidegates, `near` and `far`, mutually authenticated: TCP connections to the near one come out of the far one. The ports of the near one."""
    f = world.folder
    (between,) = free_ports(1)
    ports = free_ports(len(services))
    alpn = ", ".join(f'"{service}" = "{service}"' for service in services)
    far = streams(world, between, alpn, "".join(to_tcp(service, port) for service, port in services.items()),
                  tls=f'tls.client_auth = {{ ca = "{f}/ca.pem", mode = "require" }}')
    near = ""
    for (service, _), port in zip(services.items(), ports):
        near += f'[[listener]]\nname = "{service}"\nbind = "127.0.0.1:{port}"\nmode = "tcp"\nupstream = "{service}"\n'
        near += to_quic(world, service, between, service, f', client_cert = "{f}/client.pem", client_key = "{f}/client.key"')
    return Gate(world, f"{name}-far", far), Gate(world, f"{name}-near", near), dict(zip(services, ports))


@check
def two_processes_are_a_tunnel_for_redis_postgresql_and_http(world):
    redis, postgres = redis_server(world), postgres_server(world)
    far, near, ports = tunnel(world, "tunnel", {"redis": redis, "pg": postgres, "web": world.nginx_h1})
    told = run("redis-benchmark", "-h", "127.0.0.1", "-p", ports["redis"], "-q", "-n", "2000", "-c", "20", "-P", "4", "-t", "set,get", "--csv")
    expect(told.count("\n") >= 2, told)
    expect(psql(ports["pg"], "select sum(n) from generate_series(1, 100000) n") == "5000050000", "PostgreSQL sums otherwise")
    wide = psql(ports["pg"], "select repeat('x', 5000000)")
    expect(len(wide) == 5000000, f"{len(wide)} letters")
    small = world.curl(f"http://127.0.0.1:{ports['web']}/small")
    expect(small.status == 200 and small.body == SMALL, str(small))
    big = world.curl(f"http://127.0.0.1:{ports['web']}/big")
    expect(big.body == world.big, str(big))
    seen = near.sessions(), far.sessions()
    connections = far.metric("tidegate_connections_accepted")
    # One for each service and worker of the near side, at most.
    expect(connections <= 6, f"{connections} QUIC connections")
    for gate in (near, far):
        expect("panicked" not in gate.log(), gate.log()[-600:])
    return f"{len(seen[0])} TCP connections came in, {len(seen[1])} streams went out over {connections} QUIC connections"


@check
def a_stranger_does_not_get_into_the_tunnel(world):
    with Peer() as peer:
        far, near, ports = tunnel(world, "strict-tunnel", {"echo": peer.port})
        stranger = near.path.read_text().replace("client.pem", "stranger.pem").replace("client.key", "stranger.key")

        def ask():
            with socket.create_connection(("127.0.0.1", ports["echo"]), 5) as sock:
                sock.settimeout(10)
                sock.sendall(b"echo\nhello")
                with contextlib.suppress(ConnectionError):
                    return sock.recv(100)
                return b""

        expect(ask() == b"hello", "the tunnel does not work")
        near.put(stranger.removeprefix(near.head))
        until(10, lambda: expect(ask() == b"", "a stranger was let in"))
    return "a client certificate of another authority: the connection is closed, nothing reaches the server"


@check
def a_tunnel_outlives_the_far_side(world):
    with Peer() as peer:
        far, near, ports = tunnel(world, "mended-tunnel", {"echo": peer.port})

        def ask():
            with socket.create_connection(("127.0.0.1", ports["echo"]), 5) as sock:
                sock.settimeout(2)
                sock.sendall(b"echo\nhello")
                expect(sock.recv(100) == b"hello", "no echo")

        ask()
        text = far.path.read_text().removeprefix(far.head)
        # It goes without a word.
        far.process.kill()
        far.process.wait()
        Gate(world, "mended-tunnel-again", text)
        until(20, ask)
    return "killed and started again: the next connection goes through a new QUIC connection"
