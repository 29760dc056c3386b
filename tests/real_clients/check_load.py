"""Load from h2load and wrk: every request answered, on every protocol, also where the origin closes connections."""

import re
import subprocess

from world import Checks, expect

check = Checks()
SECONDS = 2


def h2load(world, url, *words, requests=20000, clients=16):
    command = ["h2load", "-n", str(requests), "-c", str(clients), *words, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    told = re.search(r"requests: (\d+) total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored", done.stdout)
    expect(told, done.stdout[-300:] + done.stderr[-300:])
    total, _, succeeded, failed, errored = map(int, told.groups())
    rate = re.search(r", ([\d.]+) req/s", done.stdout)
    expect(succeeded == total and failed == 0 and errored == 0, told.group(0))
    return f"{succeeded} succeeded, {float(rate.group(1)):.0f} a second" if rate else told.group(0)


def wrk(url, *words, seconds=SECONDS, connections=64):
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", *words, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30)
    return parse_wrk(done.stdout)


def parse_wrk(text):
    requests = re.search(r"(\d+) requests in", text)
    expect(requests, text)
    sockets = re.search(r"Socket errors: .*", text)
    statuses = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    expect(not sockets and not statuses, f"{sockets and sockets.group(0)} {statuses and statuses.group(0)}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    return f"{requests.group(1)} answered, {float(rate.group(1)):.0f} a second"


def wrk_check(listener, path):
    def run(world):
        scheme = "https" if listener == "secure" else "http"
        return wrk(f"{scheme}://localhost:{getattr(world, listener)}{path}")

    return run


def h2load_check(listener, path, *words):
    def run(world):
        scheme = "https" if listener == "secure" else "http"
        return h2load(world, f"{scheme}://localhost:{getattr(world, listener)}{path}", *words)

    return run


# nginx closes each connection after 200 requests here: every request that meets such an end must be sent again unseen.
check.add("wrk by HTTP/1.1 to HTTP/1.1", wrk_check("plain", "/h1/small"))
check.add("wrk by HTTP/1.1 to a unix socket", wrk_check("plain", "/unix/small"))
check.add("wrk by TLS to HTTP/1.1 over TLS", wrk_check("secure", "/h1-tls/small"))
check.add("wrk by HTTP/1.1 to h2c", wrk_check("plain", "/h2c/small"))
check.add("wrk by TLS to HTTP/2 over TLS", wrk_check("secure", "/h2-tls/small"))
check.add("h2load by HTTP/1.1 to HTTP/1.1", h2load_check("plain", "/h1/small", "--h1"))
check.add("h2load by h2c to HTTP/1.1", h2load_check("plain", "/h1/small", "-m", "16"))
check.add("h2load by h2c to h2c", h2load_check("plain", "/nghttpd/small", "-m", "32"))
check.add("h2load by h2c to h2c that ends its sessions", h2load_check("plain", "/h2c/small", "-m", "32"))
check.add("h2load by TLS to HTTP/2 over TLS", h2load_check("secure", "/h2-tls/small", "-m", "32"))


@check
def h2load_uploads_by_TLS(world):
    data = world.folder / "small-upload"
    data.write_bytes(b"u" * 65536)
    return h2load(world, f"https://localhost:{world.secure}/odd/status/200", "-m", "8", "-d", str(data), requests=2000)


@check
def a_new_connection_for_each_request(world):
    told = wrk(f"http://localhost:{world.plain}/h1/small", "-H", "Connection: close", connections=16)
    return told
