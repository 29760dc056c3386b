"""Layer 4 between programs that others wrote: iperf3, Redis and PostgreSQL through `tcp`, HTTPS origins by `tls-passthrough`, PROXY headers both ways."""

import glob
import hashlib
import http.client
import json
import os
import pathlib
import pwd
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time

from world import HUGE_BYTES, Checks, Tidegate, expect, free_ports, until

check = Checks()

PROGRAMS = ("iperf3", "redis-server", "redis-benchmark", "pgbench", "psql", "haproxy", "ss")
RELOADS = int(os.environ.get("TIDEGATE_RELOADS", "50"))


# --- Tidegate and the servers behind it


class Gate(Tidegate):
    """A Tidegate of one check, with counters to read and a line for each session."""

    def __init__(self, world, name, config, workers=2):
        missing = [program for program in PROGRAMS if not shutil.which(program)]
        expect(not missing, f"not installed: {', '.join(missing)} (`.ci/run packages` installs them)")
        (self.observe,) = free_ports(1)
        self.lines = world.folder / f"{name}-sessions.log"
        self.head = f"""
[server]
workers = {workers}
observe.bind = "127.0.0.1:{self.observe}"
access_log.output = "{self.lines}"
access_log.format = "json"
"""
        # The listeners are up before `/readyz` says so, and no session is needed to find out.
        super().__init__(world, name, self.head + config, [self.observe])
        until(10, lambda: expect(self.ask("/readyz")[0] == 200, "not ready"))
        world.extra.append(self)

    def put(self, config):
        """Replaces the configuration and waits until it is in force."""
        before = self.metric("tidegate_generation")
        self.write(self.head + config)
        self.reload()
        until(10, lambda: expect(self.metric("tidegate_generation") > before, "the reload is not in force"))

    def ask(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.observe, timeout=10)
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return answer.status, body

    def metric(self, name):
        """The sum over its labels."""
        found = re.findall(rf"^{name}(?:_total|_info)?(?:\{{[^}}]*\}})? ([0-9.e+]+)$", self.ask("/metrics")[1], re.M)
        expect(found, f"no metric is called {name}")
        return int(sum(map(float, found)))

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def sessions(self, count=0):
        """What was logged of the sessions that ended, once there are `count` and none is open."""

        def read():
            told = [json.loads(line) for line in self.lines.read_text().splitlines()]
            expect(len(told) >= count, f"{len(told)} sessions are logged, and {count} were to be")
            expect(self.metric("tidegate_sessions") == 0, f"{self.metric('tidegate_sessions')} sessions are still open")
            return told

        return until(10, read)


def some(found, count):
    expect(len(found) == count, f"{len(found)} of {count}: {found}")
    return found


def relay(listen, endpoint, name="relay", listener="", upstream=""):
    return f"""
[[listener]]
name = "{name}"
bind = "127.0.0.1:{listen}"
mode = "tcp"
upstream = "{name}"
{listener}

[upstream.{name}]
endpoints = ["127.0.0.1:{endpoint}"]
{upstream}
"""


def wait_for_listener(port, seconds=15):
    """Without a connection, which some servers take for a client."""

    def look():
        told = subprocess.run(["ss", "-ltnH", f"sport = :{port}"], capture_output=True, text=True).stdout
        expect(told.strip(), f"nothing listens on {port} after {seconds} s")

    until(seconds, look)


def run(*words, seconds=40, **options):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=seconds, **options)
    expect(done.returncode == 0, f"{' '.join(map(str, words))}: exit {done.returncode}: {done.stdout[-600:]} {done.stderr[-600:]}")
    return done.stdout


def once(start):
    """A server that the checks share; it ends with the world."""

    def of(world):
        known = world.__dict__.setdefault("layer4_servers", {})
        if start.__name__ not in known:
            known[start.__name__] = start(world)
        return known[start.__name__]

    return of


@once
def iperf_server(world):
    (port,) = free_ports(1)
    world.spawn("iperf3", "iperf3", "-s", "-p", str(port))
    wait_for_listener(port)
    return port


