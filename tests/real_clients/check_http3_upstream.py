"""HTTP/3 behind: origins that others wrote (aioquic, Envoy, Caddy), reached from clients of every version of HTTP."""

import asyncio
import hashlib
import json
import re
import sys

from check_http3 import any_of, envoy, envoy_cluster, envoy_router, log_lines, socket_address
from check_layer4 import Gate
from check_udp import caddy_server
from quic import configuration, conversation, dial
from world import BIG_BYTES, HERE, SMALL, Checks, expect, free_ports, until, wait_for_port

check = Checks()

DOWNSTREAM = {
    "HTTP/1.1": ("plain", ["--http1.1"]),
    "h2c": ("plain", ["--http2-prior-knowledge"]),
    "HTTP/2 over TLS": ("secure", ["--http2"]),
}


def aioquic_origin(world, *words):
    """Port and process of an origin on aioquic."""
    (port,) = free_ports(1)
    f = world.folder
    process = world.spawn("quic-origin", sys.executable, str(HERE / "quic_origin.py"), str(port), str(f / "localhost.pem"), str(f / "localhost.key"), *words)
    wait_for_datagrams(world, port, process)
    return port, process


def wait_for_datagrams(world, port, process):
    """Until a handshake succeeds."""

    def look():
        expect(process.poll() is None, f"{process.args[:2]} left with {process.returncode}")
        asyncio.run(asyncio.wait_for(greet(world, port), 2))

    until(20, look)


async def greet(world, port):
    async with dial(port, configuration(world)):
        pass


class Site(Gate):
    """A Tidegate with one upstream spoken to over HTTP/3, and listeners of every kind in front."""

    def __init__(self, world, name, *endpoints, upstream='protocol = "http3"', more=""):
        self.plain, self.secure = free_ports(2)
        f = world.folder
        addresses = ", ".join(f'"127.0.0.1:{port}"' for port in endpoints)
        super().__init__(world, name, f"""
[[listener]]
name = "plain"
bind = "127.0.0.1:{self.plain}"

[[listener]]
name = "secure"
bind = "127.0.0.1:{self.secure}"
protocols = ["http1", "http2", "http3"]
tls.certificates = [{{ cert = "{f}/localhost.pem", key = "{f}/localhost.key" }}]

[[route]]
upstream = "origin"

[upstream.origin]
endpoints = [{addresses}]
tls = {{ ca = "{f}/ca.pem", server_name = "localhost" }}
{upstream}
{more}
""")

    def url(self, path, listener="plain"):
        return f"{'https' if listener == 'secure' else 'http'}://localhost:{getattr(self, listener)}{path}"


def told(answer):
    expect(answer.exit == 0 and answer.status == 200, f"{answer} {answer.body[:200]}")
    return json.loads(answer.body)


@check
def aioquic_answers_clients_of_every_version(world):
    origin, _ = aioquic_origin(world)
    site = Site(world, "h3-origin", origin)
    upload = (world.folder / "upload").read_bytes()
    digest = hashlib.sha256(upload).hexdigest()
    connections = set()
    for name, (listener, words) in DOWNSTREAM.items():
        seen = told(world.curl(site.url("/echo?a=b", listener), *words, "-H", "X-Mine: yes"))
        expect(seen["method"] == "GET" and seen["path"] == "/echo?a=b" and seen["scheme"] == "https", f"{name}: {seen}")
        expect(["x-mine", "yes"] in seen["headers"] and any(n == "via" for n, _ in seen["headers"]), f"{name}: {seen['headers']}")
        # RFC 9114 §4.2: nothing of the connection before.
        forbidden = {"connection", "host", "transfer-encoding", "keep-alive", "upgrade"} & {n for n, _ in seen["headers"]}
        expect(not forbidden, f"{name}: {forbidden} were sent on")
        connections.add(seen["connection"])
        big = world.curl(site.url("/bytes/1000000", listener), *words)
        expect(big.status == 200 and big.body == b"q" * 1000000, f"{name}: {big}")
        head = world.curl(site.url("/bytes/1000000", listener), *words, "--head")
        expect(head.status == 200 and head.header("content-length") == "1000000", f"{name}: HEAD: {head}")
        none = world.curl(site.url("/status/204", listener), *words)
        expect(none.status == 204 and not none.body, f"{name}: 204: {none}")
        posted = told(world.curl(site.url("/echo", listener), *words, "-H", "Expect:", "--data-binary", f"@{world.folder}/upload"))
        expect(posted["length"] == len(upload) and posted["sha256"] == digest, f"{name}: {posted}")
        chunked = told(world.curl(site.url("/echo", listener), *words, "-X", "POST", "-T", "-", "-H", "Expect:", stdin=upload))
        expect(chunked["sha256"] == digest, f"{name}, no length: {chunked}")
        trailed = world.curl(site.url("/trailers", listener), *words, "-H", "TE: trailers")
        expect(trailed.body == b"hello" and ("x-sum", "5") in trailed.trailers, f"{name}: {trailed} {trailed.trailers}")
    # One connection for each worker that was asked, at most.
    expect(len(connections) <= 2, f"{len(connections)} connections for one client after the other")
    return f"{', '.join(DOWNSTREAM)}: 1 MB down, {len(upload)} bytes up, trailers, HEAD, 204; {len(connections)} connections to the origin"


