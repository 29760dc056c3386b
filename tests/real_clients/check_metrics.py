"""What is counted: read by promtool and by a Prometheus, with the rules and the dashboard of deploy/."""

import http.client
import json
import re
import subprocess
import urllib.parse

from world import HERE, ROOT, Checks, Tidegate, expect, free_ports, until, wait_for_port

check = Checks()

RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
SCRAPE = ROOT / "deploy" / "prometheus" / "scrape.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "tidegate.json"
METRIC = re.compile(r"\b(?:tidegate|process)_[a-z0-9_]+\b")
CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def promtool(*words, stdin=None):
    done = subprocess.run(["promtool", *map(str, words)], input=stdin, capture_output=True, text=True)
    expect(done.returncode == 0, f"promtool {' '.join(map(str, words))}: {done.stdout}{done.stderr}")


def start_gate(world):
    """A Tidegate that has something to tell of everything: TLS, limits, endpoints that are counted, one that is dead."""
    web, secure, observe, relayed = free_ports(4)
    f = world.folder
    gate = Tidegate(world, "metrics", f"""
[server]
workers = 2
observe.bind = "127.0.0.1:{observe}"
access_log.output = "{f}/metrics-access.log"

[[listener]]
name = "web"
bind = "127.0.0.1:{web}"
limits.max_connections = 100

[[listener]]
name = "secure"
bind = "127.0.0.1:{secure}"
tls.certificates = [{{ cert = "{f}/localhost.pem", key = "{f}/localhost.key" }}]

[[listener]]
name = "relayed"
bind = "127.0.0.1:{relayed}"
mode = "tcp"
upstream = "app"

[[route]]
name = "app"
upstream = "app"

[[route]]
name = "dead"
path = "/dead"
upstream = "dead"

[[route]]
name = 'a\\backslash'
path = "/word"
respond.body = "word"

[upstream.app]
endpoints = ["127.0.0.1:{world.nginx_h1}"]
balance = "least-requests"
health.interval = "1s"
outlier.consecutive_failures = 5

[upstream.dead]
endpoints = ["127.0.0.1:{world.dead}"]
""", [web, secure, observe])
    gate.web, gate.secure, gate.observe, gate.relayed = web, secure, observe, relayed
    world.extra.append(gate)
    return gate


