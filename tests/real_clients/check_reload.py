"""Many reloads in a row, each with another configuration, under every kind of load: nothing fails, nothing is closed, no memory is kept."""

import http.client
import os
import signal
import socket
import ssl
import subprocess
import threading
import time

from check_load import h2load, parse_wrk
from world import SMALL, Checks, Tidegate, expect, free_ports

check = Checks()

# In CI; a release is tried with TIDEGATE_RELOADS=1000.
RELOADS = int(os.environ.get("TIDEGATE_RELOADS", "20"))


class Site:
    """A configuration that is another one at each turn."""

    def __init__(self, world, name, watch):
        self.world, self.name, self.watch = world, name, watch
        self.plain, self.secure, self.extra = free_ports(3)
        self.gate = Tidegate(world, name, self.text(0), [self.plain, self.secure])
        world.extra.append(self.gate)

    def text(self, turn):
        f, world = self.world.folder, self.world
        more_endpoint = f', {{ address = "unix:{world.nginx_socket}", weight = {turn % 3 + 1} }}' if turn % 2 else ""
        more_route = f'[[route]]\npath = "/more-{turn}/*"\nrespond = {{ body = "more" }}\n' if turn % 3 else ""
        more_listener = f'[[listener]]\nname = "extra"\nbind = "127.0.0.1:{self.extra}"\n' if turn % 2 else ""
        more_upstream = f'[upstream.other-{turn}]\nendpoints = ["127.0.0.1:{world.dead}"]\n' if turn % 5 == 1 else ""
        balance = ["round-robin", "least-requests", "random"][turn % 3]
        return f"""
[server]
workers = 2
drain_timeout = "{turn % 4 + 5}s"
watch = {str(self.watch).lower()}

[server.admin]
bind = "unix:{f}/{self.name}.sock"

[[listener]]
name = "plain"
bind = "127.0.0.1:{self.plain}"
limits = {{ max_connections = {400 + turn % 7 * 50}, max_headers = {60 + turn % 9} }}
timeouts = {{ idle = "{60 + turn % 10}s" }}

[[listener]]
name = "secure"
bind = "127.0.0.1:{self.secure}"
tls.certificates = [{{ cert = "{f}/localhost.pem", key = "{f}/localhost.key" }}]
socket = {{ user_timeout = "{30 + turn % 5}s" }}

{more_listener}
[[route]]
name = "small"
path = "/small"
upstream = "pool"
timeouts = {{ response = "{20 + turn % 5}s" }}

[[route]]
name = "over-h2"
path = "/h2/*"
strip_prefix = "/h2"
upstream = "over-h2"

[[route]]
name = "turn"
path = "/turn"
respond = {{ body = "{turn}" }}

{more_route}
[upstream.pool]
endpoints = ["127.0.0.1:{world.nginx_h1}"{more_endpoint}]
balance = "{balance}"
pool = {{ idle_timeout = "{20 + turn % 6}s" }}

[upstream.over-h2]
endpoints = ["127.0.0.1:{world.nginx_h2}"]
tls = {{ ca = "{f}/ca.pem", server_name = "localhost" }}

{more_upstream}
"""

    def put(self, turn):
        """Writes the file as editors do and says so unless it is watched; returns when every new request meets it."""
        beside = self.gate.path.with_suffix(".new")
        beside.write_text(self.text(turn))
        beside.rename(self.gate.path)
        if not self.watch and turn % 3 == 0:
            told = self.command()
            expect(told.returncode == 0 and b"route turn: respond" in told.stdout, f"turn {turn}: {told}")
        elif not self.watch:
            self.gate.reload()
        deadline = time.monotonic() + 10
        while self.ask(self.plain, "/turn") != str(turn).encode():
            expect(time.monotonic() < deadline, f"turn {turn} is not in force after 10 s")
            time.sleep(0.005)
        if turn % 2:
            # The listener that comes with every second turn is bound before the turn is in force.
            expect(self.ask(self.extra, "/turn") == str(turn).encode(), f"turn {turn}: the new listener does not serve")

    def command(self):
        return subprocess.run([self.world.binary, "reload", "--config", str(self.gate.path)], capture_output=True, timeout=30)

    @staticmethod
    def ask(port, path):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", path)
        body = connection.getresponse().read()
        connection.close()
        return body


class Client(threading.Thread):
    """Asks until told to stop; on one connection that must never be closed, or on a new one each time."""

    def __init__(self, world, port, path, tls=False, keeps=True):
        super().__init__(daemon=True)
        self.port, self.path, self.keeps = port, path, keeps
        self.context = ssl.create_default_context(cafile=world.folder / "ca.pem") if tls else None
        self.answered, self.connections, self.failed, self.stop = 0, 0, [], False

    def run(self):
        while not self.stop:
            try:
                self.one_connection()
            except Exception as error:
                self.failed.append(f"request {self.answered}, connection {self.connections}: {error!r}")
                time.sleep(0.01)

    def one_connection(self):
        if self.context:
            connection = http.client.HTTPSConnection("localhost", self.port, timeout=20, context=self.context)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        # http.client connects again by itself otherwise.
        connection.auto_open = 0
        connection.connect()
        self.connections += 1
        while not self.stop:
            connection.request("GET", self.path)
            answer = connection.getresponse()
            data = answer.read()
            if answer.status != 200 or data != SMALL:
                self.failed.append(f"{answer.status}, {len(data)} bytes")
            self.answered += 1
            if not self.keeps:
                break
            time.sleep(0.002)
        connection.close()


