"""Requests that are ambiguous, too large, too slow or half: refused, by the deadline, and nobody else notices."""

import socket
import subprocess
import time

from check_exchange import url
from world import HUGE_BYTES, Checks, expect, read_to_end

check = Checks()


def get(*fields, path=b"/odd/echo", version=b"HTTP/1.1", method=b"GET"):
    return method + b" " + path + b" " + version + b"\r\n" + b"".join(f + b"\r\n" for f in fields) + b"\r\n"


AMBIGUOUS = {
    "two Host fields": get(b"Host: a", b"Host: b"),
    "an empty and a full Host": get(b"Host:", b"Host: b"),
    "a Host with a path": get(b"Host: a/b"),
    "user information in the target": get(b"Host: a", path=b"http://user@a/odd/echo"),
    "length and chunked": get(b"Host: a", b"Content-Length: 5", b"Transfer-Encoding: chunked", method=b"POST") + b"0\r\n\r\n",
    "chunked and length": get(b"Host: a", b"Transfer-Encoding: chunked", b"Content-Length: 5", method=b"POST") + b"0\r\n\r\n",
    "two lengths": get(b"Host: a", b"Content-Length: 5", b"Content-Length: 6", method=b"POST") + b"hello!",
    "a list of lengths": get(b"Host: a", b"Content-Length: 5, 6", method=b"POST") + b"hello!",
    "a signed length": get(b"Host: a", b"Content-Length: +5", method=b"POST") + b"hello",
    "a hexadecimal length": get(b"Host: a", b"Content-Length: 0x5", method=b"POST") + b"hello",
    "gzip, chunked": get(b"Host: a", b"Transfer-Encoding: gzip, chunked", method=b"POST") + b"0\r\n\r\n",
    "chunked, chunked": get(b"Host: a", b"Transfer-Encoding: chunked, chunked", method=b"POST") + b"0\r\n\r\n",
    "chunked twice": get(b"Host: a", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", method=b"POST") + b"0\r\n\r\n",
    "identity": get(b"Host: a", b"Transfer-Encoding: identity", method=b"POST"),
    "xchunked": get(b"Host: a", b"Transfer-Encoding: xchunked", method=b"POST"),
    "chunked on HTTP/1.0": get(b"Host: a", b"Transfer-Encoding: chunked", method=b"POST", version=b"HTTP/1.0") + b"0\r\n\r\n",
    "a space before the colon": get(b"Host: a", b"Content-Length : 5", method=b"POST") + b"hello",
    "a folded line": get(b"Host: a", b"X-A: 1\r\n b"),
    "bare line feeds": b"GET /odd/echo HTTP/1.1\nHost: a\n\n",
    "one bare line feed": b"GET /odd/echo HTTP/1.1\r\nHost: a\nX-A: b\r\n\r\n",
    "a NUL in a value": get(b"Host: a", b"X-A: b\0c"),
    "a field without a name": get(b"Host: a", b": b"),
    "a tab in the target": get(b"Host: a", path=b"/odd/\techo"),
    "a fragment in the target": get(b"Host: a", path=b"/odd/echo#frag"),
    "no version": b"GET /odd/echo\r\nHost: a\r\n\r\n",
    "HTTP/1.2 in words": get(b"Host: a", version=b"HTTP/one"),
    "a bare chunk line feed": get(b"Host: a", b"Transfer-Encoding: chunked", method=b"POST") + b"5\nhello\n0\n\n",
    "a chunk size that overflows": get(b"Host: a", b"Transfer-Encoding: chunked", method=b"POST") + b"10000000000000000\r\n",
}


@check
def ambiguous_requests_are_refused_and_the_connection_ends(world):
    wrong, seen = [], []
    for name, data in AMBIGUOUS.items():
        smuggled = get(b"Host: smuggled", path=b"/word")
        reply = world.raw(world.plain, data + smuggled, 3)
        if reply.status not in (400, 501, 505) or not reply.closed or b"one\n" in reply.data:
            wrong.append(f"{name}: {reply}")
        seen.append(reply.status)
    expect(not wrong, "; ".join(wrong))
    return f"{len(seen)} kinds, statuses {sorted(set(seen))}"


@check
def odd_but_clear_requests_pass(world):
    clear = {
        "an empty line before": b"\r\n" + get(b"Host: a", b"Connection: close"),
        "the same length twice": get(b"Host: a", b"Content-Length: 5", b"Content-Length: 5", b"Connection: close", method=b"POST") + b"hello",
        "chunk extensions": get(b"Host: a", b"Transfer-Encoding: chunked", b"Connection: close", method=b"POST")
        + b"5;a=b\r\nhello\r\n0\r\nx-t: 1\r\n\r\n",
        "Chunked with a capital": get(b"Host: a", b"Transfer-Encoding: Chunked", b"Connection: close", method=b"POST") + b"5\r\nhello\r\n0\r\n\r\n",
        "an upper-case host": get(b"Host: LOCALHOST", b"Connection: close"),
    }
    wrong = []
    for name, data in clear.items():
        reply = world.raw(world.plain, data)
        # The same length twice may be refused as well as joined (RFC 9110 §8.6).
        if reply.status != 200 and not (name == "the same length twice" and reply.status == 400):
            wrong.append(f"{name}: {reply}")
    expect(not wrong, "; ".join(wrong))


@check
def pipelined_requests_are_answered_in_order(world):
    data = b"".join(get(b"Host: a", path=b"/word") if i % 2 else get(b"Host: a", path=b"/odd/bytes/%d" % i) for i in range(20))
    data += get(b"Host: a", b"Connection: close", path=b"/word")
    reply = world.raw(world.plain, data)
    lengths = [int(h.split(b"\r\n")[0]) for h in reply.data.lower().split(b"content-length: ")[1:]]
    expect(lengths == [4 if i % 2 else i for i in range(20)] + [4], f"{lengths}")


@check
def a_head_past_the_limit_is_431(world):
    seen = []
    for words in (["--http1.1"], ["--http2-prior-knowledge"]):
        fits = world.curl(url(world, "plain", "/word"), *words, "-H", "x-a: " + "a" * 20000)
        large = world.curl(url(world, "plain", "/word"), *words, "-H", "x-a: " + "a" * 40000)
        many = world.curl(url(world, "plain", "/word"), *words, *[w for i in range(200) for w in ("-H", f"x-{i}: 1")])
        expect(fits.status == 200, f"20 kB by {words[0]}: {fits}")
        expect(large.status == 431, f"40 kB by {words[0]}: {large}")
        expect(many.status == 431, f"200 fields by {words[0]}: {many}")
        seen.append(f"{words[0]}: {large.status}, {many.status}")
    return "; ".join(seen)


@check
def half_a_head_is_ended_by_the_deadline(world):
    for data in (b"", b"G", b"GET /word HTTP/1.1\r\nHost: lo", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
        reply = world.raw(world.strict, data, 6)
        expect(reply.closed and reply.seconds < 4.5, f"after {data!r}: {reply}")
        expect(reply.status in (0, 408) or data.startswith(b"PRI"), f"after {data!r}: {reply}")
    tls = world.raw(world.strict_secure, b"GET /word HTTP/1.1\r\n", 6, tls=True)
    expect(tls.closed and tls.seconds < 4.5, f"over TLS: {tls}")


@check
def a_head_that_drips_is_ended_by_the_deadline(world):
    with world.connect(world.strict) as sock:
        started = time.monotonic()
        sock.settimeout(0.2)
        sock.sendall(b"GET /word HTTP/1.1\r\n")
        data, ended = b"", False
        while not ended and time.monotonic() - started < 6:
            try:
                sock.sendall(b"x-a: b\r\n")
                piece = sock.recv(1000)
                data += piece
                ended = not piece
            except TimeoutError:
                pass
            except ConnectionError:
                ended = True
        took = time.monotonic() - started
    expect(ended and took < 4, f"still open after {took:.1f} s with a deadline of 1 s")
    expect(not data or b" 408 " in data.split(b"\r\n")[0], f"{data[:100]!r}")
    return f"ended after {took:.1f} s, said {data[:20]!r}"


@check
def a_second_head_on_a_connection_has_the_same_deadline(world):
    reply = world.raw(world.strict, get(b"Host: a", path=b"/word"), 6, then=b"GET /word HT")
    expect(reply.closed and reply.seconds < 4.5 and b"one\n" in reply.data, str(reply))


@check
def an_idle_connection_is_closed(world):
    for tls, port in ((False, world.strict), (True, world.strict_secure)):
        reply = world.raw(port, get(b"Host: localhost", path=b"/word"), 8, tls=tls)
        expect(reply.status == 200 and reply.closed and 1.2 < reply.seconds < 6, f"TLS {tls}: {reply}")


@check
def a_body_that_stops_is_ended_by_the_stall_deadline(world):
    reply = world.raw(world.strict, get(b"Host: a", b"Content-Length: 100000", method=b"POST") + b"half", 8)
    expect(reply.closed and reply.seconds < 6, str(reply))
    expect(reply.status in (0, 408, 400), str(reply))
    return str(reply)


@check
def a_client_that_does_not_read_is_ended_by_the_stall_deadline(world):
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", world.strict))
        sock.sendall(get(b"Host: a", path=b"/h1/huge"))
        time.sleep(4)
        sock.settimeout(10)
        started = time.monotonic()
        reply = read_to_end(sock)
        expect(reply.closed and len(reply.data) < HUGE_BYTES // 8, f"{len(reply.data)} bytes, {reply.end}")
        return f"{len(reply.data) >> 10} KiB were under way, {reply.end}, read in {time.monotonic() - started:.1f} s"


@check
def five_hundred_slow_clients_do_not_disturb_others(world):
    slow = []
    try:
        for _ in range(500):
            sock = socket.create_connection(("127.0.0.1", world.plain), 5)
            sock.sendall(b"POST /odd/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf")
            slow.append(sock)
        answers = [world.curl(url(world, "plain", "/h1/small")) for _ in range(20)]
        worst = max(a.seconds for a in answers)
        expect(all(a.status == 200 for a in answers) and worst < 2, f"the slowest took {worst:.2f} s")
        return f"the slowest of 20 requests beside them took {worst * 1000:.0f} ms"
    finally:
        for sock in slow:
            sock.close()


def memory_check(down, words, path, upload):
    """1 GiB passes; the process may not grow by more than 48 MiB."""

    def run(world):
        gate = world.gate
        before = gate.resident_kib()
        target = url(world, "secure" if "TLS" in down else "plain", path)
        command = ["curl", "-sS", "--max-time", "60", "--cacert", str(world.folder / "ca.pem"), *words, "-o", "/dev/null", "-w",
                   "%{http_code} %{size_download} %{size_upload}"]
        if upload:
            command += ["-T", str(world.folder / "documents" / "huge"), "-H", "Expect:"]
        process = subprocess.Popen([*command, target], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        highest, started = before, time.monotonic()
        while process.poll() is None:
            highest = max(highest, gate.resident_kib())
            time.sleep(0.02)
        told, error = process.communicate()
        took = time.monotonic() - started
        fields = told.split()
        moved = int(fields[2] if upload else fields[1]) if len(fields) == 3 else 0
        expect(process.returncode == 0 and fields[0] in ("200", "201") and moved == HUGE_BYTES, f"exit {process.returncode}: {told} {error}")
        expect(highest - before < 48 * 1024, f"the process grew from {before >> 10} to {highest >> 10} MiB")
        return f"1 GiB in {took:.1f} s, memory {before >> 10} → at most {highest >> 10} MiB"

    return run


check.add("memory stays flat: download h1 from h1", memory_check("h1", ["--http1.1"], "/h1/huge", False))
check.add("memory stays flat: download h2 TLS from h2 TLS", memory_check("h2 TLS", ["--http2"], "/h2-tls/huge", False))
check.add("memory stays flat: download h1 from h2c", memory_check("h1", ["--http1.1"], "/h2c/huge", False))
check.add("memory stays flat: upload h1 to h1", memory_check("h1", ["--http1.1"], "/odd/echo", True))
check.add("memory stays flat: upload h2 TLS to h1", memory_check("h2 TLS", ["--http2"], "/odd/echo", True))
check.add("memory stays flat: upload h1 to h2c", memory_check("h1", ["--http1.1"], "/h2c/through", True))
