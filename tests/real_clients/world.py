"""What the checks stand on: origins, Tidegate between, certificates, and how to call the clients."""

import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SMALL = b"small\n" * 170
BIG_BYTES = 24 * 1024 * 1024
HUGE_BYTES = 1024 * 1024 * 1024

os.environ["PATH"] += ":/usr/sbin:/sbin"


class Failed(Exception):
    """A check does not hold; the text says what was seen."""


class Checks:
    """The checks of one module, named after their functions."""

    def __init__(self):
        self.found = []

    def __call__(self, function):
        self.add(function.__name__.replace("_", " "), function)
        return function

    def add(self, name, function):
        self.found.append((name, function))


def expect(condition, seen):
    if not condition:
        raise Failed(seen)


def tool(name):
    """A program from PyPI, where `.ci/run packages` put it."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    for found in (target / "tools" / "python" / "bin" / name, pathlib.Path(sys.prefix) / "bin" / name, shutil.which(name)):
        if found and os.access(found, os.X_OK):
            return str(found)
    raise Failed(f"{name} is not installed (`.ci/run packages` installs it)")


def free_ports(count):
    """Ports that nothing has, neither for TCP nor for UDP; held together so that they differ."""
    holders, ports = [], []
    while len(ports) < count:
        pair = [socket.socket(socket.AF_INET, kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]
        holders += pair
        try:
            pair[0].bind(("127.0.0.1", 0))
            pair[1].bind(pair[0].getsockname())
            ports.append(pair[0].getsockname()[1])
        except OSError:
            continue
    for holder in holders:
        holder.close()
    return ports


def wait_for_port(port, seconds=10, process=None):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process and process.poll() is not None:
            raise Failed(f"{process.args[0]} left with {process.returncode} before it listened on {port}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise Failed(f"nothing listens on {port} after {seconds} s")


def until(seconds, look):
    """What `look` gives as soon as it fails no more; its last failure when the time is up, of which a slow machine gets more."""
    deadline = time.monotonic() + 3 * seconds
    while True:
        try:
            return look()
        except (Failed, OSError, ValueError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


class Answer:
    """What curl came back with."""

    def __init__(self, code, head, body, error, seconds):
        self.exit, self.body, self.error, self.seconds = code, body, error, seconds
        blocks = [b for b in head.decode("latin-1").replace("\r\n", "\n").split("\n\n") if b.strip()]
        heads = [b for b in blocks if b.startswith("HTTP/")]
        last = heads[-1].split("\n") if heads else [""]
        words = last[0].split(" ")
        self.version = words[0]
        self.status = int(words[1]) if len(words) > 1 else 0
        self.statuses = [int(b.split(" ")[1]) for b in heads]
        self.fields = [tuple(x.strip() for x in line.split(":", 1)) for line in last[1:] if ":" in line]
        after = blocks[blocks.index(heads[-1]) + 1 :] if heads else []
        self.trailers = [tuple(x.strip() for x in line.split(":", 1)) for b in after for line in b.split("\n")]

    def header(self, name):
        values = [v for n, v in self.fields if n.lower() == name]
        return ", ".join(values) if values else None

    def __str__(self):
        return f"exit {self.exit}, {self.version} {self.status}, {len(self.body)} bytes, {self.seconds:.2f} s {self.error}"


class Tidegate:
    """One running Tidegate with a configuration of its own."""

    def __init__(self, world, name, config, ports, environment=None):
        self.world, self.name = world, name
        self.folder = world.folder / name
        self.folder.mkdir(exist_ok=True)
        self.path = self.folder / "tidegate.toml"
        self.ports = ports
        self.write(config)
        self.log_path = self.folder / "log"
        log = open(self.log_path, "ab")
        command = [world.binary, "--log-level", os.environ.get("TIDEGATE_LOG", "info"), "run", "--config", str(self.path)]
        self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, **(environment or {})})
        for port in ports:
            wait_for_port(port, process=self.process)

    def write(self, config):
        self.path.write_text(config)

    def log(self):
        return self.log_path.read_text(errors="replace")

    def signal(self, number):
        self.process.send_signal(number)

    def reload(self):
        self.signal(signal.SIGHUP)

    def is_alive(self):
        return self.process.poll() is None

    def wait(self, seconds):
        """The exit status, or None where it did not leave in time."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def resident_kib(self):
        for line in open(f"/proc/{self.process.pid}/status"):
            if line.startswith("VmRSS"):
                return int(line.split()[1])
        return 0

    def stop(self):
        if self.is_alive():
            self.process.kill()
            self.process.wait()


