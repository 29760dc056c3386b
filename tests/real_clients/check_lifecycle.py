"""Reload and drain under load: nobody loses a request."""

import hashlib
import http.client
import re
import signal
import subprocess
import threading
import time

from check_exchange import url
from check_load import h2load, parse_wrk
from world import BIG_BYTES, Checks, expect, until, wait_for_port

check = Checks()


@check
def reload_under_load_loses_no_request(world):
    try:
        return reload_twelve_times(world)
    finally:
        world.gate.write(world.shared_config())
        world.gate.reload()
        time.sleep(0.3)


def reload_twelve_times(world):
    began = [f"http://localhost:{world.plain}/h1/small", f"https://localhost:{world.secure}/h2c/small"]
    loads = [subprocess.Popen(["wrk", "-t1", "-c32", "-d4s", u], stdout=subprocess.PIPE, text=True) for u in began]
    h2 = []
    streams = threading.Thread(target=lambda: h2.append(h2load_quietly(world, requests=60000)))
    streams.start()
    for number in range(12):
        time.sleep(0.25)
        world.gate.write(world.shared_config(word=f"generation-{number}"))
        world.gate.reload()
    told = [parse_wrk(load.communicate()[0]) for load in loads]
    streams.join()
    expect(h2 and h2[0][0], f"h2load: {h2}")
    time.sleep(0.3)
    word = world.curl(url(world, "plain", "/word"))
    expect(word.body == b"generation-11\n", f"the last file is not in force: {word.body}")
    return f"12 reloads; {told}; {h2[0][1]}"


def h2load_quietly(world, requests):
    try:
        return True, h2load(world, f"https://localhost:{world.secure}/h2-tls/small", "-m", "16", requests=requests)
    except Exception as failure:
        return False, str(failure)


@check
def a_file_with_a_fault_changes_nothing(world):
    before = world.curl(url(world, "plain", "/word")).body
    world.gate.write(world.shared_config(word="never") + '\n[[route]]\nupstream = "no-such-upstream"\n')
    world.gate.reload()
    time.sleep(0.5)
    after = world.curl(url(world, "plain", "/word")).body
    log = world.gate.log()
    world.gate.write(world.shared_config())
    world.gate.reload()
    expect(before == after == b"one\n", f"{before} {after}")
    expect("no-such-upstream" in log, "the log does not name the fault")


@check
def a_reload_opens_and_closes_listeners(world):
    from world import free_ports

    port = free_ports(1)[0]
    more = f'\n[[listener]]\nname = "more"\nbind = "127.0.0.1:{port}"\n'
    world.gate.write(world.shared_config() + more)
    world.gate.reload()
    wait_for_port(port, 5)
    expect(world.curl(f"http://localhost:{port}/word").status == 200, "the new listener does not serve")
    world.gate.write(world.shared_config())
    world.gate.reload()
    closed = lambda: expect(world.curl(f"http://localhost:{port}/word").exit == 7, "the listener that went still accepts after 5 s")
    until(5, closed)


