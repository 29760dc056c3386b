"""Whole exchanges: every way in to every kind of origin, and the details of HTTP that a proxy easily gets wrong."""

import hashlib
import json
import re
import subprocess

from world import BIG_BYTES, SMALL, Checks, expect

check = Checks()

DOWNSTREAM = {
    "HTTP/1.0": ("plain", ["--http1.0"], "HTTP/1."),
    "HTTP/1.1": ("plain", ["--http1.1"], "HTTP/1.1"),
    "h2c": ("plain", ["--http2-prior-knowledge"], "HTTP/2"),
    "HTTP/1.1 over TLS 1.3": ("secure", ["--http1.1", "--tlsv1.3"], "HTTP/1.1"),
    "HTTP/1.1 over TLS 1.2": ("secure", ["--http1.1", "--tlsv1.2", "--tls-max", "1.2"], "HTTP/1.1"),
    "HTTP/2 over TLS": ("secure", ["--http2"], "HTTP/2"),
}
FILES = ["h1", "unix", "h1-tls", "h2-tls", "h2c", "nghttpd"]


def url(world, listener, path):
    scheme = "https" if listener in ("secure", "members", "strict_secure") else "http"
    return f"{scheme}://localhost:{getattr(world, listener)}{path}"


def echo(answer):
    expect(answer.exit == 0 and answer.status == 200, f"{answer} {answer.body[:200]}")
    return json.loads(answer.body)


def pair_check(down, up):
    listener, words, version = DOWNSTREAM[down]

    def run(world):
        small = world.curl(url(world, listener, f"/{up}/small"), *words)
        expect(small.exit == 0 and small.status == 200 and small.body == SMALL, f"small: {small}")
        expect(small.version.startswith(version), f"answered with {small.version}")
        big = world.curl(url(world, listener, f"/{up}/big"), *words)
        expect(big.exit == 0 and big.body == world.big, f"big: {big}")
        head = world.curl(url(world, listener, f"/{up}/big"), *words, "--head")
        expect(head.status == 200 and head.header("content-length") == str(BIG_BYTES), f"HEAD: {head}")
        missing = world.curl(url(world, listener, f"/{up}/missing"), *words)
        expect(missing.status == 404, f"missing: {missing}")
        part = world.curl(url(world, listener, f"/{up}/big"), *words, "-r", "1000-1999")
        if up != "nghttpd":
            expect(part.status == 206 and part.body == world.big[1000:2000], f"range: {part}")
            fresh = world.curl(url(world, listener, f"/{up}/small"), *words, "-H", f"if-none-match: {small.header('etag')}")
            expect(fresh.status == 304 and not fresh.body, f"304: {fresh}")
        return f"{small.version}; {len(big.body) >> 20} MiB in {big.seconds:.2f} s"

    return run


for _down in DOWNSTREAM:
    for _up in FILES:
        check.add(f"{_down} to {_up}", pair_check(_down, _up))


def upload_check(down):
    listener, words, _ = DOWNSTREAM[down]

    def run(world):
        data = (world.folder / "upload").read_bytes()
        seen = []
        for up in ("odd", "nghttpd"):
            for way, more in {
                "POST": ["--data-binary", f"@{world.folder}/upload", "-H", "Expect:"],
                "PUT": ["-T", str(world.folder / "upload"), "-H", "Expect:"],
                "chunked": ["-X", "POST", "-T", "-", "-H", "Expect:"],
            }.items():
                if way == "chunked" and down == "HTTP/1.0":
                    continue
                stdin = data if way == "chunked" else None
                answer = world.curl(url(world, listener, f"/{up}/echo"), *words, *more, stdin=stdin)
                expect(answer.exit == 0 and answer.status == 200, f"{way} to {up}: {answer}")
                if up == "nghttpd":
                    expect(answer.body == data, f"{way} to {up}: {answer}")
                else:
                    told = json.loads(answer.body)
                    expect(told["sha256"] == hashlib.sha256(data).hexdigest(), f"{way} to {up}: {told['length']} bytes arrived")
                seen.append(f"{way} to {up}")
        return f"{len(data)} bytes each: {', '.join(seen)}"

    return run


for _down in DOWNSTREAM:
    check.add(f"uploads by {_down}", upload_check(_down))


@check
def expect_100_continue_is_answered_without_delay(world):
    words = ["--http1.1", "-H", "Expect: 100-continue", "--expect100-timeout", "5", "--data-binary", f"@{world.folder}/upload"]
    answer = world.curl(url(world, "plain", "/odd/echo"), *words)
    told = echo(answer)
    expect(answer.seconds < 3, f"{answer}: curl waited for the 100")
    expect(told["length"] == (world.folder / "upload").stat().st_size, f"{told['length']} bytes arrived")
    return f"{answer.seconds:.2f} s, statuses {answer.statuses}"


