"""Datagrams between programs that others wrote: dig with dnsmasq and Unbound, iperf3, and Chromium with Caddy over QUIC."""

import base64
import concurrent.futures
import hashlib
import json
import re
import shutil
import socket
import struct

from check_layer4 import Gate, iperf_server, once, relay, run
from world import Checks, expect, free_ports, until

check = Checks()

PROGRAMS = ("dig", "dnsmasq", "unbound", "iperf3", "caddy", "chromium")


def datagrams(listen, endpoints, name="udp", listener="", upstream=""):
    addresses = ", ".join(f'"127.0.0.1:{port}"' for port in endpoints)
    return f"""
[[listener]]
name = "{name}"
bind = "{listen}"
mode = "udp"
upstream = "{name}"
{listener}

[upstream.{name}]
endpoints = [{addresses}]
{upstream}
"""


def udp_gate(world, name, config, **options):
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    expect(not missing, f"not installed: {', '.join(missing)} (`.ci/run packages` installs them)")
    return Gate(world, name, config, **options)


def dig(*words):
    told = run("dig", "+short", "+tries=3", "+timeout=1", *words)
    # Where it had to ask again it says so.
    return "\n".join(line for line in told.split("\n") if line and not line.startswith(";"))


# --- DNS


@once
def dnsmasq_server(world):
    """Names h0 to h999 with an address each, and a text that fills more than one packet of most networks."""
    (port,) = free_ports(1)
    hosts = world.folder / "hosts"
    hosts.write_text("".join(f"192.0.2.{n % 250} h{n}.check.test\n" for n in range(1000)))
    # One text of 250 bytes after the other.
    text = ",".join(f'"{chr(97 + n) * 250}"' for n in range(12))
    world.spawn("dnsmasq", "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", f"--port={port}", "--no-resolv",
                "--no-hosts", f"--addn-hosts={hosts}", "--listen-address=127.0.0.1", "--bind-interfaces", "--user=root",
                "--edns-packet-max=4096", "--pid-file=", f"--txt-record=long.check.test,{text}")
    until(10, lambda: expect(dig("@127.0.0.1", "-p", port, "h7.check.test") == "192.0.2.7", "dnsmasq does not answer"))
    return port


@check
def dns_answers_come_to_whoever_asked_over_both_families(world):
    """A thousand questions of several dig at once, each with the answer that belongs to it."""
    any_port, v6_port = free_ports(2)
    config = datagrams(f":{any_port}", [dnsmasq_server(world)], "any") + datagrams(f"[::1]:{v6_port}", [dnsmasq_server(world)], "v6")
    gate = udp_gate(world, "udp-dns", config)
    until(10, lambda: dig("@127.0.0.1", "-p", any_port, "h1.check.test"))

    def ask(server):
        address, port, begin = server
        batch = world.folder / f"questions-{address.replace(':', '_')}-{begin}"
        batch.write_text("".join(f"h{n}.check.test A\n" for n in range(begin, begin + 125)))
        told = dig(f"@{address}", "-p", port, "-f", batch).split("\n")
        wanted = [f"192.0.2.{n % 250}" for n in range(begin, begin + 125)]
        expect(told == wanted, f"{address}: {len(told)} lines, and not of the answers {[line for line in told if line not in wanted][:5]}")
        return len(told)

    # dig does not take an answer that comes from another address than it asked.
    servers = [("127.0.0.1", any_port), ("127.0.0.99", any_port), ("::1", any_port), ("::1", v6_port)] * 2
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        asked = sum(pool.map(ask, [(address, port, n * 125) for n, (address, port) in enumerate(servers)]))
    long = dig("@127.0.0.1", "-p", any_port, "+bufsize=4096", "+ignore", "long.check.test", "TXT")
    expect(len(long) > 3000, f"the long answer has {len(long)} characters")
    expect(gate.metric("tidegate_datagrams_dropped") == 0, f"{gate.metric('tidegate_datagrams_dropped')} were dropped")
    return f"{asked} answers, one of {len(long)} bytes; {gate.metric('tidegate_datagrams')} datagrams in"