def ask(port, path, count=1):
    """Requests on one connection; the last status, type and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for _ in range(count):
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode()
    connection.close()
    return answer.status, answer.getheader("content-type"), body


def scrape(gate):
    status, kind, body = ask(gate.observe, "/metrics")
    expect(status == 200 and kind == CONTENT_TYPE, f"{status} {kind}")
    return body


def expressions(dashboard):
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for annotation in dashboard["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


def plain(expression):
    """As Grafana would send it: with its variables filled in."""
    return expression.replace("$__rate_interval", "1m").replace("$job", ".+").replace("$instance", ".+")


class Prometheus:
    """A Prometheus that scrapes one Tidegate every second, by the configuration of deploy/."""

    def __init__(self, world, gate):
        folder = world.folder / "prometheus"
        folder.mkdir()
        config = SCRAPE.read_text().replace("127.0.0.1:9900", f"127.0.0.1:{gate.observe}")
        expect(f":{gate.observe}" in config, "the scrape configuration names another port")
        config = config.replace("_interval: 15s", "_interval: 1s").replace("- alerts.yml", f"- {RULES}")
        (folder / "prometheus.yml").write_text(config)
        (self.port,) = free_ports(1)
        process = world.spawn(
            "prometheus", "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn",
        )
        wait_for_port(self.port, seconds=30, process=process)

    def api(self, path, **words):
        status, kind, body = ask(self.port, f"/api/v1/{path}?{urllib.parse.urlencode(words)}")
        expect("json" in kind, f"{status}: {body}")
        answer = json.loads(body)
        expect(status == 200 and answer["status"] == "success", f"{words}: {answer.get('error', body)}")
        return answer["data"]

    def query(self, expression):
        return self.api("query", query=expression)["result"]

    def number(self, expression):
        result = self.query(expression)
        expect(len(result) == 1, f"{expression}: {len(result)} results")
        return float(result[0]["value"][1])


def dashboard():
    return json.loads(DASHBOARD.read_text())


@check
def promtool_accepts_the_rules_and_the_scrape_configuration(world):
    promtool("check", "rules", RULES)
    promtool("check", "config", SCRAPE)
    promtool("test", "rules", HERE / "alerts_test.yml")
    groups = RULES.read_text()
    alerts = groups.count("- alert:")
    expect(groups.count("runbook:") == alerts, "an alert without a runbook")
    return f"{alerts} alerts"


@check
def promtool_finds_no_fault_in_a_scrape(world):
    gate = start_gate(world)
    ask(gate.web, "/small", 3)
    text = scrape(gate)
    expect(text.endswith("\n# EOF\n"), "it does not end with # EOF")
    # promtool reads the older text format, where `_total` and `_info` belong to the family's name.
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    endings = {"counter": "_total", "info": "_info"}

    def older(line):
        words = line.split(" ", 3)
        if line.startswith("# UNIT ") or line == "# EOF":
            return ""
        if line.startswith("# "):
            words[2] += endings.get(kinds[words[2]], "")
            return " ".join(words).replace(" info", " gauge") if words[1] == "TYPE" else " ".join(words)
        return line

    promtool("check", "metrics", stdin="\n".join(filter(None, map(older, text.splitlines()))) + "\n")
    return f"{len(kinds)} families, {len(text)} bytes"


@check
def prometheus_counts_what_was_sent_and_the_dashboard_finds_its_metrics(world):
    gate = start_gate(world)
    ask(gate.web, "/small", 50)
    ask(gate.web, "/dead", 7)
    ask(gate.web, "/word", 5)
    for _ in range(3):
        world.curl(f"https://localhost:{gate.secure}/small", "--http2")
    for _ in range(4):
        ask(gate.relayed, "/small", 2)
    good = gate.path.read_text()
    gate.reload()
    until(5, lambda: expect("tidegate_generation{} 2" in scrape(gate), "the reload is not counted"))
    gate.write(good + "[[listener]]\n")
    gate.reload()
    until(5, lambda: expect('tidegate_reloads_total{result="failed"} 1' in scrape(gate), "the refused one is not"))

    prometheus = Prometheus(world, gate)
    until(30, lambda: expect(prometheus.number('up{job="tidegate"}') == 1, "it is not scraped"))
    until(10, lambda: expect(prometheus.number("sum(tidegate_requests_total)") == 65, prometheus.query("tidegate_requests_total")))
    for expression, wanted in {
        'tidegate_requests_total{listener="web"}': 62,
        'tidegate_requests_started_total{protocol="http2"}': 3,
        'tidegate_responses_total{listener="web", class="2xx"}': 55,
        'tidegate_outcomes_total{listener="web", kind="connection_refused"}': 7,
        'tidegate_route_requests_total{route="app"}': 53,
        r'tidegate_route_requests_total{route="a\\backslash"}': 5,
        'tidegate_upstream_requests_total{upstream="dead"}': 7,
        'tidegate_upstream_request_duration_seconds_count{upstream="app"}': 53,
        'tidegate_upstream_request_duration_seconds_bucket{upstream="app", le="60.0"}': 53,
        'sum(tidegate_tls_handshakes_total{version="1.3"})': 3,
        "tidegate_sessions_started_total": 4,
        'tidegate_sessions_ended_total{listener="relayed"}': 4,
        'tidegate_session_outcomes_total{listener="relayed", kind="ok"}': 4,
        'tidegate_upstream_session_duration_seconds_count{upstream="app"}': 4,
        "tidegate_last_reload_successful": 0,
        "tidegate_generation": 2,
        'sum(tidegate_route_response_body_bytes_total{route="app"})': 53 * 1020,
    }.items():
        seen = prometheus.number(expression)
        expect(seen == wanted, f"{expression}: {seen}, not {wanted}")

    known = set(prometheus.api("label/__name__/values"))
    wrong = []
    sources = [(title, plain(expression)) for title, expression in expressions(dashboard())]
    groups = prometheus.api("rules")["groups"]
    for rule in groups[0]["rules"]:
        expect(rule["health"] != "err", f"{rule['name']}: {rule.get('lastError')}")
        sources.append((rule["name"], rule["query"]))
    for title, expression in sources:
        prometheus.query(expression)
        wrong += [f"{title}: {name}" for name in METRIC.findall(expression) if name not in known]
    expect(not wrong, f"metrics that are not there: {'; '.join(wrong)}")
    return f"{len(known)} names, {len(sources)} expressions"


@check
def the_dashboard_can_be_imported(world):
    board = dashboard()
    ids = [panel["id"] for panel in board["panels"]]
    expect(len(set(ids)) == len(ids), "panels with the same id")
    taken = {}
    for panel in board["panels"]:
        place = panel["gridPos"]
        expect(place["x"] + place["w"] <= 24, f"{panel['title']} sticks out")
        for cell in ((x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])):
            expect(cell not in taken, f"{panel['title']} lies on {taken.get(cell)}")
            taken[cell] = panel["title"]
        source = panel.get("datasource", {}).get("uid")
        expect(panel["type"] == "row" or source == "${datasource}", f"{panel['title']} has a data source of its own")
    names = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]+)\}?", json.dumps(board["panels"])))
    expect(used <= names, f"variables that are not defined: {used - names}")
    return f"{len(ids)} panels"
