"""TLS on both sides: versions, ALPN, certificates by name, client certificates, resumption, verification of origins."""

import socket
import ssl
import subprocess

from check_exchange import url
from world import Checks, expect

check = Checks()


def s_client(world, port, *words, stdin=b""):
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", str(world.folder / "ca.pem"), *words]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=10)
    return (done.stdout + done.stderr).decode(errors="replace")


@check
def alpn_chooses_h2_then_http_1_1(world):
    for offered, chosen in (("h2,http/1.1", "h2"), ("http/1.1,h2", "h2"), ("http/1.1", "http/1.1")):
        said = s_client(world, world.secure, "-servername", "localhost", "-alpn", offered)
        expect(f"ALPN protocol: {chosen}" in said, f"{offered}: {said[-300:]}")
    without = s_client(world, world.secure, "-servername", "localhost")
    expect("No ALPN negotiated" in without, without[-300:])


@check
def versions_from_1_2_on(world):
    for version, works in (("1.0", False), ("1.1", False), ("1.2", True), ("1.3", True)):
        answer = world.curl(url(world, "secure", "/word"), "--ciphers", "DEFAULT@SECLEVEL=0", f"--tlsv{version}", "--tls-max", version)
        expect((answer.exit == 0) == works, f"TLS {version}: {answer}")
    only13 = world.curl(url(world, "members", "/word"), "--tlsv1.2", "--tls-max", "1.2", *identity(world, "client"))
    expect(only13.exit != 0, f"min_version 1.3 and TLS 1.2: {only13}")


@check
def the_certificate_follows_the_name_asked_for(world):
    seen = {}
    for name in ("localhost", "example.test", "deep.example.test", "unknown.test", None):
        context = ssl.create_default_context(cafile=str(world.folder / "ca.pem"))
        context.check_hostname = False
        with socket.create_connection(("127.0.0.1", world.secure), 5) as sock:
            with context.wrap_socket(sock, server_hostname=name) as secure:
                seen[name] = dict(field[0] for field in secure.getpeercert()["subject"])["commonName"]
    wanted = {"localhost": "localhost", "example.test": "example", "deep.example.test": "example",
              "unknown.test": "localhost", None: "localhost"}
    expect(seen == wanted, f"{seen}")


@check
def a_request_for_a_name_of_another_certificate_is_421(world):
    for words in (["--http2"], ["--http1.1"]):
        answer = world.curl(url(world, "secure", "/word"), *words, "-H", "Host: www.example.test")
        expect(answer.status == 421, str(answer))


def identity(world, name):
    return ["--cert", str(world.folder / f"{name}.pem"), "--key", str(world.folder / f"{name}.key")]


@check
def client_certificates(world):
    seen = {}
    for listener in ("secure", "members"):
        for name in (None, "client", "stranger"):
            answer = world.curl(url(world, listener, "/word"), *(identity(world, name) if name else []))
            seen[listener, name] = answer.exit == 0 and answer.status == 200
    wanted = {("secure", None): True, ("secure", "client"): True, ("secure", "stranger"): False,
              ("members", None): False, ("members", "client"): True, ("members", "stranger"): False}
    expect(seen == wanted, f"{seen}")


@check
def sessions_resume_and_survive_a_reload(world):
    session = str(world.folder / "session")
    request = b"GET /word HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    words = ["-servername", "localhost", "-ign_eof", "-tls1_3"]
    first = s_client(world, world.secure, *words, "-sess_out", session, stdin=request)
    expect("New, TLSv1.3" in first, first[-300:])
    again = s_client(world, world.secure, *words, "-sess_in", session, stdin=request)
    expect("Reused, TLSv1.3" in again, "not resumed")
    world.gate.reload()
    wait_for_log(world)
    after = s_client(world, world.secure, *words, "-sess_in", session, stdin=request)
    expect("Reused, TLSv1.3" in after, "not resumed after a reload")
    words = ["-servername", "localhost", "-ign_eof", "-tls1_2"]
    s_client(world, world.secure, *words, "-sess_out", session, stdin=request)
    old = s_client(world, world.secure, *words, "-sess_in", session, stdin=request)
    expect("Reused, TLSv1.2" in old, "TLS 1.2 not resumed")


def wait_for_log(world):
    """A reload is quick; a request of each listener afterwards meets the new generation."""
    import time

    time.sleep(0.5)


@check
def an_origin_with_the_wrong_name_is_502(world):
    answer = world.curl(url(world, "plain", "/wrong-name"))
    expect(answer.status == 502 and "tls_certificate_error" in (answer.header("proxy-status") or ""), f"{answer} {answer.fields}")
    return answer.header("proxy-status")


@check
def a_handshake_that_never_ends_is_cut(world):
    with socket.create_connection(("127.0.0.1", world.strict_secure), 5) as sock:
        sock.settimeout(6)
        sock.sendall(b"\x16\x03\x01\x02")
        try:
            data = sock.recv(100)
        except ConnectionError:
            data = b""
        except TimeoutError:
            data = None
        expect(data is not None, "still open after 6 s with a deadline of 1 s")


@check
def garbage_on_a_tls_port_ends_that_connection_only(world):
    reply = world.raw(world.secure, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 5)
    expect(reply.closed, str(reply))
    expect(world.curl(url(world, "secure", "/word")).status == 200, "no longer serves")
