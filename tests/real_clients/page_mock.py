#!/usr/bin/env python3
"""Serves the status page with a made-up, moving `/status`, to work on the page without a proxy.

    tests/real_clients/page_mock.py 9900                 then open http://127.0.0.1:9900/
    tests/real_clients/page_mock.py 9900 --scene many    scenes: traffic, empty, draining, many, hostile
    tests/real_clients/page_mock.py 9900 --speed 10      ten seconds of the process for each of ours
"""

import argparse
import datetime
import http.server
import json
import math
import pathlib
import random
import threading
import time

PAGE = pathlib.Path(__file__).resolve().parent.parent.parent / "src/control/admin/page/status.html"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
BOUNDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60]
HOSTILE = '<script>document.title="taken"</script><img src=x onerror=alert(1)>'


def stamp(seconds):
    moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Hist:
    def __init__(self, bounds=BOUNDS):
        self.bounds, self.buckets, self.total = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, seconds):
        self.buckets[next((i for i, b in enumerate(self.bounds) if seconds <= b), len(self.bounds))] += 1
        self.total += seconds

    def json(self):
        return {"count": sum(self.buckets), "sum_seconds": round(self.total, 6), "buckets": list(self.buckets)}


class Traffic:
    def __init__(self):
        self.answers, self.outcomes = {f"{c}xx": 0 for c in range(1, 6)}, {"ok": 0}
        self.duration, self.first_byte = Hist(), Hist()
        self.bytes_in = self.bytes_out = 0

    def ended(self, status, kind, seconds, size):
        if status:
            self.answers[f"{status // 100}xx"] += 1
        self.outcomes[kind or "ok"] = self.outcomes.get(kind or "ok", 0) + 1
        self.duration.observe(seconds)
        if status and not kind:
            self.first_byte.observe(seconds * 0.8)
        self.bytes_in += 300
        self.bytes_out += size

    def json(self):
        return {
            "requests": sum(self.outcomes.values()), "answers": dict(self.answers), "outcomes": dict(self.outcomes),
            "duration": self.duration.json(), "first_byte": self.first_byte.json(),
            "bytes_in": self.bytes_in, "bytes_out": self.bytes_out,
        }


class Route:
    def __init__(self, name, match, upstream, rate, median, spread, faults):
        self.name, self.match, self.upstream = name, match, upstream
        self.rate, self.median, self.spread, self.faults = rate, median, spread, faults
        self.phase, self.traffic = random.random() * 6, Traffic()