class Client(threading.Thread):
    """A well-behaved HTTP/1.1 client: it keeps its connection while it may, and says how each request ended."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port = port
        self.answered, self.failed, self.ended = 0, [], None

    def run(self):
        while self.ended is None:
            self.one_connection()

    def one_connection(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.connect()
        except ConnectionRefusedError:
            self.ended = "refused"
            return
        except OSError as error:
            # Closed while it waited in the accept queue: nothing was asked yet.
            self.ended = f"not connected: {error}"
            return
        used = 0
        while True:
            try:
                connection.request("GET", "/h1/small")
                answer = connection.getresponse()
                data = answer.read()
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as error:
                # RFC 9112 §9.3.1: an idle connection may be closed at any time, and a client then asks again. A connection on which
                # nothing was ever answered is another matter.
                if used == 0:
                    self.failed.append(f"new connection: {error!r}")
                return
            except Exception as error:
                self.failed.append(repr(error))
                return
            if answer.status != 200 or len(data) != 1020:
                self.failed.append(f"{answer.status}, {len(data)} bytes")
            self.answered += 1
            used += 1
            if (answer.getheader("connection") or "").lower() == "close":
                return


@check
def term_under_load_loses_no_request(world):
    gate = world.start_own("drained")
    clients = [Client(gate.plain) for _ in range(16)]
    for client in clients:
        client.start()
    download = ["curl", "-sS", "--cacert", str(world.folder / "ca.pem"), "--limit-rate", "12M"]
    slow = [
        subprocess.Popen([*download, "--http2", f"https://localhost:{gate.secure}/h1/big"], stdout=subprocess.PIPE),
        subprocess.Popen([*download, "--http1.1", f"http://localhost:{gate.plain}/h2c/big"], stdout=subprocess.PIPE),
    ]
    bodies = []
    readers = [threading.Thread(target=lambda p=p: bodies.append(p.communicate()[0])) for p in slow]
    for reader in readers:
        reader.start()
    time.sleep(0.8)
    started = time.monotonic()
    gate.signal(signal.SIGTERM)
    code = gate.wait(15)
    took = time.monotonic() - started
    for thread in [*readers, *clients]:
        thread.join(10)
    failed = [f for c in clients for f in c.failed]
    answered = sum(c.answered for c in clients)
    expect(not failed, f"{len(failed)} of {answered} failed: {failed[:3]}")
    expect(code == 0, f"exit {code} after {took:.1f} s")
    whole = [hashlib.sha256(b).digest() for b in bodies] == [hashlib.sha256(world.big).digest()] * 2
    expect(whole, f"downloads under way: {[len(b) for b in bodies]} of {BIG_BYTES} bytes, curl's exits {[p.returncode for p in slow]}")
    return f"{answered} answered, none failed; two downloads under way finished; it left after {took:.1f} s"


@check
def idle_connections_do_not_hold_up_a_drain(world):
    gate = world.start_own("idle")
    kept = [http.client.HTTPConnection("127.0.0.1", gate.plain, timeout=5) for _ in range(20)]
    for connection in kept:
        connection.request("GET", "/word")
        connection.getresponse().read()
    started = time.monotonic()
    gate.signal(signal.SIGTERM)
    code = gate.wait(10)
    took = time.monotonic() - started
    expect(code == 0 and took < 3, f"exit {code} after {took:.1f} s")
    return f"left after {took:.2f} s"


@check
def a_drain_ends_at_its_timeout(world):
    gate = world.start_own("stuck", drain_timeout="2s")
    command = ["curl", "-sS", "-o", "/dev/null", "--limit-rate", "10k", f"http://localhost:{gate.plain}/h1/big"]
    stuck = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    started = time.monotonic()
    gate.signal(signal.SIGTERM)
    code = gate.wait(10)
    took = time.monotonic() - started
    stuck.kill()
    stuck.wait()
    expect(code is not None and 1.5 < took < 5, f"exit {code} after {took:.1f} s with a drain_timeout of 2 s")
    return f"exit {code} after {took:.1f} s"


@check
def a_second_int_leaves_at_once(world):
    gate = world.start_own("impatient-operator")
    command = ["curl", "-sS", "-o", "/dev/null", "--limit-rate", "10k", f"http://localhost:{gate.plain}/h1/big"]
    stuck = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    gate.signal(signal.SIGINT)
    time.sleep(0.5)
    started = time.monotonic()
    gate.signal(signal.SIGINT)
    code = gate.wait(5)
    stuck.kill()
    stuck.wait()
    expect(code is not None and time.monotonic() - started < 1.5, f"exit {code}")
    return f"exit {code}"


@check
def the_log_has_neither_panics_nor_errors(world):
    log = world.gate.log()
    bad = [line for line in log.splitlines() if re.search(r"panicked|\bERROR\b", line) and "no-such-upstream" not in line]
    # The check of a faulty file above leaves its fault in the log on purpose.
    bad = [line for line in bad if "reload" not in line.lower() and "configuration" not in line.lower()]
    expect(not bad, f"{len(bad)}: {bad[:3]}")
