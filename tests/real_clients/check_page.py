"""The status page in a real browser: what it draws is what the process says, and nothing it is told is believed as markup."""

import atexit
import contextlib
import functools
import json
import signal
import subprocess
import sys
import threading
import urllib.request

from browser import Browser
from world import HERE, Checks, Tidegate, expect, free_ports, wait_for_port

check = Checks()

SCRIPT = "<script>document.title=1</script><img/src=x/onerror=alert(1)>"

# Text that is seen, with its contrast (WCAG 2.2 §1.4.3) to what is painted behind it.
CONTRASTS = """(() => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const channels = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255]; };
    const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
    const behind = (node) => { const layers = [];
        for (let n = node; n; n = n.parentElement) layers.push(channels(getComputedStyle(n).backgroundColor));
        return layers.reduceRight((under, top) => over(top, under), [255, 255, 255, 1]); };
    const light = (c) => c.slice(0, 3).map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const found = new Map(), walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let text = walker.nextNode(); text; text = walker.nextNode()) {
        const node = text.parentElement;
        if (!text.data.trim() || node.closest("script, style, [hidden], .hidden, :disabled") || !node.checkVisibility()) continue;
        const style = getComputedStyle(node), under = behind(node);
        const ink = over(channels(node.closest("svg") ? style.fill : style.color), under);
        const [a, b] = [light(ink), light(under)].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
        if (ratio < 4.5) found.set(`${text.data.trim().slice(0, 30)} (${node.className.baseVal ?? node.className})`, ratio.toFixed(2));
    }
    return [...found].map(([what, ratio]) => `${what}: ${ratio}`);
})()"""


@functools.cache
def browser():
    """One for all checks: a second or two each time would add up."""
    opened = Browser()
    atexit.register(opened.close)
    return opened


class Watched:
    """A Tidegate that is looked at, its page in a tab."""

    def __init__(self, world, name, **changes):
        self.world, self.plain, self.other, self.observe = world, *free_ports(3)
        self.gate = Tidegate(world, name, self.config(**changes), [self.plain, self.other, self.observe])
        world.extra.append(self.gate)
        self.origin = f"http://127.0.0.1:{self.observe}"

    def config(self, **changes):
        world = self.world
        return f"""
[server]
workers = 2
drain_timeout = "{changes.get("drain_timeout", "20s")}"

[server.observe]
bind = "127.0.0.1:{self.observe}"

[[listener]]
name = "web"
bind = "127.0.0.1:{self.plain}"

[[listener]]
name = "secure"
bind = "127.0.0.1:{self.other}"
tls.certificates = [{{ cert = "{world.folder}/localhost.pem", key = "{world.folder}/localhost.key" }}]

[[route]]
name = "files"
path = "/files/*"
strip_prefix = "/files"
upstream = "files"

[[route]]
name = "odd"
path = "/odd/*"
strip_prefix = "/odd"
upstream = "odd"

[[route]]
name = "nobody"
path = "/nobody/*"
upstream = "dead"

[[route]]
name = "word"
path = "/word"
respond = {{ status = 200, body = "{changes.get("word", "one")}\\n" }}

[[route]]
name = {json.dumps(SCRIPT)}
path = "/marked"
upstream = {json.dumps(SCRIPT)}

[upstream.files]
endpoints = ["127.0.0.1:{world.nginx_h1}"]

[upstream.odd]
endpoints = ["127.0.0.1:{world.origin}"]

[upstream.dead]
endpoints = ["127.0.0.1:{world.dead}"]

[upstream.{json.dumps(SCRIPT)}]
endpoints = ["127.0.0.1:{world.dead}"]

{changes.get("more", "")}
"""

    def status(self):
        with urllib.request.urlopen(f"{self.origin}/status", timeout=10) as answer:
            return json.load(answer)

    def open(self, **options):
        page = browser().open(f"{self.origin}/", **options)
        page.wait("document.querySelector('#state').textContent === 'Ready'", what="the page says Ready")
        return page

    def ask(self, path, times=1):
        for _ in range(times):
            self.world.curl(f"http://127.0.0.1:{self.plain}{path}")


