"""The PROXY protocol between HAProxy and Tidegate, in both directions: HAProxy in front tells of curl, HAProxy behind says what it was told."""

import subprocess

from world import Checks, Tidegate, expect, free_ports, wait_for_port

check = Checks()
# An address that nothing else of this suite comes from.
CLIENT = "127.0.0.77"
SEEN = "%[src]:%[src_port] %[dst]:%[dst_port] unique=%[fc_pp_unique_id] %[req.hdr(x-forwarded-for)]"


def between_two(world, sent, told):
    """Starts HAProxy, Tidegate and HAProxy again; gives the ports that are open in front, cleartext and TLS."""
    plain, secure, gate_plain, gate_secure, origin = free_ports(5)
    folder = world.folder / f"proxy-protocol-{told}"
    folder.mkdir(exist_ok=True)
    server = f"{sent} check-send-proxy check inter 200ms"
    (folder / "haproxy.cfg").write_text(f"""
defaults
  timeout connect 5s
  timeout client 20s
  timeout server 20s
  unique-id-format id-%cp
listen plain
  mode tcp
  bind 127.0.0.1:{plain}
  server gate 127.0.0.1:{gate_plain} {server}
listen secure
  mode tcp
  bind 127.0.0.1:{secure}
  server gate 127.0.0.1:{gate_secure} {server}
frontend origin
  mode http
  bind 127.0.0.1:{origin} accept-proxy
  http-request return status 200 content-type text/plain lf-string "{SEEN}"
""")
    tls = f'tls.certificates = [{{ cert = "{world.folder}/localhost.pem", key = "{world.folder}/localhost.key" }}]'
    required = 'proxy_protocol = "require"\ntrusted_proxies = ["127.0.0.1"]'
    gate = Tidegate(world, f"proxy-protocol-{told}", f"""
[server]
workers = 2
[[listener]]
bind = "127.0.0.1:{gate_plain}"
{required}
[[listener]]
bind = "127.0.0.1:{gate_secure}"
{required}
{tls}
[[route]]
upstream = "origin"
[upstream.origin]
endpoints = ["127.0.0.1:{origin}"]
send_proxy_protocol = "{told}"
""", [gate_plain, gate_secure])
    world.extra.append(gate)
    process = world.spawn(f"haproxy-{told}", "haproxy", "-db", "-f", str(folder / "haproxy.cfg"))
    for port in (plain, secure, origin):
        wait_for_port(port, process=process)
    return plain, secure


def seen_through(world, url, port):
    """What HAProxy behind says of a curl from `CLIENT`, and the port that curl came from."""
    answer = world.curl(url, "--interface", CLIENT, "-w", "\n%{local_port}")
    expect(answer.status == 200, str(answer))
    source, destination, unique_id, forwarded, local = answer.body.decode().split()
    expect(source == f"{CLIENT}:{local}", f"told {source} of {CLIENT}:{local}")
    expect(destination == f"127.0.0.1:{port}", f"told {destination}, and it went to {port}")
    expect(forwarded == CLIENT, forwarded)
    return unique_id.removeprefix("unique="), local


def goes_through(world, sent, told, passed_on):
    plain, secure = between_two(world, sent, told)
    for url, port in ((f"http://127.0.0.1:{plain}/", plain), (f"https://localhost:{secure}/", secure)):
        unique_id, local = seen_through(world, url, port)
        expect(unique_id == (f"id-{local}" if passed_on else ""), f"unique id `{unique_id}`")
    version = subprocess.run(["haproxy", "-v"], capture_output=True, text=True).stdout.split("\n")[0]
    return f"{sent} in, {told} out: {version}"


@check
def haproxy_tells_by_version_2_with_checksums_and_is_told_so(world):
    options = "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority,ssl"
    return goes_through(world, options, "v2", passed_on=True)


@check
def haproxy_tells_by_version_1_and_is_told_so(world):
    return goes_through(world, "send-proxy", "v1", passed_on=False)