@check
@conversation
async def http3_from_end_to_end(world):
    origin, _ = await asyncio.to_thread(aioquic_origin, world)
    site = await asyncio.to_thread(Site, world, "h3-both", origin)
    async with dial(site.secure, configuration(world)) as line:
        data = bytes(1 << 20)
        seen = json.loads((await line.ask("POST", "/echo", body=data, trailers=[("x-end", "there")])).body)
        expect(seen["sha256"] == hashlib.sha256(data).hexdigest() and seen["trailers"] == [["x-end", "there"]], f"{seen}")
        hinted = await line.get("/hints")
        expect(hinted.statuses == [103, 103, 200] and hinted.body == b"hinted\n", str(hinted))
        trailed = await line.get("/trailers")
        expect(trailed.body == b"hello" and ("x-sum", "5") in trailed.trailers, f"{trailed.trailers}")
        many = [line.begin("GET", f"/bytes/{200 * n}") for n in range(100)]
        for number, answer in enumerate(many):
            expect(len((await answer.whole()).body) == 200 * number, str(answer))
    return "a request's and an answer's trailers, 103 twice, a hundred answers at once"


@check
@conversation
async def what_an_origin_breaks_is_told_and_not_hidden(world):
    origin, _ = await asyncio.to_thread(aioquic_origin, world)
    site = await asyncio.to_thread(Site, world, "h3-broken", origin)
    async with dial(site.secure, configuration(world)) as line:
        for path in ("/reset", "/short"):
            answer = line.begin("GET", path)
            await line.until(answer.has_ended, f"the end of {path}")
            expect(not answer.is_whole and not line.ended, f"{path}: {answer}")
            over_h1 = await asyncio.to_thread(world.curl, site.url(path))
            expect(over_h1.exit != 0 and over_h1.status == 200, f"{path}, HTTP/1.1: {over_h1}")
        malformed = await line.get("/two-heads")
        expect(malformed.status == 502, f"a malformed head: {malformed}")
        gone = await line.get("/vanish")
        expect(gone.status == 502, f"a connection that is closed: {gone}")
        # RFC 9114 §4.1.1: a request that was rejected was not processed, and may be sent again, POST as well.
        again = await line.ask("POST", "/rejected", body=b"once")
        expect(again.status == 200 and json.loads(again.body)["length"] == 4, f"a rejected request: {again}")
        after = await line.get("/echo")
        expect(after.status == 200, str(after))
    return f"a reset and a short answer end as errors, {malformed.status} and {gone.status}, a rejected POST is sent again"


@check
def an_origin_that_says_goaway_loses_no_request(world):
    origin, _ = aioquic_origin(world)
    site = Site(world, "h3-goaway", origin)
    seen = []
    for _ in range(12):
        answer = world.curl(site.url("/goaway"))
        expect(answer.status == 200, str(answer))
        seen.append(answer.body)
        after = world.curl(site.url("/echo"))
        expect(after.status == 200, str(after))
    expect(len(set(seen)) == len(seen), f"a connection was used after its GOAWAY: {seen}")
    return f"{len(seen)} connections, each left after its GOAWAY"


@check
def an_origin_that_asks_for_a_retry_and_one_that_is_dead(world):
    origin, _ = aioquic_origin(world, "--retry")
    dead, process = aioquic_origin(world)
    process.kill()
    process.wait()
    site = Site(world, "h3-retry-origin", origin, dead, upstream='protocol = "http3"\ntimeouts.connect = "1s"')
    for _ in range(4):
        answer = world.curl(site.url("/echo"))
        expect(answer.status == 200, f"{answer} {answer.header('proxy-status')}")
    alone = Site(world, "h3-dead-origin", dead, upstream='protocol = "http3"\ntimeouts.connect = "1s"')
    answer = world.curl(alone.url("/echo"))
    expect(answer.status in (502, 503, 504) and answer.header("proxy-status"), f"{answer} {answer.fields}")
    return f"Retry is followed; a dead one is passed over, and alone it is {answer.status}, {answer.header('proxy-status')}"