@contextlib.contextmanager
def traffic(watched, *paths):
    """Keeps asking until the block ends."""
    stop = threading.Event()

    def ask():
        connection = f"http://127.0.0.1:{watched.plain}"
        while not stop.is_set():
            for path in paths:
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(connection + path, timeout=10).read()

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@contextlib.contextmanager
def mock(scene):
    """The made-up process, for what a real one does not show within seconds."""
    [port] = free_ports(1)
    process = subprocess.Popen([sys.executable, str(HERE / "page_mock.py"), str(port), "--scene", scene])
    try:
        wait_for_port(port, process=process)
        yield port, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def is_clean(page, origin):
    """No complaint, and nobody asked but the process itself."""
    expect(not page.complaints, f"the console says {page.complaints}")
    elsewhere = [url for url in page.asked if not url.startswith((origin + "/", "data:"))]
    expect(not elsewhere, f"it asked {elsewhere}")


def row(page, table, name):
    """The cells of a row, by the words of their columns."""
    return page.run(f"""(() => {{
        const heads = [...document.querySelectorAll('#{table} thead th')].map((th) => th.textContent);
        const row = [...document.querySelectorAll('#{table} tbody tr')].find((tr) => tr.querySelector('.pick, .title').textContent === {json.dumps(name)});
        return row && Object.fromEntries([...row.children].map((cell, i) => [heads[i], cell.innerText]));
    }})()""")


def number(text):
    return int(text.replace(",", ""))


@check
def the_page_shows_what_the_process_says(world):
    watched = Watched(world, "page")
    page = watched.open(width=1920)
    before = page.run("document.querySelector('#chart-requests path')?.getAttribute('d')")
    with traffic(watched, "/files/small", "/odd/status/404", "/odd/status/500", "/word", "/nobody/x", "/marked"):
        page.wait("[...document.querySelectorAll('#chart-requests path')].length >= 2", what="requests and errors are drawn")
        first = page.run("document.querySelector('#chart-requests path').getAttribute('d')")
        page.wait(f"document.querySelector('#chart-requests path').getAttribute('d') !== {json.dumps(first)}", what="the chart moves")
        page.wait("document.querySelectorAll('#chart-latency path').length === 3", what="three percentiles are drawn")
        page.wait("document.querySelectorAll('#chart-classes path').length >= 3", what="the classes 2xx, 4xx and 5xx are drawn")
        figures = page.wait("/^[0-9.]+/.test(document.querySelectorAll('#figures dd.value')[2].textContent) && document.querySelector('#figures').innerText")
    expect(first != before, "the chart did not change when traffic began")
    status = watched.status()
    total = status["traffic"]["requests"]
    page.wait(f"document.querySelector('#figures').innerText.includes('{total:,} in total')", what=f"{total} requests in all")
    for name in ("files", "odd", "nobody", "word", SCRIPT):
        theirs = next(route for route in status["routes"] if route["name"] == name)["traffic"]["requests"]
        ours = row(page, "routes", name)
        expect(ours and number(ours["Total"]) == theirs > 0, f"route {name}: {ours}, and /status says {theirs}")
    # Rates wander; that they are of the right order is what can be held.
    listener = row(page, "listeners", "web")
    expect(number(listener["Total"]) == total, f"listener: {listener}, and /status says {total}")
    endpoints = page.text("#endpoints tbody")
    expect(all(f":{port}" in endpoints for port in (world.nginx_h1, world.origin, world.dead)), f"endpoints: {endpoints}")
    expect("Ready" in endpoints, endpoints)
    errors = page.text("#errors tbody")
    for error in status["errors"]:
        expect(error["kind"] in errors and error["reason"] in errors, f"{error} is not in {errors!r}")
    expect("connection_refused" in errors, f"a refused connection is not among {errors!r}")
    expect("localhost" in page.text("#certificates") and "day" in page.text("#certificates"), page.text("#certificates"))
    expect("ends in" in page.text("#concerns"), f"a certificate of two days is no concern: {page.text('#concerns')!r}")
    expect(page.run("document.querySelectorAll('#workers tbody tr').length") == len(status["workers"]), "a worker is missing")
    is_clean(page, watched.origin)
    return f"{total} requests; {figures.splitlines()[1]}, errors {figures.splitlines()[4]}"


