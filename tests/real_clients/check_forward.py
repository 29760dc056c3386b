"""Forward mode: programs that are pointed at Tidegate as at their proxy."""

import asyncio
import base64
import crypt
import hashlib
import json
import socket
import ssl
import subprocess
import time

from aioquic.buffer import Buffer, BufferReadError, encode_uint_var
from aioquic.quic.connection import QuicConnection
from browser import Browser
from check_udp import dnsmasq_server
from quic import Http3, configuration, conversation, dial
from world import Checks, Tidegate, expect, free_ports

check = Checks()

PAGE = "<!doctype html><title>forwarded</title><link rel=icon href=data:,><script src=/script.js></script>"


class Outbound:
    """A Tidegate with a cleartext and a TLS proxy, one that wants to know who asks, and a site of its own to go to."""

    def __init__(self, world, name):
        self.clear, self.secure, self.members, self.site, self.secure_site = ports = free_ports(5)
        tls = f'tls.certificates = [{{ cert = "{world.folder}/localhost.pem", key = "{world.folder}/localhost.key" }}]'
        # Another implementation's bcrypt than ours.
        users = world.folder / f"{name}-users"
        users.write_text(f"ann:{crypt.crypt('secret', '$2b$04$' + 'abcdefghijklmnopqrstuO')}\n")
        proxy = 'mode = "forward"\nforward.allow = "127.0.0.0/8:*"\nforward.deny = "denied.test:*"'
        self.gate = Tidegate(world, name, f"""
[server]
workers = 1
[server.access_log]
output = "{world.folder}/{name}.log"
[[listener]]
name = "clear"
bind = "127.0.0.1:{self.clear}"
{proxy}
[[listener]]
name = "secure"
bind = "127.0.0.1:{self.secure}"
{tls}
{proxy}
[[listener]]
name = "members"
bind = "127.0.0.1:{self.members}"
forward.users = "{users}"
{proxy}
[[listener]]
name = "site"
bind = "127.0.0.1:{self.site}"
[[listener]]
name = "secure-site"
bind = "127.0.0.1:{self.secure_site}"
{tls}
[[route]]
path = "/"
respond = {{ body = '''{PAGE}''', content_type = "text/html" }}
[[route]]
path = "/script.js"
respond = {{ body = "var loaded = location.protocol", content_type = "text/javascript" }}
""", ports, {"SSL_CERT_FILE": str(world.folder / "ca.pem")})
        world.extra.append(self.gate)
        self.log_path = world.folder / f"{name}.log"

    def log(self, wanted):
        """The lines of the access log, once there are as many."""
        deadline = time.monotonic() + 5
        while True:
            text = self.log_path.read_text() if self.log_path.exists() else ""
            lines = [json.loads(line) for line in text.splitlines()]
            if len(lines) >= wanted or time.monotonic() > deadline:
                return lines
            time.sleep(0.05)


@check
def curl_goes_through_a_proxy(world):
    out = Outbound(world, "forward-curl")
    proxy = ["-x", f"http://127.0.0.1:{out.clear}"]
    plain = world.curl(f"http://127.0.0.1:{world.nginx_h1}/small", *proxy)
    expect(plain.status == 200 and plain.body == (world.folder / "documents/small").read_bytes(), f"{plain}")
    for words in (["--http1.1"], ["--http2"]):
        tunnelled = world.curl(f"https://localhost:{world.nginx_tls}/big", *proxy, *words)
        expect(tunnelled.body == world.big and tunnelled.statuses[-2:] == [200, 200], f"{words}: {tunnelled} {tunnelled.statuses}")
    over_tls = world.curl(f"https://localhost:{world.nginx_tls}/small", "-x", f"https://localhost:{out.secure}", "--proxy-cacert", str(world.folder / "ca.pem"))
    expect(over_tls.status == 200, f"an HTTPS proxy: {over_tls}")
    denied = world.curl("http://10.0.0.1/", *proxy)
    expect(denied.status == 403 and "destination_ip_prohibited" in denied.header("proxy-status"), f"{denied}")
    nowhere = world.curl("https://denied.test/", *proxy)
    expect(nowhere.exit == 56 and nowhere.statuses == [403], f"{nowhere} {nowhere.statuses}")
    seen = [(line["method"], line["destination"], line["outcome"]) for line in out.log(6)]
    expect(("CONNECT", f"localhost:{world.nginx_tls}", "ok") in seen, f"{seen}")
    expect(("CONNECT", "denied.test:443", "http_request_denied") in seen, f"{seen}")
    return f"{len(seen)} exchanges"