@once
def redis_server(world):
    (port,) = free_ports(1)
    folder = world.folder / "redis"
    folder.mkdir()
    world.spawn("redis", "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder))
    wait_for_listener(port)
    return port


@once
def postgres_server(world):
    """As another user where we are root: PostgreSQL refuses to be run by one."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb")) or [shutil.which("initdb")]
    expect(found[-1], "initdb is not installed (`.ci/run packages` installs it)")
    programs = pathlib.Path(found[-1]).parent
    folder = world.folder / "postgres"
    folder.mkdir()
    options = {"cwd": folder}
    if os.getuid() == 0:
        users = {user.pw_name: user for user in pwd.getpwall()}
        user = users.get("postgres") or users["nobody"]
        os.chown(folder, user.pw_uid, user.pw_gid)
        options |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    run(programs / "initdb", "--no-sync", "--auth=trust", "--username=check", "-E", "UTF8", "--no-locale", "-D", folder / "data", **options)
    (port,) = free_ports(1)
    world.spawn("postgres", str(programs / "postgres"), "-D", str(folder / "data"), "-p", str(port), "-h", "127.0.0.1",
                "-k", str(folder), "-c", "fsync=off", "-c", "max_connections=60", **options)
    wait_for_listener(port)
    until(10, lambda: psql(port, "select 1"))
    return port


def psql(port, sql):
    return run("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", port, "-U", "check", "-d", "postgres", "-c", sql).strip()


# --- tcp


def iperf(port, *words):
    return json.loads(run("iperf3", "-c", "127.0.0.1", "-p", port, "-J", "-t", "1", "-P", "4", *words))["end"]


# What four streams may have under way when the sender stops counting: socket buffers, a pipe, what iperf3 itself holds.
UNDER_WAY = 4 * (64 << 20)


@check
def iperf3_in_every_direction_agrees_at_both_ends(world):
    (port,) = free_ports(1)
    gate = Gate(world, "iperf", relay(port, iperf_server(world)))
    seen, streams, moved = [], 0, {"bytes_in": 0, "bytes_out": 0}
    for words, sums in (((), {"bytes_in": ""}), (("-R",), {"bytes_out": ""}), (("--bidir",), {"bytes_in": "", "bytes_out": "_bidir_reverse"})):
        end = iperf(port, *words)
        # And one that they speak to each other on.
        streams += 4 * len(sums) + 1
        told = gate.sessions(streams)
        now = {key: sum(session[key] for session in told) for key in moved}
        for key in moved:
            passed, moved[key] = now[key] - moved[key], now[key]
            if key in sums:
                sent, taken = end["sum_sent" + sums[key]]["bytes"], end["sum_received" + sums[key]]["bytes"]
                expect(0 < taken <= sent <= taken + UNDER_WAY, f"{words}: {sent} bytes were sent, {taken} were taken")
                # The control connection of iperf3 is counted with them.
                expect(taken <= passed <= sent + (64 << 10), f"{words}: {passed} passed, {sent} were sent, {taken} taken")
                seen.append(f"{' '.join(words) or 'up'} {taken >> 20} MiB")
        wrong = [session for session in told if session["outcome"] not in ("ok", "client_gone", "connection_terminated")]
        expect(not wrong, f"{words}: {wrong[:2]}")
    expect(len(told) == streams, f"{len(told)} sessions of {streams}")
    spliced = gate.metric("tidegate_sessions_spliced")
    # A stream that is read each time before 64 KiB have gathered is copied, which is right for it.
    expect(spliced >= 12, f"bytes of {spliced} sessions were moved by the kernel, of 16 with bulk in them")
    return f"{', '.join(seen)}; {spliced} of {len(told)} sessions spliced"


@check
def redis_answers_every_request_pipelined_or_not(world):
    (port,) = free_ports(1)
    gate = Gate(world, "redis", relay(port, redis_server(world)))
    seen = []
    for words in (["-c", "50", "-n", "10000"], ["-c", "50", "-n", "100000", "-P", "16"], ["-c", "10", "-n", "500", "-d", "200000"]):
        told = run("redis-benchmark", "-h", "127.0.0.1", "-p", port, "-q", "-t", "set,get,incr", *words)
        rates = re.findall(r"^([A-Z]+): ([0-9.]+) requests per second", told.replace("\r", "\n"), re.M)
        expect(len(rates) == 3, f"{words}: {told[-400:]}")
        seen.append(f"{' '.join(words)}: {rates[1][0]} {float(rates[1][1]):.0f}/s")
    told = gate.sessions()
    wrong = [session for session in told if session["outcome"] not in ("ok", "client_gone")]
    expect(not wrong, f"{wrong[:2]}")
    return f"{len(told)} sessions; {'; '.join(seen)}"


@check
def values_of_redis_come_back_as_they_were(world):
    """Many requests at once in one write, values from nothing to 4 MiB, and all answers compared."""
    (port,) = free_ports(1)
    gate = Gate(world, "values", relay(port, redis_server(world)))
    seed = random.randrange(1 << 32)
    dice = random.Random(seed)
    values = [dice.randbytes(dice.choice((0, 1, 100, 65535, 65536, dice.randrange(1 << 22)))) for _ in range(40)]

    def command(*words):
        return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)

    asked = b"".join(command(b"SET", b"value-%d" % n, value) + command(b"GET", b"value-%d" % n) for n, value in enumerate(values))
    expected = b"".join(b"+OK\r\n$%d\r\n%s\r\n" % (len(value), value) for value in values)
    came = bytearray(len(expected))
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.settimeout(20)
        sender = threading.Thread(target=client.sendall, args=(asked,), daemon=True)
        sender.start()
        filled = 0
        while filled < len(came) and (count := client.recv_into(memoryview(came)[filled:])):
            filled += count
        sender.join(10)
    expect(came == expected, f"seed {seed}: {filled} bytes of {len(expected)} came back, or others")
    (told,) = gate.sessions(1)
    expect((told["outcome"], told["bytes_in"], told["bytes_out"]) == ("ok", len(asked), len(expected)), f"{told}")
    return f"{len(expected) >> 20} MiB each way"


@check
def postgresql_runs_pgbench_and_copies_whole_tables(world):
    direct, (port,) = postgres_server(world), free_ports(1)
    gate = Gate(world, "postgresql", relay(port, direct))
    words = ["-h", "127.0.0.1", "-p", port, "-U", "check", "postgres"]
    run("pgbench", "-i", "-q", "-s", "2", *words)
    seen = []
    for mode in (["-c", "8", "-j", "2", "-T", "1"], ["-C", "-c", "4", "-S", "-T", "1"]):
        told = run("pgbench", *mode, *words)
        failed = re.search(r"number of failed transactions: (\d+)", told)
        done = re.search(r"number of transactions actually processed: (\d+)", told)
        expect(done and int(done.group(1)) > 0 and (not failed or failed.group(1) == "0"), told)
        seen.append(f"{done.group(1)} transactions by pgbench {' '.join(mode)}")
    file_in, file_out = world.folder / "copy-in", world.folder / "copy-out"
    dice = random.Random(4)
    file_in.write_text("".join(f"{n}\t{dice.randbytes(dice.randrange(400)).hex()}\n" for n in range(40_000)))
    psql(port, "create table copied (number int primary key, text text)")
    psql(port, f"\\copy copied from '{file_in}'")
    psql(port, f"\\copy (select * from copied order by number) to '{file_out}'")
    sums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (file_in, file_out)]
    expect(sums[0] == sums[1], f"{file_in.stat().st_size} bytes in, {file_out.stat().st_size} bytes out, and they differ")
    both = [psql(p, "select md5(string_agg(text, ',' order by number)) from copied") for p in (direct, port)]
    expect(both[0] == both[1], f"{both}")
    told = gate.sessions()
    wrong = [session for session in told if session["outcome"] not in ("ok", "client_gone")]
    expect(not wrong, f"{wrong[:2]}")
    return f"{', '.join(seen)}; COPY of {file_in.stat().st_size >> 20} MiB in and out; {len(told)} sessions"


@check
def a_client_that_does_not_read_costs_no_memory(world):
    (port,) = free_ports(1)
    gate = Gate(world, "unread", relay(port, world.nginx_h1))
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(b"GET /huge HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        client.recv(1)
        before = highest = gate.resident_kib()
        until_then = time.monotonic() + 1.5
        while time.monotonic() < until_then:
            highest = max(highest, gate.resident_kib())
            time.sleep(0.02)
        client.settimeout(20)
        taken, piece = 1, bytearray(1 << 20)
        while count := client.recv_into(piece):
            taken += count
        highest = max(highest, gate.resident_kib())
    expect(taken > HUGE_BYTES, f"{taken} bytes came of {HUGE_BYTES}")
    expect(highest - before < 8 * 1024, f"the process grew from {before} to {highest} KiB")
    (told,) = gate.sessions(1)
    expect((told["outcome"], told["bytes_out"]) == ("ok", taken), f"{told}")
    return f"{before} KiB resident, at most {highest} KiB"


# --- tls-passthrough


@once
def https_origins(world):
    """One nginx with a certificate and a body of its own for each name, and an OpenSSL server for an ALPN protocol of its own."""
    f = world.folder
    names = {"exact": "DNS:db.layer4.test", "wild": "DNS:*.layer4.test", "other": "DNS:elsewhere.test", "acme": "DNS:acme.layer4.test"}
    for name, alternative in names.items():
        world.leaf(f"origin-{name}", alternative)
    ports = dict(zip(names, free_ports(len(names))))
    servers = "".join(
        f"""server {{ listen 127.0.0.1:{ports[name]} ssl http2; ssl_certificate {f}/origin-{name}.pem; ssl_certificate_key {f}/origin-{name}.key;
            location = /big {{ alias {f}/documents/big; }} location / {{ return 200 "{name}\\n"; }} }}\n"""
        for name in ("exact", "wild", "other")
    )
    start_nginx(world, "origins", servers)
    world.spawn("acme", "openssl", "s_server", "-accept", f"127.0.0.1:{ports['acme']}", "-alpn", "acme-tls/1", "-quiet", "-www",
                "-cert", f"{f}/origin-acme.pem", "-key", f"{f}/origin-acme.key")
    for port in ports.values():
        wait_for_listener(port)
    return ports


def start_nginx(world, name, servers):
    f = world.folder
    user = "user root;" if os.getuid() == 0 else ""
    temporary = "".join(f"{kind}_temp_path {f}/{name}-{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config = f / f"{name}.conf"
    config.write_text(f"""{user} daemon off; worker_processes 1; pid {f}/{name}.pid; error_log stderr error; events {{ worker_connections 4096; }}
        http {{ access_log off; {temporary} {servers} }}""")
    world.spawn(name, "nginx", "-p", str(f), "-c", str(config))


def by_hello(world, listen, strict):
    ports = https_origins(world)
    upstreams = "".join(f'[upstream.{name}]\nendpoints = ["127.0.0.1:{port}"]\n' for name, port in ports.items())
    return f"""
[[listener]]
name = "hello"
bind = "127.0.0.1:{listen}"
mode = "tls-passthrough"
sni = {{ "db.layer4.test" = "exact", "*.layer4.test" = "wild", default = "other" }}
alpn = {{ "acme-tls/1" = "acme" }}

[[listener]]
name = "strict"
bind = "127.0.0.1:{strict}"
mode = "tls-passthrough"
sni = {{ "db.layer4.test" = "exact" }}
timeouts = {{ handshake = "1s" }}
{upstreams}"""


def shown_certificate(port, *words):
    """Of whom an OpenSSL client is shown the certificate."""
    told = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *words], input="", capture_output=True, text=True, errors="replace", timeout=20)
    found = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", told.stdout, re.S)
    return ssl.PEM_cert_to_DER_cert(found.group(0)) if found else None


@check
def https_goes_by_its_name_and_nothing_is_terminated(world):
    port, strict = free_ports(2)
    gate = Gate(world, "hello", by_hello(world, port, strict))
    f = world.folder
    origins = {name: ssl.PEM_cert_to_DER_cert((f / f"origin-{name}.pem").read_text()) for name in https_origins(world)}
    for name, origin in {"db.layer4.test": "exact", "DB.Layer4.TEST": "exact", "www.layer4.test": "wild", "elsewhere.test": "other"}.items():
        for words in (["--http1.1"], ["--http2"], ["--tls-max", "1.2"]):
            answer = world.curl(f"https://{name}:{port}/", "--resolve", f"{name}:{port}:127.0.0.1", *words)
            expect(answer.status == 200 and answer.body == f"{origin}\n".encode(), f"{name} {words}: {answer} {answer.body[:40]}")
        for words in ([], ["-tls1_2"], ["-alpn", "h2,http/1.1"]):
            expect(shown_certificate(port, "-servername", name, *words) == origins[origin], f"{name} {words}: not the certificate of {origin}")
    expect(shown_certificate(port, "-noservername") == origins["other"], "no name does not lead to the default")
    by_protocol = shown_certificate(port, "-servername", "db.layer4.test", "-alpn", "acme-tls/1")
    expect(by_protocol == origins["acme"], "the ALPN protocol does not decide before the name")
    big = world.curl(f"https://db.layer4.test:{port}/big", "--resolve", f"db.layer4.test:{port}:127.0.0.1")
    expect(big.status == 200 and big.body == world.big, str(big))
    told = gate.sessions(4 * 6 + 3)
    names = {session["sni"] for session in told if session.get("sni")}
    expect({"db.layer4.test", "www.layer4.test", "elsewhere.test"} <= {name.lower() for name in names}, f"{names}")
    expect(gate.metric("tidegate_hellos_refused") == 0, "some were refused")
    return f"{len(told)} sessions; names {sorted(names)}"


@check
def what_names_nobody_is_closed_and_counted(world):
    port, strict = free_ports(2)
    gate = Gate(world, "strict", by_hello(world, port, strict))
    unknown = world.curl(f"https://nobody.layer4.test:{strict}/", "--resolve", f"nobody.layer4.test:{strict}:127.0.0.1")
    expect(unknown.exit == 35 and unknown.seconds < 5, str(unknown))
    expect(shown_certificate(strict, "-noservername") is None, "no name was led somewhere")
    expect(gate.metric("tidegate_hellos_refused") == 2, f"{gate.metric('tidegate_hellos_refused')} refused of 2")
    for target in (port, strict):
        answer = world.curl(f"http://127.0.0.1:{target}/")
        expect(answer.exit in (52, 56) and not answer.body and answer.seconds < 5, str(answer))
    reply = world.raw(port, b"SSH-2.0-OpenSSH_9.2\r\n")
    expect(reply.closed and not reply.data, str(reply))
    expect(gate.metric("tidegate_hellos_refused") == 5, f"{gate.metric('tidegate_hellos_refused')} refused of 5")
    # The beginning of a hello, and then nothing.
    late = world.raw(strict, bytes.fromhex("16030100f8010000f40303"), 6)
    expect(late.closed and not late.data and 0.8 < late.seconds < 4, str(late))
    outcomes = sorted(session["outcome"] for session in gate.sessions(6))
    expect(outcomes == ["client_stall"] + 2 * ["destination_not_found"] + 3 * ["http_request_error"], f"{outcomes}")
    known = world.curl(f"https://db.layer4.test:{strict}/", "--resolve", f"db.layer4.test:{strict}:127.0.0.1")
    expect(known.status == 200, str(known))


# --- PROXY headers


@once
def proxy_header_origin(world):
    """Says what the PROXY header told it."""
    (port,) = free_ports(1)
    told = "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port"
    start_nginx(world, "proxied", f'server {{ listen 127.0.0.1:{port} proxy_protocol; location / {{ return 200 "{told}"; }} }}')
    wait_for_listener(port)
    return port


class HeaderGate(Gate):
    """Believes PROXY headers of 127.0.0.0/8, and sends them in both versions."""

    def __init__(self, world, name):
        self.v1, self.v2, self.plain, self.distrusting, self.web = free_ports(5)
        origin = proxy_header_origin(world)
        trusting = 'proxy_protocol = "require"\ntrusted_proxies = ["127.0.0.0/8"]'
        super().__init__(world, name, "".join((
            relay(self.v1, origin, "v1", trusting, 'send_proxy_protocol = "v1"'),
            relay(self.v2, origin, "v2", trusting, 'send_proxy_protocol = "v2"'),
            relay(self.plain, origin, "plain", "", 'send_proxy_protocol = "v2"'),
            relay(self.distrusting, origin, "distrusting", 'proxy_protocol = "require"\ntrusted_proxies = ["10.0.0.0/8"]', ""),
            f'[[listener]]\nname = "web"\nbind = "127.0.0.1:{self.web}"\n{trusting}\n[[route]]\nupstream = "web"\n',
            f'[upstream.web]\nendpoints = ["127.0.0.1:{world.origin}"]\n',
        )))


def ask_from(address, port, *words):
    """The answer to curl at `address`, and the port that it came from."""
    told = run("curl", "-sS", "--max-time", "10", "--interface", address, "-w", "\n%{local_port} %{http_code}", *words, f"http://127.0.0.1:{port}/")
    body, _, end = told.rpartition("\n")
    local, status = end.split()
    expect(status == "200", f"{told}")
    return body, local


@check
def a_proxy_header_of_curl_is_told_to_nginx(world):
    gate = HeaderGate(world, "headers")
    for port in (gate.v1, gate.v2):
        body, local = ask_from("127.0.0.5", port, "--haproxy-protocol")
        expect(body == f"127.0.0.5 {local} 127.0.0.1 {port}", body)
        # One that no socket could have given away.
        header = b"PROXY TCP4 203.0.113.9 192.0.2.1 40123 443\r\n"
        reply = world.raw(port, header + b"GET / HTTP/1.0\r\n\r\n")
        expect(reply.data.endswith(b"203.0.113.9 40123 192.0.2.1 443"), f"{reply.data}")
        reply = world.raw(port, header.replace(b"TCP4 203.0.113.9 192.0.2.1", b"TCP6 2001:db8::9 2001:db8::1") + b"GET / HTTP/1.0\r\n\r\n")
        expect(reply.data.endswith(b"2001:db8::9 40123 2001:db8::1 443"), f"{reply.data}")
    body, local = ask_from("127.0.0.5", gate.plain)
    expect(body == f"127.0.0.5 {local} 127.0.0.1 {gate.plain}", body)


@check
def haproxy_in_front_tells_its_clients(world):
    gate = HeaderGate(world, "behind-haproxy")
    fronts = dict(zip(("v1", "v2", "web"), free_ports(3)))
    config = world.folder / "haproxy-front.cfg"
    config.write_text("defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 10s\n  timeout server 10s\n" + "".join(
        f"listen {name}\n  bind 127.0.0.1:{front}\n  server gate 127.0.0.1:{getattr(gate, name)} send-proxy-v2 proxy-v2-options crc32c,unique-id\n"
        f"  unique-id-format {name}-%ci-%cp\n"
        for name, front in fronts.items()
    ))
    world.spawn("haproxy-front", "haproxy", "-db", "-f", str(config))
    for front in fronts.values():
        wait_for_listener(front)
    for name in ("v1", "v2"):
        body, local = ask_from("127.0.0.6", fronts[name])
        expect(body == f"127.0.0.6 {local} 127.0.0.1 {fronts[name]}", body)
    answer = world.curl(f"http://127.0.0.1:{fronts['web']}/headers", "--interface", "127.0.0.6")
    expect(answer.status == 200 and b"127.0.0.6" in answer.body, f"{answer} {answer.body[:400]}")
    # HAProxy may have passed on the connections that only asked whether it listens; the request to `web` has a line of its own.
    told = until(10, lambda: some([session for session in gate.sessions(2) if session["protocol"] == "tcp" and session["bytes_out"]], 2))
    expect({session["client_ip"] for session in told} == {"127.0.0.6"}, f"{told}")


@check
def a_proxy_header_that_is_missing_broken_or_not_believed_is_refused(world):
    gate = HeaderGate(world, "no-headers")
    request = b"GET / HTTP/1.0\r\n\r\n"
    wrong = {
        "none": (gate.v2, request),
        "broken, v1": (gate.v2, b"PROXY TCP4 203.0.113.9 192.0.2.1 99999 443\r\n" + request),
        "broken, v2": (gate.v2, b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c" + bytes(12) + request),
        "a wrong checksum": (gate.v1, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x13" + bytes(12) + b"\x03\0\x04abcd" + request),
        "of a stranger": (gate.distrusting, b"PROXY TCP4 203.0.113.9 192.0.2.1 40123 443\r\n" + request),
        "none, http": (gate.web, request),
    }
    for what, (port, data) in wrong.items():
        reply = world.raw(port, data)
        expect(reply.closed and not reply.data, f"{what}: {reply}")
    refused = gate.metric("tidegate_proxy_headers_refused")
    expect(refused == len(wrong), f"{refused} are counted of {len(wrong)}")


# --- reloads


@check
def many_reloads_break_no_session(world):
    """50 configurations, each another one, while iperf3 and Redis are busy: every program ends well, and no connection was lost."""
    bulk, small, more = free_ports(3)

    def config(turn):
        balance = ["round-robin", "least-requests", "random"][turn % 3]
        config = relay(bulk, iperf_server(world), "bulk", f"limits.max_connections = {100 + turn}", f'balance = "{balance}"')
        config += relay(small, redis_server(world), "small", f'timeouts = {{ idle = "{20 + turn}s" }}', f'timeouts.connect = "{5 + turn}s"')
        return config + (relay(more, world.nginx_h1, "more") if turn % 2 else "")

    gate = Gate(world, "l4-reloads", config(0))
    ends = subprocess.Popen(["iperf3", "-c", "127.0.0.1", "-p", str(bulk), "-t", "600", "--bidir", "-P", "2"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    kept = socket.create_connection(("127.0.0.1", small), 10)
    kept.settimeout(10)
    runs, failed, stop = [], [], threading.Event()

    def benchmark(*words):
        while not stop.is_set():
            try:
                runs.append(run("redis-benchmark", "-h", "127.0.0.1", "-p", small, "-q", "-t", "set,get", *words))
            except Exception as error:
                failed.append(repr(error))
                return

    threads = [threading.Thread(target=benchmark, args=words, daemon=True) for words in (["-c", "20", "-n", "20000", "-P", "4"], ["-c", "20", "-n", "3000", "-k", "0"])]
    try:
        for thread in threads:
            thread.start()
        until(10, lambda: expect(gate.metric("tidegate_sessions") > 20, "the load has not begun"))
        began, sizes = time.monotonic(), []
        for turn in range(1, RELOADS + 1):
            gate.put(config(turn))
            kept.sendall(b"PING\r\n")
            expect(kept.recv(100) == b"+PONG\r\n", f"turn {turn}: the kept session is broken")
            sizes.append(gate.resident_kib())
        took = time.monotonic() - began
        expect(ends.poll() is None, f"iperf3 left during the reloads: {ends.stdout.read()[-600:] if ends.poll() is not None else ''}")
    finally:
        stop.set()
        ends.send_signal(signal.SIGINT)
        told = ends.communicate(timeout=20)[0]
        for thread in threads:
            thread.join(30)
        kept.close()
    # iperf3 3.12 leaves with 1 when it is interrupted, and tells of nothing else.
    expect("error" not in told.replace("error - interrupt - the client has terminated", ""), told[-600:])
    expect(not failed and len(runs) >= 2, f"{failed[:2]}, {len(runs)} runs")
    outcomes = {}
    for session in gate.sessions(40):
        # Only iperf3 was interrupted.
        expect(session["outcome"] == "ok" or session["listener"] == "bulk", f"{session}")
        outcomes[session["outcome"]] = outcomes.get(session["outcome"], 0) + 1
    expect(set(outcomes) <= {"ok", "client_gone", "connection_terminated"}, f"{outcomes}")
    expect("panicked" not in gate.log(), gate.log()[-600:])
    early, late = max(sizes[:10]), max(sizes[-5:])
    expect(late < early * 1.25 + 8 * 1024, f"memory grows: {early} KiB after ten reloads, {late} KiB at the end")
    return f"{RELOADS} reloads in {took:.1f} s, {len(runs)} runs of redis-benchmark; outcomes {outcomes}; {early} KiB early, {late} KiB at the end"