@check
def sessions_stand_beside_requests(world):
    [relay, refused] = free_ports(2)
    watched = Watched(world, "page-layer4", more=f"""
[[listener]]
name = "relay"
bind = "127.0.0.1:{relay}"
mode = "tcp"
upstream = "relayed"

[[listener]]
name = "refused"
bind = "127.0.0.1:{refused}"
mode = "tcp"
upstream = "dead"

[upstream.relayed]
endpoints = ["127.0.0.1:{world.nginx_h1}"]
""")
    page = watched.open(width=1920)
    page.run("[...document.querySelectorAll('#listeners .pick')].find((button) => button.textContent === 'refused').click()")
    for _ in range(7):
        world.curl(f"http://127.0.0.1:{relay}/small")
    for _ in range(3):
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{refused}/", timeout=10)
    page.wait("document.querySelector('#figures').innerText.includes('3 in total')", what="three sessions of the selected listener")
    figures = page.run("document.querySelector('#figures').innerText")
    expect("Sessions ended" in figures and "100 %" in figures, figures)
    legend = page.run("document.querySelector('#chart-classes').closest('figure').querySelector('.legend').innerText")
    expect("not well" in legend and "ended well" in legend and "xx" not in legend, legend)
    theirs = row(page, "listeners", "relay")
    expect(number(theirs["Total"]) == 7 and theirs["Errors"] == "0 %", theirs)
    expect(number(row(page, "upstreams", "relayed")["Total"]) == 7, "the sessions of the upstream")
    process = page.run("document.querySelector('#process-list').innerText")
    expect("Sessions open" in process and "Flows open" not in process, process)
    expect("layer 4" in page.run("document.querySelector('#workers').innerText"), "whose a worker is")
    is_clean(page, watched.origin)
    return figures.replace("\n", " ")[:60]


@check
def names_with_markup_are_text(world):
    watched = Watched(world, "page-names")
    page = watched.open()
    watched.ask("/marked", 3)
    page.wait(f"document.querySelector('#errors tbody').textContent.includes({json.dumps(SCRIPT)})", what="the error names its route")
    page.run("[...document.querySelectorAll('#routes .pick')].find((b) => b.textContent.includes('<script>')).click()")
    page.wait(f"document.querySelector('#scope-name').textContent.includes({json.dumps(SCRIPT)})", what="the route is selected")
    expect(page.run("document.title") == "Tidegate", f"the title is {page.run('document.title')!r}")
    expect(page.run("document.querySelectorAll('img').length + document.querySelectorAll('script').length") == 1, "the name became markup")
    page.ask("Page.reload")
    page.wait(f"document.querySelector('#scope-name').textContent.includes({json.dumps(SCRIPT)})", what="the address keeps the selection")
    is_clean(page, watched.origin)