class H2Load(threading.Thread):
    """h2load over TLS, again and again."""

    def __init__(self, world, url):
        super().__init__(daemon=True)
        self.world, self.url = world, url
        self.runs, self.failed, self.stop = 0, [], False

    def run(self):
        while not self.stop:
            try:
                h2load(self.world, self.url, "-m", "8", requests=8000, clients=4)
                self.runs += 1
            except Exception as failure:
                self.failed.append(str(failure))


def reload_under_load(world, name, turns, watch=False):
    site = Site(world, name, watch)
    keepers = [Client(world, site.plain, "/small"), Client(world, site.plain, "/h2/small")]
    keepers += [Client(world, site.secure, "/small", tls=True)]
    newcomers = [Client(world, site.plain, "/small", keeps=False), Client(world, site.secure, "/small", tls=True, keeps=False)]
    h2 = H2Load(world, f"https://localhost:{site.secure}/small")
    clients = [*keepers, *newcomers]
    wrk = subprocess.Popen(["wrk", "-t1", "-c16", "-d10h", "--timeout", "20s", f"http://localhost:{site.plain}/small"], stdout=subprocess.PIPE, text=True)
    try:
        for thread in [*clients, h2]:
            thread.start()
        sizes = []
        started = time.monotonic()
        for turn in range(1, turns + 1):
            site.put(turn)
            sizes.append(site.gate.resident_kib())
            if turns <= 50:
                # Few would be over before the load has begun.
                time.sleep(0.1)
        took = time.monotonic() - started
    finally:
        for thread in [*clients, h2]:
            thread.stop = True
        wrk.send_signal(signal.SIGINT)
        told = wrk.communicate()[0]
    for thread in [*clients, h2]:
        thread.join(60)
    failed = [f for c in clients for f in c.failed] + h2.failed
    expect(not failed, f"{len(failed)} failures in {turns} reloads: {failed[:4]}")
    closed = sum(c.connections - 1 for c in keepers)
    expect(closed == 0, f"{closed} kept connections were closed")
    expect(h2.runs > 0 or turns < 10, "h2load never came to an end")
    # The first turns fill pools and caches.
    early, late = max(sizes[: max(len(sizes) // 5, 5)]), max(sizes[-5:])
    expect(late < early * 1.25 + 16 * 1024, f"memory grows: {early} KiB after a fifth of the reloads, {late} KiB at the end")
    refused = [line for line in site.gate.log().splitlines() if "reload refused" in line or "panicked" in line]
    expect(not refused, f"{refused[:2]}")
    answered = sum(c.answered for c in clients)
    return (
        f"{turns} reloads in {took:.1f} s; {answered} by clients that count each failure and closed connection, wrk {parse_wrk(told)}, "
        f"{h2.runs} runs of h2load; none failed, none closed; {early} KiB resident early, {late} KiB at the end"
    )


@check
def many_reloads_lose_nothing(world):
    return reload_under_load(world, "reloads", RELOADS)


@check
def many_changes_of_a_watched_file_lose_nothing(world):
    # Each is waited for until the file has come to rest, so there are fewer.
    return reload_under_load(world, "watched", max(RELOADS // 10, 8), watch=True)


@check
def whoever_asks_for_a_reload_is_told_of_a_fault(world):
    site = Site(world, "told", watch=False)
    site.gate.path.write_text(site.text(1).replace("[[listener]]\nname = \"extra\"", "[[listener]]\nnaem = \"extra\""))
    told = site.command()
    line = 1 + site.gate.path.read_text().split("naem")[0].count("\n")
    expect(told.returncode != 0 and f":{line}:1".encode() in told.stderr, f"{told}")
    expect(site.ask(site.plain, "/turn") == b"0", "something has changed")
    site.gate.path.write_text(site.text(0))
    told = site.command()
    expect(told.returncode == 0 and b"nothing changed" in told.stdout, f"{told}")


@check
def a_new_certificate_is_met_without_a_reload(world):
    site = Site(world, "certificates", watch=False)
    world.leaf("renewed", "DNS:localhost,IP:127.0.0.1")
    kept, renewed = (ssl.PEM_cert_to_DER_cert((world.folder / f"{n}.pem").read_text()) for n in ("localhost", "renewed"))
    client = Client(world, site.secure, "/small", tls=True)
    client.start()
    old = [(world.folder / f"localhost.{end}").read_bytes() for end in ("pem", "key")]

    def shown():
        context = ssl.create_default_context(cafile=world.folder / "ca.pem")
        with socket.create_connection(("127.0.0.1", site.secure), 5) as sock, context.wrap_socket(sock, server_hostname="localhost") as tls:
            return tls.getpeercert(binary_form=True)

    try:
        expect(shown() == kept, "another certificate than the file's")
        began = time.monotonic()
        for end in ("pem", "key"):
            (world.folder / f"localhost.{end}").write_bytes((world.folder / f"renewed.{end}").read_bytes())
        while shown() != renewed:
            expect(time.monotonic() - began < 10, "the new certificate is not in use after 10 s")
            time.sleep(0.05)
        took = time.monotonic() - began
    finally:
        for end, data in zip(("pem", "key"), old):
            (world.folder / f"localhost.{end}").write_bytes(data)
        client.stop = True
        client.join(10)
    expect(not client.failed and client.connections == 1, f"{client.failed[:2]}, {client.connections} connections")
    expect("new certificate in use" in site.gate.log(), "the log does not say so")
    return f"in use after {took:.2f} s; {client.answered} answered on one connection meanwhile"