@check
def a_whole_https_url_is_sent_over_tls(world):
    """No client of ours asks so by itself: what has its own TLS asks for a tunnel."""
    out = Outbound(world, "forward-https")
    context = ssl.create_default_context(cafile=str(world.folder / "ca.pem"))
    head = f"GET https://localhost:{world.nginx_tls}/small HTTP/1.1\r\nHost: localhost:{world.nginx_tls}\r\nConnection: close\r\n\r\n".encode()
    answers = []
    for port, wrap in ((out.secure, True), (out.clear, False)):
        with socket.create_connection(("127.0.0.1", port), 10) as plain:
            connection = context.wrap_socket(plain, server_hostname="localhost") if wrap else plain
            connection.sendall(head)
            answers.append(b"".join(iter(lambda: connection.recv(65536), b"")))
    sent, refused = answers
    small = (world.folder / "documents/small").read_bytes()
    expect(sent.startswith(b"HTTP/1.1 200 ") and sent.endswith(small), f"{sent[:300]}")
    expect(refused.startswith(b"HTTP/1.1 400 ") and b"CONNECT" in refused, f"{refused[:300]}")


@check
def curl_says_who_it_is(world):
    out = Outbound(world, "forward-users")
    proxy = ["-x", f"http://127.0.0.1:{out.members}"]
    for url in (f"http://127.0.0.1:{world.nginx_h1}/small", f"https://localhost:{world.nginx_tls}/small"):
        for user, status in ((None, 407), ("ann:wrong", 407), ("ann:secret", 200)):
            words = ["--proxy-user", user] if user else []
            answer = world.curl(url, *proxy, *words)
            expect(answer.statuses[0] == status, f"{user} to {url}: {answer} {answer.statuses}")
    users = {line.get("user") for line in out.log(6) if line["outcome"] == "ok"}
    expect(users == {"ann"}, f"{users}")


@check
def chromium_loads_a_page_through_the_proxy(world):
    out = Outbound(world, "forward-chromium")
    public = subprocess.run(["openssl", "x509", "-in", world.folder / "localhost.pem", "-noout", "-pubkey"], capture_output=True, text=True, check=True).stdout
    pin = base64.b64encode(hashlib.sha256(base64.b64decode("".join(public.strip().split("\n")[1:-1]))).digest()).decode()
    for proxy in (f"http://127.0.0.1:{out.clear}", f"https://127.0.0.1:{out.secure}"):
        words = [f"--proxy-server={proxy}", "--proxy-bypass-list=<-loopback>", f"--ignore-certificate-errors-spki-list={pin}"]
        with Browser(*words) as browser:
            for scheme, port in (("http", out.site), ("https", out.secure_site)):
                page = browser.open(f"{scheme}://localhost:{port}/")
                page.wait("typeof loaded !== 'undefined'", what=f"{scheme} through {proxy}")
                expect(page.run("loaded") == f"{scheme}:", f"{scheme} through {proxy}")
    seen = {(line["listener"], line["protocol"], line["method"]) for line in out.log(6) if "destination" in line and line["outcome"] == "ok"}
    wanted = {("clear", "HTTP/1.1", "GET"), ("secure", "HTTP/2.0", "GET")}
    expect(wanted <= seen, f"{seen}")
    return ", ".join(" ".join(line) for line in sorted(seen))


class Masque(Http3):
    """HTTP/3 with datagrams (RFC 9297)."""

    takes_datagrams = True