@check
def a_route_is_selected_by_keyboard(world):
    watched = Watched(world, "page-keys")
    page = watched.open()
    watched.ask("/odd/status/404", 5)
    page.press("/")
    page.wait("document.activeElement.id === 'filter'", what="/ goes to the filter")
    page.type("odd")
    page.wait("document.querySelectorAll('#routes tbody tr').length === 1", what="the filter leaves one route")
    for _ in range(20):
        page.press("Tab")
        if page.run("document.activeElement.matches('#routes .pick')"):
            break
    expect(page.run("document.activeElement.textContent") == "odd", "Tab does not come to the route")
    outline = page.run("getComputedStyle(document.activeElement).outlineStyle")
    expect(outline == "solid", f"the focus is not seen: outline {outline}")
    page.press("Enter")
    page.wait("document.querySelector('#scope-name').textContent === 'Route odd'", what="Enter selects")
    expect(page.run("document.activeElement.getAttribute('aria-pressed')") == "true", "the button does not say that it is pressed")
    requests = next(r for r in watched.status()["routes"] if r["name"] == "odd")["traffic"]["requests"]
    page.wait(f"document.querySelector('#figures').innerText.includes('{requests} in total')", what="the figures are the route's")
    page.press("Escape")
    page.wait("document.querySelectorAll('#routes tbody tr').length === 5", what="Escape clears the filter")
    page.press("ArrowDown")
    expect(page.run("document.activeElement.matches('#routes .pick') && document.activeElement.textContent !== 'odd'"), "arrows do not move")
    page.press("Escape")
    page.wait("document.querySelector('#scope-name').textContent === 'All traffic'", what="Escape again shows all traffic")
    page.run("document.querySelector('#chart-latency').focus()")
    page.press("ArrowLeft")
    told = page.wait("document.activeElement.getAttribute('aria-valuetext')")
    expect("p99" in told, f"a chart tells {told!r}")
    is_clean(page, watched.origin)


@check
def a_reload_and_its_fault_are_shown(world):
    watched = Watched(world, "page-reload")
    page = watched.open()
    generation = watched.status()["generation"]
    watched.gate.write(watched.config(word="two"))
    watched.gate.reload()
    page.wait(f"document.querySelector('#facts').textContent.includes('generation{generation + 1}')", what="the next generation")
    page.wait("document.querySelector('#reload').textContent.includes('in force')", what="the reload in its panel")
    changes = page.text("#reload-list .changes")
    expect("word" in changes, f"the panel does not tell the changes: {changes!r}")
    watched.gate.write(watched.config(more='[[route]]\nupstream = "no-such-upstream"\n'))
    watched.gate.reload()
    page.wait("document.querySelector('#reload-error').textContent.includes('no-such-upstream')", what="the fault in its panel")
    page.wait("document.querySelector('#concerns').textContent.includes('Reload refused')", what="the fault among what needs attention")
    expect(f"generation{generation + 1}" in page.run("document.querySelector('#facts').textContent"), "the generation changed with a fault")
    spoken = page.text("#said")
    expect("refused" in spoken, f"spoken: {spoken!r}")
    is_clean(page, watched.origin)
    return changes


@check
def draining_and_silence_are_said(world):
    watched = Watched(world, "page-drain", drain_timeout="6s")
    page = watched.open()
    with world.connect(watched.plain) as held:
        held.sendall(b"GET /odd/slow/600 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        held.recv(1000)
        watched.gate.signal(signal.SIGTERM)
        page.wait("document.querySelector('#banner-draining')?.textContent.includes('open')", what="the banner of a drain")
        expect(page.text("#state") == "Draining", f"the state is {page.text('#state')!r}")
        is_clean(page, watched.origin)
    expect(watched.gate.wait(20) is not None, "it did not leave")
    page.wait("document.querySelector('#banner-silent')?.textContent.includes('does not answer')", what="the banner of silence")
    page.wait("document.querySelector('#said').textContent.includes('does not answer')", what="silence is spoken")
    return page.text("#banner-silent").replace("\n", " ")


@check
def light_and_dark_are_legible(world):
    seen = []
    with mock("traffic") as (port, origin):
        page = browser().open(origin + "/", width=1600, height=1200)
        page.wait("document.querySelectorAll('#chart-classes path').length >= 3")
        tell(port, "/fault")
        tell(port, "/drain")
        page.wait("document.querySelector('#banner-draining') && !document.querySelector('#reload-error').hidden")
        for scheme in ("light", "dark"):
            page.prefer(scheme)
            faint = page.run(CONTRASTS)
            expect(not faint, f"{scheme}: too faint: {'; '.join(faint[:8])}")
            seen.append(page.run("getComputedStyle(document.body).backgroundColor"))
        expect(seen[0] != seen[1], f"light and dark are the same: {seen}")
        for wanted, background in (("light", seen[0]), ("dark", seen[1])):
            page.run("document.querySelector('#theme').click()")
            page.wait(f"document.documentElement.dataset.theme === '{wanted}'")
            for scheme in ("light", "dark"):
                page.prefer(scheme)
                now = page.run("getComputedStyle(document.body).backgroundColor")
                expect(now == background, f"{wanted} was chosen, {scheme} preferred: {now}")
        page.run("document.querySelector('#theme').click()")
        expect(page.run("document.documentElement.dataset.theme ?? 'auto'") == "auto", "the third press does not go back")
        is_clean(page, origin)
    return " and ".join(seen)


def tell(port, path):
    urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=b""), timeout=10).read()