def unbound_server(world, name, address, log=""):
    """Answers its own name; with `log` it asks for a PROXY header before every datagram, and writes down who asked."""
    (port,) = free_ports(1)
    folder = world.folder / f"unbound-{name}"
    folder.mkdir()
    config = folder / "unbound.conf"
    proxied = f"proxy-protocol-port: {port}\n    log-queries: yes" if log else ""
    config.write_text(f"""
server:
    interface: 127.0.0.1@{port}
    do-daemonize: no
    chroot: ""
    username: ""
    use-syslog: no
    logfile: "{log}"
    pidfile: ""
    access-control: 0.0.0.0/0 allow
    module-config: "iterator"
    local-zone: "check.test." static
    local-data: "who.check.test. 0 A {address}"
    {proxied}
remote-control:
    control-enable: no
""")
    process = world.spawn(f"unbound-{name}", "unbound", "-d", "-c", str(config))
    return port, process


def question(number):
    """A question for the address of who.check.test."""
    name = b"".join(bytes([len(part)]) + part for part in (b"who", b"check", b"test")) + b"\0"
    return struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0) + name + struct.pack(">HH", 1, 1)


@check
def unbound_learns_the_client_from_a_header_before_every_datagram(world):
    (port,) = free_ports(1)
    log = world.folder / "unbound-proxied.log"
    server, _ = unbound_server(world, "proxied", "192.0.2.53", log)
    gate = udp_gate(world, "udp-proxied", datagrams(f"127.0.0.1:{port}", [server], upstream='send_proxy_protocol = "v2"'))
    until(15, lambda: expect(dig("-b", "127.0.0.77", "@127.0.0.1", "-p", port, "who.check.test") == "192.0.2.53", "no answer"))
    # One flow: a server that saw the header before the first datagram only would not read the others.
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.bind(("127.0.0.78", 0))
    client.connect(("127.0.0.1", port))
    client.settimeout(5)
    for number in range(20):
        client.send(question(number))
        answer = client.recv(2000)
        expect(answer[:2] == struct.pack(">H", number) and answer[-4:] == bytes([192, 0, 2, 53]), f"{number}: {answer!r}")
    asked = re.findall(r"info: (127\.0\.0\.\d+) who\.check\.test\. A IN", log.read_text())
    expect(set(asked) == {"127.0.0.77", "127.0.0.78"}, f"Unbound was asked by {set(asked)}")
    expect(asked.count("127.0.0.78") == 20, f"{asked.count('127.0.0.78')} questions of 20")
    return f"{len(asked)} questions; {gate.metric('tidegate_flows_started')} flows"


@check
def resolvers_fail_over_to_the_one_that_is_there(world):
    """One of two Unbound is killed: the client's own repetition finds the other, and the flow that ended says why."""
    (port,) = free_ports(1)
    servers = [unbound_server(world, name, f"192.0.2.{n}") for n, name in ((1, "one"), (2, "two"))]
    gate = udp_gate(world, "udp-failover", datagrams(f"127.0.0.1:{port}", [server for server, _ in servers]), workers=1)

    def answers(count):
        return {dig("@127.0.0.1", "-p", port, "who.check.test") for _ in range(count)}

    until(15, lambda: expect(answers(4) == {"192.0.2.1", "192.0.2.2"}, "not both answer"))
    servers[0][1].kill()
    servers[0][1].wait()
    # dig asks again where it got no answer, from the same port or another.
    expect(answers(10) == {"192.0.2.2"}, "the one that is gone answers")
    refused = re.search(r'^tidegate_session_outcomes_total\{listener="udp",kind="connection_refused"\} (\d+)$', gate.ask("/metrics")[1], re.M)
    expect(refused and int(refused[1]) > 0, "no flow ended in connection_refused")
    expect("panicked" not in gate.log(), gate.log()[-600:])
    return f"after one of two was killed ten of ten were answered, and {refused[1]} flows ended in connection_refused"