class Udp:
    """A tunnel for UDP (RFC 9298), and what an inner connection of QUIC takes for its socket."""

    def __init__(self, line, port, host="127.0.0.1"):
        self.line = line
        path = f"/.well-known/masque/udp/{host}/{port}/"
        self.answer = line.begin("CONNECT", path, ("capsule-protocol", "?1"), end=False, protocol="connect-udp")
        self.in_capsules = 0

    async def opened(self):
        await self.line.until(lambda: self.answer.heads or self.answer.has_ended(), "an answer to CONNECT-UDP")
        expect(self.answer.heads, f"no answer: {self.answer}")
        return self

    def sendto(self, payload, _=None, in_capsule=False):
        datagram = b"\0" + payload
        if in_capsule:
            self.line.send(self.answer, encode_uint_var(0) + encode_uint_var(len(datagram)) + datagram)
        else:
            self.line.http.send_datagram(self.answer.stream.number, datagram)
            self.line.transmit()

    def close(self):
        self.line.send(self.answer, b"", end=True)

    def take(self):
        """The payloads that came, in frames and in capsules."""
        found, self.answer.datagrams = self.answer.datagrams, []
        buffer = Buffer(data=bytes(self.answer.body))
        taken = 0
        try:
            while not buffer.eof():
                kind, value = buffer.pull_uint_var(), buffer.pull_bytes(buffer.pull_uint_var())
                taken = buffer.tell()
                expect(kind == 0, f"a capsule of type {kind}")
                found.append(value)
                self.in_capsules += 1
        except BufferReadError:
            pass
        del self.answer.body[:taken]
        expect(all(datagram[:1] == b"\0" for datagram in found), "a context other than 0")
        return [datagram[1:] for datagram in found]

    async def received(self):
        await self.line.until(lambda: self.answer.datagrams or self.answer.body or self.answer.has_ended(), "a datagram")
        return self.take()


def question(number):
    name = b"".join(bytes([len(label)]) + label for label in (b"h%d" % number, b"check", b"test", b""))
    return number.to_bytes(2) + bytes.fromhex("01000001000000000000") + name + bytes.fromhex("00010001")


@check
@conversation
async def udp_goes_through_the_proxy(world):
    """aioquic speaks CONNECT-UDP: DNS with dnsmasq, and HTTP/3 within HTTP/3."""
    out = Outbound(world, "forward-udp")
    dns = dnsmasq_server(world)
    settings = configuration(world, max_datagram_frame_size=65536, max_datagram_size=1400)
    async with dial(out.secure, settings, Masque) as line:
        refused = await Udp(line, 53, "10.0.0.1").opened()
        told = refused.answer.header("proxy-status")
        expect(refused.answer.status == 403 and "destination_ip_prohibited" in told, f"{refused.answer} {told}")
        names = await Udp(line, dns).opened()
        expect(names.answer.status == 200 and names.answer.header("capsule-protocol") == "?1", f"{names.answer}")
        for number in range(20):
            names.sendto(question(number), in_capsule=number % 2 == 1)
            (reply,) = await names.received()
            expect(reply[:2] == number.to_bytes(2) and reply[-4:] == bytes([192, 0, 2, number]), f"{number}: {reply.hex()}")
        expect(names.in_capsules == 0, f"{names.in_capsules} in capsules")
        names.close()
        # A datagram without a context, and a stream that ends within a capsule (RFC 9297 §3.3).
        for broken, code in ((bytes([0, 0]), 0x33), (bytes([0, 5, 0, 1]), 0x10E)):
            bad = await Udp(line, dns).opened()
            line.send(bad.answer, broken, end=True)
            await line.until(bad.answer.has_ended, "the end of a tunnel")
            expect(bad.answer.stream.reset == code, f"{bad.answer}")
        site = await Udp(line, out.secure_site).opened()
        inner = Http3(QuicConnection(configuration=configuration(world)))
        inner.connection_made(site)

        async def bring():
            while not site.answer.has_ended():
                for payload in await site.received():
                    inner.datagram_received(payload, ("127.0.0.1", out.secure_site))

        bringing = asyncio.create_task(bring())
        inner.connect(("127.0.0.1", out.secure_site))
        await inner.wait_connected()
        page = await inner.get("/")
        expect(page.status == 200 and page.body.decode() == PAGE, f"{page}")
        inner.close()
        site.close()
        await line.until(site.answer.has_ended, "the end of the tunnel")
        await bringing
    seen = {(line["status"], line["destination"], line["outcome"]) for line in out.log(6) if line["method"] == "CONNECT"}
    wanted = {(403, "10.0.0.1:53", "destination_ip_prohibited"), (200, f"127.0.0.1:{dns}", "ok"), (200, f"127.0.0.1:{dns}", "http_request_error"), (200, f"127.0.0.1:{out.secure_site}", "ok")}
    expect(wanted <= seen, f"{seen}")
    return f"20 answers of DNS, a page inside, {site.in_capsules} datagrams in capsules"