@check
def nothing_overflows_on_narrow_screens(world):
    for scene in ("traffic", "empty", "draining", "many", "hostile"):
        with mock(scene) as (_, origin):
            page = browser().open(origin + "/", width=360, height=740)
            page.wait("document.querySelectorAll('#listeners tbody tr').length === 3")
            for width in (360, 480, 768, 1024, 1920):
                page.size(width, 900)
                wide = page.run("""[...document.querySelectorAll('body *')].filter((n) => !n.closest('svg, .hidden') && n.getClientRects().length
                    && n.getBoundingClientRect().right > innerWidth + 1 && !n.closest('.cut, .name, thead, .clamp')).map((n) => n.className || n.id || n.tagName)""")
                scroll = page.run("document.documentElement.scrollWidth")
                expect(scroll <= width and not wide, f"{scene} at {width}: {scroll} wide, past the edge: {wide[:5]}")
            is_clean(page, origin)


@check
def a_thousand_routes_are_paged_sorted_and_filtered(world):
    with mock("many") as (_, origin):
        page = browser().open(origin + "/")
        page.wait("document.querySelector('#routes .of').textContent === '1,008'")
        rows = page.run("document.querySelectorAll('#routes tbody tr').length")
        expect(rows <= 20, f"{rows} rows in the document")
        page.run("document.querySelector('#routes thead button').click()")
        names = page.run("[...document.querySelectorAll('#routes .pick')].map((b) => b.textContent)")
        expect(names == sorted(names) and names[0] == "api", f"by name: {names}")
        page.run("document.querySelectorAll('#routes .pages button')[1].click()")
        expect(page.text("#routes .pages span") == f"{rows + 1} to {2 * rows} of 1,008", page.text("#routes .pages span"))
        page.press("/")
        page.type("tenant-0999")
        page.wait("document.querySelector('#routes .of').textContent === '1 of 1,008'", what="the filter leaves one")
        nodes = page.run("document.querySelectorAll('*').length")
        expect(nodes < 4000, f"{nodes} elements")
        is_clean(page, origin)


@check
def a_restart_begins_anew(world):
    with mock("traffic") as (port, origin):
        page = browser().open(origin + "/")
        page.wait("document.querySelector('#chart-requests path') !== null")
        tell(port, "/restart")
        page.wait("[...document.querySelectorAll('#chart-requests text')].some((t) => t.textContent === 'restarted')", what="the chart marks it")
        page.wait("document.querySelector('#said').textContent.includes('restarted')", what="it is spoken")
        page.wait("document.querySelectorAll('#chart-requests path').length >= 2", what="the charts go on")
        drawn = page.run("[...document.querySelectorAll('.plot path, .spark path')].map((p) => p.getAttribute('d')).join()")
        expect("NaN" not in drawn and "Infinity" not in drawn, "a path without numbers")
        shown = page.text("main")
        expect("-" not in page.text("#figures") and "NaN" not in shown and "undefined" not in shown, page.text("#figures"))
        is_clean(page, origin)