# --- bulk


@check
def iperf3_sends_datagrams_both_ways(world):
    """iperf3 speaks TCP beside its datagrams, on the same port: both modes stand side by side."""
    (port,) = free_ports(1)
    server = iperf_server(world)
    buffers = 'socket = { recv_buffer = "4MiB", send_buffer = "4MiB" }'
    config = relay(port, server, "control") + datagrams(f"127.0.0.1:{port}", [server], "data", buffers, buffers)
    gate = udp_gate(world, "udp-iperf", config)
    seen = []
    for words in (("-b", "150M"), ("-b", "150M", "-R"), ("-b", "20M", "-l", "200")):
        told = run("iperf3", "-c", "127.0.0.1", "-p", port, "-u", "-t", "2", "-J", *words)
        end = json.loads(told)["end"]
        expect("sum" in end, f"{words}: {told[-600:]}")
        end = end["sum"]
        expect(end["packets"] > 1000 and end["lost_percent"] < 5, f"{words}: {end}")
        seen.append(f"{' '.join(words)}: {end['packets']} datagrams, {end['lost_packets']} lost")
    return f"{'; '.join(seen)}; {gate.metric('tidegate_datagrams_dropped')} dropped by Tidegate"


# --- QUIC


def caddy_server(world, name):
    """Says which one it is, and what was spoken."""
    (port,) = free_ports(1)
    folder = world.folder / f"caddy-{name}"
    folder.mkdir()
    config = folder / "Caddyfile"
    config.write_text(f"""
{{
    admin off
    auto_https off
    storage file_system {folder}
    servers {{
        protocols h1 h2 h3
    }}
}}
https://:{port} {{
    tls {world.folder}/quic.pem {world.folder}/quic.key
    respond "<i>{name} {{http.request.proto}} {{http.request.host}}</i>"
}}
""")
    world.spawn(f"caddy-{name}", "caddy", "run", "--config", str(config), "--adapter", "caddyfile",
                env={"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "PATH": "/usr/bin"})
    return port


@check
def chromium_reaches_the_server_that_its_name_asks_for_over_quic(world):
    """Chromium shuffles its ClientHello over frames and, with a post-quantum share, over two datagrams."""
    (port,) = free_ports(1)
    world.leaf("quic", "DNS:one.check.test,DNS:two.check.test,DNS:three.check.test")
    one, two = (caddy_server(world, name) for name in ("one", "two"))
    config = f"""
[[listener]]
name = "quic"
bind = "127.0.0.1:{port}"
mode = "udp"
sni = {{ "one.check.test" = "one", default = "two" }}
[upstream.one]
endpoints = ["127.0.0.1:{one}"]
[upstream.two]
endpoints = ["127.0.0.1:{two}"]
"""
    gate = udp_gate(world, "udp-quic", config)
    key = run("openssl", "x509", "-in", world.folder / "quic.pem", "-noout", "-pubkey")
    der = base64.b64decode("".join(key.strip().split("\n")[1:-1]))
    pin = base64.b64encode(hashlib.sha256(der).digest()).decode()

    def visit(name):
        return run(
            "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--enable-quic", f"--origin-to-force-quic-on={name}:{port}", "--host-resolver-rules=MAP *.check.test 127.0.0.1",
            f"--ignore-certificate-errors-spki-list={pin}", f"--user-data-dir={world.folder}/chromium-{name}",
            "--timeout=15000", "--dump-dom", f"https://{name}:{port}/", seconds=60)

    seen = []
    for name, server in (("one.check.test", "one"), ("two.check.test", "two"), ("three.check.test", "two")):

        def look(name=name, server=server):
            told = visit(name)
            expect(f"{server} HTTP/3.0 {name}" in told, f"{name}: {told[-300:]}")

        until(60, look)
        seen.append(f"{name} at {server}")
    expect(gate.metric("tidegate_hellos_refused") == 0, "a ClientHello was refused")
    return f"{', '.join(seen)}; {gate.metric('tidegate_flows_started')} flows"