class World:
    """Origins and the Tidegate that most checks share."""

    def __init__(self, keep=False):
        self.keep = keep
        default = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "tidegate"
        self.binary = str(pathlib.Path(os.environ.get("TIDEGATE_BIN", default)).resolve())
        if not os.access(self.binary, os.X_OK):
            sys.exit(f"{self.binary} is not there: build it with `cargo build --release`, or set TIDEGATE_BIN")
        missing = [c for c in ("curl", "nginx", "haproxy", "nghttp", "nghttpd", "h2load", "wrk", "openssl", "prometheus", "promtool") if not shutil.which(c)]
        if missing:
            sys.exit(f"not installed: {', '.join(missing)} (`.ci/run packages` installs them)")
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tidegate-clients-"))
        self.folder.chmod(0o755)
        self.processes = []
        self.extra = []

    def __enter__(self):
        try:
            self.make_certificates()
            self.make_documents()
            self.start_origins()
            self.start_shared()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for gate in [*self.extra, *([self.gate] if hasattr(self, "gate") else [])]:
            gate.stop()
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
        if self.keep:
            print(f"kept: {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    # --- certificates and documents

    def openssl(self, *words):
        subprocess.run(["openssl", *words], cwd=self.folder, check=True, capture_output=True)

    def make_certificates(self):
        for authority in ("ca", "other-ca"):
            self.openssl(
                *"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split(),
                *["-keyout", f"{authority}.key", "-out", f"{authority}.pem", "-subj", f"/CN=check {authority}"],
            )
        self.leaf("localhost", "DNS:localhost,IP:127.0.0.1")
        self.leaf("example", "DNS:example.test,DNS:*.example.test")
        self.leaf("client", "DNS:client.test")
        self.leaf("stranger", "DNS:stranger.test", authority="other-ca")

    def leaf(self, name, names, authority="ca"):
        self.openssl(
            *"req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes".split(),
            *["-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}", "-addext", f"subjectAltName={names}"],
        )
        self.openssl(
            *["x509", "-req", "-in", f"{name}.csr", "-CA", f"{authority}.pem", "-CAkey", f"{authority}.key"],
            *["-CAcreateserial", "-days", "2", "-copy_extensions", "copy", "-out", f"{name}.pem"],
        )

    def make_documents(self):
        documents = self.folder / "documents"
        documents.mkdir()
        (documents / "small").write_bytes(SMALL)
        self.big = os.urandom(1 << 20) * (BIG_BYTES >> 20)
        (documents / "big").write_bytes(self.big)
        with open(documents / "huge", "wb") as huge:
            huge.truncate(HUGE_BYTES)
        (self.folder / "upload").write_bytes(self.big[: 3 * 1024 * 1024 + 17])

    # --- origins

    def spawn(self, name, *command, **options):
        log = open(self.folder / f"{name}.log", "ab")
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, **options)
        self.processes.append(process)
        return process

    def start_origins(self):
        self.nginx_h1, self.nginx_tls, self.nginx_h2, self.nginx_h2c, self.nghttpd, self.origin, self.dead = free_ports(7)
        self.nginx_socket = self.folder / "nginx.sock"
        self.start_nginx()
        self.spawn("nghttpd", "nghttpd", "--no-tls", "--echo-upload", "--trailer", "x-check: whole",
                   "-d", str(self.folder / "documents"), "-a", "127.0.0.1", str(self.nghttpd))
        self.spawn("origin", sys.executable, str(HERE / "origin.py"), str(self.origin))
        for port in (self.nginx_h1, self.nginx_tls, self.nginx_h2, self.nginx_h2c, self.nghttpd, self.origin):
            wait_for_port(port)

    def start_nginx(self):
        user = "user root;" if os.getuid() == 0 else ""
        config = self.folder / "nginx.conf"
        config.write_text(f"""
            {user} daemon off; worker_processes 1; pid {self.folder}/nginx.pid; error_log stderr error;
            events {{ worker_connections 4096; }}
            http {{
                access_log off; root {self.folder}/documents; default_type text/plain; etag on; client_max_body_size 0;
                client_body_temp_path {self.folder}/nginx-body; proxy_temp_path {self.folder}/nginx-proxy;
                fastcgi_temp_path {self.folder}/nginx-fastcgi; uwsgi_temp_path {self.folder}/nginx-uwsgi;
                scgi_temp_path {self.folder}/nginx-scgi;
                ssl_certificate {self.folder}/localhost.pem; ssl_certificate_key {self.folder}/localhost.key;
                server {{
                    listen 127.0.0.1:{self.nginx_h1}; listen unix:{self.nginx_socket};
                    listen 127.0.0.1:{self.nginx_tls} ssl; listen 127.0.0.1:{self.nginx_h2} ssl http2;
                    listen 127.0.0.1:{self.nginx_h2c} http2;
                    keepalive_requests 200;
                    location = /slowly {{ limit_rate 2m; alias {self.folder}/documents/big; }}
                    location = /through {{
                        proxy_pass http://127.0.0.1:{self.origin}/echo; proxy_http_version 1.1; proxy_request_buffering off;
                    }}
                }}
            }}
        """)
        self.nginx = self.spawn("nginx", "nginx", "-p", str(self.folder), "-c", str(config))

    def kill_nginx(self):
        """Its workers too, at once, in the middle of whatever they send."""
        children = pathlib.Path(f"/proc/{self.nginx.pid}/task/{self.nginx.pid}/children").read_text().split()
        for pid in [self.nginx.pid, *map(int, children)]:
            os.kill(pid, signal.SIGKILL)
        self.nginx.wait()
        self.processes.remove(self.nginx)

    def start_nginx_again(self):
        self.nginx_socket.unlink(missing_ok=True)
        self.start_nginx()
        wait_for_port(self.nginx_h1)

    # --- Tidegate

    def shared_config(self, **changes):
        """The configuration that most checks share; `changes` replaces a part of it."""
        word = changes.get("word", "one")
        f = self.folder
        return f"""
[server]
workers = 2
drain_timeout = "{changes.get("drain_timeout", "20s")}"

[[listener]]
name = "plain"
bind = "127.0.0.1:{self.plain}"

[[listener]]
name = "secure"
bind = "127.0.0.1:{self.secure}"
tls.certificates = [{{ cert = "{f}/localhost.pem", key = "{f}/localhost.key" }}, {{ cert = "{f}/example.pem", key = "{f}/example.key" }}]
tls.client_auth = {{ ca = "{f}/ca.pem", mode = "optional" }}

[[listener]]
name = "members"
bind = "127.0.0.1:{self.members}"
tls.certificates = [{{ cert = "{f}/localhost.pem", key = "{f}/localhost.key" }}]
tls.client_auth = {{ ca = "{f}/ca.pem", mode = "require" }}
tls.min_version = "1.3"

[[listener]]
name = "strict"
bind = "127.0.0.1:{self.strict}"

[listener.timeouts]
header = "1s"
client_stall = "1s"
idle = "2s"

[[listener]]
name = "strict-secure"
bind = "127.0.0.1:{self.strict_secure}"
tls.certificates = [{{ cert = "{f}/localhost.pem", key = "{f}/localhost.key" }}]

[listener.timeouts]
handshake = "1s"
header = "1s"
client_stall = "1s"
idle = "2s"

{"".join(self.route(*pair) for pair in self.upstreams().items())}

[[route]]
path = "/word"
respond = {{ status = 200, body = "{word}\\n" }}

[[route]]
path = "/moved/*"
redirect = {{ to = "https://{{host}}/elsewhere{{path_and_query}}", status = 307 }}

[[route]]
path = "/limited/*"
strip_prefix = "/limited"
upstream = "odd"
timeouts = {{ response = "1s" }}

[[route]]
path = "/small-body/*"
upstream = "odd"
max_body = "1MiB"

[upstream.impatient]
endpoints = ["127.0.0.1:{self.origin}"]
timeouts = {{ stream_idle = "1s" }}

[upstream.dead]
endpoints = ["127.0.0.1:{self.dead}"]

[upstream.half-dead]
endpoints = ["127.0.0.1:{self.dead}", "127.0.0.1:{self.nginx_h1}"]

[upstream.wrong-name]
endpoints = ["127.0.0.1:{self.nginx_tls}"]
tls = {{ ca = "{f}/ca.pem", server_name = "elsewhere.test" }}

[[route]]
path = "/impatient/*"
strip_prefix = "/impatient"
upstream = "impatient"

[[route]]
path = "/dead"
upstream = "dead"

[[route]]
path = "/half-dead/*"
strip_prefix = "/half-dead"
upstream = "half-dead"

[[route]]
path = "/wrong-name"
upstream = "wrong-name"
"""

    def upstreams(self):
        """Prefix to endpoint, protocol and TLS of the origins that every downstream protocol is tried against."""
        tls = f'{{ ca = "{self.folder}/ca.pem", server_name = "localhost" }}'
        return {
            "h1": (f"127.0.0.1:{self.nginx_h1}", "http1", None),
            "unix": (f"unix:{self.nginx_socket}", "auto", None),
            "h1-tls": (f"127.0.0.1:{self.nginx_tls}", "auto", tls),
            "h2-tls": (f"127.0.0.1:{self.nginx_h2}", "auto", tls),
            "h2c": (f"127.0.0.1:{self.nginx_h2c}", "http2", None),
            "nghttpd": (f"127.0.0.1:{self.nghttpd}", "http2", None),
            "odd": (f"127.0.0.1:{self.origin}", "auto", None),
        }

    @staticmethod
    def route(name, upstream):
        endpoint, protocol, tls = upstream
        secure = f"tls = {tls}" if tls else ""
        return f"""
[[route]]
path = "/{name}/*"
strip_prefix = "/{name}"
upstream = "{name}"

[upstream.{name}]
endpoints = ["{endpoint}"]
protocol = "{protocol}"
{secure}
"""

    def start_shared(self):
        self.plain, self.secure, self.members, self.strict, self.strict_secure = self.shared_ports = free_ports(5)
        self.gate = Tidegate(self, "shared", self.shared_config(), self.shared_ports)

    def start_own(self, name, **changes):
        """A Tidegate of a check's own, to be drained or killed; with the shared configuration on other ports."""
        kept = self.shared_ports, self.plain, self.secure, self.members, self.strict, self.strict_secure
        ports = free_ports(5)
        self.plain, self.secure, self.members, self.strict, self.strict_secure = ports
        config = self.shared_config(**changes)
        self.shared_ports, self.plain, self.secure, self.members, self.strict, self.strict_secure = kept
        gate = Tidegate(self, name, config, ports)
        gate.plain, gate.secure = ports[0], ports[1]
        self.extra.append(gate)
        return gate

    def mend(self):
        """After each check: what it started ends, and the shared Tidegate runs, whatever it did."""
        for gate in self.extra:
            gate.stop()
        self.extra.clear()
        if not self.gate.is_alive():
            print(f"FAIL the shared Tidegate left with {self.gate.process.returncode}; it is started again")
            self.start_shared()

    def show_log_tail(self):
        for gate in [self.gate, *self.extra]:
            for line in gate.log().splitlines()[-8:]:
                print(f"     | {gate.name}: {line}")

    # --- clients

    def curl(self, url, *words, seconds=20, stdin=None):
        head = self.folder / "head"
        head.write_bytes(b"")
        command = ["curl", "-sS", "--max-time", str(seconds), "--cacert", str(self.folder / "ca.pem"), "-D", str(head),
                   "-o", "-", *words, url]
        started = time.monotonic()
        done = subprocess.run(command, input=stdin, stdin=None if stdin else subprocess.DEVNULL, capture_output=True)
        took = time.monotonic() - started
        error = done.stderr.decode(errors="replace").strip()
        return Answer(done.returncode, head.read_bytes(), done.stdout, error, took)

    def raw(self, port, data, seconds=5, tls=False, then=b""):
        """Sends bytes as they are and returns all that comes back until the other side closes or time is up."""
        with self.connect(port, tls) as sock:
            sock.settimeout(seconds)
            sock.sendall(data)
            if then:
                time.sleep(0.2)
                sock.sendall(then)
            return read_to_end(sock)

    def connect(self, port, tls=False, alpn=()):
        sock = socket.create_connection(("127.0.0.1", port), 5)
        if tls:
            context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
            if alpn:
                context.set_alpn_protocols(list(alpn))
            sock = context.wrap_socket(sock, server_hostname="localhost")
        return sock


class Reply:
    """Bytes that came back on a raw connection, and how it ended."""

    def __init__(self, data, end, seconds):
        self.data, self.end, self.seconds = data, end, seconds
        self.closed = end in ("closed", "reset")
        words = data.split(b" ", 2)
        self.status = int(words[1]) if data.startswith(b"HTTP/1.") and words[1].isdigit() else 0

    def __str__(self):
        return f"{self.data[:60]!r}…, {self.end} after {self.seconds:.1f} s"


def read_to_end(sock):
    started, data, end = time.monotonic(), b"", "open"
    try:
        while True:
            piece = sock.recv(65536)
            if not piece:
                end = "closed"
                break
            data += piece
    except (TimeoutError, socket.timeout):
        pass
    except (ConnectionError, ssl.SSLError):
        end = "reset"
    return Reply(data, end, time.monotonic() - started)