@check
def figures_are_what_lies_between_two_answers(world):
    with mock("empty") as (_, origin):
        base = json.load(urllib.request.urlopen(f"{origin}/status", timeout=10))
        bounds = base["bounds_seconds"]

        def answer(uptime, counts, **more):
            """A status after so many seconds; `counts` are requests by the upper bound of their duration."""
            buckets = [counts.get(bound, 0) for bound in bounds] + [counts.get(None, 0)]
            total = sum(buckets)
            histogram = {"count": total, "sum_seconds": 0, "buckets": buckets}
            traffic = {"requests": total, "answers": {"1xx": 0, "2xx": total - 30, "3xx": 0, "4xx": 0, "5xx": 20},
                       "outcomes": {"ok": total - 10, "client_gone": 4, "http_response_incomplete": 3, "connection_refused": 3},
                       "duration": histogram, "first_byte": histogram, "bytes_in": total * 10, "bytes_out": total * 1000}
            if total < 100:
                traffic["answers"].update({"2xx": total, "5xx": 0})
                traffic["outcomes"] = {"ok": total}
            return {**base, "uptime_seconds": uptime, "traffic": traffic, **more}

        first = answer(100, {})
        second = answer(110, {0.0025: 500, 0.01: 400, 0.1: 90, None: 10})
        # Fewer than before, by the same process: it began to count anew.
        third = answer(120, {0.0025: 50})
        page = browser().open(origin + "/", before=f"""
            window.answers = [{json.dumps(first)}, {json.dumps(second)}];
            window.fetch = async () => new Response(JSON.stringify(answers.length > 1 ? answers.shift() : answers[0]));""")
        page.wait("document.querySelector('#figures').innerText.includes('1,000 in total')", what="the second answer is drawn")
        figures = page.run("Object.fromEntries([...document.querySelectorAll('#figures > div')].map((d) => [...d.children].map((c) => c.textContent)).map(([k, ...v]) => [k, v]))")
        # Of 30 without 2xx: 20 are 5xx, 10 got none of which 4 clients went; 3 more broke off after their head.
        wanted = {
            "Requests": ["100/s", "1,000 in total"], "Errors": ["2.9 %", "2.9/s"], "Latency p50": ["2.50 ms", "first byte 2.50 ms"],
            "p90": ["10.0 ms", "first byte 10.0 ms"], "p99": ["100 ms", "first byte 100 ms"], "Bodies in": ["1.00 kB/s", "10.0 kB in total"],
            "Bodies out": ["100 kB/s", "1.00 MB in total"],
        }
        expect(figures == wanted, f"{figures}")
        page.run(f"answers.push({json.dumps(third)})")
        page.wait("document.querySelector('#figures').innerText.includes('50 in total')", what="counters that began anew")
        expect(page.run("document.querySelector('#figures dd.value').textContent") == "–", f"{page.text('#figures')}")
        expect("-" not in page.text("#figures"), page.text("#figures"))
        is_clean(page, origin)


@check
def states_are_told_by_word_and_shape(world):
    with mock("traffic") as (_, origin):
        page = browser().open(origin + "/", width=1920, height=1200)
        page.wait("document.querySelectorAll('#endpoints tbody tr').length === 10")
        shapes = page.run("""Object.fromEntries([...document.querySelectorAll('#endpoints tbody tr')].map((row) =>
            [row.children[1].textContent, row.querySelector('path').getAttribute('d')]))""")
        expect(set(shapes) == {"Ready", "Drained", "Unhealthy", "Ejected"}, f"{shapes}")
        expect(len(set(shapes.values())) == len(shapes), f"two states have one shape: {shapes}")
        left = page.run("[...document.querySelectorAll('#certificates tbody tr')].map((row) => [row.lastChild.textContent, row.lastChild.firstChild.className])")
        expect(left == [["4 days", "bad"], ["16 days", "warn"], ["61 days", "good"]], f"{left}")
        concerns = page.text("#concerns")
        for words in ("ends in 4 days", "api: 2 of 4 endpoints not ready (1 ejected, 1 drained)", "search: 1 of 3 endpoints not ready (1 unhealthy)"):
            expect(words in concerns, f"{words!r} is not in {concerns!r}")
        is_clean(page, origin)
