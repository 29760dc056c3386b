"""One of three endpoints killed, stopped and started again under load: what the health of endpoints spares the clients."""

import http.client
import json
import os
import re
import signal
import subprocess
import time

from world import Checks, Tidegate, expect, free_ports, wait_for_port

check = Checks()

CONNECTIONS = 8
# Three in a row take an endpoint out.
CHECKS = 'interval = "200ms", timeout = "150ms"'


class Endpoint:
    """An nginx of its own, with every process of it in one group."""

    def __init__(self, world, name):
        self.world, self.name = world, name
        (self.port,) = free_ports(1)
        self.address = f"127.0.0.1:{self.port}"
        self.folder = world.folder / name
        self.folder.mkdir(exist_ok=True)
        (self.folder / "nginx.conf").write_text(f"""
            daemon off; worker_processes 1; pid {self.folder}/nginx.pid; error_log stderr error;
            events {{ worker_connections 1024; }}
            http {{
                access_log off; keepalive_requests 1000000;
                client_body_temp_path {self.folder}/body; proxy_temp_path {self.folder}/proxy;
                fastcgi_temp_path {self.folder}/fastcgi; uwsgi_temp_path {self.folder}/uwsgi; scgi_temp_path {self.folder}/scgi;
                server {{ listen 127.0.0.1:{self.port}; location / {{ return 200 "{name}\\n"; }} }}
            }}
        """)
        self.start()

    def start(self):
        command = ["nginx", "-p", str(self.folder), "-c", str(self.folder / "nginx.conf")]
        self.process = self.world.spawn(self.name, *command, start_new_session=True)
        wait_for_port(self.port, process=self.process)

    def signal(self, number):
        os.killpg(self.process.pid, number)

    def kill(self):
        self.signal(signal.SIGKILL)
        self.process.wait()
        self.world.processes.remove(self.process)


class Site:
    """Three endpoints behind an http and a tcp listener, and what the process says of them."""

    def __init__(self, world, name, keys):
        self.endpoints = [Endpoint(world, f"{name}-{n}") for n in (1, 2, 3)]
        self.web, self.relay, self.observe = free_ports(3)
        addresses = ", ".join(f'"{endpoint.address}"' for endpoint in self.endpoints)
        config = f"""
[server]
workers = 2
observe.bind = "127.0.0.1:{self.observe}"

[[listener]]
name = "web"
bind = "127.0.0.1:{self.web}"

[[listener]]
name = "relay"
bind = "127.0.0.1:{self.relay}"
mode = "tcp"
upstream = "relayed"

[[route]]
upstream = "pool"
retry = {{ attempts = 2, on = ["connect-failure", "reset-before-headers"] }}

[upstream.pool]
endpoints = [{addresses}]
timeouts.response = "1s"
{keys}

[upstream.relayed]
endpoints = [{addresses}]
health = {{ {CHECKS} }}
"""
        self.gate = Tidegate(world, name, config, [self.web, self.observe])
        world.extra.append(self.gate)

    def ask(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.observe, timeout=10)
        connection.request("GET", path)
        body = connection.getresponse().read()
        connection.close()
        return body.decode()

    def told(self, endpoint, upstream="pool"):
        upstreams = {one["name"]: one for one in json.loads(self.ask("/status"))["upstreams"]}
        return next(one for one in upstreams[upstream]["endpoints"] if one["address"] == endpoint.address)

    def until(self, endpoint, state, upstream="pool", seconds=10):
        deadline = time.monotonic() + seconds
        while (told := self.told(endpoint, upstream))["state"] != state:
            expect(time.monotonic() < deadline, f"{upstream} {endpoint.address} is not {state} after {seconds} s: {told}")
            time.sleep(0.02)
        return told

    def outcomes(self):
        """How the requests to the pool ended so far."""
        found = re.findall(r'^tidegate_upstream_outcomes_total\{upstream="pool",kind="(\w+)"\} (\d+)', self.ask("/metrics"), re.M)
        return {kind: int(count) for kind, count in found if int(count)}

    def requests_at(self, endpoint, seconds=0.3):
        """Whether the endpoint's name comes back among many answers."""
        names, end = set(), time.monotonic() + seconds
        connection = http.client.HTTPConnection("127.0.0.1", self.web, timeout=10)
        while time.monotonic() < end:
            connection.request("GET", "/")
            names.add(connection.getresponse().read().decode().strip())
        connection.close()
        return endpoint.name in names


