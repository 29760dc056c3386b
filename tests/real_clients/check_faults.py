"""Origins that die, stall or are not there: the client is told, never given a half answer as a whole one."""

import subprocess
import time

from check_exchange import DOWNSTREAM, url
from world import BIG_BYTES, SMALL, Checks, expect

check = Checks()


@check
def a_dead_origin_is_502_with_its_reason(world):
    answer = world.curl(url(world, "plain", "/dead"))
    expect(answer.status in (502, 503) and "connection_refused" in (answer.header("proxy-status") or ""), f"{answer} {answer.fields}")
    return f"{answer.status}, {answer.header('proxy-status')}"


@check
def a_dead_endpoint_beside_a_living_one_costs_nothing(world):
    answers = [world.curl(url(world, "plain", "/half-dead/small")) for _ in range(20)]
    statuses = [a.status for a in answers]
    expect(all(a.body == SMALL for a in answers), f"{statuses}")


def truncation_check(path):
    def run(world):
        seen = []
        for down, (listener, words, _) in DOWNSTREAM.items():
            answer = world.curl(url(world, listener, path), *words)
            expect(answer.exit != 0, f"{down} took a truncated answer for a whole one: {answer}")
            seen.append(f"{down}: curl exit {answer.exit}")
        return ", ".join(seen)

    return run


check.add("a reset inside a body of known length is not a clean end", truncation_check("/odd/die/length"))
check.add("a close inside a body of known length is not a clean end", truncation_check("/odd/die/length-fin"))
check.add("a close inside a chunked body is not a clean end", truncation_check("/odd/die/chunked"))


@check
def half_a_head_from_the_origin_is_502(world):
    for down, (listener, words, _) in DOWNSTREAM.items():
        answer = world.curl(url(world, listener, "/odd/die/head"), *words)
        expect(answer.exit == 0 and answer.status == 502, f"{down}: {answer}")


@check
def an_origin_killed_inside_a_body_is_not_a_clean_end(world):
    running = []
    for down, (listener, words, _) in DOWNSTREAM.items():
        command = ["curl", "-sS", "--cacert", str(world.folder / "ca.pem"), "--max-time", "20", "-o", "/dev/null", *words,
                   url(world, listener, "/h1/slowly")]
        running.append((down, subprocess.Popen(command, stderr=subprocess.DEVNULL)))
    time.sleep(1.5)
    expect(all(p.poll() is None for _, p in running), "a download ended too early")
    world.kill_nginx()
    try:
        seen = {down: process.wait(10) for down, process in running}
    finally:
        world.start_nginx_again()
    expect(all(code != 0 for code in seen.values()), f"curl's exits: {seen}")
    again = world.curl(url(world, "plain", "/h1/small"))
    expect(again.status == 200 and again.body == SMALL, f"after the origin came back: {again}")
    return f"curl's exits: {list(seen.values())}"


@check
def an_origin_that_never_answers_is_504(world):
    seen = []
    for down in ("HTTP/1.1", "HTTP/2 over TLS"):
        listener, words, _ = DOWNSTREAM[down]
        answer = world.curl(url(world, listener, "/limited/stall/head"), *words)
        expect(answer.status == 504 and 0.8 < answer.seconds < 4, f"{down}: {answer}")
        seen.append(f"{down}: {answer.seconds:.1f} s, {answer.header('proxy-status')}")
    return "; ".join(seen)


@check
def an_origin_that_falls_silent_inside_a_body_is_not_a_clean_end(world):
    seen = []
    for down in ("HTTP/1.1", "HTTP/2 over TLS"):
        listener, words, _ = DOWNSTREAM[down]
        answer = world.curl(url(world, listener, "/impatient/stall/body"), *words)
        expect(answer.exit not in (0, 28) and answer.seconds < 5, f"{down}: {answer}")
        seen.append(f"{down}: curl exit {answer.exit} after {answer.seconds:.1f} s")
    return "; ".join(seen)


@check
def a_slow_body_is_not_taken_for_a_stalled_one(world):
    answer = world.curl(url(world, "plain", "/impatient/slow/25"))
    expect(answer.exit == 0 and len(answer.body) == 25000 and answer.seconds > 2, str(answer))


@check
def connections_that_the_origin_closes_are_not_used_again(world):
    answers = [world.curl(url(world, "plain", "/odd/close-after")) for _ in range(20)]
    expect(all(a.status == 200 and a.body == b"last words\n" for a in answers), f"{[a.status for a in answers]}")


@check
def a_client_that_leaves_takes_its_upstream_request_along(world):
    command = ["curl", "-sS", "--max-time", "0.5", "-o", "/dev/null", url(world, "plain", "/h1/slowly")]
    gone = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(5)]
    expect([p.wait() for p in gone] == [28] * 5, "curl did not time out")
    time.sleep(0.5)
    left = subprocess.run(["ss", "-Htn", "state", "established", "dst", f"127.0.0.1:{world.nginx_h1}"], capture_output=True, text=True)
    busy = [line for line in left.stdout.splitlines() if int(line.split()[0]) > 0]
    expect(not busy, f"still receiving: {busy}")
    answer = world.curl(url(world, "plain", "/h1/big"))
    expect(len(answer.body) == BIG_BYTES, str(answer))