@check
def an_origin_with_the_wrong_certificate_is_502(world):
    origin, _ = aioquic_origin(world)
    f = world.folder
    site = Site(world, "h3-wrong-name", origin, upstream='protocol = "http3"', more=f"""
[[route]]
path = "/wrong"
upstream = "wrong"

[upstream.wrong]
endpoints = ["127.0.0.1:{origin}"]
protocol = "http3"
tls = {{ ca = "{f}/other-ca.pem", server_name = "localhost" }}
""")
    answer = world.curl(site.url("/wrong"))
    expect(answer.status == 502 and "tls_certificate_error" in (answer.header("proxy-status") or ""), f"{answer} {answer.fields}")
    expect(world.curl(site.url("/echo")).status == 200, "the right one does not answer")
    return answer.header("proxy-status")


@check
def envoy_as_an_http3_origin(world):
    (port,) = free_ports(1)
    f = world.folder
    certificate = {"certificate_chain": {"filename": f"{f}/localhost.pem"}, "private_key": {"filename": f"{f}/localhost.key"}}
    secure = any_of("envoy.extensions.transport_sockets.quic.v3.QuicDownstreamTransport",
                    downstream_tls_context={"common_tls_context": {"tls_certificates": [certificate]}})
    chain = {"filters": [envoy_router("nginx", codec_type="HTTP3", http3_protocol_options={})],
             "transport_socket": {"name": "envoy.transport_sockets.quic", "typed_config": secure}}
    listener = {"name": "in", "address": socket_address(port, "UDP"), "udp_listener_config": {"quic_options": {}}, "filter_chains": [chain]}
    clusters = [envoy_cluster("nginx", world.nginx_h1)]
    envoy(world, "envoy-origin", {"static_resources": {"listeners": [listener], "clusters": clusters}})
    # On loopback Envoy 1.40 loses datagrams that were handed to the kernel many at once; aioquic's and Caddy's sockets do not.
    site = Site(world, "h3-envoy-origin", port, upstream='protocol = "http3"\nquic.segmentation_offload = false')
    for name, (where, words) in DOWNSTREAM.items():
        small = world.curl(site.url("/small", where), *words)
        expect(small.status == 200 and small.body == SMALL, f"{name}: {small} {small.body[:200]}")
        big = world.curl(site.url("/big", where), *words)
        expect(big.body == world.big, f"{name}: {big}")
    posted = world.curl(site.url("/through"), "-H", "Expect:", "--data-binary", f"@{f}/upload")
    data = (f / "upload").read_bytes()
    expect(posted.status == 200 and json.loads(posted.body)["sha256"] == hashlib.sha256(data).hexdigest(), str(posted))
    return f"{BIG_BYTES >> 20} MiB to each of {', '.join(DOWNSTREAM)}, {len(data)} bytes up"


@check
def alt_svc_of_caddy_is_followed(world):
    world.leaf("quic", "DNS:localhost,IP:127.0.0.1")
    caddy = caddy_server(world, "origin")
    wait_for_port(caddy, 20)
    site = Site(world, "h3-learned", caddy, upstream="alt_svc = true")

    def spoken():
        answer = world.curl(site.url("/"))
        expect(answer.status == 200, f"{answer} {answer.body[:200]}")
        return re.search(rb"HTTP/[\d.]+", answer.body)[0].decode()

    seen = [spoken()]
    expect(seen == ["HTTP/2.0"], f"first: {seen}")

    def look():
        seen.append(spoken())
        expect(seen[-1] == "HTTP/3.0", f"{seen[-8:]}")

    until(10, look)
    again = {spoken() for _ in range(8)}
    expect("HTTP/3.0" in again, f"{again}")
    # Where an operator looks.
    [endpoint] = [e for u in json.loads(site.ask("/status")[1])["upstreams"] for e in u["endpoints"] if e["alternative"]]
    expect(endpoint["alternative"]["stage"] == "used" and endpoint["alternative"]["failures"] == 0, f"{endpoint}")
    expect('stage="used"} 1' in site.ask("/metrics")[1], "no metric tells of it")
    return f"{seen[0]}, then {seen[-1]} after {len(seen) - 1} more"


@check
def requests_to_http3_origins_are_logged(world):
    origin, _ = aioquic_origin(world)
    site = Site(world, "h3-counted", origin)
    for _ in range(5):
        expect(world.curl(site.url("/echo")).status == 200, "no answer")
    lines = until(10, lambda: log_lines(site, 5))
    expect(all(line["status"] == 200 and line["upstream"] == "origin" for line in lines), f"{lines[:2]}")
    return f"{len(lines)} lines"