class Process:
    """A process that never was: its traffic waves, its errors come and go."""

    def __init__(self, scene, speed):
        self.scene, self.speed, self.lock = scene, speed, threading.Lock()
        self.begin()

    def begin(self):
        random.seed(7)
        self.pid = random.SystemRandom().randrange(1000, 60000)
        self.began = self.clock = time.time() - 200_000
        self.at = time.monotonic()
        self.generation, self.reloads = 3, []
        self.state = "draining" if self.scene == "draining" else "ready"
        self.last_reload = {
            "at": stamp(self.clock), "result": "ok", "trigger": "watch", "generation": 3, "error": None,
            "changes": ["routes +2 -1", "upstream api: endpoint 10.0.0.3:8080 added"],
        }
        self.traffic, self.errors, self.accepted, self.lag = Traffic(), {}, 0, [Hist(), Hist()]
        self.listeners = {n: Traffic() for n in ("web", "secure", "internal")}
        self.routes = [
            Route("shop", "shop.example.org/*", "shop", 180, 0.012, 0.9, 0.002),
            Route("api", "api.example.org/v1/*", "api", 95, 0.004, 0.8, 0.015),
            Route("static", "static.example.org/*", "static", 240, 0.0008, 0.5, 0),
            Route("search", "shop.example.org/search/*", "search", 22, 0.09, 0.7, 0.03),
            Route("events", "api.example.org/events", "api", 3, 8.0, 0.6, 0),
            Route("to-https", "*:80/*", None, 14, 0.0003, 0.3, 0),
            Route("ping", "*/ping", None, 2, 0.0002, 0.2, 0),
            Route("old-admin", "admin.example.org/*", "admin", 0, 0.01, 0.3, 0),
        ]
        if self.scene == "many":
            for i in range(1000):
                rate = 0 if i % 3 else random.expovariate(1 / 1.5)
                self.routes.append(Route(f"tenant-{i:04}", f"t{i:04}.example.net/*", f"pool-{i % 12:02}", rate, 0.006, 0.7, 0.004))
        if self.scene == "hostile":
            self.routes.append(Route(HOSTILE, HOSTILE + "/*", HOSTILE, 30, 0.006, 0.7, 0.2))
        self.upstreams = {}
        for route in self.routes:
            if route.upstream:
                self.upstreams.setdefault(route.upstream, Traffic())
        self.in_flight = {}

    def reload(self, fault=None):
        self.generation += 0 if fault else 1
        self.last_reload = {
            "at": stamp(self.clock), "result": "failed" if fault else "ok", "trigger": "signal", "error": fault,
            "generation": self.generation, "changes": [] if fault else ["route search changed"],
        }

    def advance(self):
        now = time.monotonic()
        left, self.at = (now - self.at) * self.speed, now
        while left > 0:
            step = min(left, 1.0)
            left -= step
            self.clock += step
            if self.scene != "empty":
                self.pass_time(step)

    def pass_time(self, step):
        t = self.clock
        for route in self.routes:
            wave = 1 + 0.25 * math.sin(t / 47 + route.phase) + 0.12 * math.sin(t / 7 + route.phase * 2) + random.gauss(0, 0.05)
            burst = 3.0 if math.sin(t / 110 + route.phase) > 0.97 else 1.0
            expected = max(0, route.rate * wave * (1.4 if burst > 1 else 1)) * step
            many = int(expected) + (random.random() < expected % 1)
            for _ in range(many):
                self.request(route, burst)
        for lag in self.lag:
            for _ in range(5):
                lag.observe(random.lognormvariate(math.log(0.0004), 0.8))

    def request(self, route, burst):
        seconds = random.lognormvariate(math.log(route.median * burst), route.spread)
        status, kind = 200, None
        chance = random.random()
        if chance < route.faults * burst:
            status, kind, reason, seconds = random.choice([
                (502, "connection_refused", "the endpoint refused the connection", 0.001),
                (504, "http_response_timeout", "the endpoint did not begin its answer in time", 10.0),
                (500, None, None, seconds), (0, "client_gone", "the client disconnected before the response was complete", seconds),
            ])
            if kind:
                endpoint = f"10.0.0.{1 + len(route.upstream) % 4}:8080"
                key = kind, reason, status, route.name, route.upstream, endpoint
                count = self.errors.get(key, (0, 0))[0]
                self.errors[key] = count + 1, self.clock
        elif not route.upstream:
            status = 308 if route.name == "to-https" else 200
        elif chance > 0.965:
            status = 404
        elif chance > 0.93:
            status = 304
        size = int(random.lognormvariate(8.5, 1.2)) if status == 200 else 120
        listener = "web" if route.name == "to-https" else "internal" if route.name == "ping" else "secure"
        places = [self.traffic, route.traffic, self.listeners[listener]]
        if route.upstream:
            places.append(self.upstreams[route.upstream])
        for traffic in places:
            traffic.ended(status, kind, seconds, size)
        self.accepted += random.random() < 0.05

    def json(self):
        with self.lock:
            self.advance()
            return self.status()

    def health(self, upstream, i):
        """An endpoint in each state, and what is known of it."""
        failure = "answered 503" if (upstream, i) == ("search", 2) else None
        check = {"at": stamp(self.clock - 3), "took_seconds": 0.0012, "failure": failure, "passed": 4000, "failed": 9 if failure else 0}
        ejected = (upstream, i) == ("api", 2)
        outlier = {"failures_in_a_row": 0, "ejected_until": stamp(self.clock + 24) if ejected else None, "ejections": 2 if ejected else 0}
        state = "drained" if (upstream, i) == ("api", 3) else "unhealthy" if failure else "ejected" if ejected else "ready"
        return {"state": state, "check": check, "outlier": outlier}

    def status(self):
        total, busy = self.traffic.json(), self.scene != "empty"
        listeners = [("web", ["0.0.0.0:80", "[::]:80"], False), ("secure", ["0.0.0.0:443", "[::]:443"], True), ("internal", ["127.0.0.1:8081"], False)]
        certificates = [("example.org", 61), ("api.example.org", 16), ("static.example.org", 4)]
        return {
            "version": "0.1.0", "pid": self.pid, "started_at": stamp(self.began), "now": stamp(self.clock),
            "uptime_seconds": round(self.clock - self.began, 3), "state": self.state, "generation": self.generation,
            "last_reload": self.last_reload if busy else None,
            "workers": [
                {"id": i, "connections_open": 60 * busy + i * 3, "requests": total["requests"] // 2, "loop_lag": self.lag[i].json(),
                 "last_heartbeat_seconds_ago": round(random.random(), 2)} for i in range(2)
            ],
            "connections": {"open": 123 * busy, "accepted": self.accepted, "refused": 0, "max": 9872, "parked": 41 * busy},
            "handshakes": {"tls1.2": self.accepted // 20, "tls1.3": self.accepted // 2, "resumed": self.accepted // 3, "failed": self.accepted // 90},
            "pool": {"connects": total["requests"] // 300, "reuses": total["requests"], "retries": total["requests"] // 2000},
            "tunnels": {"open": 3, "started": total["requests"] // 1000},
            "bounds_seconds": BOUNDS, "traffic": total,
            "listeners": [
                {"name": n, "mode": "http", "addresses": a, "protocols": ["http1", "http2"], "tls": s, "max_connections": None,
                 "traffic": self.listeners[n].json()} for n, a, s in listeners
            ],
            "routes": [
                {"name": r.name, "match": r.match, "traffic": r.traffic.json(),
                 "action": f"upstream {r.upstream}" if r.upstream else "redirect 308" if r.name == "to-https" else "respond 200"} for r in self.routes
            ] if busy else [],
            "upstreams": [
                {"name": n, "protocol": "auto", "balance": "round-robin", "tls": n == "api", "traffic": t.json(), "endpoints": [
                    {"address": f"10.0.{k % 250}.{i}:8080", "weight": i % 2 + 1, **self.health(n, i), "latency_seconds": None,
                     "in_flight": 3 * i, "connect_failures": 12 if n == "search" and i == 2 else 0,
                     "last_failure": {"kind": "connection_refused", "at": stamp(self.clock - 71)} if n == "search" and i == 2 else None,
                     "alternative": {"port": 443, "stage": "used", "at": stamp(self.clock - 900), "offered_until": stamp(self.clock + 80000), "failures": 0} if n == "search" and i == 1 else None} for i in range(1, 2 + len(n) % 4)
                ]} for k, (n, t) in enumerate(self.upstreams.items())
            ] if busy else [],
            "certificates": [
                {"listener": "secure", "names": [n, f"*.{n}"], "file": f"/etc/tidegate/certs/{n}.pem", "not_after": stamp(self.clock + d * 86400), "days_left": d}
                for n, d in certificates
            ] if busy else [],
            "errors": [
                {"kind": k, "reason": why, "count": c, "last_at": stamp(at), "status": s, "listener": "secure", "route": r, "upstream": u, "endpoint": e}
                for (k, why, s, r, u, e), (c, at) in sorted(self.errors.items(), key=lambda pair: -pair[1][1])
            ],
        }


class Door(http.server.BaseHTTPRequestHandler):
    process = None
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/":
            self.send(PAGE.read_bytes(), "text/html; charset=utf-8")
        elif self.path == "/status":
            self.send(json.dumps(self.process.json()).encode(), "application/json")
        else:
            self.send_error(404)

    def do_POST(self):
        """What happens to the process: /drain, /restart, /reload, /fault."""
        process = self.process
        with process.lock:
            if self.path == "/drain":
                process.state = "draining"
            elif self.path == "/restart":
                before = process.clock
                process.begin()
                process.began = process.clock = before
            elif self.path == "/reload":
                process.reload()
            elif self.path == "/fault":
                process.reload("tidegate.toml:12:3: route `api`: there is no upstream `apj`; did you mean `api`?")
        self.send(b"done\n", "text/plain")

    def send(self, body, kind):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.send_header("content-security-policy", POLICY)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--scene", default="traffic", choices=["traffic", "empty", "draining", "many", "hostile"])
    parser.add_argument("--speed", type=float, default=1.0)
    options = parser.parse_args()
    Door.process = Process(options.scene, options.speed)
    http.server.ThreadingHTTPServer(("127.0.0.1", options.port), Door).serve_forever()


if __name__ == "__main__":
    main()
