"""The admin and observe listeners before an API fuzzer: schemathesis asks everything that docs/openapi.json describes,
rightly and wrongly, and looks whether status, content type and form of every answer are what it says."""

import http.client
import json
import re
import socket
import subprocess

from world import ROOT, Checks, Tidegate, expect, free_ports, tool

check = Checks()

TOKEN = "a-token-of-the-checks"


def start_gate(world, name, endpoint):
    web, admin, observe = free_ports(3)
    token = world.folder / "token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    gate = Tidegate(world, name, f"""
[server]
workers = 1
drain_timeout = "120s"
admin = {{ bind = "127.0.0.1:{admin}", token_file = "{token}" }}
observe.bind = "127.0.0.1:{observe}"

[[listener]]
name = "web"
bind = "127.0.0.1:{web}"

[[route]]
upstream = "app"
timeouts.response = "120s"

[upstream.app]
endpoints = ["{endpoint}"]
""", [web, admin, observe])
    world.extra.append(gate)
    return gate


def description(gate, endpoint, security):
    """The description as it is for one listener of this gate: who is let in, and examples that name what is there."""
    described = json.loads((ROOT / "docs" / "openapi.json").read_text())
    described["security"] = security
    body = described["paths"]["/drain"]["post"]["requestBody"]["content"]["application/json"]
    for example in body["examples"].values():
        example["value"].update(upstream="app", endpoint=endpoint)
    path = gate.folder / "openapi.json"
    path.write_text(json.dumps(described))
    return path


# A schema cannot say what an address, a name of a field or a host is: what has the right form may still be refused.
SETTINGS = """
[[operations]]
include-name = "POST /explain"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "401", "409", "503"]
"""


def fuzz(gate, path, port, *words):
    (gate.folder / "schemathesis.toml").write_text(SETTINGS)
    command = [tool("schemathesis"), "run", str(path), "--url", f"http://127.0.0.1:{port}", "--checks", "all", "--max-examples", "25", "--seed", "7",
               "--no-color", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=gate.folder)
    expect(done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:])
    expect(gate.is_alive(), "it left while it was asked")
    cases = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    tested = re.search(r"Tested: (\d+)", done.stdout)
    expect(cases and tested and int(tested[1]) > 0, done.stdout[-2000:])
    return int(tested[1]), int(cases[1])


def status_of(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    return connection.getresponse().status


ANYBODY = [{}]
WITH_TOKEN = [{"token": []}]
BEARER = ("-H", f"Authorization: Bearer {TOKEN}")


@check
def observe_answers_as_described(world):
    endpoint = f"127.0.0.1:{world.nginx_h1}"
    gate = start_gate(world, "observe-api", endpoint)
    operations, cases = fuzz(gate, description(gate, endpoint, ANYBODY), gate.ports[2], "--include-tag", "observe")
    expect(status_of(gate.ports[2], "/config") == 404, "observe has what is admin's")
    gate.stop()
    return f"{operations} operations, {cases} cases"


@check
def admin_answers_as_described(world):
    endpoint = f"127.0.0.1:{world.nginx_h1}"
    gate = start_gate(world, "admin-api", endpoint)
    # A drain of the process is an order of /drain.
    operations, cases = fuzz(gate, description(gate, endpoint, WITH_TOKEN), gate.ports[1], "--exclude-path", "/drain", *BEARER)
    expect(status_of(gate.ports[2], "/readyz") == 200, "it is not ready any more")
    gate.stop()
    return f"{operations} operations, {cases} cases"


@check
def a_draining_process_answers_as_described(world):
    # Takes connections and never answers: the request keeps the process from leaving.
    with socket.create_server(("127.0.0.1", 0)) as origin:
        endpoint = f"127.0.0.1:{origin.getsockname()[1]}"
        gate = start_gate(world, "draining-api", endpoint)
        held = socket.create_connection(("127.0.0.1", gate.ports[0]))
        held.sendall(b"GET /held HTTP/1.1\r\nhost: localhost\r\n\r\n")
        origin.settimeout(10)
        held_there, _ = origin.accept()
        expect(held_there.recv(3) == b"GET", "the request did not arrive")
        path = description(gate, endpoint, WITH_TOKEN)
        # While it serves: the endpoint is drained and resumed, until an order without a body drains the process.
        operations, cases = fuzz(gate, path, gate.ports[1], "--exclude-path", "/readyz", *BEARER)
        expect(status_of(gate.ports[2], "/readyz") == 503, "no order of the fuzzer drained it")
        _, again = fuzz(gate, path, gate.ports[1], "--exclude-path", "/readyz", *BEARER)
        # The one 5xx that is meant.
        _, unready = fuzz(gate, path, gate.ports[1], "--include-path", "/readyz", "--exclude-checks", "not_a_server_error", *BEARER)
        held.close()
        held_there.close()
    expect(gate.wait(20) == 0, "it did not leave when nothing was under way any more")
    return f"{operations + 2} operations, {cases + again + unready} cases"