class Load:
    """wrk until told to stop."""

    def __init__(self, port, *words):
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", "-d60s", "--timeout", "10s", *words, f"http://127.0.0.1:{port}/"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        time.sleep(0.5)

    def stop(self):
        """Requests, answers that were not 2xx, and connections that broke."""
        self.process.send_signal(signal.SIGINT)
        told = self.process.communicate(timeout=30)[0]
        count = lambda pattern: sum(map(int, (re.search(pattern, told) or re.search("", "")).groups() or [0]))
        broken = count(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")
        return count(r"(\d+) requests in"), count(r"Non-2xx or 3xx responses: (\d+)"), broken


CHECKED = f'health = {{ path = "/up", {CHECKS} }}'
JUDGED = 'outlier = { consecutive_failures = 3, eject_for = "1s" }'


@check
def an_endpoint_killed_and_started_again_costs_no_request(world):
    site = Site(world, "killed", CHECKED)
    one = site.endpoints[1]
    load = Load(site.web)
    one.kill()
    reason = site.until(one, "unhealthy")["check"]["failure"]
    expect("refused" in reason, f"the check says {reason!r}")
    expect(not site.requests_at(one), "an endpoint that is out gets requests")
    one.start()
    site.until(one, "ready")
    expect(site.requests_at(one), "an endpoint that is back gets no requests")
    asked, failed, broken = load.stop()
    expect(not failed and not broken, f"{failed} of {asked} failed, {broken} broke: {site.outcomes()}")
    log = site.gate.log()
    expect("endpoint unhealthy" in log and "endpoint healthy again" in log, log[-800:])
    return f"{asked} requests"


@check
def an_endpoint_that_stops_fails_only_what_it_had(world):
    site = Site(world, "stopped", CHECKED)
    one = site.endpoints[2]
    load = Load(site.web)
    one.signal(signal.SIGSTOP)
    try:
        reason = site.until(one, "unhealthy")["check"]["failure"]
        expect("no answer within" in reason, f"the check says {reason!r}")
        # What it had by then runs into the deadline of an answer.
        time.sleep(1.3)
        before = site.outcomes()
        time.sleep(1)
        after = site.outcomes()
        late = {kind for kind in after if kind != "ok" and after[kind] != before.get(kind)}
        expect(not late, f"requests fail with the endpoint out: {before} then {after}")
    finally:
        one.signal(signal.SIGCONT)
    site.until(one, "ready")
    asked, failed, broken = load.stop()
    bad = {kind: count for kind, count in site.outcomes().items() if kind not in ("ok", "client_gone")}
    expect(set(bad) <= {"http_response_timeout"} and not broken, f"{bad}, {broken} broke")
    # Each connection waits a second for an answer that does not come: it meets the endpoint twice at most before it is out.
    most = CONNECTIONS * 2
    expect(failed <= most, f"{failed} of {asked} failed, {most} at the most: {bad}")
    return f"{failed} of {asked} met it"


@check
def an_endpoint_that_fails_traffic_is_ejected_and_let_in_again(world):
    site = Site(world, "ejected", JUDGED)
    one = site.endpoints[0]
    load = Load(site.web)
    one.kill()
    site.until(one, "ejected")
    told = site.told(one)
    expect(told["outlier"]["ejections"] >= 1 and told["outlier"]["ejected_until"], f"{told}")
    one.start()
    site.until(one, "ready")
    expect(site.requests_at(one), "an endpoint that is back gets no requests")
    asked, failed, broken = load.stop()
    expect(not failed and not broken, f"{failed} of {asked} failed, {broken} broke: {site.outcomes()}")
    return f"{asked} requests, ejected {site.told(one)['outlier']['ejections']} times"


@check
def sessions_go_to_endpoints_that_are_there(world):
    site = Site(world, "relayed", CHECKED)
    one = site.endpoints[1]
    load = Load(site.relay, "-H", "Connection: close")
    one.kill()
    site.until(one, "unhealthy", "relayed")
    one.start()
    site.until(one, "ready", "relayed")
    asked, failed, broken = load.stop()
    # A session that was open when its endpoint died breaks, as it would without anybody between.
    expect(not failed and broken <= CONNECTIONS, f"{failed} of {asked} failed, {broken} broke")
    return f"{asked} sessions, {broken} broke"
