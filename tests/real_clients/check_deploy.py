"""The systemd units: that systemd reads them, how exposed they leave the service, and that it does with what they allow."""

import pathlib
import re
import shutil
import signal
import subprocess
import time

from world import ROOT, Checks, expect, free_ports, wait_for_port

check = Checks()

UNITS = ROOT / "deploy" / "systemd"
# What `systemd-analyze security` may say at most, times ten; below 2.0 it calls a service well confined.
EXPOSURE = 19


def units(world):
    """Copies that name this build instead of an installed one."""
    folder = world.folder / "units"
    folder.mkdir(exist_ok=True)
    for unit in UNITS.iterdir():
        (folder / unit.name).write_text(unit.read_text().replace("/usr/bin/tidegate", str(world.binary)))
    return folder


def systemd_analyze(*words):
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True)


@check
def systemd_reads_the_units(world):
    folder = units(world)
    names = [str(folder / unit.name) for unit in sorted(UNITS.iterdir())]
    seen = systemd_analyze("verify", "--man=no", *names)
    ours = [line for line in seen.stderr.splitlines() if "tidegate" in line]
    expect(seen.returncode == 0 and not ours, f"{seen.returncode}: {seen.stderr}")
    return f"{len(names)} units"


@check
def the_service_is_well_confined(world):
    unit = str(units(world) / "tidegate.service")
    seen = systemd_analyze("security", "--offline=true", f"--threshold={EXPOSURE}", unit)
    expect(seen.returncode == 0, seen.stdout[-2000:] + seen.stderr)
    return seen.stdout.strip().splitlines()[-1].strip("\u2192 ")


@check
def systemd_waits_longer_than_a_drain(world):
    unit = (UNITS / "tidegate.service").read_text()
    stop = int(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.M).group(1))
    reference = (ROOT / "config" / "reference.toml").read_text()
    drain = sum(int(s) for s in re.findall(r"^drain_(?:timeout|delay) = \"(\d+)s\"", reference, re.M))
    expect(stop > drain, f"TimeoutStopSec={stop}, and a drain takes {drain} s")
    return f"{stop} s, a drain {drain} s"


def system_calls(*sets):
    """The names in systemd's sets, those of nested sets as well."""
    found = set()
    for name in sets:
        if not name.startswith("@"):
            found.add(name)
            continue
        listed = systemd_analyze("--no-pager", "syscall-filter", name).stdout.splitlines()[1:]
        words = [line.strip() for line in listed if line.strip() and not line.strip().startswith("#")]
        found |= system_calls(*words)
    return found


def allowed_calls():
    allowed = system_calls("@default")
    for line in re.findall(r"^SystemCallFilter=(.*)$", (UNITS / "tidegate.service").read_text(), re.M):
        if line.startswith("~"):
            allowed -= system_calls(*line[1:].split()) - system_calls("@default")
        else:
            allowed |= system_calls(*line.split())
    return allowed


@check
def a_whole_life_needs_no_system_call_that_the_service_forbids(world):
    """Start, requests on TLS and cleartext, a reload, a drain: all under strace."""
    plain, secure = free_ports(2)
    folder = world.folder / "life"
    folder.mkdir()
    config = folder / "tidegate.toml"
    config.write_text(f"""
[[listener]]
name = "plain"
bind = "127.0.0.1:{plain}"
[[listener]]
name = "secure"
bind = "127.0.0.1:{secure}"
tls.certificates = [{{ cert = "{world.folder}/localhost.pem", key = "{world.folder}/localhost.key" }}]
[[route]]
upstream = "app"
[upstream.app]
endpoints = ["127.0.0.1:{world.nginx_h1}", "dns:localhost:{world.nginx_h1}"]
""")
    trace, log = folder / "trace", open(folder / "log", "wb")
    command = ["strace", "-f", "-qq", "-o", str(trace), world.binary, "run", "--config", str(config)]
    process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        wait_for_port(secure, seconds=30, process=process)
        for url in (f"http://127.0.0.1:{plain}/small", f"https://127.0.0.1:{secure}/big"):
            for version in ("--http1.1", "--http2"):
                seen = subprocess.run(["curl", "-sk", version, "-o", "/dev/null", "-w", "%{http_code}", url], capture_output=True)
                expect(seen.stdout == b"200", f"{url}: {seen.stdout} {seen.stderr}")
        children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        traced = int(children[0])
        for number in (signal.SIGHUP, signal.SIGTERM):
            time.sleep(0.5)
            subprocess.run(["kill", f"-{int(number)}", str(traced)], check=True)
        expect(process.wait(20) == 0, f"left with {process.returncode}")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    said = (folder / "log").read_text()
    expect("reloaded" in said and "Drained" in said, said[-2000:])
    used = set(re.findall(r"^\d+ +([a-z0-9_]+)\(", trace.read_text(), re.M))
    forbidden = used - allowed_calls()
    expect(len(used) > 20 and not forbidden, f"{len(used)} used, forbidden: {sorted(forbidden)}")
    families = set(re.findall(r"^\d+ +socket\((AF_[A-Z0-9]+)", trace.read_text(), re.M))
    granted = set(re.search(r"^RestrictAddressFamilies=(.*)$", (UNITS / "tidegate.service").read_text(), re.M).group(1).split())
    expect(families <= granted, f"sockets of {families}, granted {granted}")
    memory = [line for line in trace.read_text().splitlines() if "PROT_WRITE|PROT_EXEC" in line]
    expect(not memory, f"memory that is written and executed: {memory[:3]}")
    shutil.rmtree(folder)
    return f"{len(used)} different calls"