def nghttp_upload(world, listener, path):
    """The status and how the stream ended. Not curl: 7.88 loses an answer that comes with RST_STREAM(NO_ERROR), of nginx too."""
    command = ["nghttp", "-v", "-n", "-H", ":method: POST", "-d", str(world.folder / "upload"), url(world, listener, path)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout
    status = re.search(r":status: (\d+)", said)
    reset = re.search(r"recv RST_STREAM.*\n\s*\(error_code=(\w+)", said)
    return int(status[1]) if status else 0, reset[1] if reset else None


@check
def a_refused_upload_ends_with_413_and_not_with_a_reset(world):
    seen = []
    for listener in ("plain", "secure"):
        whole = world.curl(url(world, listener, "/small-body/echo"), "--http1.1", "--data-binary", f"@{world.folder}/upload")
        expect(whole.status == 413, f"{listener}: {whole}")
        chunked = world.curl(url(world, listener, "/small-body/echo"), "--http1.1", "-X", "POST", "-T", "-",
                             stdin=(world.folder / "upload").read_bytes())
        expect(chunked.status == 413, f"{listener}, unknown length: {chunked}")
        # RFC 9113 §8.1: the answer is whole, then the rest of the request is declined without an error.
        status, reset = nghttp_upload(world, listener, "/small-body/echo")
        expect(status == 413 and reset in (None, "NO_ERROR"), f"{listener}, HTTP/2: {status}, reset with {reset}")
        seen.append(f"{listener}: {whole.status}, {chunked.status}, {status} with {reset}")
    return "; ".join(seen)


@check
def an_early_answer_arrives_while_the_upload_goes_on(world):
    seen = []
    for listener in ("plain", "secure"):
        answer = world.curl(url(world, listener, "/odd/refuse-early"), "--http1.1", "--data-binary", f"@{world.folder}/upload")
        expect(answer.status == 413 and answer.body == b"too much\n", f"{listener}: {answer}")
        status, reset = nghttp_upload(world, listener, "/odd/refuse-early")
        expect(status == 413 and reset in (None, "NO_ERROR"), f"{listener}, HTTP/2: {status}, reset with {reset}")
        seen.append(f"{listener}: {answer.status}, {status} with {reset}")
    return "; ".join(seen)


@check
def bodies_of_unknown_length_end_as_each_protocol_ends_them(world):
    seen = []
    for down, (listener, words, _) in DOWNSTREAM.items():
        answer = world.curl(url(world, listener, "/odd/close-delimited"), *words)
        expect(answer.exit == 0 and answer.body == b"z" * 300000, f"{down}: {answer}")
        chunked = world.curl(url(world, listener, "/odd/chunked"), *words)
        expect(chunked.exit == 0 and chunked.body == b"hello" * 3, f"{down}: {chunked} {chunked.body}")
        seen.append(f"{down}: {answer.header('transfer-encoding') or answer.header('content-length') or 'to the end'}")
    return "; ".join(seen)


@check
def a_204_has_neither_body_nor_length(world):
    for down, (listener, words, _) in DOWNSTREAM.items():
        answer = world.curl(url(world, listener, "/odd/status/204"), *words)
        expect(answer.exit == 0 and answer.status == 204 and not answer.body, f"{down}: {answer}")
        expect(answer.header("transfer-encoding") is None, f"{down}: {answer.fields}")


@check
def an_answer_with_length_and_chunked_is_passed_on_as_one_message(world):
    seen = []
    for down in ("HTTP/1.1", "h2c"):
        listener, words, _ = DOWNSTREAM[down]
        answer = world.curl(url(world, listener, "/odd/length-and-chunked"), *words)
        whole = answer.exit == 0 and answer.status == 200 and answer.body == b"hi" and answer.header("content-length") in (None, "2")
        expect(whole or answer.status == 502, f"{down}: {answer} {answer.fields}")
        seen.append(f"{down}: {answer.status}")
    return ", ".join(seen)


@check
def trailers_of_an_h2_origin_reach_an_h2_client(world):
    command = ["nghttp", "-v", "-n", "-H", "te: trailers", url(world, "secure", "/nghttpd/small")]
    said = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout
    expect(":status: 200" in said and "x-check: whole" in said, said[-400:])


@check
def the_origin_is_told_who_asked_and_how(world):
    seen = []
    for down in ("HTTP/1.1", "HTTP/2 over TLS"):
        listener, words, _ = DOWNSTREAM[down]
        told = echo(world.curl(url(world, listener, "/odd/echo?q=1"), *words, "-H", "X-Forwarded-For: 6.6.6.6"))
        fields = {n.lower(): v for n, v in told["headers"]}
        scheme = "https" if listener == "secure" else "http"
        expect(fields.get("x-forwarded-for") == "127.0.0.1", f"{down}: {fields}")
        expect(fields.get("x-forwarded-proto") == scheme, f"{down}: {fields}")
        expect(fields.get("x-forwarded-host", "").startswith("localhost"), f"{down}: {fields}")
        expect("tidegate" in fields.get("via", ""), f"{down}: {fields}")
        expect(fields.get("host") == f"localhost:{getattr(world, listener)}", f"{down}: {fields}")
        expect(told["target"] == "/echo?q=1" and told["version"] == "HTTP/1.1", f"{down}: {told}")
        seen.append(f"{down}: via {fields['via']}")
    return "; ".join(seen)


@check
def hop_by_hop_fields_stop_here(world):
    told = echo(world.curl(url(world, "plain", "/odd/echo"), "-H", "Connection: x-private, keep-alive", "-H", "X-Private: 1",
                           "-H", "Keep-Alive: timeout=5", "-H", "Proxy-Connection: keep-alive", "-H", "TE: gzip", "-H", "X-Kept: 1"))
    names = {n.lower() for n, _ in told["headers"]}
    expect("x-kept" in names, f"{names}")
    gone = {"x-private", "keep-alive", "proxy-connection", "te"} & names
    expect(not gone, f"arrived at the origin: {gone}")


@check
def a_missing_host_is_400_on_1_1_and_fine_on_1_0(world):
    on11 = world.curl(url(world, "plain", "/word"), "--http1.1", "-H", "Host:")
    on10 = world.curl(url(world, "plain", "/word"), "--http1.0", "-H", "Host:")
    expect(on11.status == 400 and on10.status == 200, f"1.1: {on11}; 1.0: {on10}")


@check
def an_absolute_target_decides_the_host(world):
    told = echo(world.curl(url(world, "plain", "/"), "--http1.1", "--request-target", "http://other.test/odd/echo",
                           "-H", "Host: elsewhere.test"))
    hosts = [v for n, v in told["headers"] if n.lower() == "host"]
    expect(hosts == ["other.test"] and told["target"] == "/echo", f"{hosts} {told['target']}")


@check
def options_asterisk_is_not_a_path(world):
    answer = world.curl(url(world, "plain", "/"), "--http1.1", "-X", "OPTIONS", "--request-target", "*")
    expect(answer.exit == 0 and answer.status in (200, 204, 400, 404, 501), str(answer))
    wrong = world.curl(url(world, "plain", "/"), "--http1.1", "--request-target", "*")
    expect(wrong.status == 400, f"GET *: {wrong}")
    return f"{answer.status}"


@check
def dot_segments_do_not_leave_their_route(world):
    seen = []
    for path in ("/odd/a/../b", "/odd/../word", "/odd/%2e%2e/word", "/odd//twice"):
        answer = world.curl(url(world, "plain", path), "--http1.1", "--path-as-is")
        if answer.status == 200 and answer.body.startswith(b"{"):
            target = json.loads(answer.body)["target"]
            expect(target.startswith("/"), f"{path} went to the origin as {target}")
            seen.append(f"{path} → {target}")
        else:
            expect(answer.status in (200, 400, 404), f"{path}: {answer}")
            seen.append(f"{path} → {answer.status}")
    return ", ".join(seen)


@check
def connect_is_refused(world):
    reply = world.raw(world.plain, b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n", 3)
    expect(400 <= reply.status < 600, str(reply))
    return str(reply.status)


@check
def redirects_and_fixed_answers(world):
    word = world.curl(url(world, "plain", "/word"))
    expect(word.status == 200 and word.body == b"one\n", str(word))
    moved = world.curl(f"http://localhost:{world.plain}/moved/a?b=c")
    location = moved.header("location") or ""
    expect(moved.status == 307 and re.fullmatch(r"https://localhost(:\d+)?/elsewhere/moved/a\?b=c", location), f"{moved} {location}")
    return location


@check
def no_route_is_404_with_its_reason(world):
    answer = world.curl(url(world, "plain", "/nowhere"), "-H", "Accept: application/json")
    expect(answer.status == 404, str(answer))
    expect("destination_not_found" in (answer.header("proxy-status") or ""), f"{answer.fields}")
    return answer.header("proxy-status")


@check
def many_streams_on_one_h2_connection(world):
    words = []
    for _ in range(30):
        words += ["-o", "/dev/null", "-w", "%{http_version} %{http_code} %{size_download}\n", url(world, "secure", "/h2c/big")]
    answer = world.curl(words.pop(), *words, "--http2", "-Z", seconds=60)
    # In the middle of the one that goes to stdout.
    whole = answer.body.count(f"2 200 {BIG_BYTES}\n".encode())
    expect(answer.exit == 0 and whole == 30, f"{answer}: {whole} whole of 30")
    return f"30 × {BIG_BYTES >> 20} MiB at once in {answer.seconds:.1f} s"
